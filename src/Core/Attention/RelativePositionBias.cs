using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Core.Attention;

/// <summary>
/// Learned biases that attention adds to its logits, one for each head and bucket of distances between query and key
/// (T5, section 2.1 of arXiv:1910.10683). Layers may share one.
/// </summary>
/// <remarks>
/// Its parameter is called relative_attention_bias.weight, [buckets, heads], as in the authors' code.
/// </remarks>
public sealed class RelativePositionBias : nn.Module
{
    private readonly Embedding table;

    /// <param name="heads">Heads.</param>
    /// <param name="buckets">How distances share biases.</param>
    /// <exception cref="UserException">The buckets' numbers make no sense.</exception>
    public RelativePositionBias(long heads, RelativePositionBuckets buckets)
        : base(nameof(RelativePositionBias))
    {
        ArgumentNullException.ThrowIfNull(buckets);
        buckets.Validate();
        if (heads < 1)
            throw new UserException($"A relative position bias is for at least one head, not for {heads}.");
        Buckets = buckets;
        table = nn.Embedding(buckets.Count, heads);
        // An embedding's own normal numbers of deviation 1 would drown the first logits.
        using (no_grad())
            table.weight!.zero_();
        register_module("relative_attention_bias", table);
    }

    /// <summary>How distances share biases.</summary>
    public RelativePositionBuckets Buckets { get; }

    /// <summary>The biases, [buckets, heads]. Owned by the module.</summary>
    public Tensor Table => table.weight!;

    internal void CheckHeads(long heads)
    {
        if (Table.shape[1] != heads)
            throw new UserException(
                $"The relative position bias is of {Table.shape[1]} heads, but attention has {heads}: make "
                    + "it for as many."
            );
    }
}
