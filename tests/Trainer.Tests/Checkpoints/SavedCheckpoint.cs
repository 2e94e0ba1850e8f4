using System.Text;
using System.Text.Json;
using LongNet.Distributed.Collectives;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Storage;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Checkpoints;

/// <summary>Checkpoints of a few numbers, written as a run writes its own.</summary>
internal static class SavedCheckpoint
{
    public static CheckpointManifest Manifest(long step, double? validationLoss = null) =>
        new()
        {
            Versions = new CheckpointVersions("test", "2", "10"),
            Step = step,
            SequencesConsumed = 4 * step,
            TokensConsumed = 512 * step,
            Seed = 1,
            LearningRateSchedule = new CheckpointSchedule(1e-3, 1e-4, 10, 100),
            ValidationLoss = validationLoss,
            Mesh = new CheckpointMesh(1, 2),
            ThreadsPerRank = 1,
            MicroBatchSize = 4,
            OptimizerSharded = false,
            OptimizerShards = 1,
            Corpus = "2 files",
            Config = JsonElement.Parse("""{"seed":1}"""),
            Files = [],
        };

    /// <summary>weight is all step, [2, 3]; the optimizer has a step count and a moment.</summary>
    public static CheckpointPart Part(long step, double? validationLoss = null) =>
        new(
            Manifest(step, validationLoss),
            [("weight", full([2, 3], step, dtype: ScalarType.Float32))],
            [
                new StateSlice("step", null, tensor((float)step)),
                new StateSlice("exp_avg.weight", null, full([2, 3], 2 * step, dtype: ScalarType.Float32)),
            ],
            Shard: 0
        );

    /// <summary>Changes the text of a state.json, and its digest to that of the new text.</summary>
    public static void Rewrite(string path, Func<string, string> change)
    {
        int end = CheckpointManifest.Seal([]).Length;
        string content = change(File.ReadAllText(path)[..^end]);
        File.WriteAllText(path, content + CheckpointManifest.Seal(Encoding.UTF8.GetBytes(content)));
    }

    /// <summary>Saves on one rank and returns when the checkpoint is whole, or has failed.</summary>
    /// <returns>Its folder; null where it could not be written.</returns>
    public static string? Save(
        CheckpointStore store,
        CheckpointPart part,
        CheckpointRetention? retention = null,
        FileOperations? files = null,
        bool required = true
    )
    {
        using ProcessGroup alone = ProcessGroup.Solo("alone");
        var events = new RecordedEvents();
        using var saver = new CheckpointSaver(
            store,
            alone,
            new CheckpointOptions(Asynchronous: false, required, retention ?? CheckpointRetention.All),
            events,
            files
        );
        saver.Start(part);
        return events.Checkpoints.SingleOrDefault()?.Path;
    }
}
