using LongNet.Core.Attention.Kernels;
using LongNet.Core.Native;
using LongNet.Core.Numerics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Diagnostics;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Measuring;
using LongNet.Trainer.Platform;
using static TorchSharp.torch;

namespace LongNet.Trainer.Planning.Machines;

/// <summary>Measures the rates of this machine, with the present number of threads, in some seconds.</summary>
internal static class MachineMeasurement
{
    // How long each rate is measured. Medians count: a step runs at the usual rate of a machine, not at its best.
    private const double SecondsPerRate = 0.5;

    private const int Rounds = 3,
        SmallCalls = 1000,
        CollectiveRounds = 5;

    // Rows and hidden channels of products, rows of a segment, elements of a tensor that no cache holds, bytes of a
    // file.
    private const long ProductRows = 8192,
        SegmentRows = 1024,
        StreamElements = 32 << 20;
    private const int FileBytes = 64 << 20;

    // What a rank that trains the smallest of models takes: .NET 10 with libtorch and MPI on Linux.
    private const double RuntimeBytes = 290 << 20;

    // A collective that bandwidth decides, and one that it does not.
    private const long LargeCollective = 16 << 20,
        SmallCollective = 1 << 10;

    /// <summary>Measures. Collective: the slowest rank's numbers count.</summary>
    /// <param name="world">All ranks, which share this machine's processors.</param>
    /// <param name="ranksOnHost">Those of them that are on this machine.</param>
    /// <param name="model">Whose channels and heads are measured.</param>
    /// <param name="diskFolder">Where offloaded activations would lie; null: the disk is not measured.</param>
    /// <returns>The same on all ranks.</returns>
    public static Machine Run(
        ProcessGroup world,
        int ranksOnHost,
        (long Channels, long Hidden, long Heads) model,
        string? diskFolder
    )
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        RankRates rates = RankRates.Slowest(world, Rates(model, diskFolder));
        ExchangeRates exchange = world.Size > 1 ? Exchange(world) : ExchangeRates.Assumed(rates.MemoryBandwidth);
        MemoryFacts memory = MemoryFacts.Collect();
        long limit = Math.Min(memory.ControlGroup ?? long.MaxValue, memory.Available ?? memory.Total ?? long.MaxValue);
        bool measuredDisk = rates.DiskWrite > 0;
        int threads = get_num_threads();
        string ranks = world.Size == 1 ? "1 rank" : $"{world.Size} ranks";
        return new Machine
        {
            Name = Environment.MachineName,
            Source =
                $"measured on {BenchDevice.Cpu.Name} with {ranks} of {threads} "
                + $"thread{(threads == 1 ? "" : "s")}, {model.Channels} channels in heads of "
                + $"{model.Channels / model.Heads}{(world.Size == 1 ? "; what ranks exchange is assumed" : "")}",
            RanksPerHost = ranksOnHost,
            Processors = CpuThreads.Processors().Machine,
            ThreadsPerRank = threads,
            MatrixFloat32 = rates.MatrixFloat32,
            MatrixBfloat16 = rates.MatrixBfloat16,
            AttentionFloat32 = rates.AttentionFloat32,
            AttentionBfloat16 = rates.AttentionBfloat16,
            MemoryBandwidth = rates.MemoryBandwidth,
            CallSeconds = 1 / rates.Calls,
            FirstTouch = rates.FirstTouch,
            MemoryPerRank = (double)limit / ranksOnHost,
            RuntimeBytes = RuntimeBytes,
            AllGatherBandwidth = exchange.AllGatherBandwidth,
            ReduceScatterBandwidth = exchange.ReduceScatterBandwidth,
            CollectiveLatency = exchange.Latency,
            DiskWrite = measuredDisk ? rates.DiskWrite : null,
            DiskRead = measuredDisk ? rates.DiskRead : null,
        };
    }

    // This rank's rates, measured in this order.
    private static RankRates Rates((long Channels, long Hidden, long Heads) model, string? diskFolder)
    {
        long headDim = model.Channels / model.Heads;
        double matrixFloat32 = Products(ScalarType.Float32, model.Channels, model.Hidden),
            matrixBfloat16 = Products(ScalarType.BFloat16, model.Channels, model.Hidden),
            attentionFloat32 = Attention(ScalarType.Float32, headDim),
            attentionBfloat16 = Attention(ScalarType.BFloat16, headDim),
            memoryBandwidth = Stream(),
            calls = 1 / CallSeconds();
        var (write, read) = diskFolder is null ? (0, 0) : Disk(diskFolder);
        return new RankRates
        {
            MatrixFloat32 = matrixFloat32,
            MatrixBfloat16 = matrixBfloat16,
            AttentionFloat32 = attentionFloat32,
            AttentionBfloat16 = attentionBfloat16,
            MemoryBandwidth = memoryBandwidth,
            Calls = calls,
            DiskWrite = write,
            DiskRead = read,
            FirstTouch = FirstTouch(),
        };
    }

    private static ExchangeRates Exchange(ProcessGroup world)
    {
        var benchmark = new CollectiveBenchmark(world, ScalarType.Float32, CollectiveRounds);
        CollectiveOperation gather = CollectiveOperation.Of(CollectiveKind.AllGather),
            scatter = CollectiveOperation.Of(CollectiveKind.ReduceScatter);
        double gatherBandwidth = benchmark.Run(gather, LargeCollective).MedianBusBandwidth,
            scatterBandwidth = benchmark.Run(scatter, LargeCollective).MedianBusBandwidth;
        // Of two ranks: more take as many rounds as their number has binary digits.
        double latency =
            benchmark.Run(gather, SmallCollective).MedianSeconds / Math.Max(1, Math.Ceiling(Math.Log2(world.Size)));
        return new ExchangeRates(gatherBandwidth, scatterBandwidth, latency);
    }

    // Those of a feed-forward network: expanded and contracted.
    private static double Products(ScalarType type, long channels, long hidden)
    {
        using var scope = NewDisposeScope();
        Tensor rows = randn([ProductRows, channels], device: CPU).to(type),
            expand = randn([channels, hidden], device: CPU).to(type),
            contract = randn([hidden, channels], device: CPU).to(type);
        double seconds = Measurement.MedianSeconds(SecondsPerRate, () =>
        {
            using Tensor expanded = rows.matmul(expand);
            expanded.matmul(contract).Dispose();
        });
        return 2.0 * 2 * ProductRows * channels * hidden / seconds;
    }

    // One segment, as many heads as keep all threads busy.
    private static double Attention(ScalarType type, long headDim)
    {
        using var scope = NewDisposeScope();
        long heads = 2 * get_num_threads();
        Tensor[] inputs =
        [
            .. Enumerable.Range(0, 4).Select(_ => randn([1, heads, SegmentRows, headDim], device: CPU).to(type)),
        ];
        double seconds = Measurement.MedianSeconds(SecondsPerRate, () =>
        {
            using var inner = NewDisposeScope();
            var (output, logSumExp) = AttentionKernels.Forward(inputs[0], inputs[1], inputs[2], causal: true);
            _ = AttentionKernels.Backward(inputs[3], inputs[0], inputs[1], inputs[2], output, logSumExp, causal: true);
        });
        return 2.0 * heads * SegmentRows * (SegmentRows + 1) * headDim * (1 + AttentionCost.BackwardShare) / seconds;
    }

    // One tensor is copied, and another added to it: two passes read and one of them reads what it writes.
    private static double Stream()
    {
        using var scope = NewDisposeScope();
        Tensor left = ones(StreamElements, device: CPU),
            right = ones(StreamElements, device: CPU),
            sum = zeros(StreamElements, device: CPU);
        double seconds = Measurement.MedianSeconds(SecondsPerRate, () =>
        {
            sum.copy_(left);
            sum.add_(right, Scalars.One);
        });
        return 5.0 * StreamElements * sizeof(float) / seconds;
    }

    // By how much filling fresh memory takes longer than filling it again.
    private static double FirstTouch()
    {
        var rates = new double[Rounds];
        for (int round = 0; round < Rounds; round++)
        {
            MemoryAllocator.Trim();
            using Tensor fresh = empty(StreamElements, device: CPU);
            double first = Measurement.Seconds(() => fresh.fill_(Scalars.One)),
                again = Measurement.Seconds(() => fresh.fill_(Scalars.One));
            rates[round] = StreamElements * sizeof(float) / Math.Max(first - again, first / 100);
        }

        return rates.Order().ElementAt(Rounds / 2);
    }

    private static double CallSeconds()
    {
        using var scope = NewDisposeScope();
        Tensor left = ones(1, device: CPU),
            right = ones(1, device: CPU);
        return Measurement.ShortestSeconds(BenchDevice.Cpu, Rounds, () =>
            {
                for (int call = 0; call < SmallCalls; call++)
                    left.add(right, Scalars.One).Dispose();
            })[0] / SmallCalls;
    }

    // Through the system's cache, as activations are, but flushed: more is offloaded than the cache can keep.
    private static (double Write, double Read) Disk(string folder)
    {
        string path = Path.Combine(folder, $"longnet-doctor-{Environment.ProcessId}-{Guid.NewGuid():N}");
        try
        {
            byte[] bytes = new byte[FileBytes];
            Random.Shared.NextBytes(bytes);
            using var file = new FileStream(
                path,
                FileMode.CreateNew,
                FileAccess.ReadWrite,
                FileShare.None,
                bufferSize: 0,
                FileOptions.DeleteOnClose
            );
            double write = Measurement.Seconds(() =>
            {
                file.Write(bytes);
                file.Flush(flushToDisk: true);
            });
            file.Position = 0;
            double read = Measurement.Seconds(() => file.ReadExactly(bytes));
            return (FileBytes / write, FileBytes / read);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            return (0, 0);
        }
    }
}
