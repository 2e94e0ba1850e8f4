namespace LongNet.Core.Model;

/// <summary>
/// The intermediate results that backward computes again instead of keeping them (activation checkpointing,
/// arXiv:1604.06174).
/// </summary>
public enum Recompute
{
    /// <summary>Nothing: memory for every intermediate result.</summary>
    None,

    /// <summary>
    /// Everything inside a block but its attention, whose result and gathered keys and values are kept: no kernel and
    /// no gather runs twice.
    /// </summary>
    Block,

    /// <summary>Everything inside a block: only its input is kept.</summary>
    Full,
}
