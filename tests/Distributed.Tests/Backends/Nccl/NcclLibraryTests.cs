using LongNet.Core;
using LongNet.Distributed.Backends.Nccl;

namespace LongNet.Distributed.Tests.Backends.Nccl;

public class NcclLibraryTests
{
    [Fact]
    public void Candidates_NamedLibrary_IsTheOnlyOne() =>
        Assert.Equal(
            ["/opt/nccl/libnccl.so.2"],
            NcclLibrary.Candidates("/opt/nccl/libnccl.so.2", "/env/site-packages/torch/lib")
        );

    [Fact]
    public void Candidates_PyTorchsFolder_AddsTheWheelBesideIt() =>
        Assert.Equal(
            ["libnccl.so.2", "/env/site-packages/nvidia/nccl/lib/libnccl.so.2"],
            NcclLibrary.Candidates("", "/env/site-packages/torch/lib")
        );

    [Fact]
    public void Candidates_NothingSet_IsTheSystems() =>
        Assert.Equal(["libnccl.so.2"], NcclLibrary.Candidates(null, null));

    [Fact]
    public void LoadFrom_MissingLibrary_SaysHowToInstallOrNameIt()
    {
        string message = Assert
            .Throws<UserException>(() => NcclLibrary.LoadFrom(["/nowhere/libnccl.so.2", "/neither/libnccl.so.2"]))
            .Message;
        Assert.Equal(
            "A CUDA tensor is to travel between ranks, but NCCL's library /nowhere/libnccl.so.2 or "
                + "/neither/libnccl.so.2 cannot be loaded: install it "
                + "(Debian: libnccl2; PyTorch's CUDA wheels bring it as nvidia/nccl/lib/libnccl.so.2), or set "
                + "LONGNET_NCCL_LIBRARY to its path.",
            message
        );
    }

    [Fact]
    public void LoadFrom_AnotherLibrary_SaysThatItIsNotNccl()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "the C library has another name here");
        string message = Assert.Throws<UserException>(() => NcclLibrary.LoadFrom(["libc.so.6"])).Message;
        Assert.Equal(
            "The library libc.so.6 exports no ncclGetVersion, so it is not NCCL: set LONGNET_NCCL_LIBRARY "
                + "to libnccl.so.2.",
            message
        );
    }

    [Theory]
    [InlineData(22703, "2.27.3")]
    [InlineData(21800, "2.18.0")]
    public void Decode_NumberOfNcclGetVersion_IsTheVersion(int number, string version) =>
        Assert.Equal(Version.Parse(version), NcclLibrary.Decode(number));
}
