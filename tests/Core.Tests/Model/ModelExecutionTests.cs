using LongNet.Core.Attention;
using LongNet.Core.Model;
using LongNet.Core.Numerics;
using LongNet.Core.Sequences;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Model;

/// <summary>
/// Recomputation, tiles, offload and lower precision change nothing of what is computed, but for rounding.
/// </summary>
public class ModelExecutionTests
{
    // float32 sums of at most some thousand products in another order, against the largest gradient of all: those of
    // some parameters are what is left of larger terms, as that of the keys' bias, which is zero but for rounding.
    private const double Tolerance = 1e-6;

    // The same in float64, which is 5e8 times as precise.
    private const double DoubleTolerance = 1e-14;

    private static readonly LongNetConfig Config = TinyModel.Config with { Layers = 3, Vocabulary = 300 };

    [Theory]
    [InlineData(Recompute.Block, null, "memory")]
    [InlineData(Recompute.Full, null, "memory")]
    [InlineData(Recompute.Block, 7L, "memory")]
    [InlineData(Recompute.Full, 7L, "host")]
    [InlineData(Recompute.Block, 50L, "disk")]
    [InlineData(Recompute.Full, 80L, "disk")]
    [InlineData(Recompute.None, null, "memory")]
    public void LossAndGradients_Recomputed_AreThoseOfEverythingKept(Recompute recompute, long? tileRows, string store)
    {
        using var folder = new TemporaryFolder();
        var execution = new ModelExecution
        {
            Recompute = recompute,
            TileRows = tileRows,
            LossRows = tileRows is null ? null : 11,
            OffloadFolder = store == "disk" ? folder.Path : null,
            OffloadToHost = store == "host",
        };
        foreach (
            LongNetConfig config in new[]
            {
                Config,
                Config with
                {
                    Dropout = 0.2,
                    SubLayerNorm = true,
                    TieEmbeddings = false,
                },
                Config with
                {
                    Positions = PositionEncoding.Rope,
                    RelativePositionBias = new RelativePositionBuckets(8, 16, false),
                    MixingGradient = MixingGradient.Detached,
                },
            }
        )
        {
            using var scope = NewDisposeScope();
            var (expectedLoss, expected) = Run(config, new ModelExecution());
            var (loss, gradients) = Run(config, execution);
            Assert.Equal(expectedLoss, loss, Tolerance * Math.Abs(expectedLoss));
            AssertClose(expected, gradients, Tolerance);
            (expectedLoss, expected) = Run(config, new ModelExecution(), type: ScalarType.Float64);
            (loss, gradients) = Run(config, execution, type: ScalarType.Float64);
            Assert.Equal(expectedLoss, loss, DoubleTolerance * Math.Abs(expectedLoss));
            AssertClose(expected, gradients, DoubleTolerance);
            Assert.Empty(Directory.GetFileSystemEntries(folder.Path));
        }
    }

    [Fact]
    public void Gradients_OfSeveralMicroBatches_AddUp()
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        var (_, expected) = Run(Config, new ModelExecution(), times: 3);
        var (_, gradients) = Run(
            Config,
            new ModelExecution
            {
                Recompute = Recompute.Block,
                TileRows = 16,
                OffloadFolder = folder.Path,
            },
            times: 3
        );
        AssertClose(expected, gradients, Tolerance);
    }

    [Theory]
    [InlineData(1L)]
    [InlineData(13L)]
    [InlineData(1000L)]
    public void LossSum_InTiles_IsThatOfAllLogits(long rows)
    {
        using var scope = NewDisposeScope();
        var (tokens, targets) = Batch();
        using (no_grad())
            targets.narrow(1, 5, 9).fill_((Scalar)LongNetLanguageModel.IgnoredTarget);
        using var model = new LongNetLanguageModel(Config, seed: 1, execution: new ModelExecution { LossRows = rows });
        Tensor plain = nn.functional.cross_entropy(
            model.forward(tokens).view(-1, Config.Vocabulary),
            targets.reshape(-1),
            ignore_index: LongNetLanguageModel.IgnoredTarget,
            reduction: nn.Reduction.Sum
        );
        BackwardPass.Run(plain);
        Tensor[] expected = Gradients(model);
        model.zero_grad();
        Tensor loss = model.LossSum(tokens, targets);
        BackwardPass.Run(loss);
        Assert.Equal(plain.item<float>(), loss.item<float>(), Tolerance * plain.item<float>());
        AssertClose(expected, Gradients(model), Tolerance);
        using (no_grad())
            Assert.Equal(loss.item<float>(), model.LossSum(tokens, targets).item<float>());
    }

    [Fact]
    public void LossSum_WithoutAValidTarget_IsZeroAndSoAreItsGradients()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(Config, seed: 1);
        var (tokens, targets) = Batch();
        targets.fill_((Scalar)LongNetLanguageModel.IgnoredTarget);
        Tensor loss = model.LossSum(tokens, targets);
        BackwardPass.Run(loss);
        Assert.Equal(0, loss.item<float>());
        Assert.All(Gradients(model), gradient => Assert.Equal(0, gradient.abs().max().item<float>()));
    }

    [Theory]
    [InlineData(ScalarType.BFloat16, Recompute.None)]
    [InlineData(ScalarType.BFloat16, Recompute.Block)]
    [InlineData(ScalarType.BFloat16, Recompute.Full)]
    [InlineData(ScalarType.Float16, Recompute.None)]
    [InlineData(ScalarType.Float16, Recompute.Full)]
    public void Compute_In16Bits_IsThatOfFloat32ToItsRounding(ScalarType type, Recompute recompute)
    {
        using var scope = NewDisposeScope();
        var (expectedLoss, expected) = Run(Config, new ModelExecution());
        var (loss, gradients) = Run(Config, new ModelExecution { ComputeType = type, Recompute = recompute });
        // One rounding is 2⁻⁹ in bfloat16 and 2⁻¹² in float16. The loss is a mean over rows that err in both
        // directions; gradients have been rounded some ten times on their way, by as much as a rounding each, in any
        // direction: √10 roundings.
        double rounding = type == ScalarType.BFloat16 ? 1 / 512.0 : 1 / 4096.0;
        Assert.Equal(expectedLoss, loss, rounding * expectedLoss);
        Assert.InRange(RelativeError(expected, gradients), 0, Math.Sqrt(10) * rounding);
        Assert.All(gradients, gradient => Assert.Equal(ScalarType.Float32, gradient.dtype));
        Assert.NotEqual(expectedLoss, loss);
    }

    [Fact]
    public void Compute_In16Bits_RecomputedIsThatOfEverythingKept()
    {
        using var scope = NewDisposeScope();
        var (expectedLoss, expected) = Run(Config, new ModelExecution { ComputeType = ScalarType.BFloat16 });
        var (loss, gradients) = Run(
            Config,
            new ModelExecution
            {
                ComputeType = ScalarType.BFloat16,
                Recompute = Recompute.Full,
                TileRows = 16,
            }
        );
        // Forward is the same; gradients are rounded at a few other places, four of them: by 2⁻⁹ · √4 at most.
        Assert.Equal(expectedLoss, loss, 1e-6 * expectedLoss);
        Assert.InRange(RelativeError(expected, gradients), 0, 2 / 512.0);
    }

    [Fact]
    public void Decode_In16Bits_IsThatOfForward()
    {
        using var scope = NewDisposeScope();
        using var model = new LongNetLanguageModel(
            Config,
            seed: 1,
            execution: new ModelExecution { ComputeType = ScalarType.BFloat16 }
        );
        model.eval();
        var (tokens, _) = Batch();
        using var noGradient = no_grad();
        using DecodingCache cache = model.CreateCache(2, 96);
        Tensor whole = model.forward(tokens),
            decoded = cat(
                [model.Decode(tokens.narrow(1, 0, 40), cache), model.Decode(tokens.narrow(1, 40, 56), cache)],
                1
            );
        Assert.Equal(ScalarType.Float32, whole.dtype);
        // Logits of at most 1, rounded at every layer.
        Assert.InRange(whole.sub(decoded).abs().max().item<float>(), 0, 8 / 512.0);
    }

    [Fact]
    public void Offload_ToAFolderThatIsNone_SaysWhatToDo()
    {
        using var folder = new TemporaryFolder();
        string file = folder.Write("file", "");
        Assert.Matches(
            $"^Activations cannot be kept in {file}: .*\\. Choose a folder on a disk with more space "
                + "\\(memory\\.offload_directory\\), or keep them in memory \\(memory\\.offload: none\\)\\.$",
            Assert
                .Throws<UserException>(() =>
                    new LongNetLanguageModel(
                        Config,
                        1,
                        execution: new ModelExecution { Recompute = Recompute.Full, OffloadFolder = file }
                    )
                )
                .Message
        );
    }

    [Theory]
    [InlineData(Recompute.Full, ScalarType.Float32)]
    [InlineData(Recompute.Block, ScalarType.Float32)]
    [InlineData(Recompute.Block, ScalarType.BFloat16)]
    public void OffloadedBytes_AreThoseOfTheFile(Recompute recompute, ScalarType type)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "The file has no name, and Linux shows it by its number.");
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        using var model = new LongNetLanguageModel(
            Config,
            seed: 1,
            execution: new ModelExecution
            {
                ComputeType = type,
                Recompute = recompute,
                OffloadFolder = folder.Path,
            }
        );
        var (tokens, targets) = Batch();
        long bytes = model.OffloadedBytes(tokens.shape[0], tokens.shape[1]);
        model.ReserveOffload(bytes);
        string file = Directory
            .GetFiles("/proc/self/fd")
            .Single(open =>
                new FileInfo(open).LinkTarget?.StartsWith($"{folder.Path}/", StringComparison.Ordinal) ?? false
            );
        Assert.Equal(0, Length());
        BackwardPass.Run(
            model.LossSum(
                tokens,
                targets,
                new DropoutContext(new RandomStream(0), [0, 1], SequenceShard.Complete(tokens.shape[1]))
            )
        );
        Assert.Equal(bytes, Length());
        Assert.Equal(
            0,
            new LongNetLanguageModel(
                Config,
                seed: 1,
                execution: new ModelExecution { Recompute = recompute }
            ).OffloadedBytes(2, 96)
        );

        long Length()
        {
            using var handle = File.OpenHandle(file);
            return RandomAccess.GetLength(handle);
        }
    }

    [Fact]
    public void Offload_ToADiskThatIsFull_SaysWhatIsNeededAndLeavesNothing()
    {
        using var scope = NewDisposeScope();
        using SmallDisk disk = SmallDisk.Mount(1);
        disk.Fill(but: 100_000);
        string folder = Path.Combine(disk.Path, "offload");
        var execution = new ModelExecution { Recompute = Recompute.Full, OffloadFolder = folder };
        using (var model = new LongNetLanguageModel(Config with { DModel = 256 }, seed: 1, execution: execution))
        {
            // 3 blocks of 2 · 96 rows of 256 channels.
            long bytes = model.OffloadedBytes(2, 96);
            Assert.Equal(3 * 2 * 96 * 256 * 4, bytes);
            string told =
                $"Activations cannot be kept in {folder}: those of this rank need 0.6 MB, and the disk has "
                + "0.1 MB free. "
                + "Choose a folder on a disk with more space (memory.offload_directory), or keep them in "
                + "memory (memory.offload: none).";
            Assert.Equal(told, Assert.Throws<UserException>(() => model.ReserveOffload(bytes)).Message);
            var (tokens, targets) = Batch();
            // Written as it comes, the first of the blocks has taken what there was.
            Assert.Equal(
                told.Replace("has 0.1 MB", "has 0.0 MB", StringComparison.Ordinal),
                Assert.Throws<UserException>(() => model.LossSum(tokens, targets)).Message
            );
        }

        Assert.Empty(Directory.GetFileSystemEntries(folder));
        disk.Free();
        using var again = new LongNetLanguageModel(Config with { DModel = 256 }, seed: 1, execution: execution);
        again.ReserveOffload(again.OffloadedBytes(2, 96));
        Assert.InRange(new DriveInfo(disk.Path).AvailableFreeSpace, 1 << 18, (1 << 20) - again.OffloadedBytes(2, 96));
    }

    [Fact]
    public void Offload_WhereAKilledProcessLeftItsFile_RemovesIt()
    {
        using var folder = new TemporaryFolder();
        string host = Environment.MachineName;
        // A process of this machine that does not run, one that does, and two of other machines, of which nobody here
        // knows.
        string gone = $"longnet-activations-{host}-{int.MaxValue}-a",
            runs = $"longnet-activations-{host}-{Environment.ProcessId}-a",
            other = $"longnet-activations-not{host}-{int.MaxValue}-a",
            longer = $"longnet-activations-{host}-{int.MaxValue}-4711-a";
        foreach (string name in new[] { gone, runs, other, longer, "mine" })
            folder.Write(name, "");
        using (
            new LongNetLanguageModel(
                Config,
                1,
                execution: new ModelExecution { Recompute = Recompute.Full, OffloadFolder = folder.Path }
            )
        )
            Assert.Equal(
                new[] { runs, other, longer, "mine" }.Order(StringComparer.Ordinal),
                Directory.GetFiles(folder.Path).Select(Path.GetFileName).Order(StringComparer.Ordinal)
            );
    }

    private static (double Loss, Tensor[] Gradients) Run(
        LongNetConfig config,
        ModelExecution execution,
        int times = 1,
        ScalarType type = ScalarType.Float32
    )
    {
        using var model = new LongNetLanguageModel(config, seed: 1, execution: execution);
        model.to(type);
        var (tokens, targets) = Batch();
        double loss = 0;
        for (int micro = 0; micro < times; micro++)
        {
            var context = new DropoutContext(
                new RandomStream(0).Derive(micro),
                [micro, 7],
                SequenceShard.Complete(tokens.shape[1])
            );
            Tensor sum = model.LossSum(tokens.roll(micro, 1), targets.roll(micro, 1), context);
            BackwardPass.Run(sum);
            loss += sum.to(float64).item<double>();
        }

        return (loss, Gradients(model));
    }

    private static Tensor[] Gradients(LongNetLanguageModel model) =>
        [.. model.parameters().Select(parameter => parameter.grad!.clone())];

    private static (Tensor Tokens, Tensor Targets) Batch()
    {
        using var generator = new Generator(3);
        Tensor tokens = randint(0, 300, [2, 96], dtype: ScalarType.Int64, generator: generator);
        return (tokens, tokens.roll(-1, 1));
    }

    private static void AssertClose(Tensor[] expected, Tensor[] actual, double tolerance)
    {
        double largest = expected.Max(Largest);
        for (int p = 0; p < expected.Length; p++)
        {
            double error = Largest(expected[p].sub(actual[p]));
            Assert.True(
                error <= tolerance * largest,
                $"the gradient of parameter {p} differs by {error}, and the largest gradient is {largest}"
            );
        }

        static double Largest(Tensor tensor) => tensor.abs().max().to(float64).item<double>();
    }

    private static double RelativeError(Tensor[] expected, Tensor[] actual)
    {
        return Math.Sqrt(expected.Zip(actual, (e, a) => Squares(e.sub(a))).Sum() / expected.Sum(Squares));

        static double Squares(Tensor tensor) => tensor.to(float64).square().sum().item<double>();
    }
}
