using System.Text;
using LongNet.Core;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Backends.Nccl;

/// <summary>
/// What the ranks of a group tell one another before NCCL can start, by the host's communicator: rank 0's id, and
/// whether every rank has the library and a GPU of its own. All ranks come to the same conclusion.
/// </summary>
internal sealed unsafe class NcclHandshake
{
    /// <summary>
    /// Environment variable that lets ranks share a GPU, for tests. NCCL itself then needs another value of NCCL_HOSTID
    /// on every rank, and NVIDIA does not support it.
    /// </summary>
    public const string SharedGpuVariable = "LONGNET_NCCL_SHARED_GPU";

    // The message of a rank: an id, which only rank 0 fills in, the GPU's UUID, whether it may be shared, and a problem
    // (UTF-8, empty where there is none).
    private const int UuidStart = NcclUniqueId.Length,
        ShareStart = UuidStart + CudaDriver.UuidLength,
        ProblemStart = ShareStart + 1,
        ProblemLength = 512,
        MessageLength = ProblemStart + ProblemLength;

    private NcclHandshake(int device, NcclUniqueId id, string? problem)
    {
        Device = device;
        Id = id;
        Problem = problem;
    }

    /// <summary>This rank's GPU, as in <c>cuda:index</c>.</summary>
    public int Device { get; }

    /// <summary>Of the new communicator.</summary>
    public NcclUniqueId Id { get; }

    /// <summary>Why NCCL cannot serve the group, the same on all its ranks; null where it can.</summary>
    public string? Problem { get; }

    /// <summary>Collective over the group.</summary>
    /// <param name="host">The group's ranks, for CPU tensors.</param>
    /// <param name="name">The group, for messages.</param>
    /// <param name="device">This rank's GPU.</param>
    public static NcclHandshake Run(CollectiveCall call, ICommunicator host, string name, int device)
    {
        byte[] all = Exchange(call, host, MessageOf(host.Rank == 0, device));
        byte[][] ranks = [.. all.Chunk(MessageLength)];
        return new NcclHandshake(
            device,
            NcclUniqueId.From(ranks[0].AsSpan(0, NcclUniqueId.Length)),
            ProblemOf(ranks, host) ?? SharedGpu(ranks, host, name)
        );
    }

    /// <summary>An id for a new communicator.</summary>
    public static byte[] NewId()
    {
        NcclUniqueId id;
        NcclNative.Check(NcclNative.GetUniqueId(&id), "ncclGetUniqueId");
        return new ReadOnlySpan<byte>(id.Content, NcclUniqueId.Length).ToArray();
    }

    private static byte[] MessageOf(bool makesId, int device)
    {
        var own = new byte[MessageLength];
        try
        {
            NcclLibrary.Require();
            CudaDriver.ReadUuid(device, own.AsSpan(UuidStart, CudaDriver.UuidLength));
            own[ShareStart] = Environment.GetEnvironmentVariable(SharedGpuVariable) == "1" ? (byte)1 : (byte)0;
            if (makesId)
                NewId().CopyTo(own, 0);
        }
        catch (Exception error) when (error is UserException or NcclException)
        {
            string problem =
                error.Message.Length > ProblemLength / 2 ? error.Message[..(ProblemLength / 2)] + " …" : error.Message;
            Encoding.UTF8.GetBytes(problem, own.AsSpan(ProblemStart));
        }

        return own;
    }

    // Every rank's bytes, in rank order.
    private static byte[] Exchange(CollectiveCall call, ICommunicator host, byte[] own)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Tensor all = empty([host.Size * own.Length], dtype: uint8, device: CPU);
        host.AllGather(
                call.Untracked(),
                tensor(own, dtype: uint8, device: CPU),
                all,
                [.. Enumerable.Repeat((long)own.Length, host.Size)]
            )
            .Wait();
        return TensorBytes.ToArray(all);
    }

    private static string? ProblemOf(byte[][] ranks, ICommunicator host)
    {
        string[] problems = [.. ranks.Select(rank => Encoding.UTF8.GetString(rank.AsSpan(ProblemStart)).TrimEnd('\0'))];
        int troubled = Array.FindIndex(problems, problem => problem.Length > 0);
        if (troubled < 0)
            return null;
        bool onAll = Array.TrueForAll(problems, problem => problem == problems[troubled]);
        return onAll ? problems[troubled] : $"Rank {host.Members[troubled]}: {problems[troubled]}";
    }

    private static string? SharedGpu(byte[][] ranks, ICommunicator host, string name)
    {
        var first = new Dictionary<string, int>();
        for (int rank = 0; rank < ranks.Length; rank++)
        {
            string uuid = Convert.ToHexStringLower(ranks[rank].AsSpan(UuidStart, CudaDriver.UuidLength));
            if (first.TryAdd(uuid, rank) || ranks.All(each => each[ShareStart] == 1))
                continue;
            return $"The ranks {host.Members[first[uuid]]} and {host.Members[rank]} of the group '{name}' use the "
                + "same GPU, and NCCL needs one for each: start no more ranks "
                + "on a machine than it has GPUs, and let every rank see its own (CUDA_VISIBLE_DEVICES).";
        }

        return null;
    }
}
