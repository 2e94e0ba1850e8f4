using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Attention;

public class KeyValueCacheTests
{
    private const long Batch = 2,
        Length = 100,
        DModel = 32,
        Heads = 4;

    // Segments that end within the sequence, at the same row and at different ones, and one that never does.
    private static readonly SegmentSchedule Schedule = new(
        new Branch(8, 1),
        new Branch(24, 3),
        new Branch(40, 2),
        new Branch(1000, 7)
    );

    public static IEnumerable<object[]> Options() =>
        from positions in new[] { "none", "xpos", "rope" }
        from bias in new[] { false, true }
        from offsets in Enum.GetValues<HeadOffsets>()
        select new object[] { positions, bias, offsets };

    [Theory]
    [MemberData(nameof(Options))]
    public void Decode_ByTokensChunksOrAtOnce_EqualsForward(string positions, bool useBias, HeadOffsets offsets)
    {
        long[][] ways =
        [
            [Length],
            [.. Enumerable.Repeat(1L, (int)Length)],
            // A prompt, then token by token.
            [61, .. Enumerable.Repeat(1L, 39)],
            // Chunks that end before, at and after segments' ends, and ones longer than several segments.
            [7, 1, 2, 14, 16, 1, 59],
            [24, 24, 24, 24, 4],
        ];
        foreach (ScalarType type in new[] { float64, float32 })
        {
            using var scope = NewDisposeScope();
            using var generator = new Generator(9);
            using DilatedAttention module = Module(positions, useBias, offsets);
            module.to(type);
            if (useBias)
            {
                using (no_grad())
                    module.get_parameter("relative_position.relative_attention_bias.weight")!.normal_(0, 1, generator);
            }

            Tensor x = randn([Batch, Length, DModel], dtype: type, generator: generator);
            Tensor expected = module.forward(x);
            foreach (long[] way in type == float64 ? ways : ways[^2..])
            {
                using KeyValueCache cache = module.CreateCache(Batch, Length);
                var parts = new List<Tensor>();
                foreach (long rows in way)
                    parts.Add(module.Decode(x.narrow(1, cache.Length, rows), cache));
                Assert.Equal(Length, cache.Length);
                // Rounding of the same sums in another order.
                Compare.AssertClose(
                    cat(parts, 1),
                    expected,
                    type == float64 ? 1e-12 : 1e-5,
                    $"{type}, chunks of {string.Join(", ", way)}"
                );
            }
        }
    }

    [Fact]
    public void Decode_AnyRow_HoldsJustTheKeysThatLaterRowsCanSee()
    {
        using var scope = NewDisposeScope();
        using DilatedAttention module = Module("none", false, HeadOffsets.Interleaved);
        using KeyValueCache cache = module.CreateCache(1, Length);
        for (long row = 0; row < Length; row++)
        {
            module.Decode(zeros(1, 1, DModel), cache).Dispose();
            long expected = 0;
            foreach (var (w, r) in Schedule)
            {
                // The next row's segment, as far as it has come.
                long first = (row + 1) / w * w;
                for (long head = 0; head < Heads; head++)
                {
                    for (long seen = first; seen <= row; seen++)
                        expected += (seen - first - head % r) % r == 0 && seen - first >= head % r ? 1 : 0;
                }
            }

            Assert.Equal(expected, cache.KeptKeys);
        }
    }

    [Fact]
    public void Decode_Model_EqualsForward()
    {
        using var scope = NewDisposeScope();
        foreach (bool bias in new[] { false, true })
        {
            using var model = new LongNetLanguageModel(
                new LongNetConfig
                {
                    Layers = 2,
                    DModel = DModel,
                    Heads = Heads,
                    FeedForward = 64,
                    Vocabulary = 50,
                    Schedule = Schedule,
                    Dropout = 0.1,
                    SubLayerNorm = bias,
                    RelativePositionBias = bias ? new RelativePositionBuckets(32, 128, Bidirectional: false) : null,
                },
                seed: 4
            );
            model.eval();
            Tensor tokens = randint(0, 50, [Batch, Length], dtype: int64);
            using DecodingCache cache = model.CreateCache(Batch, Length);
            var parts = new List<Tensor> { model.Decode(tokens.narrow(1, 0, 50), cache) };
            while (cache.Length < Length)
                parts.Add(model.Decode(tokens.narrow(1, cache.Length, 1), cache));
            Compare.AssertClose(cat(parts, 1), model.forward(tokens), 1e-5, "logits"); // float32 rounding
        }
    }

    [Fact]
    public void Decode_Mistakes_AreNamed()
    {
        using var scope = NewDisposeScope();
        using DilatedAttention module = Module("none", false, HeadOffsets.Interleaved);
        using KeyValueCache cache = module.CreateCache(2, 10);
        AssertRefused(
            "This key/value cache was made for 10 rows and holds 0: 11 more do not fit. Make it longer.",
            () => module.Decode(zeros(2, 11, DModel), cache)
        );
        AssertRefused(
            "This key/value cache takes q, k and v of shape [2, rows, 4, 8], but was given [3, 1, 4, 8], "
                + "[3, 1, 4, 8] and [3, 1, 4, 8].",
            () => module.Decode(zeros(3, 1, DModel), cache)
        );
        Assert.Equal(0, cache.Length);
        using DilatedAttention other = Module("none", false, HeadOffsets.Blocked);
        AssertRefused(
            "This key/value cache is for the branches (w = 8, r = 1), (w = 24, r = 3), (w = 40, r = 2), (w = "
                + "1000, r = 7), but the attention has (w = 8, r = 1), (w = 24, r = 3), (w = 40, r = 2), (w = "
                + "1000, r = 7) "
                + "or other options: make a cache with its CreateCache.",
            () => other.Decode(zeros(2, 1, DModel), cache)
        );
        KeyValueCache gone = module.CreateCache(1, 10);
        gone.Dispose();
        Assert.Throws<ObjectDisposedException>(() => module.Decode(zeros(1, 1, DModel), gone));
        AssertRefused(
            "A key/value cache is for at least one sequence of at least one row, not for 0 of at most 10.",
            () => module.CreateCache(0, 10)
        );
        using var bidirectional = new DilatedAttention(16, 2, 1L, 8L);
        AssertRefused(
            "Decoding row by row needs causal attention: a row that sees later ones cannot be computed "
                + "before they are there.",
            () => bidirectional.CreateCache(1, 10)
        );

        static void AssertRefused(string message, Func<object> mistake) =>
            Assert.Equal(message, Assert.Throws<UserException>(mistake).Message);
    }

    private static DilatedAttention Module(string positions, bool useBias, HeadOffsets offsets) =>
        new(
            new DilatedAttentionOptions
            {
                Channels = DModel,
                Heads = Heads,
                Branches = Schedule,
                Causal = true,
                Positions = Enum.Parse<PositionEncoding>(positions, ignoreCase: true),
                RelativePositionBias = useBias ? RelativePositionBuckets.Default(bidirectional: false) : null,
                HeadOffsets = offsets,
            }
        );
}
