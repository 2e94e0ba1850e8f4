using TorchSharp.Modules;
using static TorchSharp.torch;
using static TorchSharp.torch.nn;

namespace LongNet.Core.Model;

/// <summary>The position-wise network of a block: expand, GELU, contract.</summary>
public sealed class FeedForward : Module<Tensor, Tensor>
{
    private readonly Linear expand, contract;

    /// <param name="dModel">Channels of input and output.</param>
    /// <param name="hidden">Channels in between.</param>
    public FeedForward(long dModel, long hidden)
        : base(nameof(FeedForward))
    {
        expand = Linear(dModel, hidden);
        contract = Linear(hidden, dModel);
        register_module("fc1", expand);
        register_module("fc2", contract);
    }

    /// <param name="input">[batch, length, dModel]. Not disposed.</param>
    /// <returns>[batch, length, dModel]. Owned by the caller.</returns>
    public override Tensor forward(Tensor input)
    {
        using var scope = NewDisposeScope();
        return contract.forward(functional.gelu(expand.forward(input))).MoveToOuterDisposeScope();
    }
}
