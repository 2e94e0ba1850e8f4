using System.Diagnostics.CodeAnalysis;
using LongNet.Core;
using LongNet.Core.Attention;
using LongNet.Core.Attention.Kernels;
using LongNet.Core.Model;
using LongNet.Distributed.Collectives;
using static TorchSharp.torch;

namespace LongNet.Trainer.Configuration;

/// <summary>One run, as the YAML file describes it. Keys are the properties' names in snake_case.</summary>
internal sealed record RunConfig
{
    /// <summary>Names the run; the configuration file's name where it is not given.</summary>
    public string? Name { get; init; }

    /// <summary>Decides initial parameters, sample order and dropout.</summary>
    public long Seed { get; init; } = 1;

    /// <summary>Run directory, relative to the current directory; runs/NAME where it is not given.</summary>
    public string? Output { get; init; }

    public required ModelConfig Model { get; init; }

    public required DataConfig Data { get; init; }

    public ParallelConfig Parallel { get; init; } = new();

    public PrecisionConfig Precision { get; init; } = new();

    public MemoryConfig Memory { get; init; } = new();

    public required OptimizerConfig Optimizer { get; init; }

    public required TrainingConfig Training { get; init; }

    public EvaluationConfig Evaluation { get; init; } = new();

    public CheckpointConfig Checkpoint { get; init; } = new();

    public LoggingConfig Logging { get; init; } = new();

    public RuntimeConfig Runtime { get; init; } = new();

    /// <summary>How the model computes, for the library.</summary>
    public ModelExecution ToExecution() =>
        new()
        {
            ComputeType = Precision.ToType(),
            Recompute = Memory.Recompute,
            TileRows = Memory.TileRows,
            OffloadFolder = Memory.Offload == Offload.Disk ? Memory.OffloadDirectory ?? Path.GetTempPath() : null,
            OffloadToHost = Memory.Offload == Offload.Host,
            LossRows = Memory.LossRows,
        };
}

internal sealed record ModelConfig
{
    [Within(1, 10_000)]
    public required long Layers { get; init; }

    [Within(1, 1 << 20)]
    public required long DModel { get; init; }

    [Within(1, 1 << 20)]
    public required long Heads { get; init; }

    /// <summary>Channels inside the feed-forward network; 4 · d_model where it is not given.</summary>
    [Within(1, 1 << 24)]
    public long? FeedForward { get; init; }

    [AtMost(1 << 24)]
    public long Vocabulary { get; init; } = 256;

    public required AttentionConfig Attention { get; init; }

    public PositionEncoding Positions { get; init; } = PositionEncoding.XPos;

    [Share]
    public double Dropout { get; init; }

    public bool TieEmbeddings { get; init; } = true;

    /// <summary>
    /// Whether the merged heads and the feed-forward network's hidden channels are normalized before their last
    /// projection.
    /// </summary>
    public bool SubLayerNorm { get; init; }

    /// <summary>
    /// A safetensors file that a new run takes its parameters from, relative to the configuration file's folder: a
    /// checkpoint's, or one of the authors' Python code. Not read where a checkpoint is resumed.
    /// </summary>
    public string? InitialWeights { get; init; }

    /// <summary>The model's shape, for the library.</summary>
    public LongNetConfig ToModel() =>
        new()
        {
            Layers = Layers,
            DModel = DModel,
            Heads = Heads,
            FeedForward = FeedForward ?? 4 * DModel,
            Vocabulary = Vocabulary,
            Schedule = AttentionConfig.Schedule(Attention.SegmentLengths, Attention.DilationRates),
            HeadOffsets = Attention.HeadOffsets,
            MixingGradient = Attention.MixingGradient,
            Positions = Positions,
            RelativePositionBias = Attention.RelativePositionBias
                ? new RelativePositionBuckets(
                    Attention.RelativePositionBuckets,
                    Attention.RelativePositionMaxDistance,
                    Attention.RelativePositionBidirectional
                )
                : null,
            Dropout = Dropout,
            TieEmbeddings = TieEmbeddings,
            SubLayerNorm = SubLayerNorm,
        };
}

internal sealed record AttentionConfig
{
    public required IReadOnlyList<long> SegmentLengths { get; init; }

    public required IReadOnlyList<long> DilationRates { get; init; }

    public HeadOffsets HeadOffsets { get; init; } = HeadOffsets.Interleaved;

    public MixingGradient MixingGradient { get; init; } = MixingGradient.Exact;

    /// <summary>
    /// Whether logits have a learned bias by distance and head, which all layers share. See docs/attention.md for what
    /// it costs.
    /// </summary>
    public bool RelativePositionBias { get; init; }

    /// <summary>Biases per head that distances share.</summary>
    public long RelativePositionBuckets { get; init; } = Core.Attention.RelativePositionBuckets.DefaultCount;

    /// <summary>Distance from which on all share the last bias.</summary>
    public long RelativePositionMaxDistance { get; init; } = Core.Attention.RelativePositionBuckets.DefaultMaxDistance;

    /// <summary>
    /// Whether half of the buckets are for keys after the query, as in the authors' decoder, though a causal model sees
    /// none: for weights that were trained so.
    /// </summary>
    public bool RelativePositionBidirectional { get; init; }

    /// <summary>Pairs the two lists, as configurations and command lines give them, branch by branch.</summary>
    /// <param name="segmentLengths">w of every branch.</param>
    /// <param name="dilationRates">r of every branch; as many.</param>
    /// <exception cref="UserException">The lists differ in length, are empty, or hold a value below 1.</exception>
    public static SegmentSchedule Schedule(IReadOnlyList<long> segmentLengths, IReadOnlyList<long> dilationRates)
    {
        if (segmentLengths.Count != dilationRates.Count)
        {
            throw new UserException(
                $"The segment schedule has {segmentLengths.Count} segment lengths but {dilationRates.Count} "
                    + "dilation rates: give one dilation rate per segment length."
            );
        }

        return new SegmentSchedule(
            segmentLengths.Zip(dilationRates, (length, dilation) => new Branch(length, dilation))
        );
    }
}

internal sealed record DataConfig
{
    /// <summary>
    /// Files, directories or globs of text, or one file of longnet data prepare; relative to the configuration file's
    /// folder.
    /// </summary>
    public required IReadOnlyList<string> Path { get; init; }

    /// <summary>Globs left out of directories and globs.</summary>
    public IReadOnlyList<string> Exclude { get; init; } = ["**/bin/**", "**/obj/**", "**/runs/**", "**/.*", "**/.*/**"];

    /// <summary>
    /// byte, where every byte is a token, or a file, relative to the configuration file's folder: a tokenizer.json or a
    /// *.tiktoken. A prepared file says itself what its tokens are; one that is given then must be the same.
    /// </summary>
    public string Tokenizer { get; init; } = TokenizerName.Byte;

    /// <summary>Share of the corpus, at its end, that is held out.</summary>
    [Share]
    public double ValidationFraction { get; init; } = 0.05;
}

internal sealed record ParallelConfig
{
    /// <summary>Ranks along the batch; auto: what the sequence axis leaves, or 1.</summary>
    [Within(1, 1 << 20)]
    public int? Data { get; init; }

    /// <summary>Ranks along the sequence; auto: what the data axis leaves.</summary>
    [Within(1, 1 << 20)]
    public int? Sequence { get; init; }

    /// <summary>
    /// Seconds that ranks wait for each other in any one collective before the job ends and says who is missing.
    /// </summary>
    [Between(1, 1e6)]
    public double TimeoutSeconds { get; init; } = 300;

    /// <summary>
    /// Whether ranks compare every collective before it runs, and name the one that differs: for finding errors in
    /// code, as nothing is hidden behind computation then.
    /// </summary>
    public bool CheckCollectives { get; init; }

    /// <summary>
    /// What carries the tensors of GPUs between ranks. auto: NCCL where it is there and every rank has a GPU of its
    /// own, else the host's memory and MPI, with a note; nccl or host: that one.
    /// </summary>
    public DeviceTransport DeviceTransport { get; init; }

    /// <summary>
    /// Whether all ranks share the optimizer's state among them, so that each keeps, updates and saves its part: less
    /// memory, the same losses. The run directory must then lie on a file system that all ranks share.
    /// </summary>
    public bool ShardOptimizer { get; init; }
}

[SuppressMessage(
    "Naming",
    "CA1720:Identifier contains type name",
    Justification = "These are values of the configuration."
)]
internal enum ComputePrecision
{
    Float32,

    /// <summary>The range of float32 with 8 bits of precision.</summary>
    BFloat16,

    /// <summary>11 bits of precision, and a range so small that the loss is scaled.</summary>
    Float16,
}

[SuppressMessage(
    "Naming",
    "CA1720:Identifier contains type name",
    Justification = "These are values of the configuration."
)]
internal enum ReducePrecision
{
    Float32,
}

/// <summary>
/// Types of numbers. Parameters, optimizer state, normalizations, softmax statistics and the loss are float32 in any
/// case.
/// </summary>
internal sealed record PrecisionConfig
{
    /// <summary>Type of activations and matrix products.</summary>
    public ComputePrecision Compute { get; init; } = ComputePrecision.Float32;

    /// <summary>Type in which gradients are summed over micro-batches and ranks.</summary>
    public ReducePrecision Reduce { get; init; } = ReducePrecision.Float32;

    /// <summary>
    /// Whether GPUs may round the factors of float32 products to TF32, 10 bits of precision, which is several times as
    /// fast.
    /// </summary>
    public bool Tf32 { get; init; }

    /// <summary>The compute type, for the library.</summary>
    public ScalarType ToType() => TypeNames.TypeOf(Compute);
}

internal enum Offload
{
    /// <summary>What backward needs stays in memory.</summary>
    None,

    /// <summary>
    /// What recomputed blocks keep for backward is written to a file, and read back before it is needed.
    /// </summary>
    Disk,

    /// <summary>
    /// What recomputed blocks of a model on a GPU keep for backward waits in the host's memory. On CPUs it does anyway.
    /// </summary>
    Host,
}

/// <summary>What long sequences cost. None of it changes what is computed, but for rounding.</summary>
internal sealed record MemoryConfig
{
    /// <summary>What backward computes again in place of keeping it.</summary>
    public Recompute Recompute { get; init; } = Recompute.None;

    /// <summary>Where what is kept of blocks waits for backward.</summary>
    public Offload Offload { get; init; } = Offload.None;

    /// <summary>
    /// Folder for the file, on a fast disk of each machine, relative to the current directory; the system's folder for
    /// temporary files where it is not given.
    /// </summary>
    public string? OffloadDirectory { get; init; }

    /// <summary>Rows that a recomputed block works on at once, outside attention.</summary>
    [Within(1, 1L << 40)]
    public long? TileRows { get; init; }

    /// <summary>Rows whose logits exist at once.</summary>
    [Within(1, 1L << 40)]
    public long? LossRows { get; init; }
}

internal sealed record OptimizerConfig
{
    /// <summary>Peak learning rate.</summary>
    [Positive]
    public required double Lr { get; init; }

    /// <summary>Learning rate after the decay; lr / 10 where it is not given.</summary>
    [AtLeast(0)]
    public double? MinLr { get; init; }

    [AtLeast(0)]
    public long WarmupSteps { get; init; }

    /// <summary>Step at which the cosine reaches min_lr; training.steps where it is not given.</summary>
    [AtLeast(1)]
    public long? DecaySteps { get; init; }

    public IReadOnlyList<double> Betas { get; init; } = [0.9, 0.95];

    [Positive]
    public double Epsilon { get; init; } = 1e-8;

    [AtLeast(0)]
    public double WeightDecay { get; init; } = 0.1;

    /// <summary>Largest global gradient norm; 0 turns clipping off.</summary>
    [AtLeast(0, Note = " (0 turns it off)")]
    public double GradientClipping { get; init; } = 1.0;
}

internal sealed record TrainingConfig
{
    [AtLeast(1)]
    public required long Steps { get; init; }

    [Within(1, 1L << 40)]
    public required long SequenceLength { get; init; }

    /// <summary>Sequences per optimizer step, over all ranks.</summary>
    [Within(1, 1 << 20)]
    public long BatchSize { get; init; } = 1;

    /// <summary>
    /// Sequences per data-parallel rank at once; the rest of the batch is gradient accumulation. auto: all of its
    /// share.
    /// </summary>
    [Within(1, 1 << 20)]
    public long? MicroBatchSize { get; init; }

    /// <summary>
    /// Minutes after the start of the program at which the run stops early, with a checkpoint, to be started again with
    /// --resume auto: leave a step and a checkpoint's time to what kills it. auto: no limit.
    /// </summary>
    [Positive(AtMost = 1e8, Note = ", or auto for no limit")]
    public double? TimeLimitMinutes { get; init; }
}

internal sealed record EvaluationConfig
{
    /// <summary>Steps between evaluations; 0 turns them off.</summary>
    [AtLeast(0)]
    public long EverySteps { get; init; }

    /// <summary>Held-out sequences per evaluation.</summary>
    [AtLeast(1)]
    public long Sequences { get; init; } = 16;
}

internal sealed record CheckpointConfig
{
    /// <summary>Steps between checkpoints; 0: only at the end, and as often as the next key says.</summary>
    [AtLeast(0)]
    public long EverySteps { get; init; }

    /// <summary>
    /// Minutes from one checkpoint to the next, at the end of a step; 0: as often as every_steps says.
    /// </summary>
    [Between(0, 1e6, Note = " (0 turns it off)")]
    public double EveryMinutes { get; init; }

    /// <summary>
    /// How many of the newest checkpoints are kept; 0: all. That of the lowest validation loss is kept too.
    /// </summary>
    [AtLeast(0)]
    public long KeepLast { get; init; }

    /// <summary>Checkpoints whose step is a multiple of this are kept for ever; 0: none for that.</summary>
    [AtLeast(0)]
    public long KeepEvery { get; init; }

    /// <summary>
    /// Whether training continues while a checkpoint is written, which takes memory for a copy of parameters and
    /// optimizer state.
    /// </summary>
    public bool Asynchronous { get; init; } = true;

    /// <summary>
    /// Whether a checkpoint that cannot be written ends the run. Else it is reported, and the next is tried; only the
    /// last must succeed.
    /// </summary>
    public bool Required { get; init; }
}

internal sealed record LoggingConfig
{
    /// <summary>Steps between lines on the console. metrics.jsonl has every step.</summary>
    [AtLeast(1)]
    public long EverySteps { get; init; } = 10;
}

internal enum DeviceSetting
{
    /// <summary>A GPU for each rank where there are some, else the processors.</summary>
    Auto,

    /// <summary>The processors.</summary>
    Cpu,

    /// <summary>An NVIDIA GPU for each rank.</summary>
    Cuda,
}

internal sealed record RuntimeConfig
{
    /// <summary>Where ranks compute.</summary>
    public DeviceSetting Device { get; init; } = DeviceSetting.Auto;

    /// <summary>Which kernel attends on GPUs, where it can.</summary>
    public CudaAttentionKernel CudaAttention { get; init; } = CudaAttentionKernel.Auto;

    /// <summary>CPU threads per rank; auto: the host's cores shared out among its ranks.</summary>
    [Within(1, 4096)]
    public int? Threads { get; init; }

    /// <summary>Whether oneMKL may take its fast kernels on AMD processors too.</summary>
    public MklOnAmdSetting MklOnAmd { get; init; } = MklOnAmdSetting.Auto;

    /// <summary>Which kernel attends in float32 and bfloat16 on processors with AVX-512.</summary>
    public CpuAttentionSetting CpuAttention { get; init; } = CpuAttentionSetting.Auto;

    /// <summary>Whether freed memory stays with the process.</summary>
    public AllocatorSetting Allocator { get; init; } = AllocatorSetting.Tuned;
}

internal enum MklOnAmdSetting
{
    /// <summary>Where the processor is AMD's and the library allows it.</summary>
    Auto,

    /// <summary>As the library was shipped.</summary>
    Off,
}

internal enum CpuAttentionSetting
{
    /// <summary>This library's own, where the processor has AVX-512 and heads are a multiple of 32 channels.</summary>
    Auto,

    /// <summary>libtorch's.</summary>
    Libtorch,
}

internal enum AllocatorSetting
{
    /// <summary>
    /// Kept, which saves the page faults of large tensors; those of 32 MiB and more are given back where
    /// memory.recompute is on.
    /// </summary>
    Tuned,

    /// <summary>As the system does by itself.</summary>
    System,
}
