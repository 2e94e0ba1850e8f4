using System.Text.Json;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Checkpoints;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Ranks;

/// <summary>
/// The laws of the project with all at once that long sequences need, in every type: ranks agree, and a killed run goes
/// on in the same bits.
/// </summary>
public sealed class LongSequenceTests(LongSequenceRuns runs) : IClassFixture<LongSequenceRuns>
{
    private static readonly string End = $"checkpoints/{CheckpointStore.NameOf(LongSequenceRuns.Steps)}";

    // Half of the last place of a number's significant bits.
    private static double Rounding(string compute) =>
        Math.ScaleB(
            1,
            compute switch
            {
                "bfloat16" => -9,
                "float16" => -12,
                _ => -24,
            }
        );

    [Theory]
    [InlineData("float32", MpiKind.OpenMpi, 2, 2)]
    [InlineData("bfloat16", MpiKind.OpenMpi, 1, 2)]
    public void Train_OnAnyMesh_GivesTheNumbersOfOneRank(string compute, MpiKind kind, int data, int sequence) =>
        AssertAgrees(compute, kind, data, sequence);

    public static TheoryData<string, MpiKind, int, int> OtherMeshes
    {
        get
        {
            var meshes = new TheoryData<string, MpiKind, int, int>();
            foreach (string compute in new[] { "float32", "bfloat16", "float16" })
            {
                foreach (var (data, sequence) in new[] { (1, 2), (2, 1), (1, 4), (2, 2), (4, 1) })
                    meshes.Add(compute, MpiKind.OpenMpi, data, sequence);
                meshes.Add(compute, MpiKind.Mpich, 1, 2);
                meshes.Add(compute, MpiKind.Mpich, 2, 2);
            }

            return meshes;
        }
    }

    [Theory]
    [Trait("Category", "slow")]
    [MemberData(nameof(OtherMeshes))]
    public void Train_OnEveryMeshInEveryType_GivesTheNumbersOfOneRank(
        string compute,
        MpiKind kind,
        int data,
        int sequence
    ) => AssertAgrees(compute, kind, data, sequence);

    [Theory]
    [InlineData("float16", MpiKind.OpenMpi, 1, 2)]
    public void Resume_AfterAKillWithinBackward_IsBitwiseTheSame(
        string compute,
        MpiKind kind,
        int data,
        int sequence
    ) => AssertGoesOn(compute, kind, data, sequence);

    [Theory]
    [Trait("Category", "slow")]
    [InlineData("float32", MpiKind.OpenMpi, 1, 2)]
    [InlineData("bfloat16", MpiKind.None, 1, 1)]
    [InlineData("float16", MpiKind.OpenMpi, 2, 2)]
    [InlineData("float16", MpiKind.Mpich, 1, 4)]
    [InlineData("bfloat16", MpiKind.Mpich, 2, 1)]
    public void Resume_AfterAKillWithinBackwardOnAnyMeshInAnyType_IsBitwiseTheSame(
        string compute,
        MpiKind kind,
        int data,
        int sequence
    ) => AssertGoesOn(compute, kind, data, sequence);

    private void AssertAgrees(string compute, MpiKind kind, int data, int sequence)
    {
        string one = runs.Straight(compute, MpiKind.None, 1, 1),
            many = runs.Straight(compute, kind, data, sequence);
        int first = compute == "float16" ? LongSequenceRuns.ScaledFrom : 0;
        Assert.Equal(
            Enumerable.Range(first + 1, LongSequenceRuns.Steps - first).Select(step => (double)step),
            TrainingJob.Values(many, "loss", "step")
        );

        // On its way to a loss, or from there to a gradient, a number is rounded some ten times, in any direction: by
        // √10 roundings of its type. A loss is the mean over many rows, whose errors cancel; in each run its parts are
        // rounded to float32 in any case. What steps add to the difference of parameters, and so of losses, adds up as
        // a random walk does. Measured on all meshes: losses to a tenth of this at most, gradient norms to an eighth,
        // parameters to a third.
        const double Single = 1.0 / (1 << 24);
        double ofGradient = Math.Sqrt(10) * Rounding(compute),
            walk = Math.Sqrt(LongSequenceRuns.Steps);
        double ofLoss = walk * (2 * Single + ofGradient / Math.Sqrt(LongSequenceRuns.TokensPerStep));
        Close("loss", ofLoss);
        Close("eval_loss", ofLoss);
        Close("eval_bits_per_byte", ofLoss);
        foreach (string key in new[] { "lr", "tokens" })
            Assert.Equal(TrainingJob.Values(one, key), TrainingJob.Values(many, key));
        if (compute == "float16")
        {
            foreach (string key in new[] { "loss_scale", "skipped_steps" })
                Assert.Equal(TrainingJob.Values(one, key), TrainingJob.Values(many, key));
            Assert.Equal([1, 1, 1, 1], TrainingJob.Values(many, "skipped_steps"));
        }

        Close("grad_norm", ofGradient);

        // AdamW moves every parameter by as much as the learning rate says, whatever the size of its gradient: their
        // errors, relative to gradients, are those of updates relative to learning rates, in both runs. Each step
        // rounds the parameters themselves to float32.
        var (difference, size) = Distance(one, many);
        double most = 2 * ofGradient * TrainingJob.Values(one, "lr").Sum() + walk * Single * size;
        Assert.True(
            difference <= most,
            $"parameters differ by {difference:g3} in the root mean square, which is above {most:g3}"
        );

        void Close(string key, double tolerance)
        {
            Compare.AssertClose(Numbers(many), Numbers(one), tolerance, key);

            // A step that is skipped has no gradient norm.
            double[] Numbers(string run) =>
                [
                    .. TrainingJob
                        .Metrics(run, key)
                        .Select(line => line.GetProperty(key))
                        .Where(number => number.ValueKind == JsonValueKind.Number)
                        .Select(number => number.GetDouble()),
                ];
        }
    }

    private void AssertGoesOn(string compute, MpiKind kind, int data, int sequence)
    {
        string straight = runs.Straight(compute, kind, data, sequence),
            killed = runs[$"killed {compute} {kind} {data}x{sequence}"];
        int last = data * sequence - 1,
            step = LongSequenceRuns.Steps - 1;
        // Each step has a checkpoint: when that of step 4 is begun, that of step 3 is whole.
        ProgramResult struck = runs.Run(compute, kind, data, sequence, killed, $"kill:{last}:{step}:backward");
        Assert.NotEqual(0, struck.ExitCode);
        Assert.Contains(
            $"LONGNET_FAULT: kill on rank {last} in backward of step {step} at ",
            struck.Output,
            StringComparison.Ordinal
        );
        // Backward is in the middle of what was offloaded.
        Assert.Empty(Directory.GetFileSystemEntries(runs.OffloadFolder));
        Assert.False(Directory.Exists(Path.Combine(killed, End)));

        ProgramResult resumed = runs.Run(compute, kind, data, sequence, killed).AssertSuccess();
        Assert.Matches(
            $"\nresuming from {killed}/checkpoints/step-0000000[34] \\(step [34], written by {data} data x "
                + $"{sequence} sequence ranks\\)\n",
            resumed.Output
        );
        Assert.DoesNotContain("warning", resumed.Output, StringComparison.Ordinal);
        string[] parameters =
        [
            .. Directory.GetFiles(Path.Combine(straight, End), "*.safetensors").Select(path => Path.GetFileName(path)!),
        ];
        Assert.Equal(1 + data * sequence, parameters.Length);
        foreach (string file in parameters)
            Assert.Equal(
                File.ReadAllBytes(Path.Combine(straight, End, file)),
                File.ReadAllBytes(Path.Combine(killed, End, file))
            );
        foreach (
            string key in new[]
            {
                "loss",
                "grad_norm",
                "lr",
                "tokens",
                "eval_loss",
                "eval_bits_per_byte",
                "loss_scale",
                "skipped_steps",
            }
        )
            Assert.Equal(Raw(straight, key), Raw(killed, key));
        Assert.Equal(
            CheckpointManifest.Read(Path.Combine(straight, End)).LossScaler,
            CheckpointManifest.Read(Path.Combine(killed, End)).LossScaler
        );
        Assert.Empty(Directory.GetFileSystemEntries(runs.OffloadFolder));

        static string[] Raw(string run, string key) =>
            [.. TrainingJob.Metrics(run, key).Select(line => $"{line.GetProperty("step")}: {line.GetProperty(key)}")];
    }

    // Root mean squares over all parameters of what they differ by, and of the parameters.
    private static (double Difference, double Size) Distance(string one, string many)
    {
        using var scope = NewDisposeScope();
        using SafetensorsReader a = SafetensorsReader.Open(Path.Combine(one, End, "model.safetensors")),
            b = SafetensorsReader.Open(Path.Combine(many, End, "model.safetensors"));
        Assert.Equal(a.Names, b.Names);
        double differences = 0,
            squares = 0;
        long count = 0;
        foreach (string name in a.Names)
        {
            Tensor expected = a.Read(name).to(float64),
                difference = b.Read(name).to(float64).sub(expected);
            differences += difference.square().sum().item<double>();
            squares += expected.square().sum().item<double>();
            count += expected.NumberOfElements;
        }

        return (Math.Sqrt(differences / count), Math.Sqrt(squares / count));
    }
}
