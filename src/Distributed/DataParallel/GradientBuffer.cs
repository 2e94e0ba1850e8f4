using LongNet.Core.Numerics;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Distributed.DataParallel;

/// <summary>
/// All gradients of a model in one flat tensor, of which every parameter's gradient is a view: backward accumulates in place,
/// and reduction, norm and clipping are one operation each.
/// </summary>
public sealed class GradientBuffer : IDisposable
{
    private readonly Tensor flat;
    private readonly Tensor[] views;

    /// <param name="parameters">Parameters of one dtype, whose <c>grad</c> this sets and keeps. Not owned.</param>
    public GradientBuffer(IReadOnlyList<(string Name, Parameter Parameter)> parameters)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Parameter first = parameters[0].Parameter;
        flat = zeros(parameters.Sum(entry => entry.Parameter.NumberOfElements), dtype: first.dtype, device: first.device)
            .DetachFromDisposeScope();
        views = new Tensor[parameters.Count];
        long start = 0;
        for (int p = 0; p < parameters.Count; p++)
        {
            Parameter parameter = parameters[p].Parameter;
            views[p] = flat.narrow(0, start, parameter.NumberOfElements).view(parameter.shape).DetachFromDisposeScope();
            parameter.grad = views[p];
            start += parameter.NumberOfElements;
        }
    }

    /// <summary>Every parameter's gradient, in the order given. Owned by the buffer.</summary>
    public IReadOnlyList<Tensor> Views => views;

    /// <summary>Sets all gradients to zero, for the next step.</summary>
    public void Zero()
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        flat.zero_();
    }

    /// <summary>Sums the gradients over the ranks. Collective.</summary>
    /// <param name="group">Every rank that holds part of the batch or of the sequences.</param>
    public void Reduce(ProcessGroup group)
    {
        ArgumentNullException.ThrowIfNull(group);
        group.AllReduce(flat);
    }

    /// <summary>Scales the gradients down to the given global norm where theirs is larger.</summary>
    /// <param name="largestNorm">Largest 2-norm left; 0 leaves every gradient alone.</param>
    /// <returns>The 2-norm over all gradients, before scaling; NaN or infinite if a gradient is.</returns>
    public double Clip(double largestNorm)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        // Accumulated in float64: a million float32 squares lose digits that the comparison of rank counts would show.
        double norm = VectorNorm.Of(flat);
        if (largestNorm > 0 && norm > largestNorm)
            flat.mul_(tensor(largestNorm / norm, dtype: flat.dtype));
        return norm;
    }

    public void Dispose()
    {
        foreach (Tensor view in views)
            view.Dispose();
        flat.Dispose();
    }
}
