using LongNet.Core.Devices;
using LongNet.Core.Numerics;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Model.Memory;

/// <summary>
/// Final norm, output projection and cross-entropy, tile by tile: logits of all rows never exist. Gradients are
/// computed in forward, while a tile's probabilities are there, and backward only scales them, so that no product is
/// computed twice.
/// </summary>
/// <remarks>
/// Inputs: hidden rows [batch, length, dModel]; weight and bias of the norm; the projection's weight, [vocabulary,
/// dModel]; and a <see cref="Call"/>. In 16 bits, logits are products in that type, and everything after them is
/// float32.
/// </remarks>
internal sealed class ChunkedCrossEntropy : autograd.SingleTensorFunction<ChunkedCrossEntropy>
{
    /// <summary>Bytes of a tile's logits in float32 on the CPU, where nobody chooses its rows.</summary>
    public const long DefaultBytes = 256L << 20;

    // Elsewhere: enough to keep a GPU busy, little beside its memory.
    private const long DefaultBytesOfDevice = 2L << 30;

    private const int Inputs = 5;

    public override string Name => nameof(ChunkedCrossEntropy);

    /// <summary>What is no tensor that has a gradient.</summary>
    /// <param name="Targets">What is to be predicted.</param>
    /// <param name="Epsilon">Of the norm.</param>
    /// <param name="Rows">Most rows of a tile.</param>
    internal sealed record Call(Labels Targets, double Epsilon, long Rows);

    /// <summary>The tokens that are to be predicted.</summary>
    /// <param name="Tokens">[batch, length], int64; <see cref="LongNetLanguageModel.IgnoredTarget"/> where there is
    /// none.</param>
    /// <param name="HasIgnored">Whether there are ignored ones; null: every tile asks.</param>
    internal readonly record struct Labels(Tensor Tokens, bool? HasIgnored = null);

    /// <summary>Rows of a tile where nobody chooses.</summary>
    public static long DefaultRows(long vocabulary, DeviceType device = DeviceType.CPU) =>
        Math.Max(1, (device == DeviceType.CPU ? DefaultBytes : DefaultBytesOfDevice) / (sizeof(float) * vocabulary));

    /// <summary>Sum of the cross-entropies of all valid targets. Differentiable once.</summary>
    /// <param name="hidden">[batch, length, dModel]. Not disposed.</param>
    /// <param name="norm">The final norm. Not disposed.</param>
    /// <param name="projection">[vocabulary, dModel]. Not disposed.</param>
    /// <param name="targets">Not disposed.</param>
    /// <param name="rows">Most rows of a tile; null: <see cref="DefaultRows"/>.</param>
    /// <returns>Scalar, at least float32. Owned by the caller.</returns>
    public static Tensor Sum(
        Tensor hidden,
        TorchSharp.Modules.LayerNorm norm,
        Tensor projection,
        Labels targets,
        long? rows
    )
    {
        using var scope = NewDisposeScope();
        var call = new Call(targets, norm.eps, rows ?? DefaultRows(projection.shape[0], hidden.device_type));
        if (is_grad_enabled() && (hidden.requires_grad || projection.requires_grad))
            return apply(hidden, norm.weight!, norm.bias!, projection, call).MoveToOuterDisposeScope();
        return new Pass(hidden, norm.weight!, norm.bias!, projection, call, differentiates: false)
            .Run()
            .MoveToOuterDisposeScope();
    }

    public override Tensor forward(autograd.AutogradContext ctx, params object[] vars)
    {
        using var scope = NewDisposeScope();
        var pass = new Pass(
            ((Tensor)vars[0]).detach(),
            ((Tensor)vars[1]).detach(),
            ((Tensor)vars[2]).detach(),
            ((Tensor)vars[3]).detach(),
            (Call)vars[4],
            differentiates: true
        );
        Tensor loss = pass.Run();
        ctx.save_for_backward([.. pass.Gradients.Select(gradient => gradient.MoveToOuterDisposeScope())]);
        ctx.set_materialize_grads(false);
        return loss.MoveToOuterDisposeScope();
    }

    public override List<Tensor> backward(autograd.AutogradContext ctx, Tensor grad_output) =>
        BackwardPass.Guard(Inputs, () =>
        {
            using var scope = NewDisposeScope();
            using var noGradient = no_grad();
            List<Tensor> gradients = ctx.get_saved_variables();
            ctx.Dispose();
            // In place: they are nobody else's, and the largest is as long as the sequence.
            foreach (Tensor gradient in gradients)
                gradient
                    .mul_(
                        grad_output.to(gradient.dtype == ScalarType.Float64 ? ScalarType.Float64 : ScalarType.Float32)
                    )
                    .MoveToOuterDisposeScope();
            return [.. gradients, null!];
        });

    private sealed class Pass
    {
        private readonly Tensor hidden,
            normWeight,
            normBias,
            projection,
            projectionInComputeType;
        private readonly Call call;
        private readonly ScalarType accumulationType;
        private readonly bool differentiates;
        private readonly Tensor? hiddenGradient,
            projectionGradient;

        public Pass(
            Tensor hidden,
            Tensor normWeight,
            Tensor normBias,
            Tensor projection,
            Call call,
            bool differentiates
        )
        {
            using var noGradient = no_grad();
            (this.hidden, this.normWeight, this.normBias, this.projection, this.call, this.differentiates) = (
                hidden,
                normWeight,
                normBias,
                projection,
                call,
                differentiates
            );
            accumulationType = projection.dtype;
            projectionInComputeType = projection.to(hidden.dtype);
            if (!differentiates)
                return;
            // Leaves of their own: the real parameters' gradients must wait for backward's factor.
            this.normWeight = normWeight.detach().requires_grad_(true);
            this.normBias = normBias.detach().requires_grad_(true);
            hiddenGradient = empty_like(hidden);
            projectionGradient = zeros_like(projection);
        }

        /// <summary>Of the hidden rows, the norm's weight and bias, and the projection.</summary>
        public IEnumerable<Tensor> Gradients =>
            [hiddenGradient!, normWeight.grad!, normBias.grad!, projectionGradient!];

        public Tensor Run()
        {
            using var noGradient = no_grad();
            using var scope = NewDisposeScope();
            Tensor sum = zeros([], dtype: ScalarType.Float64, device: hidden.device);
            foreach (RowTile tile in RowTile.Cut(hidden.shape[0], hidden.shape[1], call.Rows))
                AddTile(tile, sum);
            return sum.to(accumulationType).MoveToOuterDisposeScope();
        }

        private void AddTile(RowTile tile, Tensor sum)
        {
            using var scope = NewDisposeScope();
            Tensor own = tile.View(hidden).detach(),
                normalized;
            if (differentiates)
                own.requires_grad_(true);
            using (differentiates ? enable_grad() : no_grad())
                normalized = MixedPrecision.Normalize(own, normWeight, normBias, call.Epsilon);
            Tensor rows = normalized.detach().view(-1, hidden.shape[2]);
            Tensor targets = tile.View(call.Targets.Tokens).reshape(-1, 1);
            Tensor valid = targets.ne(IgnoredTarget.Value);
            bool all = call.Targets.HasIgnored is { } hasIgnored ? !hasIgnored : DeviceRead.Bool(valid.all());
            if (!all)
                targets = targets.mul(valid.to(ScalarType.Int64));

            Tensor logarithms = LogSoftmax(rows);
            Tensor ofTargets = logarithms.gather(1, targets);
            if (!all)
                ofTargets = ofTargets.mul(valid.to(accumulationType));
            sum.sub_(ofTargets.sum(ScalarType.Float64));
            if (!differentiates)
                return;

            // softmax − 1 at the target is the gradient of the logits.
            Tensor gradient = logarithms.exp_();
            gradient.scatter_add_(1, targets, MinusOne(targets));
            if (!all)
                gradient.mul_(valid.to(accumulationType));
            gradient = gradient.to(hidden.dtype);
            normalized.backward([gradient.mm(projectionInComputeType).view(normalized.shape)]);
            tile.View(hiddenGradient!).copy_(own.grad!);
            if (hidden.dtype == accumulationType)
                projectionGradient!.addmm_(gradient.t(), rows, 1, 1);
            else
                projectionGradient!.add_(gradient.t().mm(rows), Scalars.One);
        }

        private Tensor LogSoftmax(Tensor rows)
        {
            using var scope = NewDisposeScope();
            return nn
                .functional.log_softmax(rows.mm(projectionInComputeType.t()).to(accumulationType), 1)
                .MoveToOuterDisposeScope();
        }

        private Tensor MinusOne(Tensor targets) =>
            full(targets.shape, Scalars.MinusOne, dtype: accumulationType, device: hidden.device);

        // Made at its first use, when libtorch is loaded.
        private static readonly Lazy<Scalar> IgnoredTarget = new(() => LongNetLanguageModel.IgnoredTarget.ToScalar());
    }
}
