namespace LongNet.Trainer.Planning.Machines;

/// <summary>
/// What a rank can do on a machine: rates that training reaches, not those of a data sheet. Keys of the JSON files are
/// the properties' names in snake_case.
/// </summary>
internal sealed record Machine
{
    public required string Name { get; init; }

    /// <summary>Where the numbers are from.</summary>
    public required string Source { get; init; }

    /// <summary>
    /// Ranks of one machine for which the rates hold; on machines whose processors are shared out, they change with it.
    /// </summary>
    public required int RanksPerHost { get; init; }

    /// <summary>Processors that the ranks of a machine share; null where every rank has a GPU of its own.</summary>
    public int? Processors { get; init; }

    /// <summary>Threads of a rank for which the rates hold, where processors are shared.</summary>
    public int ThreadsPerRank { get; init; } = 1;

    /// <summary>Matrix products in float32, operations per second.</summary>
    public required double MatrixFloat32 { get; init; }

    /// <summary>Matrix products in 16 bits.</summary>
    public required double MatrixBfloat16 { get; init; }

    /// <summary>
    /// Attention in float32, forward and backward, operations per second of the pairs that the causal mask leaves.
    /// </summary>
    public required double AttentionFloat32 { get; init; }

    /// <summary>Attention in 16 bits.</summary>
    public required double AttentionBfloat16 { get; init; }

    /// <summary>Bytes per second of work by element.</summary>
    public required double MemoryBandwidth { get; init; }

    /// <summary>
    /// Bytes per second at which the system hands out memory that a process did not have; null: as if it cost nothing.
    /// </summary>
    public double? FirstTouch { get; init; }

    /// <summary>Seconds of an operation on next to nothing.</summary>
    public required double CallSeconds { get; init; }

    /// <summary>Bytes that ranks may take, together with what the runtime takes.</summary>
    public required double MemoryPerRank { get; init; }

    /// <summary>Bytes that a rank takes before its first tensor.</summary>
    public required double RuntimeBytes { get; init; }

    /// <summary>Bytes per second over a rank's link in an all-gather within a machine.</summary>
    public double AllGatherBandwidth { get; init; }

    /// <summary>Bytes per second over a rank's link in a reduce-scatter within a machine.</summary>
    public double ReduceScatterBandwidth { get; init; }

    /// <summary>Seconds that a collective of two ranks takes for next to nothing.</summary>
    public double CollectiveLatency { get; init; }

    /// <summary>
    /// Bytes per second over a rank's link between machines; null: as within one, where nothing is known.
    /// </summary>
    public double? NetworkBandwidth { get; init; }

    /// <summary>Bytes per second that a rank writes to a disk for what is offloaded.</summary>
    public double? DiskWrite { get; init; }

    /// <summary>Bytes per second that a rank reads of it.</summary>
    public double? DiskRead { get; init; }

    /// <summary>Whether every rank has a GPU of its own; else the ranks of a machine share its processors.</summary>
    internal bool HasGpus => Processors is null;

    /// <summary>Whether tensors lie in the process's heap, which becomes fragmented.</summary>
    internal bool KeepsHoles => !HasGpus;

    /// <summary>Whether transfers overlap computation: processors do both in turn.</summary>
    internal bool HidesTransfers => HasGpus;

    /// <summary>
    /// Ranks of a machine when so many are started: as many as there are, up to the machine's devices or processors.
    /// </summary>
    internal int RanksOnHost(int ranks) =>
        Math.Min(ranks, Processors is int processors ? Math.Max(RanksPerHost, processors) : RanksPerHost);

    /// <summary>The machine as each of so many ranks has it.</summary>
    /// <param name="ranks">Ranks that are started.</param>
    /// <param name="threads">runtime.threads; null: an even share of the processors.</param>
    internal Machine For(int ranks, int? threads)
    {
        if (Processors is not int processors)
            return this;
        int onHost = RanksOnHost(ranks);
        double own = threads ?? Math.Max(1, processors / onHost);
        // More threads than processors take turns.
        double rate = own / ThreadsPerRank * Math.Min(1, processors / (own * onHost)),
            share = (double)RanksPerHost / onHost;
        return this with
        {
            ThreadsPerRank = (int)own,
            RanksPerHost = onHost,
            MatrixFloat32 = rate * MatrixFloat32,
            MatrixBfloat16 = rate * MatrixBfloat16,
            AttentionFloat32 = rate * AttentionFloat32,
            AttentionBfloat16 = rate * AttentionBfloat16,
            MemoryBandwidth = share * MemoryBandwidth,
            MemoryPerRank = share * MemoryPerRank,
            FirstTouch = share * FirstTouch,
            DiskWrite = share * DiskWrite,
            DiskRead = share * DiskRead,
        };
    }

    internal double MatrixRate(int elementBytes) => elementBytes == sizeof(float) ? MatrixFloat32 : MatrixBfloat16;

    internal double AttentionRate(int elementBytes) =>
        elementBytes == sizeof(float) ? AttentionFloat32 : AttentionBfloat16;
}
