using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Attention with a bias per distance, made of ordinary tensor operations, tile by tile. The fused operators give no
/// gradient of a bias. It works for every dtype and device, and computes in float32, or float64 for float64.
/// </summary>
internal static class BlockwiseKernel
{
    // Logits of one tile: 4 MB in float32, so that they and the probabilities stay in the last-level cache.
    private const long TileElements = 1 << 20;

    // A GPU has no such cache, and each tile costs it a dozen launches.
    private const long TileElementsOfDevice = 64 << 20;

    // Products of fewer queries per tile are too narrow to be fast; with more, too much work above the diagonal is
    // wasted.
    private const long MinQueries = 64,
        MaxQueries = 512,
        MaxQueriesOfDevice = 2048;

    /// <summary>softmax(q kᵀ / √headDim + bias) v and its log-sum-exp.</summary>
    /// <param name="q">[batch, heads, queries, headDim]; strided views allowed. Not disposed.</param>
    /// <param name="k">[batch, heads, keys, headDim], likewise.</param>
    /// <param name="v">[batch, heads, keys, headDim], likewise.</param>
    /// <param name="causal">Query i sees keys 0 … i; needs as many queries as keys.</param>
    /// <param name="bias">Added to the logits; includes the mask where attention is causal.</param>
    /// <returns>As <see cref="AttentionKernels.Forward"/>.</returns>
    public static (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal, PairBias bias)
    {
        using var scope = NewDisposeScope();
        ScalarType type = LogSumExpMerge.AccumulationType(q.dtype);
        Tensor output = empty(q.shape, dtype: q.dtype, device: q.device);
        Tensor logSumExp = empty(q.shape[..3], dtype: type, device: q.device);
        foreach (Tile tile in Tiles(q, k.shape[2], causal))
        {
            using var tileScope = NewDisposeScope();
            var (probabilities, tileLogSumExp) = Softmax(Logits(tile, q, k, bias, type));
            tile.Queries(output).copy_(tile.Unfold(probabilities.bmm(tile.Keys(v, type))));
            tile.Queries(logSumExp.unsqueeze(-1)).copy_(tile.Unfold(tileLogSumExp));
        }

        output.MoveToOuterDisposeScope();
        logSumExp.MoveToOuterDisposeScope();
        return (output, logSumExp);
    }

    /// <summary>
    /// Gradients of attention with probabilities exp(q kᵀ / √headDim + bias − logSumExp); see
    /// <see cref="AttentionKernels.Backward"/>. The bias collects its own gradient.
    /// </summary>
    /// <returns>Gradients shaped like q, k and v, in float32 (float64 for float64). Owned by the caller.</returns>
    public static (Tensor Q, Tensor K, Tensor V) Backward(
        Tensor gradient,
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor output,
        Tensor logSumExp,
        bool causal,
        PairBias bias
    )
    {
        using var scope = NewDisposeScope();
        ScalarType type = LogSumExpMerge.AccumulationType(q.dtype);
        Tensor queryGradient = empty(q.shape, dtype: type, device: q.device);
        Tensor keyGradient = zeros(k.shape, dtype: type, device: q.device),
            valueGradient = zeros(k.shape, dtype: type, device: q.device);
        Tensor scale = Scale(q, type);
        foreach (Tile tile in Tiles(q, k.shape[2], causal))
        {
            using var tileScope = NewDisposeScope();
            Tensor queries = tile.Fold(q, type).mul_(scale),
                keys = tile.Keys(k, type);
            Tensor outputGradient = tile.Fold(gradient, type);
            var (probabilities, tileLogSumExp) = Softmax(Logits(tile, queries, keys, bias));
            probabilities.mul_(tileLogSumExp.sub_(tile.Fold(logSumExp.unsqueeze(-1), type)).exp_());
            Add(valueGradient, probabilities.transpose(1, 2).bmm(outputGradient));

            // delta = Σ dO ⊙ O, the same for all keys of a query.
            Tensor delta = outputGradient.mul(tile.Fold(output, type)).sum(dim: -1, keepdim: true);
            Tensor logitGradient = outputGradient
                .bmm(tile.Keys(v, type).transpose(1, 2))
                .sub_(delta)
                .mul_(probabilities);
            tile.Queries(queryGradient).copy_(tile.Unfold(logitGradient.bmm(keys).mul_(scale)));
            Add(keyGradient, logitGradient.transpose(1, 2).bmm(queries));
            bias.AddGradientOfTile(tile.FirstHead, tile.FirstQuery, tile.Unflatten(logitGradient).sum(dim: 0));

            void Add(Tensor total, Tensor part) => tile.KeyView(total).add_(tile.Unflatten(part), Scalars.One);
        }

        queryGradient.MoveToOuterDisposeScope();
        keyGradient.MoveToOuterDisposeScope();
        valueGradient.MoveToOuterDisposeScope();
        return (queryGradient, keyGradient, valueGradient);
    }

    // The log-sum-exp follows from the largest logit and the largest probability, 1 / Σ exp(logit − largest logit). An
    // exp of the logits would be slow: oneMKL's takes a hundred times as long where results underflow, as those of far
    // and masked keys do.
    private static (Tensor Probabilities, Tensor LogSumExp) Softmax(Tensor logits)
    {
        Tensor probabilities = logits.softmax(-1);
        return (probabilities, logits.amax([-1], keepdim: true).sub_(probabilities.amax([-1], keepdim: true).log_()));
    }

    private static Tensor Logits(Tile tile, Tensor q, Tensor k, PairBias bias, ScalarType type) =>
        Logits(tile, tile.Fold(q, type).mul_(Scale(q, type)), tile.Keys(k, type), bias);

    // [batch · heads, queries, keys]
    private static Tensor Logits(Tile tile, Tensor queries, Tensor keys, PairBias bias)
    {
        Tensor logits = queries.bmm(keys.transpose(1, 2));
        tile.Unflatten(logits)
            .add_(bias.Tile(tile.FirstHead, tile.Heads, tile.FirstQuery, tile.Count, tile.VisibleKeys), Scalars.One);
        return logits;
    }

    private static Tensor Scale(Tensor q, ScalarType type) =>
        tensor(1 / Math.Sqrt(q.shape[3]), dtype: type, device: q.device);

    private static IEnumerable<Tile> Tiles(Tensor q, long keys, bool causal)
    {
        long batch = q.shape[0],
            heads = q.shape[1],
            queries = q.shape[2],
            elements = q.device_type == TorchSharp.DeviceType.CPU ? TileElements : TileElementsOfDevice,
            mostQueries = q.device_type == TorchSharp.DeviceType.CPU ? MaxQueries : MaxQueriesOfDevice;
        long headsPerTile = Math.Max(1, elements / (keys * Math.Min(queries, MinQueries)));
        long tileHeads = Math.Min(headsPerTile, heads),
            sequences = Math.Clamp(headsPerTile / tileHeads, 1, batch);
        long count = Math.Clamp(elements / (sequences * tileHeads * keys), MinQueries, mostQueries);
        for (long sequence = 0; sequence < batch; sequence += sequences)
        {
            for (long head = 0; head < heads; head += tileHeads)
            {
                for (long query = 0; query < queries; query += count)
                {
                    long end = Math.Min(query + count, queries);
                    yield return new Tile(
                        sequence,
                        Math.Min(sequences, batch - sequence),
                        head,
                        Math.Min(tileHeads, heads - head),
                        query,
                        end - query,
                        causal ? end : keys
                    );
                }
            }
        }
    }

    // A block of queries of some heads and sequences, and the keys that they see, which are always the first ones.
    // Folded tensors have the queries in reverse order (see PairBias).
    private readonly record struct Tile(
        long FirstSequence,
        long Sequences,
        long FirstHead,
        long Heads,
        long FirstQuery,
        long Count,
        long VisibleKeys
    )
    {
        // The tile's queries, [sequences, heads, count, …], a view in the tensor's own order.
        public Tensor Queries(Tensor tensor) => Part(tensor).narrow(2, FirstQuery, Count);

        public Tensor KeyView(Tensor tensor) => Part(tensor).narrow(2, 0, VisibleKeys);

        // [sequences · heads, count, …], reversed: always a copy.
        public Tensor Fold(Tensor tensor, ScalarType type) => Queries(tensor).flip(2).to(type).flatten(0, 1);

        // [sequences · heads, keys, headDim]
        public Tensor Keys(Tensor tensor, ScalarType type) => KeyView(tensor).to(type).flatten(0, 1);

        public Tensor Unflatten(Tensor folded) => folded.view(Sequences, Heads, folded.shape[1], folded.shape[2]);

        private Tensor Part(Tensor tensor) => tensor.narrow(0, FirstSequence, Sequences).narrow(1, FirstHead, Heads);

        public Tensor Unfold(Tensor folded) => Unflatten(folded).flip(2);
    }
}
