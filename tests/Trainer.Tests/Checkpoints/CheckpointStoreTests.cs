using System.Text.Json;
using System.Text.RegularExpressions;
using LongNet.Core;
using LongNet.Distributed.Collectives;
using LongNet.TestKit;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Checkpoints;

public sealed class CheckpointStoreTests : IDisposable
{
    private const string NoScale = "it is not what was written (its loss scale is no power of two from 1 to 2^127)";

    private readonly TemporaryFolder folder = new();
    private readonly TorchSharp.DisposeScope scope = NewDisposeScope();

    private CheckpointStore Store => new(folder["checkpoints"]);

    public void Dispose()
    {
        scope.Dispose();
        folder.Dispose();
    }

    [Fact]
    public void Save_ThenVerifyAndRead_GivesBackEveryBit()
    {
        var model = new[] { ("layer.weight", randn(3, 4)), ("layer.bias", randn(4)) };
        string saved = SavedCheckpoint.Save(Store, SavedCheckpoint.Part(100) with { Model = model })!;
        Assert.Equal(folder["checkpoints/step-00000100"], saved);
        Assert.Equal("step-00000100\n", File.ReadAllText(folder["checkpoints/LATEST"]));
        Assert.Equal(saved, Store.Latest());
        Assert.Equal([100], Store.Steps());

        CheckpointManifest manifest = CheckpointStore.Verify(saved);
        CheckpointManifest expected = SavedCheckpoint.Manifest(100);
        Assert.Equal(expected with { Files = manifest.Files, Config = manifest.Config }, manifest);
        Assert.True(JsonElement.DeepEquals(expected.Config, manifest.Config));
        string[] files = ["model.safetensors", "optimizer-00000-of-00001.safetensors"];
        Assert.Equal(files, manifest.Files.Select(file => file.Name));
        Assert.Equal(
            files.Append("state.json"),
            Directory.GetFiles(saved).Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );

        var read = model.Select(entry => (entry.Item1, zeros_like(entry.Item2))).ToArray();
        CheckpointStore.ReadInto(Path.Combine(saved, "model.safetensors"), read);
        for (int p = 0; p < model.Length; p++)
            Assert.True(read[p].Item2.eq(model[p].Item2).all().item<bool>());
        using OptimizerReader optimizer = OptimizerReader.Open(
            saved,
            manifest,
            [("step", []), ("exp_avg.weight", [2, 3])]
        );
        Tensor moment = zeros(2, 3);
        optimizer.ReadInto("exp_avg.weight", moment);
        Assert.True(moment.eq(full(2, 3, 200f)).all().item<bool>());
    }

    [Fact]
    public void Save_Twice_PointsToTheLaterAndLeavesTheEarlier()
    {
        Save(10);
        Save(20);
        Assert.Equal(folder["checkpoints/step-00000020"], Store.Latest());
        Assert.Equal([10, 20], Store.Steps());
        CheckpointStore.Verify(folder["checkpoints/step-00000010"]);
    }

    [Fact]
    public void Save_AsOftenAsKept_RemovesOnlyWhatNothingKeeps()
    {
        var retention = new CheckpointRetention(KeepLast: 2, KeepEvery: 30);
        foreach (
            var (step, loss) in new (long, double?)[]
            {
                (10, 3),
                (20, 1),
                (30, null),
                (40, 2),
                (50, double.NaN),
                (60, 1.5),
                (70, null),
            }
        )
            Assert.NotNull(SavedCheckpoint.Save(Store, SavedCheckpoint.Part(step, loss), retention));
        Assert.Equal([20, 30, 60, 70], Store.Steps());
        Assert.Equal("step-00000020\n", File.ReadAllText(folder["checkpoints/BEST"]));
        Assert.Equal(folder["checkpoints/step-00000020"], CheckpointStore.Find(folder["checkpoints/BEST"]));

        // Of equals the later; the earlier is nobody's best any more, and goes.
        SavedCheckpoint.Save(Store, SavedCheckpoint.Part(80, 1), retention);
        Assert.Equal([30, 60, 70, 80], Store.Steps());
        Assert.Equal("step-00000080\n", File.ReadAllText(folder["checkpoints/BEST"]));
        Assert.Equal(
            ["BEST", "LATEST", "step-00000030", "step-00000060", "step-00000070", "step-00000080"],
            Directory.GetFileSystemEntries(folder["checkpoints"]).Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );
    }

    [Fact]
    public void RemoveLeftovers_OfAStopInTheMiddle_LeavesWhatIsWhole()
    {
        Save(10);
        folder.Write("checkpoints/.step-00000020.partial/model.safetensors", "half");
        folder.Write("checkpoints/.step-00000005.expired/state.json", "half");
        Assert.Equal([10], Store.Steps());
        Store.RemoveLeftovers();
        Assert.Equal(
            ["LATEST", "step-00000010"],
            Directory.GetFileSystemEntries(folder["checkpoints"]).Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );
        Save(20);
        CheckpointStore.Verify(folder["checkpoints/step-00000020"]);
    }

    [Fact]
    public void Save_WhereTheDiskRefuses_TellsAndLeavesOlderOnes()
    {
        Save(10);
        // A file where the folder of the next should go.
        folder.Write("checkpoints/.step-00000020.partial", "in the way");
        string problem = $"The file '{folder["checkpoints/.step-00000020.partial"]}' already exists";
        Assert.Equal(
            $"The checkpoint of step 20 cannot be written to {folder["checkpoints"]}: {problem}. Older "
                + "checkpoints are untouched. "
                + "It is required (checkpoint.required): free space or mend permissions, then go on with "
                + "--resume auto.",
            Assert.Throws<AgreedUserException>(() => Save(20)).Message
        );
        CheckpointStore.Verify(Store.Latest()!);

        using ProcessGroup alone = ProcessGroup.Solo("alone");
        var events = new RecordedEvents();
        using var saver = new CheckpointSaver(
            Store,
            alone,
            new CheckpointOptions(Asynchronous: true, Required: false, CheckpointRetention.All),
            events
        );
        saver.Start(SavedCheckpoint.Part(20));
        saver.Finish();
        Assert.Equal(
            $"The checkpoint of step 20 cannot be written to {folder["checkpoints"]}: {problem}. Older "
                + "checkpoints are untouched.",
            Assert.Single(events.Failures)
        );
        Assert.Equal(events.Failures[0], saver.Failure);
        Assert.True(events.TrainingContinued);
        File.Delete(folder["checkpoints/.step-00000020.partial"]);
        saver.Start(SavedCheckpoint.Part(20));
        saver.Finish();
        Assert.Null(saver.Failure);
        Assert.Equal([10, 20], Store.Steps());
    }

    [Fact]
    public void Save_WithoutSpace_SaysHowMuchIsMissingBeforeItWrites()
    {
        // One number, seen as a quarter of 2⁵⁰ of them.
        Tensor petabyte = zeros(1).expand(1L << 48);
        string message = Assert
            .Throws<AgreedUserException>(() =>
                SavedCheckpoint.Save(Store, SavedCheckpoint.Part(20) with { Model = [("weight", petabyte)] })
            )
            .Message;
        Assert.Matches(
            $"^The checkpoint of step 20 cannot be written to {Regex.Escape(folder["checkpoints"])}: It "
                + "needs 1125899907 MB, and the disk has [0-9]+ MB free\\. ",
            message
        );
        Assert.Empty(Directory.GetFileSystemEntries(folder["checkpoints"]));
    }

    [Fact]
    public void Start_WhileTheSnapshotIsTaken_KeepsTheStateOfItsStep()
    {
        using ProcessGroup alone = ProcessGroup.Solo("alone");
        using var saver = new CheckpointSaver(
            Store,
            alone,
            new CheckpointOptions(Asynchronous: true, Required: true, CheckpointRetention.All),
            ICheckpointEvents.None
        );
        Tensor weight = zeros(1 << 20);
        for (long step = 1; step <= 3; step++)
        {
            saver.AwaitSnapshot();
            weight.copy_(full_like(weight, step));
            saver.Start(SavedCheckpoint.Part(step) with { Model = [("weight", weight)] });
        }

        saver.AwaitSnapshot();
        weight.copy_(full_like(weight, -1));
        saver.Finish();
        for (long step = 1; step <= 3; step++)
        {
            Tensor read = zeros(1 << 20);
            CheckpointStore.ReadInto(Path.Combine(Store.PathOf(step), "model.safetensors"), [("weight", read)]);
            Assert.True(read.eq(tensor((float)step)).all().item<bool>(), $"step {step}");
        }
    }

    [Fact]
    public void Latest_PointerToNothing_SaysWhatToDo()
    {
        Save(10);
        File.WriteAllText(folder["checkpoints/LATEST"], "step-00000030\n");
        Assert.Equal(
            $"{folder["checkpoints/LATEST"]} names \"step-00000030\", which is no checkpoint there. Name "
                + "the folder of one that is: step-00000010.",
            Assert.Throws<UserException>(() => Store.Latest()).Message
        );
        File.WriteAllText(folder["checkpoints/LATEST"], "../../elsewhere\n");
        Assert.Throws<UserException>(() => Store.Latest());
        File.Delete(folder["checkpoints/LATEST"]);
        Assert.Equal(folder["checkpoints/step-00000010"], Store.Latest());
    }

    [Theory]
    [InlineData("model.safetensors", "missing", "model.safetensors: it is missing")]
    [InlineData("optimizer-00000-of-00001.safetensors", "shorter", "")]
    [InlineData(
        "model.safetensors",
        "changed",
        "model.safetensors: its content is not what was written (SHA-256 differs)"
    )]
    [InlineData("state.json", "missing", "state.json: it is missing")]
    public void Verify_Damage_NamesTheFile(string file, string damage, string problem)
    {
        string saved = Save(10);
        string path = Path.Combine(saved, file);
        byte[] bytes = File.ReadAllBytes(path);
        switch (damage)
        {
            case "missing":
                File.Delete(path);
                break;
            case "shorter":
                File.WriteAllBytes(path, bytes[..^1]);
                problem = $"{file}: it has {bytes.Length - 1} bytes, and {bytes.Length} were written";
                break;
            default:
                bytes[^1] ^= 1;
                File.WriteAllBytes(path, bytes);
                break;
        }

        Assert.Equal(
            $"The checkpoint {saved} is damaged: {problem}. Resume from another one: --resume auto takes "
                + "the newest that is whole.",
            Assert.Throws<DamagedCheckpointException>(() => CheckpointStore.Verify(saved)).Message
        );
    }

    [Theory]
    [InlineData("\"step\": 10", "\"step\": -1", "it is not what was written (a count is below zero)")]
    [InlineData(
        "\"format\": \"longnet-checkpoint\"",
        "\"format\": \"pt\"",
        "its \"format\" is not \"longnet-checkpoint\""
    )]
    [InlineData(
        "\"name\": \"model.safetensors\"",
        "\"name\": \"../model.safetensors\"",
        "it is not what was written (a file has no plain name or a size below zero)"
    )]
    [InlineData(
        "\"name\": \"model.safetensors\"",
        "\"name\": \"optimizer-00000-of-00001.safetensors\"",
        "it is not what was written (a file is listed twice)"
    )]
    [InlineData(
        "\"name\": \"model.safetensors\"",
        "\"name\": \"other.safetensors\"",
        "it does not list model.safetensors"
    )]
    [InlineData(
        "\"optimizer_shards\": 1",
        "\"optimizer_shards\": 2",
        "it does not list optimizer-00000-of-00002.safetensors"
    )]
    [InlineData(
        "\"optimizer_shards\": 1",
        "\"optimizer_shards\": 2000000000",
        "it is not what was written (it lists fewer files than optimizer shards)"
    )]
    [InlineData("\"sequence\": 2", "\"sequence\": 0", "it is not what was written (its mesh has no ranks)")]
    [InlineData("\"lr\": 0.001", "\"lr\": 1e400", "it is not what was written (a number is out of range)")]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 3, \"good_steps\": 0, \"skipped_steps\": 0}",
        NoScale
    )]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 0, \"good_steps\": 0, \"skipped_steps\": 0}",
        NoScale
    )]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 0.5, \"good_steps\": 0, \"skipped_steps\": 0}",
        NoScale
    )]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 3.4028236692093846e38, \"good_steps\": 0, \"skipped_steps\": 0}",
        NoScale
    )]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 1e400, \"good_steps\": 0, \"skipped_steps\": 0}",
        NoScale
    )]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 2, \"good_steps\": -1, \"skipped_steps\": 0}",
        "it is not what was written (its loss_scaler counts steps that there were not)"
    )]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 2, \"good_steps\": 0, \"skipped_steps\": 11}",
        "it is not what was written (its loss_scaler counts steps that there were not)"
    )]
    [InlineData(
        "\"loss_scaler\": null",
        "\"loss_scaler\": {\"scale\": 2}",
        "it is not what was written (JSON deserialization for type 'LongNet)"
    )]
    [InlineData("\"format_version\": 3", "\"format_version\": 3e0", "its \"format_version\" is no whole number")]
    [InlineData("\"format_version\": 3", "\"format_versions\": 3", "its \"format_version\" is no whole number")]
    [InlineData(
        "\"seed\": 1,",
        "\"seed\": 1, \"seed\": 1,",
        "it is not what was written (Duplicate property 'seed' encountered during deserialization)"
    )]
    public void Verify_StateThatLies_SaysHow(string text, string lie, string problem)
    {
        string saved = Save(10),
            path = Path.Combine(saved, "state.json");
        Assert.Contains(text, File.ReadAllText(path), StringComparison.Ordinal);
        SavedCheckpoint.Rewrite(path, state => state.Replace(text, lie, StringComparison.Ordinal));
        Assert.Equal(
            $"The checkpoint {saved} is damaged: state.json: {problem}. Resume from another one: --resume "
                + "auto takes the newest that is whole.",
            Assert.Throws<DamagedCheckpointException>(() => CheckpointStore.Verify(saved)).Message
        );
    }

    [Fact]
    public void Read_OtherVersions_SaysWhichProgramReadsThem()
    {
        string saved = Save(10),
            path = Path.Combine(saved, "state.json");
        File.WriteAllText(path, """{"format":"longnet-checkpoint","format_version":99}""");
        Assert.Equal(
            $"{path} has format version 99, and this program reads 3: use the newer longnet that wrote it.",
            Assert.Throws<UserException>(() => CheckpointManifest.Read(saved)).Message
        );
        File.Move(path, Path.Combine(saved, "manifest.json"));
        Assert.Equal(
            $"{saved} is of a format before version 3, which this program no longer reads: use the longnet "
                + "that wrote it.",
            Assert.Throws<UserException>(() => CheckpointManifest.Read(saved)).Message
        );
        Assert.Equal(
            $"{folder.Path} is no checkpoint: it has no state.json. Name a folder such as "
                + "runs/NAME/checkpoints/step-00000100.",
            Assert.Throws<UserException>(() => CheckpointManifest.Read(folder.Path)).Message
        );
    }

    [Fact]
    public void OptimizerReader_OfThreeShards_PutsSlicesWhereTheyBelong()
    {
        string saved = SaveInShards();
        CheckpointManifest manifest = CheckpointStore.Verify(saved);
        using OptimizerReader reader = OptimizerReader.Open(
            saved,
            manifest,
            [("step", []), ("exp_avg.a", [2, 4]), ("exp_avg.b", [3])]
        );
        Tensor a = zeros(2, 4),
            b = zeros(3),
            step = zeros([]);
        reader.ReadInto("exp_avg.a", a);
        reader.ReadInto("exp_avg.b", b);
        reader.ReadInto("step", step);
        Assert.Equal([0, 1, 2, 3, 4, 5, 6, 7], a.data<float>().ToArray());
        Assert.Equal([10, 11, 12], b.data<float>().ToArray());
        Assert.Equal(10f, step.item<float>());

        const string GiveKeys =
            "Give the model.* keys that the checkpoint was made with (longnet checkpoint inspect shows them).";
        Assert.Equal(
            $"The optimizer state of {saved} belongs to another model: its shards do not make up the 9 "
                + $"elements of this model's exp_avg.a. {GiveKeys}",
            Assert
                .Throws<UserException>(() =>
                    OptimizerReader.Open(saved, manifest, [("step", []), ("exp_avg.a", [9]), ("exp_avg.b", [3])])
                )
                .Message
        );
        Assert.Equal(
            $"The optimizer state of {saved} belongs to another model: it lacks exp_avg.c and this model "
                + $"has no exp_avg.b. {GiveKeys}",
            Assert
                .Throws<UserException>(() =>
                    OptimizerReader.Open(saved, manifest, [("step", []), ("exp_avg.a", [8]), ("exp_avg.c", [3])])
                )
                .Message
        );
    }

    [Fact]
    public void ReadInto_AnotherModel_NamesTheDifference()
    {
        string path = Path.Combine(Save(10), "model.safetensors");
        const string GiveKeys =
            "Give the model.* keys that the checkpoint was made with (longnet checkpoint inspect shows them).";
        Assert.Equal(
            $"{path} belongs to another model: its weight is [2, 3], and this model's is [3, 2]. {GiveKeys}",
            Assert.Throws<UserException>(() => CheckpointStore.ReadInto(path, [("weight", zeros(3, 2))])).Message
        );
        Assert.Equal(
            $"{path} belongs to another model: it lacks a and 1 more and this model has no weight. {GiveKeys}",
            Assert
                .Throws<UserException>(() => CheckpointStore.ReadInto(path, [("a", zeros(1)), ("b", zeros(1))]))
                .Message
        );
    }

    [Fact]
    public void FindStart_NeverWritesOverARun()
    {
        var run = new RunDirectory(folder.Path);
        Assert.Null(run.FindStart("none"));
        Assert.Null(run.FindStart("auto"));
        Assert.Equal(
            $"--resume {folder["elsewhere"]}: there is no checkpoint. Give auto, none, a folder such as "
                + "runs/NAME/checkpoints/step-00000100, or a run's folder.",
            Assert.Throws<UserException>(() => run.FindStart(folder["elsewhere"])).Message
        );

        string first = Save(10),
            last = Save(20);
        foreach (
            string resume in new[]
            {
                "auto",
                folder.Path,
                folder["checkpoints"],
                folder["checkpoints/LATEST"],
                last,
                last + "/",
            }
        )
            Assert.Equal(last, run.FindStart(resume)!.Checkpoint);
        Assert.Equal(
            $"{folder.Path} already has a checkpoint of step 20: add --resume auto to go on from it, or "
                + "--output DIR to start another run.",
            Assert.Throws<UserException>(() => run.FindStart("none")).Message
        );
        Assert.Equal(
            $"{folder.Path} already has a checkpoint of step 20, which resuming from {first} (step 10) "
                + "would write over: choose another --output, or remove the later checkpoints.",
            Assert.Throws<UserException>(() => run.FindStart(first)).Message
        );
        Assert.Contains(
            "is already there",
            Assert.Throws<AgreedUserException>(() => Save(20)).Message,
            StringComparison.Ordinal
        );

        // Branching off into a folder of its own is what --resume PATH is for.
        Assert.Equal(first, new RunDirectory(folder["other"]).FindStart(first)!.Checkpoint);
    }

    [Fact]
    public void FindStart_AutoWithDamagedCheckpoints_TakesTheNewestWholeOne()
    {
        var run = new RunDirectory(folder.Path);
        Save(10);
        File.Delete(Path.Combine(Save(20), "model.safetensors"));
        File.Delete(Path.Combine(Save(30), "state.json"));
        StartingPoint start = run.FindStart("auto")!;
        Assert.Equal((Store.PathOf(10), 10), (start.Checkpoint, start.Manifest.Step));
        Assert.Equal(
            [
                "warning: the checkpoint of step 30 is damaged (state.json: it is missing) and now called "
                    + "step-00000030.damaged: going on from step-00000010",
                "warning: the checkpoint of step 20 is damaged (model.safetensors: it is missing) and now "
                    + "called step-00000020.damaged: going on from step-00000010",
            ],
            start.Notes
        );
        Assert.Equal([10], Store.Steps());

        // The steps are free to be written again, and to be damaged again.
        File.Delete(Path.Combine(Save(20), "model.safetensors"));
        Assert.EndsWith(
            "now called step-00000020.damaged-2: going on from step-00000010",
            Assert.Single(run.FindStart("auto")!.Notes),
            StringComparison.Ordinal
        );

        // A newer program's is not damaged, and nothing goes back behind it in silence.
        File.WriteAllText(
            Path.Combine(Save(40), "state.json"),
            """{"format":"longnet-checkpoint","format_version":99}"""
        );
        Assert.EndsWith(
            "use the newer longnet that wrote it.",
            Assert.Throws<UserException>(() => run.FindStart("auto")).Message,
            StringComparison.Ordinal
        );
        Directory.Delete(Store.PathOf(40), recursive: true);

        // Another checkpoint under this name.
        Directory.Move(Store.PathOf(10), Store.PathOf(11));
        File.WriteAllText(Path.Combine(Save(12), "state.json"), "{");
        string message = Assert.Throws<UserException>(() => run.FindStart("auto")).Message;
        Assert.StartsWith(
            $"No checkpoint in {folder["checkpoints"]} is whole: step-00000012: state.json: it is not what "
                + "was written (",
            message,
            StringComparison.Ordinal
        );
        Assert.EndsWith(
            "; step-00000011: state.json: it is of step 10. Start from another run's with --resume PATH, "
                + "or start anew with another --output.",
            message,
            StringComparison.Ordinal
        );
        Assert.Equal([11, 12], Store.Steps());
    }

    // a is 0 … 7 in three slices, b is 10 … 12 in two.
    private string SaveInShards()
    {
        CheckpointManifest manifest = SavedCheckpoint.Manifest(10);
        var partial = new PartialCheckpoint(folder["checkpoints"], CheckpointStore.NameOf(10), FileOperations.Real);
        partial.Create(0);
        StateSlice[][] shards =
        [
            [new("exp_avg.a", 0, tensor(new[] { 0f, 1, 2 })), new("step", null, tensor(10f))],
            [new("exp_avg.a", 3, tensor(new[] { 3f, 4, 5 })), new("exp_avg.b", 0, tensor(new[] { 10f }))],
            [new("exp_avg.b", 1, tensor(new[] { 11f, 12 })), new("exp_avg.a", 6, tensor(new[] { 6f, 7 }))],
        ];
        IEnumerable<CheckpointFile> files = shards.Select(
            (slices, rank) =>
                partial.WriteTensors(
                    OptimizerShard.FileName(rank, shards.Length),
                    slices.Select(slice => (slice.Name, slice.Value)),
                    OptimizerShard.Metadata(slices)
                )
        );
        return partial.Complete(
            manifest with
            {
                OptimizerShards = shards.Length,
                Files = [partial.WriteTensors("model.safetensors", [("weight", ones(1))]), .. files],
            }
        );
    }

    private string Save(long step) => SavedCheckpoint.Save(Store, SavedCheckpoint.Part(step))!;
}
