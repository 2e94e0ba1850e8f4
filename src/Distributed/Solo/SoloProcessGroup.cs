using static TorchSharp.torch;

namespace LongNet.Distributed.Solo;

/// <summary>A group of one rank. Loads no MPI; every collective is a copy or nothing.</summary>
public sealed class SoloProcessGroup : ProcessGroup
{
    /// <param name="name">What the group is called in messages.</param>
    public SoloProcessGroup(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        Name = name;
    }

    public override string Name { get; }

    public override int Rank => 0;

    public override int Size => 1;

    public override CommunicationVolume Volume => default;

    public override Tensor AllGather(Tensor input)
    {
        CollectiveArguments.CheckDirect(this, nameof(AllGather), input);
        return Copy(input, [1, .. input.shape]);
    }

    public override Tensor AllGatherUnequal(Tensor input, IReadOnlyList<long> counts)
    {
        CollectiveArguments.CheckDirect(this, nameof(AllGatherUnequal), input);
        CollectiveArguments.CheckCounts(this, nameof(AllGatherUnequal), input.NumberOfElements, counts, whole: false);
        return Copy(input, [counts[0]]);
    }

    public override Tensor ReduceScatterUnequal(Tensor input, IReadOnlyList<long> counts, ReduceOperation operation = ReduceOperation.Sum)
    {
        CollectiveArguments.CheckDirect(this, nameof(ReduceScatterUnequal), input);
        CollectiveArguments.CheckCounts(this, nameof(ReduceScatterUnequal), input.NumberOfElements, counts, whole: true);
        CollectiveArguments.CheckReduction(this, nameof(ReduceScatterUnequal), input.dtype, operation);
        return Copy(input, [counts[0]]);
    }

    public override void AllReduce(Tensor tensor, ReduceOperation operation = ReduceOperation.Sum)
    {
        CollectiveArguments.CheckDirect(this, nameof(AllReduce), tensor);
        CollectiveArguments.CheckReduction(this, nameof(AllReduce), tensor.dtype, operation);
    }

    public override void Broadcast(Tensor tensor, int root)
    {
        CollectiveArguments.CheckDirect(this, nameof(Broadcast), tensor);
        CollectiveArguments.CheckRoot(this, root);
    }

    public override void Barrier()
    {
    }

    public override ProcessGroup Split(int color, int key, string name) => new SoloProcessGroup(name);

    // Without history, as what MPI returns is.
    private static Tensor Copy(Tensor input, long[] shape)
    {
        using var noGradient = no_grad();
        using Tensor flat = input.detach();
        using Tensor view = flat.view(shape);
        return view.clone();
    }
}
