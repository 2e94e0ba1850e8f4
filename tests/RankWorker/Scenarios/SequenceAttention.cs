using LongNet.Core.Attention;
using LongNet.Core.Numerics;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Lifetime;
using LongNet.Distributed.SequenceParallel;
using TorchSharp;
using Xunit;
using static TorchSharp.torch;

namespace LongNet.RankWorker.Scenarios;

/// <summary>
/// The law of sequence parallelism: output and gradients of a shard are the rows that one rank computes, up to
/// rounding; and what travels is what the formula says.
/// </summary>
internal sealed class SequenceAttention(Device device)
{
    private const long Batch = 2,
        Heads = 4,
        HeadDim = 32,
        TokensPerRank = 24;

    // float64 rounding of sums of some hundred terms in another order.
    private const double Float64Tolerance = 1e-12;

    // The same sums in float32; the law of the project.
    private const double Float32Tolerance = 1e-5;

    // Inputs, probabilities and outputs are rounded to 8 bits each; the two sides round different partial sums.
    private const double BFloat16Tolerance = 4e-2;

    /// <param name="runtime">The ranks.</param>
    /// <param name="arguments">"--device": some of it, on a device whose tensors travel through host memory.</param>
    public static void Run(DistributedRuntime runtime, string[] arguments)
    {
        runtime.DeviceTransport = DeviceTransport.Host;
        Device device = ScenarioDevice.Of(runtime.Environment, arguments);
        using var sharding = new AllGatherSequenceParallel(runtime.World);
        var scenario = new SequenceAttention(device);
        if (device.type == DeviceType.CPU)
            scenario.Check(runtime.World, sharding);
        else
            scenario.CheckOnDevice(runtime.World, sharding);
    }

    // The mathematics is the CPU's: what is new is that keys, values and gradients leave the device and come back.
    private void CheckOnDevice(ProcessGroup world, AllGatherSequenceParallel sharding)
    {
        long whole = TokensPerRank * world.Size;
        var branches = new SegmentSchedule(new Branch(12, 1), new Branch(2 * TokensPerRank, 5), new Branch(whole, 4));
        foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
        {
            var options = new AttentionPattern(branches, Causal: true, offsets);
            string what = $"{device}, {offsets}, rank {world.Rank} of {world.Size}";
            Compare(world, sharding, options, float32, Float32Tolerance, what);
            Compare(world, sharding, options, bfloat16, BFloat16Tolerance, what);
            var buckets = new RelativePositionBuckets(12, 20, Bidirectional: false);
            Compare(world, sharding, options, float32, Float32Tolerance, $"{what}, bias", buckets: buckets);
        }
    }

    private void Check(ProcessGroup world, AllGatherSequenceParallel sharding)
    {
        long whole = TokensPerRank * world.Size;
        (string Name, Branch[] Branches)[] schedules =
        [
            ("local", [new(8, 1), new(24, 3)]),
            ("the whole sequence", [new(whole, 1)]),
            ("longer than the sequence", [new(5 * whole, 2)]),
            ("local and shared", [new(12, 1), new(24, 2), new(2 * TokensPerRank, 2), new(whole, 4)]),
            // Kept rows of different number on every rank, and none for some heads on some.
            (
                "dilation that divides neither segment, shard nor heads",
                [new(24, 1), new(2 * TokensPerRank, 5), new(whole, 7)]
            ),
            ("dilation above the shard", [new(8, 1), new(whole, 31)]),
            ("last segment shorter, of fewer ranks", [new(3 * TokensPerRank, 2)]),
        ];
        foreach (var (name, branches) in schedules)
        {
            foreach (bool causal in new[] { false, true })
            {
                foreach (HeadOffsets offsets in Enum.GetValues<HeadOffsets>())
                {
                    var options = new AttentionPattern(new SegmentSchedule(branches), causal, offsets);
                    string what =
                        $"{name}, {(causal ? "causal" : "bidirectional")}, {offsets}, rank {world.Rank} of "
                        + $"{world.Size}";
                    Compare(world, sharding, options, float64, Float64Tolerance, what);
                    Compare(world, sharding, options, float32, Float32Tolerance, what);
                    Compare(world, sharding, options, bfloat16, BFloat16Tolerance, what);

                    // Ranks whose rows are all, partly or not padding; the second list leaves most ranks without any
                    // row.
                    long[][] paddings =
                    [
                        [whole - 29 > 0 ? whole - 29 : 1, whole / 2 + 5],
                        [whole, 3],
                    ];
                    var buckets = new RelativePositionBuckets(12, 20, Bidirectional: !causal);
                    Compare(world, sharding, options, float64, Float64Tolerance, $"{what}, bias", buckets: buckets);
                    Compare(world, sharding, options, float32, Float32Tolerance, $"{what}, bias", buckets: buckets);
                    Compare(world, sharding, options, float64, Float64Tolerance, $"{what}, lengths", paddings[0]);
                    Compare(world, sharding, options, float32, Float32Tolerance, $"{what}, lengths", paddings[1]);
                    Compare(
                        world,
                        sharding,
                        options,
                        float64,
                        Float64Tolerance,
                        $"{what}, lengths and bias",
                        paddings[1],
                        buckets
                    );
                }
            }
        }

        var mixed = new SegmentSchedule(new Branch(12, 1), new Branch(2 * TokensPerRank, 2), new Branch(whole, 5));
        foreach (bool causal in new[] { false, true })
        {
            var detached = new AttentionPattern(mixed, causal, MixingGradient: MixingGradient.Detached);
            Compare(
                world,
                sharding,
                detached,
                float64,
                Float64Tolerance,
                $"detached, causal {causal}",
                [whole - 5, whole / 2],
                new RelativePositionBuckets(12, 20, !causal)
            );
            foreach (PositionEncoding positions in Enum.GetValues<PositionEncoding>())
                CompareModules(world, sharding, mixed, causal, positions);
        }

        Refuses(world, sharding);
    }

    // The module with all its options, padding that is not a number among them.
    private void CompareModules(
        ProcessGroup world,
        AllGatherSequenceParallel sharding,
        SegmentSchedule schedule,
        bool causal,
        PositionEncoding positions
    )
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(29);
        const long Channels = Heads * HeadDim;
        long whole = TokensPerRank * world.Size,
            first = TokensPerRank * world.Rank;
        long[] lengths = [whole - 29 > 0 ? whole - 29 : 1, whole / 2 + 5];
        string what = $"module, {positions}, causal {causal}, rank {world.Rank} of {world.Size}";
        using DilatedAttention alone = Module(null),
            sharded = Module(sharding);
        sharded.load_state_dict(alone.state_dict());
        Tensor values = randn([Batch, whole, Channels], dtype: float64, generator: generator),
            cotangent = randn([Batch, whole, Channels], dtype: float64, generator: generator);
        for (int sequence = 0; sequence < Batch; sequence++)
            values[sequence].narrow(0, lengths[sequence], whole - lengths[sequence]).fill_(double.NaN);

        Tensor all = values.clone().requires_grad_(),
            own = values.narrow(1, first, TokensPerRank).clone().requires_grad_();
        Tensor expected = alone.forward(all, lengths),
            output = sharded.forward(own, lengths);
        BackwardPass.Run(expected.mul(cotangent).sum());
        BackwardPass.Run(output.mul(cotangent.narrow(1, first, TokensPerRank)).sum());
        TestKit.Compare.AssertClose(
            output,
            expected.narrow(1, first, TokensPerRank),
            Float64Tolerance,
            $"output: {what}",
            floor: 1e-3
        );
        TestKit.Compare.AssertClose(
            own.grad!,
            all.grad!.narrow(1, first, TokensPerRank),
            Float64Tolerance,
            $"gradient of the input: {what}",
            floor: 1e-3
        );
        foreach (var ((name, a), (_, e)) in sharded.named_parameters().Zip(alone.named_parameters()))
        {
            Tensor sum = a.grad!.clone();
            world.AllReduce(sum);
            // A bias of all keys moves a row's logits alike where nothing is rotated: what is left is rounding.
            TestKit.Compare.AssertClose(sum, e.grad!, Float64Tolerance, $"gradient of {name}: {what}", floor: 1);
        }

        DilatedAttention Module(ISequenceSharding? where)
        {
            var module = new DilatedAttention(
                new DilatedAttentionOptions
                {
                    Channels = Channels,
                    Heads = Heads,
                    Branches = schedule,
                    Causal = causal,
                    Positions = positions,
                    RelativePositionBias = RelativePositionBuckets.Default(bidirectional: !causal),
                    SubLayerNorm = true,
                },
                where
            );
            module.to(float64);
            using var noGradient = no_grad();
            // Alike on every rank.
            foreach (var (_, parameter) in module.named_parameters())
                parameter.normal_(0, 0.2, generator);
            return module;
        }
    }

    private void Compare(
        ProcessGroup world,
        AllGatherSequenceParallel sharding,
        AttentionPattern options,
        ScalarType dtype,
        double tolerance,
        string what,
        long[]? lengths = null,
        RelativePositionBuckets? buckets = null
    )
    {
        using var scope = NewDisposeScope();
        using var generator = new Generator(17);
        long whole = TokensPerRank * world.Size,
            first = TokensPerRank * world.Rank;
        Tensor[] inputs =
        [
            .. Enumerable
                .Range(0, 4)
                .Select(_ =>
                    randn([Batch, whole, Heads, HeadDim], dtype: float64, generator: generator).to(dtype).to(device)
                ),
        ];

        Tensor[] all = [.. inputs.Take(3).Select(x => x.clone().requires_grad_())];
        using RelativePositionBias? bias = Bias(),
            ownBias = Bias();
        Tensor expected = DilatedAttention.Attend(all[0], all[1], all[2], options, lengths: lengths, bias: bias);
        BackwardPass.Run(expected.mul(inputs[3]).sum());

        Tensor[] own = [.. inputs.Take(3).Select(x => Rows(x).clone().requires_grad_())];
        CommunicationVolume before = sharding.Volume;
        Tensor output = DilatedAttention.Attend(own[0], own[1], own[2], options, sharding, lengths, ownBias);
        CommunicationVolume forward = sharding.Volume - before;
        BackwardPass.Run(output.mul(Rows(inputs[3])).sum());
        CommunicationVolume backward = sharding.Volume - before - forward;

        Assert.Equal(dtype, output.dtype);
        TestKit.Compare.AssertClose(output, Rows(expected), tolerance, $"output: {what}, {dtype}");
        foreach (var (tensor, index) in new[] { ("q", 0), ("k", 1), ("v", 2) })
        {
            // Scaled by the whole sequence's gradient: a shard whose own part is next to nothing proves nothing by
            // digits.
            double scale = all[index].grad!.abs().max().to(float64).item<double>();
            TestKit.Compare.AssertClose(
                own[index].grad!,
                Rows(all[index].grad!),
                tolerance,
                $"gradient of {tensor}: {what}, {dtype}",
                floor: scale
            );
        }

        // Keys and values travel in the compute type, their gradients in the type they are summed in.
        AssertVolume(world, options, lengths, forward, backward, output.ElementSize, dtype == float64 ? 8 : 4, what);
        if (bias is not null)
        {
            Tensor sum = ownBias!.Table.grad!.clone();
            world.AllReduce(sum);
            TestKit.Compare.AssertClose(sum, bias.Table.grad!, tolerance, $"gradient of the bias: {what}, {dtype}");
        }

        RelativePositionBias? Bias()
        {
            if (buckets is null)
                return null;
            var made = new RelativePositionBias(Heads, buckets);
            made.to(dtype);
            made.to(device);
            using var noGradient = no_grad();
            using var seeded = new Generator(23);
            made.Table.copy_(randn([buckets.Count, Heads], dtype: float64, generator: seeded).to(device));
            return made;
        }

        Tensor Rows(Tensor x) => x.narrow(1, first, TokensPerRank).contiguous();
    }

    // Counted here from the definition of kept rows alone, row by row.
    private static void AssertVolume(
        ProcessGroup world,
        AttentionPattern options,
        long[]? lengths,
        CommunicationVolume forward,
        CommunicationVolume backward,
        long elementSize,
        long gradientSize,
        string what
    )
    {
        long sentForward = 0,
            receivedForward = 0,
            sentBackward = 0,
            receivedBackward = 0;
        long whole = TokensPerRank * world.Size;
        int widest = (int)(Math.Min(options.Schedule.Max(branch => branch.SegmentLength), whole) / TokensPerRank);
        if (lengths is not null && widest > 1)
        {
            // The ranks of the widest segment compare their lists: 8 bytes a sequence, whatever the type.
            int others = Math.Min(widest, world.Size - world.Rank / widest * widest) - 1;
            forward -= new CommunicationVolume(others > 0 ? 8 * Batch : 0, 8 * Batch * others);
        }

        foreach (Branch requested in options.Schedule)
        {
            long w = Math.Min(requested.SegmentLength, whole);
            int span = (int)(w / TokensPerRank);
            if (span <= 1)
                continue;
            int firstRank = world.Rank / span * span;
            int[] peers = [.. Enumerable.Range(firstRank, Math.Min(span, world.Size - firstRank))];
            if (peers.Length == 1)
                continue;
            long Elements(int rank) =>
                2
                * HeadDim
                * Enumerable
                    .Range(0, (int)Batch)
                    .Sum(sequence =>
                        KeptRowsOfAllHeads(
                            options,
                            requested.Dilation,
                            w,
                            rank * TokensPerRank,
                            lengths?[sequence] ?? whole
                        )
                    );
            long own = Elements(world.Rank),
                others = peers.Sum(Elements) - own;
            sentForward += own;
            receivedForward += others;
            sentBackward += others;
            receivedBackward += (peers.Length - 1) * own;
            if (lengths is null && w % requested.Dilation == 0 && TokensPerRank % requested.Dilation == 0)
                Assert.Equal(2 * Batch * (TokensPerRank / requested.Dilation) * Heads * HeadDim, own);
        }

        Assert.True(
            new CommunicationVolume(sentForward * elementSize, receivedForward * elementSize) == forward,
            $"forward sent {forward}, the formula says {sentForward * elementSize} and "
                + $"{receivedForward * elementSize}: {what}"
        );
        Assert.True(
            new CommunicationVolume(sentBackward * gradientSize, receivedBackward * gradientSize) == backward,
            $"backward sent {backward}, the formula says {sentBackward * gradientSize} and "
                + $"{receivedBackward * gradientSize}: {what}"
        );
    }

    private static long KeptRowsOfAllHeads(AttentionPattern options, long dilation, long w, long firstRow, long end)
    {
        long kept = 0;
        for (long head = 0; head < Heads; head++)
        {
            long offset =
                options.HeadOffsets == HeadOffsets.Interleaved
                    ? head % dilation
                    : head / ((Heads + dilation - 1) / dilation);
            for (long row = firstRow; row < Math.Min(firstRow + TokensPerRank, end); row++)
            {
                long inSegment = row % w;
                if (inSegment >= offset && (inSegment - offset) % dilation == 0)
                    kept++;
            }
        }

        return kept;
    }

    // Before any collective, so no rank is left waiting.
    private static void Refuses(ProcessGroup world, AllGatherSequenceParallel sharding)
    {
        if (world.Size == 1)
            return;
        using var scope = NewDisposeScope();
        Tensor x = zeros(1, TokensPerRank, Heads, HeadDim);
        var options = new AttentionPattern(new SegmentSchedule(new Branch(36, 1)), true);
        var error = Assert.Throws<Core.UserException>(() => DilatedAttention.Attend(x, x, x, options, sharding));
        long otherLength = 20 + world.Rank;
        var different = Assert.Throws<Core.UserException>(() =>
            DilatedAttention.Attend(
                x,
                x,
                x,
                new AttentionPattern(new SegmentSchedule(new Branch(TokensPerRank * world.Size, 2)), true),
                sharding,
                [otherLength]
            )
        );
        Assert.Equal(
            "lengths is [20] where row 0 lies and [21] where row 24 lies: give every rank of a sequence "
                + "the same list, the lengths of the whole sequences.",
            different.Message
        );
        Assert.StartsWith(
            $"Branch {new Branch(36, 1)} does not fit {world.Size} ranks with 24 rows each: a segment must "
                + "divide a rank's rows or be a multiple of them.",
            error.Message
        );
    }
}
