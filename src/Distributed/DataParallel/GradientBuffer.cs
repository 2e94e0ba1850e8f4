using LongNet.Core.Devices;
using LongNet.Core.Numerics;
using LongNet.Distributed.Collectives;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Distributed.DataParallel;

/// <summary>
/// All gradients of a model in one flat tensor, of which every parameter's gradient is a view: backward accumulates in
/// place, and reduction is one operation per bucket, which may start as soon as backward has completed the bucket.
/// </summary>
/// <remarks>
/// Where the optimizer is sharded, a reduction leaves every rank only the sums of its own parts of the buckets; the
/// other parts are undefined from then on.
/// </remarks>
public sealed class GradientBuffer : IDisposable
{
    private readonly ProcessGroup group;
    private readonly Tensor flat;
    private readonly Tensor[] views,
        buckets,
        ownParts;
    private readonly long[][] counts;
    private readonly CollectiveWork?[] started;
    private readonly Dictionary<int, int> bucketOfBlock;

    /// <param name="parameters">Parameters of one dtype, whose <c>grad</c> this sets and keeps; alike on every rank.
    /// Not owned.</param>
    /// <param name="group">Every rank that holds part of the batch or of the sequences. Not owned.</param>
    /// <param name="sharded">Whether every rank needs only the sums of its shard.</param>
    public GradientBuffer(
        IReadOnlyList<(string Name, Parameter Parameter)> parameters,
        ProcessGroup group,
        bool sharded = false
    )
    {
        ArgumentNullException.ThrowIfNull(parameters);
        ArgumentNullException.ThrowIfNull(group);
        this.group = group;
        IsSharded = sharded;
        Layout = new BucketLayout([.. parameters.Select(entry => (entry.Name, entry.Parameter.NumberOfElements))]);
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        Parameter first = parameters[0].Parameter;
        flat = zeros(Layout.Elements, dtype: first.dtype, device: first.device).DetachFromDisposeScope();
        views = new Tensor[parameters.Count];
        for (int p = 0; p < parameters.Count; p++)
        {
            Parameter parameter = parameters[p].Parameter;
            views[p] = flat.narrow(0, Layout.StartOf(p), parameter.NumberOfElements)
                .view(parameter.shape)
                .DetachFromDisposeScope();
            parameter.grad = views[p];
        }

        buckets = [.. Layout.Buckets.Select(bucket => Range(bucket.Start, bucket.Length))];
        counts = [.. Layout.Buckets.Select(bucket => ProcessGroup.EvenSplit(bucket.Length, group.Size))];
        ownParts = sharded ? [.. Layout.Buckets.Select(OwnPart)] : [];
        started = new CollectiveWork?[buckets.Length];
        bucketOfBlock = Enumerable
            .Range(0, buckets.Length)
            .Where(bucket => Layout.Buckets[bucket].Layer is not null)
            .ToDictionary(bucket => Layout.Buckets[bucket].Layer!.Value);

        Tensor Range(long start, long length) => flat.narrow(0, start, length).DetachFromDisposeScope();

        Tensor OwnPart(Bucket bucket, int b) =>
            Range(bucket.Start + counts[b].Take(group.Rank).Sum(), counts[b][group.Rank]);
    }

    /// <summary>Which parameter lies where, and in which bucket.</summary>
    public BucketLayout Layout { get; }

    /// <summary>Whether every rank has only the sums of its shard.</summary>
    public bool IsSharded { get; }

    /// <summary>Every parameter's gradient, in the order given. Owned by the buffer.</summary>
    public IReadOnlyList<Tensor> Views => views;

    internal ProcessGroup Group => group;

    internal Tensor Flat => flat;

    /// <summary>Sets all gradients to zero, for the next step.</summary>
    public void Zero()
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        flat.zero_();
    }

    /// <summary>
    /// Starts to sum a bucket's gradients over the ranks; they must not be touched until <see cref="FinishReduce"/>.
    /// Collective: all ranks start the same buckets in the same order.
    /// </summary>
    /// <param name="bucket">Place in <see cref="BucketLayout.Buckets"/>.</param>
    /// <exception cref="InvalidOperationException">It was started before, and not finished.</exception>
    public void StartReduce(int bucket)
    {
        if (started[bucket] is not null)
            throw new InvalidOperationException(
                $"The reduction of bucket {bucket} is under way already: finish it before it is started again."
            );
        started[bucket] = IsSharded
            ? group.StartReduceScatterInPlace(buckets[bucket], counts[bucket])
            : group.StartAllReduce(buckets[bucket]);
    }

    /// <summary>
    /// Starts to sum the gradients of a transformer block, once backward has completed them; as
    /// <see cref="StartReduce"/> does. Collective.
    /// </summary>
    /// <param name="block">Index of the block among the model's.</param>
    public void StartReduceOfBlock(int block) => StartReduce(bucketOfBlock[block]);

    /// <summary>Starts the reductions that are not started yet, and waits for all. Collective.</summary>
    public void FinishReduce()
    {
        for (int bucket = 0; bucket < started.Length; bucket++)
        {
            if (started[bucket] is null)
                StartReduce(bucket);
        }

        for (int bucket = 0; bucket < started.Length; bucket++)
        {
            started[bucket]!.Wait();
            started[bucket] = null;
        }
    }

    /// <summary>
    /// Divides the gradients by the scale that their loss had, and scales them down to the given global norm where
    /// theirs is larger, in one pass. Collective if they are sharded.
    /// </summary>
    /// <param name="largestNorm">Largest 2-norm left; 0 does not clip.</param>
    /// <param name="lossScale">What the loss was multiplied by before backward.</param>
    /// <returns>
    /// The 2-norm over all gradients of the loss itself, before clipping, the same on every rank; NaN or infinite if a
    /// gradient is, and then they are of no use.
    /// </returns>
    public double UnscaleAndClip(double largestNorm, double lossScale = 1)
    {
        using var scope = NewDisposeScope();
        return UnscaleAndClip(DeviceRead.Doubles(PieceNorms()), largestNorm, lossScale);
    }

    /// <summary>
    /// The norms of pieces of this rank's gradients, for the caller to read together with other values of the device.
    /// </summary>
    /// <returns>[pieces], float64. In the scope of the caller.</returns>
    internal Tensor PieceNorms()
    {
        using var scope = NewDisposeScope();
        Tensor[] norms = [.. NormedParts.Select(VectorNorm.OfPieces)];
        return (
            norms.Length > 0 ? cat(norms) : empty([0], dtype: ScalarType.Float64, device: flat.device)
        ).MoveToOuterDisposeScope();
    }

    /// <summary>As the other overload, with the values of <see cref="PieceNorms"/> read already.</summary>
    internal double UnscaleAndClip(ReadOnlySpan<double> pieceNorms, double largestNorm, double lossScale)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        double norm = Norm(pieceNorms) / lossScale;
        bool clips = largestNorm > 0 && norm > largestNorm;
        if (clips || lossScale != 1)
        {
            // Without dimensions, so that it may come from the CPU whatever the gradients' device is.
            Tensor factor = tensor((clips ? largestNorm / norm : 1) / lossScale, dtype: flat.dtype, device: CPU);
            foreach (Tensor own in IsSharded ? ownParts : [flat])
                own.mul_(factor);
        }

        return norm;
    }

    /// <summary>
    /// Starts to gather every rank's own parts of the flat tensor, into which the caller has written other values where
    /// the gradients are no longer needed. Collective.
    /// </summary>
    /// <returns>One work per bucket, in their order.</returns>
    internal CollectiveWork[] StartGatherOwnParts() =>
        [.. buckets.Select((bucket, b) => group.StartAllGatherInPlace(bucket, counts[b]))];

    public void Dispose()
    {
        foreach (Tensor view in views.Concat(buckets).Concat(ownParts))
            view.Dispose();
        flat.Dispose();
    }

    // What this rank's part of the norm is computed from.
    private Tensor[] NormedParts => IsSharded ? [.. ownParts.Where(part => part.NumberOfElements > 0)] : [flat];

    // Squares are summed in float64. In float32 the sum of a million squares loses digits, and the norm would differ
    // from one number of ranks to another.
    private double Norm(ReadOnlySpan<double> pieceNorms)
    {
        if (!IsSharded)
            return VectorNorm.Combine(pieceNorms);
        double own = 0;
        foreach (Tensor part in NormedParts)
        {
            int pieces = VectorNorm.PiecesOf(part);
            double norm = VectorNorm.Combine(pieceNorms[..pieces]);
            own += norm * norm;
            pieceNorms = pieceNorms[pieces..];
        }

        return Math.Sqrt(group.Sum(own));
    }
}
