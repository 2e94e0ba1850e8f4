using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Tests.Checkpoints;
using LongNet.Trainer.Tests.Data.Tokenization;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// Runs of a small model with all at once that long sequences need: a prepared corpus of byte pairs, recomputation,
/// tiles, offload and a sharded optimizer, with dropout, micro-batches, clipping and evaluations. Each is done once,
/// for all tests that compare with it.
/// </summary>
public sealed class LongSequenceRuns : IDisposable
{
    public const int Steps = 6,
        TokensPerStep = 4 * 192;

    /// <summary>
    /// What runs in float16 begin with, at the checkpoint of this step, so that the first is skipped. At the edge it is
    /// the rows which a tile happens to sum in float16 that decide, and these differ by mesh; this is not there:
    /// measured, the first step overflows from 0.8 times this scale on, if not below, and the others bear 1.2 times the
    /// half of it, on all meshes.
    /// </summary>
    public const int ScaledFrom = 2,
        InitialScale = 1 << 22;

    private readonly TemporaryFolder folder = new();
    private readonly Dictionary<(string Compute, MpiKind Kind, int Data, int Sequence), string> done = [];
    private readonly string[] settings;

    /// <summary>Prepares the corpus.</summary>
    public LongSequenceRuns()
    {
        // Not the sources, as the others: whether a step overflows must not change with them.
        string[] words =
        [
            "hello",
            " world",
            " the",
            " public",
            " string",
            " =",
            " in",
            "\n    ",
            " azure",
            "é",
            " store",
            "ped",
            " an",
            "y",
            "13",
            " 7",
            ";\n",
        ];
        var random = new Random(1);
        string text = folder.Write(
            "corpus.txt",
            string.Concat(
                Enumerable
                    .Range(0, 16_000)
                    .Select(_ => words[random.Next(words.Length) * random.Next(words.Length) / words.Length])
            )
        );
        string tokenizer = TinyTokenizer.Write(folder),
            corpus = folder["corpus.tokens"];
        ProgramRun
            .ToEnd(
                TimeSpan.FromMinutes(1),
                Repository.LongNet,
                ["data", "prepare", "--input", text, "--tokenizer", tokenizer, "--output", corpus]
            )
            .AssertSuccess();
        settings =
        [
            .. new[]
            {
                $"data.path=[{corpus}]",
                $"data.tokenizer={tokenizer}",
                $"model.vocabulary={TinyTokenizer.VocabularySize}",
                "model.dropout=0.1",
                // With 4 ranks of 48 rows, two branches are local and the others span 2 and 4 ranks.
                "training.sequence_length=192",
                "model.attention.segment_lengths=[24, 48, 96, 192]",
                // On 4 data-parallel ranks one micro-batch, on 2 two, on 1 four.
                "training.batch_size=4",
                "training.micro_batch_size=1",
                $"training.steps={Steps}",
                // Of 48 rows, 96 and 192 each leaves a tile that is not full.
                "memory.recompute=full",
                "memory.tile_rows=25",
                "memory.loss_rows=41",
                "memory.offload=disk",
                $"memory.offload_directory={OffloadFolder}",
                // Gradients have norms of 2 and more: all are clipped.
                "parallel.shard_optimizer=true",
                "optimizer.gradient_clipping=0.5",
                "evaluation.every_steps=3",
                "evaluation.sequences=4",
                "checkpoint.every_steps=1",
                "runtime.threads=1",
            }.SelectMany(setting => new[] { "--set", setting }),
        ];
    }

    public string OffloadFolder => folder["offload"];

    /// <summary>A path that no run uses.</summary>
    public string this[string name] => folder[name];

    /// <summary>The run that is left alone.</summary>
    /// <returns>Its folder.</returns>
    public string Straight(string compute, MpiKind kind, int data, int sequence)
    {
        if (!done.TryGetValue((compute, kind, data, sequence), out string? output))
        {
            output = folder[$"{compute} {kind} {data}x{sequence}"];
            Run(compute, kind, data, sequence, output).AssertSuccess();
            Assert.Empty(Directory.GetFileSystemEntries(OffloadFolder));
            done.Add((compute, kind, data, sequence), output);
        }

        return output;
    }

    /// <summary>Runs it to its end, or to the fault.</summary>
    /// <param name="compute">precision.compute.</param>
    /// <param name="kind">Which MPI.</param>
    /// <param name="data">Ranks along the batch.</param>
    /// <param name="sequence">Ranks along the sequence.</param>
    /// <param name="output">Where. One that has checkpoints goes on from them.</param>
    /// <param name="fault">LONGNET_FAULT; null for none.</param>
    public ProgramResult Run(string compute, MpiKind kind, int data, int sequence, string output, string? fault = null)
    {
        string[] resume =
            Directory.Exists(Path.Combine(output, "checkpoints")) ? ["--resume", "auto"]
            : compute == "float16" ? ["--resume", Scaled()]
            : [];
        return RankTests
            .Launcher(kind)
            .Run(
                data * sequence,
                Repository.LongNet,
                TrainingJob.RanksAgreeArguments(
                    data,
                    sequence,
                    output,
                    [.. settings, "--set", $"precision.compute={compute}", .. resume]
                ),
                environment: new Dictionary<string, string?> { ["LONGNET_FAULT"] = fault }
            );
    }

    public void Dispose() => folder.Dispose();

    // The checkpoint that runs in float16 begin with.
    private string Scaled()
    {
        string scaled = folder["scaled"];
        if (Directory.Exists(scaled))
            return scaled;
        string from = Path.Combine(Straight("float32", MpiKind.None, 1, 1), $"checkpoints/step-{ScaledFrom:D8}");
        Directory.CreateDirectory(scaled);
        foreach (string file in Directory.GetFiles(from))
            File.Copy(file, Path.Combine(scaled, Path.GetFileName(file)));
        SavedCheckpoint.Rewrite(Path.Combine(scaled, "state.json"), text => text.Replace(
                "\"loss_scaler\": null",
                $$"""
                "loss_scaler": {"scale": {{InitialScale}}, "good_steps": 1, "skipped_steps": 0}
                """,
                StringComparison.Ordinal
            ));
        return scaled;
    }
}
