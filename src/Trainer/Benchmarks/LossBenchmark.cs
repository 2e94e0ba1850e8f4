using LongNet.Core.Model.Memory;
using LongNet.Core.Numerics;
using LongNet.Trainer.Measuring;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Trainer.Benchmarks;

/// <summary>What the loss of one vocabulary takes, forward and backward.</summary>
/// <param name="Vocabulary">Tokens.</param>
/// <param name="TiledSeconds">Tile by tile, as in training.</param>
/// <param name="PlainSeconds">With the logits of all rows at once.</param>
/// <param name="TiledBytes">Growth of the resident memory, tile by tile; null where the system does not
/// report it.</param>
/// <param name="PlainBytes">Growth with the logits of all rows at once.</param>
internal sealed record LossTimes(
    long Vocabulary,
    double TiledSeconds,
    double PlainSeconds,
    long? TiledBytes,
    long? PlainBytes
);

/// <summary>
/// Final norm, output projection and cross-entropy with their gradients: tile by tile, and as libtorch's operations do
/// it over all rows.
/// </summary>
/// <param name="Rows">Rows, all with a target.</param>
/// <param name="Channels">d_model.</param>
/// <param name="Type">Compute type; parameters are float32, as in training.</param>
/// <param name="TileRows">Most rows of a tile; null: as many as training takes.</param>
/// <param name="Rounds">Times that each is measured.</param>
internal sealed record LossBenchmark(long Rows, long Channels, ScalarType Type, long? TileRows, int Rounds)
{
    public LossTimes Run(long vocabulary)
    {
        using var scope = NewDisposeScope();
        using TorchSharp.Modules.LayerNorm norm = nn.LayerNorm(Channels);
        Tensor hidden = randn(1, Rows, Channels, device: CPU).to(Type).requires_grad_(true);
        using Scalar deviation = 0.02.ToScalar();
        Tensor projection = randn(vocabulary, Channels, device: CPU).mul(deviation).detach().requires_grad_(true);
        Tensor targets = randint(vocabulary, [1, Rows], dtype: ScalarType.Int64, device: CPU);
        Tensor[] leaves = [hidden, projection, norm.weight!, norm.bias!];

        void Backward(Func<Tensor> loss)
        {
            using var inner = NewDisposeScope();
            BackwardPass.Run(loss());
            foreach (Tensor leaf in leaves)
                leaf.grad = null;
        }

        void Tiled() => Backward(() => ChunkedCrossEntropy.Sum(hidden, norm, projection, new(targets), TileRows));
        void Plain() =>
            Backward(() =>
            {
                Tensor logits = nn
                    .functional.linear(MixedPrecision.Apply(norm, hidden), projection.to(Type))
                    .to(ScalarType.Float32);
                return nn.functional.cross_entropy(
                    logits.view(-1, vocabulary),
                    targets.view(-1),
                    reduction: nn.Reduction.Sum
                );
            });

        // Memory is measured first: a timed round leaves freed memory behind, and reusing that shows no growth.
        long? tiledBytes = Measurement.PeakGrowth(BenchDevice.Cpu, Tiled),
            plainBytes = Measurement.PeakGrowth(BenchDevice.Cpu, Plain);
        double[] seconds = Measurement.ShortestSeconds(BenchDevice.Cpu, Rounds, Tiled, Plain);
        return new LossTimes(vocabulary, seconds[0], seconds[1], tiledBytes, plainBytes);
    }
}
