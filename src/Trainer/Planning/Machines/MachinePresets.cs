using LongNet.Core;

namespace LongNet.Trainer.Planning.Machines;

/// <summary>Machines by name.</summary>
internal static class MachinePresets
{
    // Shares of a data sheet's peak that training commonly reaches. Products: large ones of well-fed tensor cores.
    // Attention: what FlashAttention-2 reports forward and backward together (arXiv:2307.08691, section 4.1). Memory:
    // streams of one kernel. Links: messages of several megabytes.
    private const double OfProducts = 0.6,
        OfMemory = 0.8,
        OfLinks = 0.75;
    private const double OfAttentionOnA100 = 0.55,
        OfAttentionOnH100 = 0.35;

    private const double Gibibyte = 1L << 30;

    public static IReadOnlyList<Machine> All { get; } =
    [
        Gpu(
            "a100-80gb",
            "NVIDIA A100 SXM4 80 GB",
            float32: 19.5e12,
            bfloat16: 312e12,
            memory: 2039e9,
            nvlink: 300e9,
            network: 25e9,
            "NVLink 3, one HDR InfiniBand port (200 Gbit/s) per GPU",
            OfAttentionOnA100
        ),
        Gpu(
            "h100-80gb",
            "NVIDIA H100 SXM5 80 GB",
            float32: 67e12,
            bfloat16: 989e12,
            memory: 3350e9,
            nvlink: 450e9,
            network: 50e9,
            "NVLink 4, one NDR InfiniBand port (400 Gbit/s) per GPU",
            OfAttentionOnH100
        ),
        new Machine
        {
            Name = "desk",
            Source =
                "two cores of an AMD EPYC (Zen 4) and a virtual disk, as measured by longnet bench and longnet doctor",
            RanksPerHost = 1,
            Processors = 2,
            ThreadsPerRank = 2,
            // docs/attention.md: products, and attention forward and backward at length 8192.
            MatrixFloat32 = 214e9,
            MatrixBfloat16 = 421e9,
            AttentionFloat32 = 0.77 * 214e9,
            AttentionBfloat16 = 0.45 * 421e9,
            MemoryBandwidth = 20e9,
            CallSeconds = 5e-6,
            MemoryPerRank = 22 * Gibibyte,
            RuntimeBytes = 290 << 20,
            AllGatherBandwidth = 5e9,
            ReduceScatterBandwidth = 3e9,
            CollectiveLatency = 10e-6,
            DiskWrite = 1.5e9,
            DiskRead = 1.5e9,
        },
    ];

    /// <exception cref="UserException">There is none of that name; says which there are.</exception>
    public static Machine Find(string name) =>
        All.FirstOrDefault(machine => machine.Name == name)
        ?? throw new UserException(
            $"--machine {name} is neither a file nor a machine that is known: give one of "
                + $"{string.Join(", ", All.Select(machine => machine.Name))}, or a file written by longnet doctor "
                + "--json."
        );

    // Peaks are dense, without sparsity; links are per direction. float32 is computed outside the tensor cores, as
    // libtorch does unless told.
    private static Machine Gpu(
        string name,
        string title,
        double float32,
        double bfloat16,
        double memory,
        double nvlink,
        double network,
        string links,
        double ofAttention
    ) =>
        new()
        {
            Name = name,
            Source =
                $"public data sheets of {title}, {links}, 8 to a machine, times {OfProducts} for products, "
                + $"{ofAttention} for attention, {OfMemory} for memory and {OfLinks} for links",
            RanksPerHost = 8,
            MatrixFloat32 = OfProducts * float32,
            MatrixBfloat16 = OfProducts * bfloat16,
            AttentionFloat32 = ofAttention * float32,
            AttentionBfloat16 = ofAttention * bfloat16,
            MemoryBandwidth = OfMemory * memory,
            CallSeconds = 8e-6,
            MemoryPerRank = 80e9,
            // CUDA's context and the libraries' kernels and buffers.
            RuntimeBytes = 1.5 * Gibibyte,
            AllGatherBandwidth = OfLinks * nvlink,
            ReduceScatterBandwidth = OfLinks * nvlink,
            CollectiveLatency = 15e-6,
            NetworkBandwidth = OfLinks * network,
            DiskWrite = 2e9,
            DiskRead = 3e9,
        };
}
