using System.Runtime.InteropServices;
using LongNet.Core.Native;
using LongNet.Distributed.Backends.Nccl;

namespace LongNet.Distributed.Tests.Backends.Nccl;

/// <summary>
/// The bindings against nccl.h as it is known here, and against the library itself where one is found. Needs no GPU.
/// </summary>
public unsafe class NcclNativeTests
{
    [Fact]
    public void Structs_Layout_IsThatOfTheHeader()
    {
        Assert.Equal(128, sizeof(NcclUniqueId));
        Assert.Equal(48, sizeof(NcclConfig));
        Assert.Equal(48, Marshal.SizeOf<NcclConfig>());
        (string Field, int Offset)[] fields =
        [
            (nameof(NcclConfig.Size), 0),
            (nameof(NcclConfig.Magic), 8),
            (nameof(NcclConfig.Version), 12),
            (nameof(NcclConfig.Blocking), 16),
            (nameof(NcclConfig.CgaClusterSize), 20),
            (nameof(NcclConfig.MinCtas), 24),
            (nameof(NcclConfig.MaxCtas), 28),
            (nameof(NcclConfig.NetName), 32),
            (nameof(NcclConfig.SplitShare), 40),
            (nameof(NcclConfig.Reserved), 44),
        ];
        foreach (var (field, offset) in fields)
            Assert.Equal(offset, Marshal.OffsetOf<NcclConfig>(field));
    }

    [Fact]
    public void NonBlocking_Config_LeavesTheRestToNccl()
    {
        NcclConfig config = NcclConfig.NonBlocking;
        Assert.Equal((48u, 0xcafebeef, 21800u, 0), ((uint)config.Size, config.Magic, config.Version, config.Blocking));
        Assert.All([config.CgaClusterSize, config.MinCtas, config.MaxCtas, config.SplitShare, config.Reserved], value =>
            Assert.Equal(int.MinValue, value)
        );
        Assert.Equal(0, config.NetName);
    }

    [Fact]
    public void LoadedLibrary_Version_IsTheOneOfTheFile()
    {
        NeedsNccl();
        int number;
        Assert.Equal(NcclResult.Success, NcclNative.GetVersion(&number));
        Assert.Equal(NcclLibrary.Version, NcclLibrary.Decode(number));
        Assert.True(number >= NcclLibrary.LeastVersion);
    }

    [Fact]
    public void LoadedLibrary_EveryFunction_IsExported()
    {
        NeedsNccl();
        // Throws EntryPointNotFoundException where one is missing.
        Marshal.PrelinkAll(typeof(NcclNative));
        Assert.NotEmpty(typeof(NcclNative).GetMethods());
    }

    [Theory]
    [InlineData(NcclResult.Success, "no error")]
    [InlineData(NcclResult.UnhandledCudaError, "unhandled cuda error")]
    [InlineData(NcclResult.SystemError, "unhandled system error")]
    [InlineData(NcclResult.InternalError, "internal error")]
    [InlineData(NcclResult.InvalidArgument, "invalid argument")]
    [InlineData(NcclResult.InvalidUsage, "invalid usage")]
    [InlineData(NcclResult.RemoteError, "remote process exited or there was a network error")]
    [InlineData(NcclResult.InProgress, "NCCL operation in progress")]
    internal void LoadedLibrary_ErrorString_IsTheOneOfTheConstant(NcclResult result, string words)
    {
        NeedsNccl();
        Assert.StartsWith(words, NcclNative.Describe(result));
    }

    [Fact]
    public void LoadedLibrary_UniqueIds_Differ()
    {
        NeedsNccl();
        NcclUniqueId first,
            second;
        Assert.Equal(NcclResult.Success, NcclNative.GetUniqueId(&first));
        Assert.Equal(NcclResult.Success, NcclNative.GetUniqueId(&second));
        byte[] content = new ReadOnlySpan<byte>(first.Content, NcclUniqueId.Length).ToArray();
        Assert.Contains(content, value => value != 0);
        Assert.NotEqual(content, new ReadOnlySpan<byte>(second.Content, NcclUniqueId.Length).ToArray());
        NcclUniqueId copy = NcclUniqueId.From(content);
        Assert.Equal(content, new ReadOnlySpan<byte>(copy.Content, NcclUniqueId.Length).ToArray());
    }

    [Fact]
    public void LoadedLibrary_EmptyGroup_Succeeds()
    {
        NeedsNccl();
        Assert.Equal(NcclResult.Success, NcclNative.GroupStart());
        Assert.Equal(NcclResult.Success, NcclNative.GroupEnd());
    }

    [Fact]
    public void Check_FailedCall_ThrowsWhatNcclSays()
    {
        NeedsNccl();
        using var none = new NcclCommunicatorHandle(0);
        NcclResult state;
        NcclResult result = NcclNative.CommGetAsyncError(none, &state);
        Assert.Equal(NcclResult.InvalidArgument, result);
        string message = Assert.Throws<NcclException>(() => NcclNative.Check(result, "ncclCommGetAsyncError")).Message;
        Assert.StartsWith("ncclCommGetAsyncError: invalid argument", message);
    }

    [Fact]
    public void LoadedLibrary_JoiningWithoutAGpu_SaysSo()
    {
        NeedsNccl();
        Assert.SkipWhen(
            LibTorch.HasCudaDevice,
            "there is a GPU here, so joining succeeds: the process group's contract does it"
        );
        NcclUniqueId id;
        Assert.Equal(NcclResult.Success, NcclNative.GetUniqueId(&id));
        NcclConfig config = NcclConfig.NonBlocking;
        nint communicator = 0;
        Assert.Equal(NcclResult.UnhandledCudaError, NcclNative.CommInitRankConfig(&communicator, 1, id, 0, &config));
        Assert.Equal(0, communicator);
    }

    private static void NeedsNccl() =>
        Assert.SkipWhen(NcclLibrary.Problem is not null, $"{NcclNative.Library} is not here: {NcclLibrary.Problem}");
}
