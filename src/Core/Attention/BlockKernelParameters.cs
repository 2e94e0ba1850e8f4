using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using LongNet.Core.Cuda;

namespace LongNet.Core.Attention;

/// <summary>A block as the kernels take it: Block of blocks.cu.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct BlockEntry
{
    public nint Values,
        LogSumExp;
    public long ValueSegment,
        ValueHead,
        ValueRow;
    public long LogSumExpSegment,
        LogSumExpHead,
        LogSumExpRow;
    public int FirstRow,
        Rows,
        Segments;
    public int FirstHead,
        HeadSpan,
        OffsetStride;
    public KernelDivisor SegmentStride,
        RowStride,
        HeadStride;
    public int Unused;
}

/// <summary>As many blocks as one launch takes.</summary>
[InlineArray(Length)]
internal struct BlockTable
{
    public const int Length = 28;

    private BlockEntry first;
}

/// <summary>What the kernels of blocks.cu take: Blocks there.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct BlockKernelParameters
{
    public nint Result,
        LogSumExp;
    public nint StartResult,
        StartLogSumExp;
    public int Threads,
        Channels,
        Count;
    public KernelDivisor Heads,
        Groups;
    public int Unused;
    public BlockTable Blocks;
}
