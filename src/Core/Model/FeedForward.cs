using LongNet.Core.Numerics;
using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace LongNet.Core.Model;

/// <summary>The position-wise network of a block: expand, GELU, normalize where asked, contract.</summary>
public sealed class FeedForward : Module<Tensor, Tensor>
{
    private readonly Linear expand,
        contract;
    private readonly LayerNorm? hiddenNorm;

    /// <param name="dModel">Channels of input and output.</param>
    /// <param name="hidden">Channels in between.</param>
    /// <param name="subLayerNorm">Whether those are normalized before the contraction (sub-LN,
    /// arXiv:2210.06423).</param>
    public FeedForward(long dModel, long hidden, bool subLayerNorm = false)
        : base(nameof(FeedForward))
    {
        expand = Linear(dModel, hidden);
        contract = Linear(hidden, dModel);
        register_module("fc1", expand);
        register_module("fc2", contract);
        if (subLayerNorm)
        {
            hiddenNorm = LayerNorm(hidden);
            register_module("ffn_layernorm", hiddenNorm);
        }
    }

    /// <param name="input">[batch, length, dModel]. Not disposed.</param>
    /// <returns>[batch, length, dModel]. Owned by the caller.</returns>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        Tensor hidden = functional.gelu(MixedPrecision.Apply(expand, input));
        return MixedPrecision
            .Apply(contract, hiddenNorm is null ? hidden : MixedPrecision.Apply(hiddenNorm, hidden))
            .MoveToOuterDisposeScope();
    }
}
