using LongNet.Core.Devices;
using LongNet.Core.Optimization;
using LongNet.Distributed.Collectives;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Distributed.DataParallel;

/// <summary>
/// What one rank updates of a model whose optimizer is sharded over the ranks (ZeRO stage 1, arXiv:1910.02054): an even
/// part of every bucket. Its optimizer keeps state for that alone; the updated parts are gathered after the step.
/// </summary>
internal sealed class ParameterShard : IDisposable
{
    private readonly GradientBuffer gradients;
    private readonly Tensor[] values;
    private readonly OptimizedTensor[] optimized;

    /// <param name="parameters">What the gradients were made of, in the same order. Not owned.</param>
    /// <param name="gradients">Sharded. Not owned.</param>
    public ParameterShard(IReadOnlyList<(string Name, Parameter Parameter)> parameters, GradientBuffer gradients)
    {
        ArgumentNullException.ThrowIfNull(parameters);
        ArgumentNullException.ThrowIfNull(gradients);
        if (!gradients.IsSharded)
            throw new ArgumentException("A shard needs gradients that are sharded too.", nameof(gradients));
        this.gradients = gradients;
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        values = [.. parameters.Select(entry => entry.Parameter.detach().DetachFromDisposeScope())];
        Slices = gradients.Layout.Shard(gradients.Group.Rank, gradients.Group.Size);
        optimized =
        [
            .. Slices.Select(slice => new OptimizedTensor(
                parameters[slice.Parameter].Name,
                values[slice.Parameter].view(-1).narrow(0, slice.Start, slice.Length).DetachFromDisposeScope(),
                gradients.Flat.narrow(0, slice.FlatStart, slice.Length).DetachFromDisposeScope(),
                OptimizedTensor.DecaysFor(values[slice.Parameter])
            )),
        ];
    }

    /// <summary>What this rank updates of which parameter.</summary>
    public IReadOnlyList<ParameterSlice> Slices { get; }

    /// <summary>
    /// The same, for the optimizer: flat views of parameters and gradients, in the order of the slices. Owned by the
    /// shard.
    /// </summary>
    public IReadOnlyList<OptimizedTensor> Optimized => optimized;

    /// <summary>
    /// Gives every rank the values that the others have updated, by way of the gradients' memory: gradients are lost.
    /// Collective.
    /// </summary>
    public void GatherParameters()
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        foreach (OptimizedTensor own in optimized)
            own.Gradient.copy_(own.Values);
        CollectiveWork[] works = gradients.StartGatherOwnParts();
        for (int b = 0; b < works.Length; b++)
        {
            works[b].Wait();
            foreach (int parameter in gradients.Layout.Buckets[b].Parameters)
                values[parameter].copy_(gradients.Views[parameter]);
        }
    }

    /// <summary>
    /// Gives every rank its slice of a tensor that rank 0 holds as a whole, such as a moment that was saved. Slices
    /// travel in host memory: NCCL would make a communicator for every pair of ranks. Collective.
    /// </summary>
    /// <param name="parameter">The parameter that the tensor belongs to.</param>
    /// <param name="whole">As many elements as the parameter, contiguous; not read on other ranks than 0.</param>
    /// <param name="own">This rank's slice, overwritten; null where it has none.</param>
    public void ScatterFromRoot(int parameter, Tensor? whole, Tensor? own)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        ProcessGroup group = gradients.Group;
        foreach (var (rank, slice) in gradients.Layout.Owners(parameter, group.Size))
        {
            if (group.Rank == 0)
            {
                Tensor view = whole!.view(-1).narrow(0, slice.Start, slice.Length);
                if (rank == 0)
                    own!.copy_(view);
                else
                    group.Send(DeviceRead.ToCpu(view), rank);
            }
            else if (rank == group.Rank)
            {
                Tensor received = empty(own!.shape, dtype: own.dtype, device: CPU);
                group.Receive(received, 0);
                own.copy_(received);
            }
        }
    }

    public void Dispose()
    {
        foreach (OptimizedTensor own in optimized)
        {
            own.Values.Dispose();
            own.Gradient.Dispose();
        }

        foreach (Tensor value in values)
            value.Dispose();
    }
}
