using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LongNet.Core.Native;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// FlashAttention-2 (Dao, arXiv:2307.08691) for processors with AVX-512: tensors are float32 or bfloat16, arithmetic is
/// float32, and logits exist only one tile at a time, in the cache. It is faster than libtorch's operator because it
/// skips tiles above the diagonal and because its matrix products suit these small shapes. A bias per distance costs
/// hardly anything.
/// </summary>
/// <remarks>
/// A unit is one head of one segment. One worker computes one unit; where there are fewer units than threads, a unit is
/// divided into parts, each with every so many tiles of its queries. So the order of all sums depends only on the
/// shapes and the number of threads.
/// </remarks>
internal sealed unsafe class Avx512FlashKernel : IAttentionKernel
{
    // Queries and keys of a tile: 8 × 12 and 12 × 32, multiples of the rows and columns of a register tile. Two tiles
    // of logits and their keys and values take half a megabyte of second-level cache.
    private const int QueryTile = 96,
        KeyTile = 384;

    // A strip is as many rows, a panel as many columns, as a register tile has.
    private const int Lanes = VectorMath.Lanes,
        Strip = RegisterTile.Rows,
        Panel = RegisterTile.Columns;

    public long LargestBatch => long.MaxValue;

    /// <summary>
    /// Whether this kernel can compute the tensor and is the fastest that can. For the few queries of decoding it is
    /// not: packing the keys into panels would take longer than attention itself.
    /// </summary>
    /// <param name="q">[batch, heads, queries, headDim].</param>
    public static bool IsWorthwhile(Tensor q) =>
        q.shape[2] >= Strip && Supports(q) && CpuAttention.UsesOwnKernelFor(q.dtype);

    /// <summary>
    /// Whether this kernel can compute the tensor, fast or not. The caller converts float16 to float32.
    /// </summary>
    /// <param name="q">[batch, heads, queries, headDim].</param>
    public static bool Supports(Tensor q) =>
        CpuAttention.UsesOwnKernel
        && q.dtype != ScalarType.Float64
        && q.device_type == DeviceType.CPU
        && q.shape[3] % Panel == 0;

    public (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal) =>
        Forward(q, k, v, causal, null);

    public (Tensor Q, Tensor K, Tensor V) Backward(
        Tensor gradient,
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor output,
        Tensor logSumExp,
        bool causal
    ) => Backward(gradient, q, k, v, output, logSumExp, causal, null);

    /// <inheritdoc cref="BlockwiseKernel.Forward"/>
    public static (Tensor Output, Tensor LogSumExp) Forward(Tensor q, Tensor k, Tensor v, bool causal, PairBias? bias)
    {
        Tensor output = empty(q.shape, dtype: q.dtype, device: CPU),
            logSumExp = empty(q.shape[..3], dtype: ScalarType.Float32, device: CPU);
        var problem = new Problem(q, k, causal, bias);
        var (queries, keys, values, outputs) = (
            new HeadRows(q),
            new HeadRows(k),
            new HeadRows(v),
            new HeadRows(output)
        );
        float* logSumExps = (float*)TensorMemory.Address(logSumExp);
        problem.Run(
            (unit, part) =>
                problem.Forward(
                    unit,
                    part,
                    queries.Of(unit),
                    keys.Of(unit),
                    values.Of(unit),
                    outputs.Of(unit),
                    logSumExps + unit * problem.Queries
                )
        );
        GC.KeepAlive((q, k, v, output, logSumExp, bias));
        return (output, logSumExp);
    }

    /// <inheritdoc cref="BlockwiseKernel.Backward"/>
    public static (Tensor Q, Tensor K, Tensor V) Backward(
        Tensor gradient,
        Tensor q,
        Tensor k,
        Tensor v,
        Tensor output,
        Tensor logSumExp,
        bool causal,
        PairBias? bias
    )
    {
        using var scope = NewDisposeScope();
        var problem = new Problem(q, k, causal, bias);
        Tensor queryGradient = empty(q.shape, dtype: q.dtype, device: CPU);
        // Each part of a unit's queries adds to the gradients of all its keys. The parts' sums are kept apart in
        // float32, summed in order and rounded only then.
        ScalarType partType = problem.Parts == 1 ? k.dtype : ScalarType.Float32;
        long[] parts = [problem.Parts * k.shape[0], .. k.shape[1..]];
        Tensor keyGradient = empty(parts, dtype: partType, device: CPU),
            valueGradient = empty(parts, dtype: partType, device: CPU);
        Tensor? biasGradient = bias?.NewGradients(problem.Parts * q.shape[0]);
        var inputs = new BackwardInputs(
            new HeadRows(gradient),
            new HeadRows(q),
            new HeadRows(k),
            new HeadRows(v),
            new HeadRows(output)
        );
        Tensor statistics = logSumExp.contiguous();
        float* logSumExps = (float*)TensorMemory.Address(statistics);
        HeadRows queryGradients = new(queryGradient),
            keyGradients = new(keyGradient),
            valueGradients = new(valueGradient);
        float* biasGradients = biasGradient is null ? null : (float*)TensorMemory.Address(biasGradient);
        problem.Run(
            (unit, part) =>
            {
                long place = part * problem.Units + unit;
                problem.Backward(
                    unit,
                    part,
                    inputs,
                    logSumExps + unit * problem.Queries,
                    queryGradients.Of(unit),
                    keyGradients.Of(place),
                    valueGradients.Of(place),
                    biasGradients is null ? null : biasGradients + place * problem.Distances
                );
            }
        );
        GC.KeepAlive((gradient, q, k, v, output, statistics, bias));
        GC.KeepAlive((queryGradient, keyGradient, valueGradient, biasGradient));
        if (biasGradient is not null)
            bias!.AddGradient(biasGradient.view(-1, q.shape[1], problem.Distances).sum(dim: 0));
        return (queryGradient.MoveToOuterDisposeScope(), Sum(keyGradient), Sum(valueGradient));

        Tensor Sum(Tensor parts) =>
            (
                problem.Parts == 1 ? parts : parts.view([problem.Parts, .. k.shape]).sum(dim: 0).to(k.dtype)
            ).MoveToOuterDisposeScope();
    }

    // The tensors that backward reads.
    private readonly struct BackwardInputs(HeadRows gradient, HeadRows q, HeadRows k, HeadRows v, HeadRows output)
    {
        public HeadRows Gradient => gradient;

        public HeadRows Q => q;

        public HeadRows K => k;

        public HeadRows V => v;

        public HeadRows Output => output;
    }

    private sealed class Problem
    {
        private readonly long keys;
        private readonly int headDim;
        private readonly bool causal;
        private readonly float scale;
        private readonly float* bias; // [heads, distances], or null
        private readonly long heads;

        public Problem(Tensor q, Tensor k, bool causal, PairBias? bias)
        {
            heads = q.shape[1];
            Units = q.shape[0] * heads;
            Queries = q.shape[2];
            keys = k.shape[2];
            headDim = (int)q.shape[3];
            this.causal = causal;
            scale = (float)(1 / Math.Sqrt(headDim));
            this.bias = bias is null ? null : (float*)TensorMemory.Address(bias.Values);
            long tiles = (Queries + QueryTile - 1) / QueryTile;
            // Fewer units than threads are divided, so that all threads have work.
            long threads = get_num_threads();
            Parts = Math.Clamp((threads + Units - 1) / Math.Max(1, Units), 1, Math.Max(1, tiles));
        }

        public long Units { get; }

        public long Parts { get; }

        public long Queries { get; }

        public long Distances => Queries + keys - 1;

        private long KeyRows => RoundUp(keys, KeyTile);

        /// <summary>Calls the work, with unit and part, for every part of every unit on all threads.</summary>
        public void Run(Action<long, long> work) =>
            TensorThreads.ForEach(Units * Parts, task => work(task / Parts, task % Parts));

        /// <summary>
        /// Tile by tile of keys: logits S = q kᵀ / √headDim, probabilities P relative to the largest logit so far
        /// (online softmax), and accumulators += P v. Each row is divided by its sum of probabilities at the end.
        /// </summary>
        public void Forward(
            long unit,
            long part,
            HeadRows.OneHead q,
            HeadRows.OneHead k,
            HeadRows.OneHead v,
            HeadRows.OneHead output,
            float* logSumExp
        )
        {
            int d = headDim;
            WorkBuffer buffer = WorkBuffer.Rent(
                2 * WorkBuffer.Rounded(KeyRows * d)
                    + 2 * WorkBuffer.Rounded(QueryTile * d)
                    + WorkBuffer.Rounded(QueryTile * KeyTile)
                    + 2 * WorkBuffer.Rounded(QueryTile)
            );
            float* panels = buffer.Take(KeyRows * d),
                values = buffer.Take(KeyRows * d);
            float* queries = buffer.Take(QueryTile * d),
                accumulators = buffer.Take(QueryTile * d),
                logits = buffer.Take(QueryTile * KeyTile);
            float* rowMaxima = buffer.Take(QueryTile),
                rowSums = buffer.Take(QueryTile);
            PackPanels(k, panels);
            Pack(v, 0, keys, values, 1, keys);
            for (long first = part * QueryTile; first < Queries; first += Parts * QueryTile)
            {
                int count = (int)Math.Min(QueryTile, Queries - first),
                    strips = (count + Strip - 1) / Strip;
                Pack(q, first, count, queries, scale, QueryTile);
                new Span<float>(accumulators, QueryTile * d).Clear();
                new Span<float>(rowSums, QueryTile).Clear();
                new Span<float>(rowMaxima, QueryTile).Fill(float.NegativeInfinity);
                long end = causal ? Math.Min(keys, first + count) : keys;
                for (long key = 0; key < end; key += KeyTile)
                {
                    var tile = new Tile(first, count, key, (int)Math.Min(KeyTile, end - key), causal);
                    Scores(tile, queries, panels + key * d, logits);
                    for (int row = 0; row < count; row++)
                        OnlineSoftmax(
                            tile,
                            row,
                            unit,
                            logits + row * KeyTile,
                            accumulators + row * d,
                            ref rowMaxima[row],
                            ref rowSums[row]
                        );
                    for (int strip = 0; strip < strips; strip++)
                        Accumulate(
                            logits + strip * Strip * KeyTile,
                            KeyTile,
                            1,
                            values + key * d,
                            accumulators + strip * Strip * d,
                            tile.VisibleTo(Math.Min(strip * Strip + Strip, count) - 1)
                        );
                }

                for (int row = 0; row < count; row++)
                {
                    Vector512<float> factor = Vector512.Create(1 / rowSums[row]);
                    for (int c = 0; c < d; c += Lanes)
                        output.Store(first + row, c, Vector512.Load(accumulators + row * d + c) * factor);
                    logSumExp[first + row] = rowMaxima[row] + MathF.Log(rowSums[row]);
                }
            }

            buffer.Return();
        }

        /// <summary>
        /// Tile by tile: P = exp(S − logSumExp), dS = P ⊙ (dO vᵀ − delta) with delta = Σ dO ⊙ O per query, and then
        /// dV += Pᵀ dO, dQ += dS k, dK += dSᵀ q. The bias's gradient is dS.
        /// </summary>
        public void Backward(
            long unit,
            long part,
            in BackwardInputs inputs,
            float* logSumExp,
            HeadRows.OneHead queryGradient,
            HeadRows.OneHead keyGradient,
            HeadRows.OneHead valueGradient,
            float* biasGradient
        )
        {
            int d = headDim;
            WorkBuffer buffer = WorkBuffer.Rent(
                5 * WorkBuffer.Rounded(KeyRows * d)
                    + 3 * WorkBuffer.Rounded(QueryTile * d)
                    + 2 * WorkBuffer.Rounded(QueryTile * KeyTile)
                    + WorkBuffer.Rounded(QueryTile)
            );
            float* keyPanels = buffer.Take(KeyRows * d),
                valuePanels = buffer.Take(KeyRows * d),
                keyRows = buffer.Take(KeyRows * d);
            float* keySums = buffer.TakeZeros(KeyRows * d),
                valueSums = buffer.TakeZeros(KeyRows * d);
            float* queries = buffer.Take(QueryTile * d),
                outputGradients = buffer.Take(QueryTile * d),
                querySums = buffer.Take(QueryTile * d);
            float* probabilities = buffer.Take(QueryTile * KeyTile),
                logits = buffer.Take(QueryTile * KeyTile),
                delta = buffer.Take(QueryTile);
            HeadRows.OneHead k = inputs.K.Of(unit),
                output = inputs.Output.Of(unit),
                gradient = inputs.Gradient.Of(unit);
            PackPanels(k, keyPanels);
            PackPanels(inputs.V.Of(unit), valuePanels);
            Pack(k, 0, keys, keyRows, 1, keys);
            for (long first = part * QueryTile; first < Queries; first += Parts * QueryTile)
            {
                int count = (int)Math.Min(QueryTile, Queries - first);
                Pack(inputs.Q.Of(unit), first, count, queries, scale, QueryTile);
                Pack(gradient, first, count, outputGradients, 1, QueryTile);
                new Span<float>(querySums, QueryTile * d).Clear();
                for (int row = 0; row < count; row++)
                    delta[row] = Dot(outputGradients + row * d, output, first + row);
                long end = causal ? Math.Min(keys, first + count) : keys;
                for (long key = 0; key < end; key += KeyTile)
                {
                    var tile = new Tile(first, count, key, (int)Math.Min(KeyTile, end - key), causal);
                    Scores(tile, queries, keyPanels + key * d, probabilities);
                    Scores(tile, outputGradients, valuePanels + key * d, logits);
                    for (int row = 0; row < count; row++)
                    {
                        LogitGradients(
                            tile,
                            row,
                            unit,
                            logSumExp[first + row],
                            delta[row],
                            probabilities + row * KeyTile,
                            logits + row * KeyTile,
                            biasGradient is null ? null : biasGradient + Distance(first + row, key)
                        );
                    }

                    for (int query = 0; query < count; query += Strip)
                        Accumulate(
                            logits + query * KeyTile,
                            KeyTile,
                            1,
                            keyRows + key * d,
                            querySums + query * d,
                            tile.VisibleTo(Math.Min(query + Strip, count) - 1)
                        );
                    for (int strip = 0; strip < tile.Keys; strip += Strip)
                    {
                        // Queries before the strip's first key do not see any of it.
                        int from = causal ? (int)Math.Clamp(key + strip - first, 0, count) : 0;
                        Accumulate(
                            probabilities + from * KeyTile + strip,
                            1,
                            KeyTile,
                            outputGradients + from * d,
                            valueSums + (key + strip) * d,
                            count - from
                        );
                        Accumulate(
                            logits + from * KeyTile + strip,
                            1,
                            KeyTile,
                            queries + from * d,
                            keySums + (key + strip) * d,
                            count - from
                        );
                    }
                }

                VectorMath.Multiply(querySums, scale, QueryTile * d);
                for (int row = 0; row < count; row++)
                    Copy(querySums + row * d, queryGradient, first + row);
            }

            for (long row = 0; row < keys; row++)
            {
                Copy(keySums + row * d, keyGradient, row);
                Copy(valueSums + row * d, valueGradient, row);
            }

            buffer.Return();
        }

        // Index of a pair among the distances of PairBias.
        private long Distance(long query, long key) => key - query + Queries - 1;

        private float* BiasOf(long unit, long query, long key) =>
            bias is null ? null : bias + unit % heads * Distances + Distance(query, key);

        // rows[queries × headDim] · keysᵀ: only the register tiles in which some query of the strip sees some key of
        // the panel. Rows after the last query are zeros.
        private void Scores(Tile tile, float* rows, float* panels, float* products)
        {
            for (int panel = 0; panel < tile.Keys; panel += Panel)
            {
                for (int row = 0; row < tile.Queries; row += Strip)
                {
                    if (panel < tile.VisibleTo(row + Strip - 1))
                        RegisterTile.Multiply(
                            rows + row * headDim,
                            headDim,
                            1,
                            panels + panel * headDim,
                            Panel,
                            products + row * KeyTile + panel,
                            KeyTile,
                            headDim,
                            add: false
                        );
                }
            }
        }

        // sums[12 × headDim] += a[12 × steps] · rows[steps × headDim]
        private void Accumulate(float* a, nint aRow, nint aStep, float* rows, float* sums, int steps)
        {
            for (int c = 0; c < headDim; c += Panel)
                RegisterTile.Multiply(a, aRow, aStep, rows + c, headDim, sums + c, headDim, steps, add: true);
        }

        // The online softmax of one query: its logits become probabilities relative to the largest logit so far. Where
        // the tile has a larger one, the accumulators and the sum of earlier tiles are rescaled to it.
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private void OnlineSoftmax(
            Tile tile,
            int row,
            long unit,
            float* logits,
            float* accumulators,
            ref float rowMax,
            ref float rowSum
        )
        {
            int visible = tile.VisibleTo(row),
                used = tile.UsedBy(row);
            if (visible > 0)
            {
                float* biases = BiasOf(unit, tile.FirstQuery + row, tile.FirstKey);
                Vector512<float> maxima = Vector512.Create(float.NegativeInfinity);
                for (int j = 0; j < visible; j += Lanes)
                {
                    Vector512<float> mask = VectorMath.FirstLanes(visible - j),
                        logit = Vector512.Load(logits + j);
                    if (biases is not null)
                    {
                        logit += LoadFirst(biases + j, visible - j);
                        logit.Store(logits + j);
                    }

                    maxima = Avx512F.Max(
                        maxima,
                        Vector512.ConditionalSelect(mask, logit, Vector512.Create(float.NegativeInfinity))
                    );
                }

                float previousMax = rowMax;
                rowMax = MathF.Max(previousMax, MaxLane(maxima));
                Vector512<float> maximum = Vector512.Create(rowMax),
                    sum = Vector512<float>.Zero;
                for (int j = 0; j < visible; j += Lanes)
                {
                    Vector512<float> probability =
                        VectorMath.Exp(Vector512.Load(logits + j) - maximum) & VectorMath.FirstLanes(visible - j);
                    probability.Store(logits + j);
                    sum += probability;
                }

                float rescale = MathF.Exp(previousMax - rowMax);
                rowSum = rowSum * rescale + Vector512.Sum(sum);
                if (rescale != 1 && previousMax != float.NegativeInfinity)
                    VectorMath.Multiply(accumulators, rescale, headDim);
            }

            ClearFrom(logits, visible, used);
        }

        // One query of backward: logits become probabilities under the log-sum-exp merged over all branches, and the
        // products of output gradient and values become gradients of the logits.
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private void LogitGradients(
            Tile tile,
            int row,
            long unit,
            float logSumExp,
            float delta,
            float* probabilities,
            float* gradients,
            float* biasGradient
        )
        {
            int visible = tile.VisibleTo(row),
                used = tile.UsedBy(row);
            float* biases = BiasOf(unit, tile.FirstQuery + row, tile.FirstKey);
            Vector512<float> reference = Vector512.Create(logSumExp),
                deltas = Vector512.Create(delta);
            for (int j = 0; j < visible; j += Lanes)
            {
                Vector512<float> mask = VectorMath.FirstLanes(visible - j),
                    logit = Vector512.Load(probabilities + j);
                if (biases is not null)
                    logit += LoadFirst(biases + j, visible - j);
                Vector512<float> probability = VectorMath.Exp(logit - reference) & mask;
                Vector512<float> gradient = (probability * (Vector512.Load(gradients + j) - deltas)) & mask;
                probability.Store(probabilities + j);
                gradient.Store(gradients + j);
            }

            ClearFrom(probabilities, visible, used);
            ClearFrom(gradients, visible, used);
            if (biasGradient is not null)
                VectorMath.Add(biasGradient, gradients, visible);
        }

        // Packs keys into panels of 32, [headDim, 32] each, with zeros after the last key: what RegisterTile reads as
        // the dense columns of B.
        [MethodImpl(MethodImplOptions.AggressiveOptimization)]
        private void PackPanels(HeadRows.OneHead rows, float* panels)
        {
            float* space = stackalloc float[headDim];
            long padded = RoundUp(keys, Panel);
            for (long first = 0; first < padded; first += Panel)
            {
                float* panel = panels + first * headDim;
                for (int j = 0; j < Panel; j++)
                {
                    if (first + j < keys)
                    {
                        float* row = rows.Read(first + j, headDim, space);
                        for (int c = 0; c < headDim; c++)
                            panel[c * Panel + j] = row[c];
                    }
                    else
                    {
                        for (int c = 0; c < headDim; c++)
                            panel[c * Panel + j] = 0;
                    }
                }
            }
        }

        // Packs rows densely, [padded, headDim] in float32, scaled; zeros after the last one.
        private void Pack(HeadRows.OneHead rows, long first, long count, float* packed, float factor, long padded)
        {
            Vector512<float> factors = Vector512.Create(factor);
            for (long row = 0; row < count; row++)
            {
                float* target = packed + row * headDim;
                for (int c = 0; c < headDim; c += Lanes)
                    (rows.Load(first + row, c) * factors).Store(target + c);
            }

            new Span<float>(packed + count * headDim, (int)((padded - count) * headDim)).Clear();
        }

        private void Copy(float* source, HeadRows.OneHead target, long row)
        {
            for (int c = 0; c < headDim; c += Lanes)
                target.Store(row, c, Vector512.Load(source + c));
        }

        private float Dot(float* a, HeadRows.OneHead b, long row)
        {
            Vector512<float> sum = Vector512<float>.Zero;
            for (int c = 0; c < headDim; c += Lanes)
                sum = Avx512F.FusedMultiplyAdd(Vector512.Load(a + c), b.Load(row, c), sum);
            return Vector512.Sum(sum);
        }

        private static void ClearFrom(float* row, int visible, int used)
        {
            if (used > visible)
                new Span<float>(row + visible, used - visible).Clear();
        }

        // A full vector could read beyond the last bias.
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        private static Vector512<float> LoadFirst(float* values, int count) =>
            count >= Lanes
                ? Vector512.Load(values)
                : Avx512F.MaskLoad(values, VectorMath.FirstLanes(count), Vector512<float>.Zero);

        private static float MaxLane(Vector512<float> vector)
        {
            float maximum = float.NegativeInfinity;
            for (int lane = 0; lane < Lanes; lane++)
                maximum = MathF.Max(maximum, vector[lane]); // NaN wins.
            return maximum;
        }

        private static long RoundUp(long number, long multiple) => (number + multiple - 1) / multiple * multiple;
    }

    // A block of queries and a block of keys of a unit.
    private readonly record struct Tile(long FirstQuery, int Queries, long FirstKey, int Keys, bool Causal)
    {
        /// <summary>Number of the tile's keys that a query sees: always the first ones.</summary>
        public int VisibleTo(int query) => Causal ? (int)Math.Clamp(FirstQuery + query + 1 - FirstKey, 0, Keys) : Keys;

        /// <summary>
        /// Number of logits of a query that products read, which go by complete strips of queries and of keys. Those
        /// beyond <see cref="VisibleTo"/> must be zeros.
        /// </summary>
        public int UsedBy(int query) =>
            Math.Min(
                KeyTile,
                (
                    Math.Max(VisibleTo(Math.Min(query / Strip * Strip + Strip, Queries) - 1), VisibleTo(query))
                    + 2 * Strip
                    - 1
                )
                    / Strip
                    * Strip
            );
    }
}
