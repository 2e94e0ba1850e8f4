using LongNet.Core.Native;
using LongNet.Distributed.Backends;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.DataParallel;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;
using LongNet.Distributed.Lifetime;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>The contract of process groups on any backend: run once per backend and number of ranks.</summary>
/// <param name="device">Device of the tensors. Expected values are computed on the CPU.</param>
/// <param name="sumsInAnyOrder">Whether floating-point numbers may be added in any order, as NCCL does.</param>
internal sealed class ProcessGroupContract(Device device, bool sumsInAnyOrder = false)
{
    private static readonly ScalarType[] Floating =
    [
        ScalarType.Float64,
        ScalarType.Float32,
        ScalarType.Float16,
        ScalarType.BFloat16,
    ];

    // No element, less than one element per rank, a small message, and one that "--small-messages" splits.
    private static readonly long[] Lengths = [0, 1, 7, 1000, 20_011];

    /// <summary>CPU tensors.</summary>
    public static void Run(DistributedRuntime runtime, string[] arguments) =>
        new ProcessGroupContract(CPU).Check(runtime.Environment, runtime.World);

    /// <summary>
    /// CUDA tensors by NCCL, every rank's on a GPU of its own. A process without a launcher joins an NCCL communicator
    /// of one rank.
    /// </summary>
    public static void RunOnGpus(DistributedRuntime runtime, string[] arguments)
    {
        runtime.DeviceTransport = DeviceTransport.Nccl;
        RunAsRanks(runtime, new ProcessGroupContract(RankDevice.Cuda(runtime.Environment), sumsInAnyOrder: true));
    }

    /// <summary>
    /// Tensors of a device that travel through host memory: CUDA tensors where there is a GPU, which ranks may share,
    /// else those of the emulated device.
    /// </summary>
    public static void RunStaged(DistributedRuntime runtime, string[] arguments)
    {
        runtime.DeviceTransport = DeviceTransport.Host;
        RunAsRanks(runtime, new ProcessGroupContract(ScenarioDevice.OfRank(runtime.Environment)));
    }

    // A process without a launcher is a group of one rank that has a communicator all the same.
    private static void RunAsRanks(DistributedRuntime runtime, ProcessGroupContract contract)
    {
        if (runtime.Environment.Launcher != RankLauncher.None)
        {
            contract.Check(runtime.Environment, runtime.World);
            return;
        }

        var monitor = new CollectiveMonitor();
        using var world = new ProcessGroup(
            "0",
            "world",
            new DeviceCommunicator(
                SingleRankCommunicator.Instance,
                "world",
                monitor,
                new DeviceTransportChoice { Transport = runtime.DeviceTransport }
            ),
            monitor
        );
        contract.Check(runtime.Environment, world);
    }

    private void Check(RankEnvironment environment, ProcessGroup world)
    {
        Assert.Equal(environment.Rank, world.Rank);
        Assert.Equal(environment.Size, world.Size);
        Check(world);
        CheckWideAccumulation(world);
        CheckStarted(world);
        CheckMessages(world);
        CheckSplit(world);
        CheckBarrier(world);
        CheckScalars(world);
        CheckFlatBroadcast(world);
        CheckArguments(world);
        Assert.Equal("world", world.Name);
    }

    private void Check(ProcessGroup group)
    {
        foreach (
            ScalarType dtype in new[]
            {
                ScalarType.Float64,
                ScalarType.Float32,
                ScalarType.Float16,
                ScalarType.BFloat16,
                ScalarType.Int64,
                ScalarType.Byte,
                ScalarType.Bool,
            }
        )
        {
            foreach (long length in Lengths)
            {
                using var scope = NewDisposeScope();
                CheckAllGather(group, dtype, length);
                CheckAllGatherUneven(group, dtype, length);
                CheckAllGatherInPlace(group, dtype, length);
                CheckBroadcast(group, dtype, length);
                CheckAllToAll(group, dtype, length);
                CheckAllToAllUneven(group, dtype, length);
                foreach (ReduceOperation operation in Operations(dtype))
                {
                    CheckAllReduce(group, dtype, length, operation);
                    CheckReduceScatter(group, dtype, length, operation);
                    CheckReduceScatterUneven(group, dtype, length, operation);
                    CheckReduceScatterInPlace(group, dtype, length, operation);
                }
            }
        }
    }

    private static ReduceOperation[] Operations(ScalarType dtype) =>
        Floating.Contains(dtype) ? Enum.GetValues<ReduceOperation>()
        : dtype == ScalarType.Bool ? [ReduceOperation.Max, ReduceOperation.Min]
        : [ReduceOperation.Sum, ReduceOperation.Max, ReduceOperation.Min];

    // Rank r's tensor, which every rank can compute.
    private static Tensor Part(int rank, long length, ScalarType dtype)
    {
        using var generator = new Generator((ulong)(1000 + rank));
        Tensor normal = randn(length, dtype: float64, generator: generator);
        return dtype switch
        {
            // Bytes stay small, so that sums do not wrap.
            ScalarType.Byte => normal.abs().mul(8).clamp(0, 50).to(dtype),
            ScalarType.Int64 => normal.mul(1e6).to(dtype),
            ScalarType.Bool => normal.gt(0),
            _ => normal.to(dtype),
        };
    }

    private Tensor Own(int rank, long length, ScalarType dtype) => Part(rank, length, dtype).to(device);

    private void CheckAllGather(ProcessGroup group, ScalarType dtype, long length)
    {
        CommunicationVolume before = group.Volume;
        Tensor all = group.AllGather(Own(group.Rank, length, dtype).view(1, length));
        Assert.Equal([group.Size, 1, length], all.shape);
        for (int rank = 0; rank < group.Size; rank++)
            AssertSameBits(Part(rank, length, dtype), all[rank].view(length));
        long bytes = length * all.ElementSize;
        AssertVolume(group, before, bytes, (group.Size - 1) * bytes);
    }

    // Some ranks have no elements, and no two of the others have the same number.
    private static long[] UnequalCounts(ProcessGroup group, long length) =>
        [.. Enumerable.Range(0, group.Size).Select(rank => rank % 3 == 1 ? 0 : length + rank)];

    private void CheckAllGatherUneven(ProcessGroup group, ScalarType dtype, long length)
    {
        long[] counts = UnequalCounts(group, length);
        CommunicationVolume before = group.Volume;
        Tensor all = group.AllGatherUneven(Own(group.Rank, counts[group.Rank], dtype), counts);
        AssertSameBits(cat([.. counts.Select((count, rank) => Part(rank, count, dtype))]), all);
        long own = counts[group.Rank] * all.ElementSize;
        AssertVolume(group, before, own, counts.Sum() * all.ElementSize - own);
    }

    private void CheckAllGatherInPlace(ProcessGroup group, ScalarType dtype, long length)
    {
        long[] counts = UnequalCounts(group, length);
        Tensor all = zeros(counts.Sum(), dtype: dtype, device: device);
        long first = counts.Take(group.Rank).Sum(),
            own = counts[group.Rank] * all.ElementSize;
        all.narrow(0, first, counts[group.Rank]).copy_(Own(group.Rank, counts[group.Rank], dtype));
        CommunicationVolume before = group.Volume;
        Assert.Same(all, group.StartAllGatherInPlace(all, counts).Result());
        AssertSameBits(cat([.. counts.Select((count, rank) => Part(rank, count, dtype))]), all);
        AssertVolume(group, before, own, counts.Sum() * all.ElementSize - own);
    }

    // Rank r sends the slices of Part(r) to the ranks in order: rank j receives the j-th slice.
    private void CheckAllToAll(ProcessGroup group, ScalarType dtype, long length)
    {
        CommunicationVolume before = group.Volume;
        Tensor taken = group.AllToAll(Own(group.Rank, group.Size * length, dtype).view(group.Size, length));
        Assert.Equal([group.Size, length], taken.shape);
        for (int rank = 0; rank < group.Size; rank++)
            AssertSameBits(Part(rank, group.Size * length, dtype).narrow(0, group.Rank * length, length), taken[rank]);
        long others = (group.Size - 1) * length * taken.ElementSize;
        AssertVolume(group, before, others, others);
    }

    private void CheckAllToAllUneven(ProcessGroup group, ScalarType dtype, long length)
    {
        long[] Sent(int from) =>
            [.. Enumerable.Range(0, group.Size).Select(to => (from + to) % 3 == 1 ? 0 : length + from * to)];
        long[] sent = Sent(group.Rank),
            received = [.. Enumerable.Range(0, group.Size).Select(from => Sent(from)[group.Rank])];
        CommunicationVolume before = group.Volume;
        Tensor taken = group.AllToAllUneven(Own(group.Rank, sent.Sum(), dtype), sent, received);
        AssertSameBits(
            cat([
                .. received.Select(
                    (count, from) =>
                        Part(from, Sent(from).Sum(), dtype).narrow(0, Sent(from).Take(group.Rank).Sum(), count)
                ),
            ]),
            taken
        );
        long size = taken.ElementSize,
            own = sent[group.Rank];
        AssertVolume(group, before, (sent.Sum() - own) * size, (received.Sum() - own) * size);
    }

    private void CheckBroadcast(ProcessGroup group, ScalarType dtype, long length)
    {
        for (int root = 0; root < group.Size; root++)
        {
            CommunicationVolume before = group.Volume;
            Tensor values = Own(group.Rank, length, dtype);
            group.Broadcast(values, root);
            AssertSameBits(Part(root, length, dtype), values);
            long bytes = length * values.ElementSize;
            AssertVolume(group, before, group.Rank == root ? bytes : 0, group.Rank == root ? 0 : bytes);
        }
    }

    private void CheckAllReduce(ProcessGroup group, ScalarType dtype, long length, ReduceOperation operation)
    {
        CommunicationVolume before = group.Volume;
        Tensor values = Own(group.Rank, length, dtype);
        group.AllReduce(values, operation);
        AssertReduced(group, length, dtype, operation, 0, values);
        long size = values.ElementSize,
            total = length * size;
        long own = (length / group.Size + (group.Rank < length % group.Size ? 1 : 0)) * size;
        // Reduce-scatter, then all-gather.
        AssertVolume(group, before, total - own + own, (group.Size - 1) * own + total - own);
    }

    private void CheckReduceScatter(ProcessGroup group, ScalarType dtype, long length, ReduceOperation operation)
    {
        CommunicationVolume before = group.Volume;
        Tensor part = group.ReduceScatter(
            Own(group.Rank, group.Size * length, dtype).view(group.Size, 1, length),
            operation
        );
        Assert.Equal([1, length], part.shape);
        AssertReduced(group, group.Size * length, dtype, operation, group.Rank * length, part.view(length));
        long others = (group.Size - 1) * length * part.ElementSize;
        AssertVolume(group, before, others, others);
    }

    private void CheckReduceScatterUneven(ProcessGroup group, ScalarType dtype, long length, ReduceOperation operation)
    {
        long[] counts = UnequalCounts(group, length);
        long total = counts.Sum(),
            own = counts[group.Rank];
        CommunicationVolume before = group.Volume;
        Tensor part = group.ReduceScatterUneven(Own(group.Rank, total, dtype), counts, operation);
        AssertReduced(group, total, dtype, operation, counts.Take(group.Rank).Sum(), part);
        AssertVolume(group, before, (total - own) * part.ElementSize, (group.Size - 1) * own * part.ElementSize);
    }

    private void CheckReduceScatterInPlace(ProcessGroup group, ScalarType dtype, long length, ReduceOperation operation)
    {
        long[] counts = UnequalCounts(group, length);
        long total = counts.Sum(),
            own = counts[group.Rank],
            first = counts.Take(group.Rank).Sum();
        Tensor values = Own(group.Rank, total, dtype);
        CommunicationVolume before = group.Volume;
        Assert.Same(values, group.StartReduceScatterInPlace(values, counts, operation).Result());
        AssertReduced(group, total, dtype, operation, first, values.narrow(0, first, own));
        AssertVolume(group, before, (total - own) * values.ElementSize, (group.Size - 1) * own * values.ElementSize);
    }

    // In rank order, accumulated in at least float32, rounded once: the bits are part of the contract.
    private static Tensor Reduced(ProcessGroup group, long length, ScalarType dtype, ReduceOperation operation)
    {
        ScalarType wide = dtype is ScalarType.Float16 or ScalarType.BFloat16 ? ScalarType.Float32 : dtype;
        Tensor result = Part(0, length, dtype).to(wide);
        for (int rank = 1; rank < group.Size; rank++)
        {
            Tensor other = Part(rank, length, dtype).to(wide);
            result = (operation, dtype) switch
            {
                (ReduceOperation.Max, ScalarType.Bool) => result.logical_or(other),
                (ReduceOperation.Min, ScalarType.Bool) => result.logical_and(other),
                (ReduceOperation.Max, _) => maximum(result, other),
                (ReduceOperation.Min, _) => minimum(result, other),
                _ => result.add(other),
            };
        }

        return (operation == ReduceOperation.Average ? result.div(group.Size) : result).to(dtype);
    }

    // 256 + 1 + 1 + … is 256 where every sum rounds to bfloat16, whose numbers above 256 are two apart; in float16 so
    // is 2048.
    private void CheckWideAccumulation(ProcessGroup world)
    {
        foreach (var (dtype, large) in new[] { (ScalarType.BFloat16, 256), (ScalarType.Float16, 2048) })
        {
            foreach (long length in new long[] { 3, 5000 })
            {
                using var scope = NewDisposeScope();
                Tensor values = full(length, world.Rank == 0 ? large : 1.0, dtype: dtype, device: device);
                Tensor expected = full(length, large + world.Size - 1.0, dtype: float32).to(dtype);
                Tensor part = world.ReduceScatterUneven(
                    values.repeat(world.Size),
                    [.. Enumerable.Repeat(length, world.Size)]
                );
                AssertSameBits(expected, part);
                world.AllReduce(values);
                AssertSameBits(expected, values);
                if (world.Size > 2)
                    Assert.NotEqual(large, values[0].to(float32).item<float>());
            }
        }
    }

    // Several at once, in several groups; tensors that the caller forgets; waits in another order.
    private void CheckStarted(ProcessGroup world)
    {
        using ProcessGroup other = world.Split(0, world.Rank, "other");
        using var scope = NewDisposeScope();
        var started = new List<(CollectiveWork Work, Tensor Expected)>();
        foreach (long length in new long[] { 3, 200_000, 1, 70_000 })
        {
            // Whole numbers: the same bits in any order.
            Tensor sum = Own(world.Rank, length, ScalarType.Int64),
                reduced = Reduced(world, length, ScalarType.Int64, ReduceOperation.Sum);
            started.Add((world.StartAllReduce(sum), reduced));
            using (Tensor forgotten = Own(world.Rank, length, ScalarType.Float32))
                started.Add(
                    (
                        other.StartAllGather(forgotten),
                        stack([
                            .. Enumerable.Range(0, world.Size).Select(rank => Part(rank, length, ScalarType.Float32)),
                        ])
                    )
                );
            using (NewDisposeScope())
                _ = other.StartAllReduce(Own(world.Rank, length, ScalarType.Float64));
        }

        CollectiveWork barrier = other.StartBarrier();
        foreach (var (work, expected) in started.AsEnumerable().Reverse())
            AssertSameBits(expected, work.Result());
        barrier.Wait();
        Assert.True(barrier.IsCompleted);
        Assert.Throws<InvalidOperationException>(barrier.Result);

        // While no thread waits, the progress thread completes it.
        CollectiveWork background = world.StartAllReduce(Own(world.Rank, 500_000, ScalarType.Float32));
        Assert.True(
            SpinWait.SpinUntil(() => background.IsCompleted, TimeSpan.FromSeconds(20)),
            "a collective made no progress in the background"
        );
        world.Barrier();
    }

    private static void CheckScalars(ProcessGroup world)
    {
        // Each in rank order, to the bit, and the largest of the rank in the middle.
        double Added(int rank) => 1 / (3.0 + rank);
        double expected = Enumerable.Range(1, world.Size - 1).Aggregate(Added(0), (sum, rank) => sum + Added(rank));
        Assert.Equal(expected, world.Sum(Added(world.Rank)));
        int middle = world.Size / 2;
        Assert.Equal((expected, 7), world.SumAndLargest(Added(world.Rank), world.Rank == middle ? 7 : -world.Rank));
        Assert.Equal(double.NaN, world.SumAndLargest(world.Rank == middle ? double.NaN : 1, 0).Sum);
    }

    // Tensors of several types, with and without elements, one by one, some together, and all of a type together.
    private void CheckFlatBroadcast(ProcessGroup world)
    {
        (ScalarType Dtype, long Length)[] kinds =
        [
            (ScalarType.Float32, 3),
            (ScalarType.Float32, 1000),
            (ScalarType.Float32, 0),
            (ScalarType.Float32, 7),
            (ScalarType.BFloat16, 5),
            (ScalarType.Int64, 1),
            (ScalarType.Int64, 2),
        ];
        foreach (long largest in new[] { 1, 4012, FlatBroadcast.DefaultBytes })
        {
            using var scope = NewDisposeScope();
            int root = world.Size - 1;
            Tensor[] own = [.. kinds.Select(kind => Own(world.Rank, kind.Length, kind.Dtype))];
            FlatBroadcast.Run(world, own, root, largest);
            foreach (var (kind, values) in kinds.Zip(own))
                AssertSameBits(Part(root, kind.Length, kind.Dtype), values);
        }
    }

    // Around the ring, every rank receiving before it sends; two messages between the same ranks keep their order.
    private void CheckMessages(ProcessGroup world)
    {
        using var scope = NewDisposeScope();
        if (world.Size == 1)
        {
            Assert.Throws<ArgumentOutOfRangeException>(() => world.Send(zeros(1), 0));
            return;
        }

        int next = (world.Rank + 1) % world.Size,
            previous = (world.Rank + world.Size - 1) % world.Size;
        foreach (
            ScalarType dtype in new[]
            {
                ScalarType.Float64,
                ScalarType.Float32,
                ScalarType.Float16,
                ScalarType.BFloat16,
                ScalarType.Int64,
                ScalarType.Byte,
            }
        )
        {
            foreach (long length in Lengths)
            {
                CommunicationVolume before = world.Volume;
                Tensor first = zeros(length, dtype: dtype, device: device),
                    second = zeros(2 * length, dtype: dtype, device: device);
                CollectiveWork[] received = [world.StartReceive(first, previous), world.StartReceive(second, previous)];
                world.StartSend(Own(world.Rank, length, dtype), next).Wait();
                world.Send(Own(world.Rank + 100, 2 * length, dtype), next);
                AssertSameBits(Part(previous, length, dtype), received[0].Result());
                AssertSameBits(Part(previous + 100, 2 * length, dtype), received[1].Result());
                AssertVolume(world, before, 3 * length * first.ElementSize, 3 * length * first.ElementSize);
            }
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => world.Send(zeros(1), world.Rank));
        Assert.Throws<ArgumentOutOfRangeException>(() => world.Receive(zeros(1), world.Size));
    }

    private void CheckSplit(ProcessGroup world)
    {
        // Reversed keys reverse the order of ranks within a group.
        using (ProcessGroup parity = world.Split(world.Rank % 2, -world.Rank, "parity"))
        {
            int[] members = [.. Enumerable.Range(0, world.Size).Where(rank => rank % 2 == world.Rank % 2).Reverse()];
            Assert.Equal("parity", parity.Name);
            Assert.Equal(members.Length, parity.Size);
            Assert.Equal(members, parity.Members);
            Assert.Equal(world.Rank, members[parity.Rank]);
            using var scope = NewDisposeScope();
            Tensor ranks = parity.AllGather(tensor(new long[] { world.Rank }, device: device));
            Assert.Equal(members.Select(rank => (long)rank), ranks.cpu().data<long>().ToArray());
            Check(parity);
        }

        // MPI has a limited number of communicators, so a disposed group must free its own. NCCL's take longer to make.
        for (int round = 0; round < (device.type == DeviceType.CPU ? 300 : 5); round++)
        {
            using ProcessGroup again = world.Split(0, world.Rank, "again");
            Assert.Equal(world.Size, again.Size);
        }
    }

    // Ranks of one machine share a clock.
    private static void CheckBarrier(ProcessGroup world)
    {
        if (world.Rank == world.Size - 1)
            Thread.Sleep(200);
        long entered = DateTime.UtcNow.Ticks;
        world.Barrier();
        long left = DateTime.UtcNow.Ticks;
        using var scope = NewDisposeScope();
        Tensor latestEntry = tensor(new[] { entered });
        world.AllReduce(latestEntry, ReduceOperation.Max);
        Assert.True(left >= latestEntry.item<long>(), $"rank {world.Rank} left the barrier before all had come");
    }

    private void CheckArguments(ProcessGroup world)
    {
        using var scope = NewDisposeScope();
        // The emulated device has no strides.
        Tensor strided = zeros(4, 4, device: device.type == DeviceType.CUDA ? device : CPU).t();
        string error = Assert.Throws<ArgumentException>(() => world.AllReduce(strided)).Message;
        Assert.StartsWith(
            "AllReduce in the group 'world' needs a contiguous CPU or CUDA tensor, not one of shape [4, 4] "
                + $"on {strided.device} with strides [1, 4].",
            error
        );
        Assert.Throws<ArgumentException>(() => world.AllGather(strided));
        Assert.Throws<ArgumentException>(() => world.Broadcast(strided, 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => world.Broadcast(zeros(1), world.Size));

        long[] tooMany = [.. Enumerable.Repeat(1L, world.Size + 1)];
        error = Assert.Throws<ArgumentException>(() => world.AllGatherUneven(zeros(1), tooMany)).Message;
        Assert.StartsWith(
            $"AllGatherUneven in the group 'world' needs {world.Size} counts, one per rank, not {world.Size + 1}.",
            error
        );
        long[] twos = [.. Enumerable.Repeat(2L, world.Size)];
        error = Assert.Throws<ArgumentException>(() => world.AllGatherUneven(zeros(1), twos)).Message;
        Assert.StartsWith(
            $"AllGatherUneven in the group 'world' was given 1 elements on rank {world.Rank}, but its counts say 2.",
            error
        );
        Assert.Throws<ArgumentException>(() => world.ReduceScatterUneven(zeros(1), twos));
        Assert.Throws<ArgumentException>(() => world.StartReduceScatterInPlace(zeros(1), twos));
        error = Assert.Throws<ArgumentException>(() => world.AllToAll(zeros(world.Size + 1, 2))).Message;
        Assert.StartsWith(
            $"AllToAll in the group 'world' needs one slice per rank, [{world.Size}, …], not a tensor of "
                + $"shape [{world.Size + 1}, 2].",
            error
        );
        Assert.Throws<ArgumentException>(() => world.ReduceScatter(zeros(world.Size + 1)));
        Assert.Throws<ArgumentException>(() => world.AllReduce(zeros(1, dtype: ScalarType.Bool)));
        Assert.Throws<ArgumentException>(() =>
            world.AllReduce(zeros(1, dtype: ScalarType.Int64), ReduceOperation.Average)
        );

        ProcessGroup disposed = world.Split(0, world.Rank, "disposed");
        disposed.Dispose();
        disposed.Dispose();
        if (world.Size > 1)
            Assert.Throws<ObjectDisposedException>(() => disposed.Barrier());
    }

    private void AssertSameBits(Tensor expected, Tensor actual)
    {
        Assert.Equal(device.type, actual.device_type);
        Assert.Equal(expected.dtype, actual.dtype);
        Assert.Equal(expected.shape, actual.shape);
        Assert.Equal(Bytes(expected), Bytes(actual));
    }

    // The expected part begins at an element of the complete reduction.
    private void AssertReduced(
        ProcessGroup group,
        long length,
        ScalarType dtype,
        ReduceOperation operation,
        long first,
        Tensor actual
    )
    {
        Tensor expected = Reduced(group, length, dtype, operation).narrow(0, first, actual.NumberOfElements);
        bool inAnyOrder =
            sumsInAnyOrder
            && dtype is ScalarType.Float64 or ScalarType.Float32
            && operation is ReduceOperation.Sum or ReduceOperation.Average;
        if (!inAnyOrder || group.Size <= 2)
        {
            AssertSameBits(expected, actual);
            return;
        }

        // NCCL has an order of its own, and divides before it sums. Every rank adds one rounding of a term and one of a
        // partial sum, and neither is larger than the sum of the magnitudes.
        Tensor magnitude = stack([.. Enumerable.Range(0, group.Size).Select(rank => Part(rank, length, dtype).abs())])
            .sum(dim: 0);
        double epsilon = dtype == ScalarType.Float64 ? double.BitIncrement(1) - 1 : float.BitIncrement(1) - 1;
        Tensor limit = magnitude.narrow(0, first, actual.NumberOfElements).to(float64).mul(2 * group.Size * epsilon);
        Assert.Equal(expected.dtype, actual.dtype);
        Assert.True(
            actual.cpu().to(float64).sub(expected.to(float64)).abs().le(limit).all().item<bool>(),
            $"{operation} of {dtype} is off by more than rounding"
        );
    }

    private static byte[] Bytes(Tensor values)
    {
        using Tensor contiguous = values.cpu().contiguous();
        var bytes = new byte[TensorMemory.ByteLength(contiguous)];
        TensorMemory.Read(contiguous, (span, offset) => span.CopyTo(bytes.AsSpan((int)offset)));
        return bytes;
    }

    // A group of one rank counts nothing.
    private static void AssertVolume(ProcessGroup group, CommunicationVolume before, long sent, long received) =>
        Assert.Equal(group.Size == 1 ? default : new CommunicationVolume(sent, received), group.Volume - before);
}
