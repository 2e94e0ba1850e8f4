using LongNet.Core;
using LongNet.Distributed;
using LongNet.TestKit;
using LongNet.Trainer.Checkpoints;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Checkpoints;

public sealed class CheckpointStoreTests : IDisposable
{
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
        string saved = Store.Save(Manifest(100), model, [("step", tensor(100f))], "seed: 1\n");
        Assert.Equal(folder["checkpoints/step-00000100"], saved);
        Assert.Equal("step-00000100\n", File.ReadAllText(folder["checkpoints/LATEST"]));
        Assert.Equal(saved, Store.Latest());
        Assert.Equal([100], Store.Steps());

        CheckpointManifest manifest = CheckpointStore.Verify(saved);
        Assert.Equal(Manifest(100) with { Files = manifest.Files }, manifest);
        Assert.Equal(["model.safetensors", "optimizer.safetensors", "config.yaml"], manifest.Files.Select(file => file.Name));
        Assert.Equal("seed: 1\n", File.ReadAllText(Path.Combine(saved, "config.yaml")));

        var read = model.Select(entry => (entry.Item1, zeros_like(entry.Item2))).ToArray();
        CheckpointStore.ReadInto(Path.Combine(saved, "model.safetensors"), read);
        for (int p = 0; p < model.Length; p++)
            Assert.True(read[p].Item2.eq(model[p].Item2).all().item<bool>());
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
    public void Save_AfterAStopInTheMiddleOfASave_CleansUp()
    {
        Save(10);
        // What a killed run leaves: a partial folder, or a whole one that LATEST does not name yet.
        folder.Write("checkpoints/.step-00000020.partial/model.safetensors", "half");
        Assert.Equal([10], Store.Steps());
        Assert.Equal(folder["checkpoints/step-00000010"], Store.Latest());
        Save(20);
        CheckpointStore.Verify(folder["checkpoints/step-00000020"]);
        File.WriteAllText(folder["checkpoints/LATEST"], "step-00000010\n");
        Assert.Equal(folder["checkpoints/step-00000020"], new RunDirectory(folder.Path).StartingPoint("auto"));
        Assert.Equal(
            ["LATEST", "step-00000010", "step-00000020"],
            Directory.GetFileSystemEntries(folder["checkpoints"]).Select(Path.GetFileName).Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Save_WhereTheDiskRefuses_TellsAndLeavesOlderOnes()
    {
        Save(10);
        // A file where the folder of the next should go.
        folder.Write("checkpoints/.step-00000020.partial", "in the way");
        string message = Assert.Throws<UserException>(() => Save(20)).Message;
        Assert.StartsWith($"The checkpoint of step 20 cannot be written to {folder["checkpoints"]}: ", message, StringComparison.Ordinal);
        Assert.EndsWith("Older checkpoints are untouched: free space or mend permissions, then go on with --resume auto.", message, StringComparison.Ordinal);
        CheckpointStore.Verify(Store.Latest()!);
    }

    [Fact]
    public void Latest_PointerToNothing_SaysWhatToDo()
    {
        Save(10);
        File.WriteAllText(folder["checkpoints/LATEST"], "step-00000030\n");
        Assert.Equal(
            $"{folder["checkpoints/LATEST"]} names \"step-00000030\", which is no checkpoint there. " +
            "Write one of the names step-00000010 into it, or pass its folder with --resume.",
            Assert.Throws<UserException>(() => Store.Latest()).Message);
        File.WriteAllText(folder["checkpoints/LATEST"], "../../elsewhere\n");
        Assert.Throws<UserException>(() => Store.Latest());
        File.Delete(folder["checkpoints/LATEST"]);
        Assert.Equal(folder["checkpoints/step-00000010"], Store.Latest());
    }

    [Theory]
    [InlineData("model.safetensors", "missing", "model.safetensors: it is missing")]
    [InlineData("optimizer.safetensors", "shorter", "optimizer.safetensors: it has 71 bytes, and 72 were written")]
    [InlineData("model.safetensors", "changed", "model.safetensors: its content is not what was written (SHA-256 differs)")]
    [InlineData("config.yaml", "changed", "config.yaml: its content is not what was written (SHA-256 differs)")]
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
            $"The checkpoint {saved} is damaged: {problem}. Resume from another one with --resume PATH.",
            Assert.Throws<UserException>(() => CheckpointStore.Verify(saved)).Message);
    }

    [Theory]
    [InlineData("{", "is damaged (")]
    [InlineData("[]", "is not a manifest of this program: its \"format\" is not \"longnet-checkpoint\". Resume from a checkpoint that longnet wrote.")]
    [InlineData("{\"format\":\"pt\"}", "is not a manifest of this program: its \"format\" is not \"longnet-checkpoint\". Resume from a checkpoint that longnet wrote.")]
    [InlineData("{\"format\":\"longnet-checkpoint\",\"format_version\":99}", "has format version 99, and this program reads up to 2: use the newer longnet that wrote it.")]
    [InlineData("{\"format\":\"longnet-checkpoint\",\"format_version\":1}", "is damaged (")]
    [InlineData("{\"format\":\"longnet-checkpoint\",\"format_version\":1,\"software\":\"\",\"step\":-1,\"sequences_consumed\":1,\"tokens_consumed\":1,\"seed\":1,\"mesh\":{\"data\":1,\"sequence\":1},\"threads_per_rank\":1,\"micro_batch_size\":1,\"corpus\":\"\",\"files\":[]}", "is damaged (it has a count below zero")]
    [InlineData("{\"format\":\"longnet-checkpoint\",\"format_version\":1,\"software\":\"\",\"step\":1,\"sequences_consumed\":1,\"tokens_consumed\":1,\"seed\":1,\"mesh\":{\"data\":1,\"sequence\":1},\"threads_per_rank\":1,\"micro_batch_size\":1,\"corpus\":\"\",\"files\":[null]}", "is damaged (it has a count below zero")]
    [InlineData("{\"format\":\"longnet-checkpoint\",\"format_version\":2,\"software\":\"\",\"step\":1,\"sequences_consumed\":1,\"tokens_consumed\":1,\"seed\":1,\"mesh\":{\"data\":1,\"sequence\":1},\"threads_per_rank\":1,\"micro_batch_size\":1,\"corpus\":\"\",\"optimizer_shards\":0,\"files\":[]}", "is damaged (it has a count below zero")]
    [InlineData("{\"format\":\"longnet-checkpoint\",\"format_version\":1,\"software\":null,\"step\":1,\"sequences_consumed\":1,\"tokens_consumed\":1,\"seed\":1,\"mesh\":{\"data\":1,\"sequence\":1},\"corpus\":\"\",\"files\":[]}", "is damaged (")]
    public void Read_ForeignOrDamagedManifest_SaysWhich(string json, string problem)
    {
        string path = folder.Write("some/manifest.json", json);
        string message = Assert.Throws<UserException>(() => CheckpointManifest.Read(folder["some"])).Message;
        Assert.StartsWith($"{path} {problem}", message, StringComparison.Ordinal);
    }

    [Fact]
    public void Read_NoManifest_SaysWhatACheckpointIs() => Assert.Equal(
        $"{folder.Path} is no checkpoint: it has no manifest.json. Name a folder such as runs/NAME/checkpoints/step-00000100.",
        Assert.Throws<UserException>(() => CheckpointManifest.Read(folder.Path)).Message);

    [Fact]
    public void SaveSharded_ThenVerifyAndRead_GivesBackEveryBit()
    {
        using ProcessGroup alone = ProcessGroup.Solo("alone");
        Tensor moment = randn(12);
        string saved = Store.SaveSharded(
            alone, Sharded(10), [("weight", randn(3, 4))], [("step", tensor(10f))], [new StateSlice("exp_avg.weight", 0, moment)], "seed: 1\n");
        Assert.Equal(saved, Store.Latest());
        CheckpointManifest manifest = CheckpointStore.Verify(saved);
        Assert.Equal(1, manifest.OptimizerShards);
        Assert.Equal(["model.safetensors", "optimizer-00000-of-00001.safetensors", "config.yaml"], manifest.Files.Select(file => file.Name));
        using OptimizerReader reader = OptimizerReader.Open(saved, manifest, [("step", []), ("exp_avg.weight", [3, 4])]);
        Tensor read = zeros(3, 4), step = zeros([]);
        reader.ReadInto("exp_avg.weight", read);
        reader.ReadInto("step", step);
        Assert.True(read.view(-1).eq(moment).all().item<bool>());
        Assert.Equal(10f, step.item<float>());
    }

    [Fact]
    public void Verify_ShardThatIsNotListed_IsDamage()
    {
        string saved = SaveInShards();
        CheckpointManifest manifest = CheckpointStore.Verify(saved);
        File.WriteAllText(Path.Combine(saved, "manifest.json"), (manifest with { Files = [.. manifest.Files.Where(file => file.Name != OptimizerShard.FileName(1, 3))] }).ToJson());
        Assert.Equal(
            $"The checkpoint {saved} is damaged: optimizer-00001-of-00003.safetensors: the manifest does not list it. Resume from another one with --resume PATH.",
            Assert.Throws<UserException>(() => CheckpointStore.Verify(saved)).Message);
    }

    [Fact]
    public void OptimizerReader_OfThreeShards_PutsSlicesWhereTheyBelong()
    {
        string saved = SaveInShards();
        CheckpointManifest manifest = CheckpointStore.Verify(saved);
        using OptimizerReader reader = OptimizerReader.Open(saved, manifest, [("step", []), ("exp_avg.a", [2, 4]), ("exp_avg.b", [3])]);
        Tensor a = zeros(2, 4), b = zeros(3);
        reader.ReadInto("exp_avg.a", a);
        reader.ReadInto("exp_avg.b", b);
        Assert.Equal([0, 1, 2, 3, 4, 5, 6, 7], a.data<float>().ToArray());
        Assert.Equal([10, 11, 12], b.data<float>().ToArray());

        const string GiveKeys = "Give the model.* keys that the checkpoint was made with (its config.yaml has them).";
        Assert.Equal(
            $"The optimizer state of {saved} belongs to another model: its shards do not make up the 9 elements of this model's exp_avg.a. {GiveKeys}",
            Assert.Throws<UserException>(() => OptimizerReader.Open(saved, manifest, [("step", []), ("exp_avg.a", [9]), ("exp_avg.b", [3])])).Message);
        Assert.Equal(
            $"The optimizer state of {saved} belongs to another model: it lacks exp_avg.c and this model has no exp_avg.b. {GiveKeys}",
            Assert.Throws<UserException>(() => OptimizerReader.Open(saved, manifest, [("step", []), ("exp_avg.a", [8]), ("exp_avg.c", [3])])).Message);
    }

    [Fact]
    public void ReadInto_AnotherModel_NamesTheDifference()
    {
        string path = Path.Combine(Save(10), "model.safetensors");
        Assert.Equal(
            $"{path} belongs to another model: its weight is [2, 3], and this model's is [3, 2]. " +
            "Give the model.* keys that the checkpoint was made with (its config.yaml has them).",
            Assert.Throws<UserException>(() => CheckpointStore.ReadInto(path, [("weight", zeros(3, 2))])).Message);
        Assert.Equal(
            $"{path} belongs to another model: it lacks a and 1 more and this model has no weight. " +
            "Give the model.* keys that the checkpoint was made with (its config.yaml has them).",
            Assert.Throws<UserException>(() => CheckpointStore.ReadInto(path, [("a", zeros(1)), ("b", zeros(1))])).Message);
    }

    [Fact]
    public void StartingPoint_NeverWritesOverARun()
    {
        var run = new RunDirectory(folder.Path);
        Assert.Null(run.StartingPoint("none"));
        Assert.Null(run.StartingPoint("auto"));
        Assert.Equal(
            $"--resume {folder["elsewhere"]}: there is no checkpoint. Give auto, none, a folder such as runs/NAME/checkpoints/step-00000100, or a run's folder.",
            Assert.Throws<UserException>(() => run.StartingPoint(folder["elsewhere"])).Message);

        Save(10);
        string last = Save(20);
        Assert.Equal(last, run.StartingPoint("auto"));
        Assert.Equal(last, run.StartingPoint(folder.Path));
        Assert.Equal(last, run.StartingPoint(last));
        Assert.Equal(
            $"{folder.Path} already has a checkpoint of step 20: add --resume auto to go on from it, or --output DIR to start another run.",
            Assert.Throws<UserException>(() => run.StartingPoint("none")).Message);
        Assert.Equal(
            $"{folder.Path} already has a checkpoint of step 20, which resuming from {folder["checkpoints/step-00000010"]} (step 10) would write over: " +
            "choose another --output, or remove the later checkpoints.",
            Assert.Throws<UserException>(() => run.StartingPoint(folder["checkpoints/step-00000010"])).Message);

        // LATEST set back by hand: the steps after it are another's to keep.
        Save(30);
        File.WriteAllText(folder["checkpoints/LATEST"], "step-00000010\n");
        Assert.Equal(
            $"{folder["checkpoints"]} has 2 checkpoints later than the one that LATEST names, step-00000010, which going on from there would write over: " +
            $"remove them, or branch off with --resume {folder["checkpoints/step-00000010"]} and another --output.",
            Assert.Throws<UserException>(() => run.StartingPoint("auto")).Message);
        Assert.Contains("is already there", Assert.Throws<UserException>(() => Save(20)).Message, StringComparison.Ordinal);

        // Branching off into a folder of its own is what --resume PATH is for.
        Assert.Equal(folder["checkpoints/step-00000010"], new RunDirectory(folder["other"]).StartingPoint(folder["checkpoints/step-00000010"]));
    }

    [Fact]
    public void Hold_ByTwoRuns_RefusesTheSecondUntilTheFirstEnds()
    {
        var run = new RunDirectory(folder["run"]);
        using (run.Hold())
        {
            string message = Assert.Throws<UserException>(() => run.Hold().Dispose()).Message;
            Assert.StartsWith($"The run directory {folder["run"]} is in use by another run, or cannot be written (", message, StringComparison.Ordinal);
            Assert.EndsWith("): wait for it to end, or choose another --output.", message, StringComparison.Ordinal);
        }

        run.Hold().Dispose();
        Assert.Empty(Directory.GetFileSystemEntries(folder["run"]));
    }

    private static CheckpointManifest Manifest(long step) => new()
    {
        Format = CheckpointManifest.ExpectedFormat,
        FormatVersion = CheckpointManifest.UnshardedVersion,
        Software = "test",
        Step = step,
        SequencesConsumed = 4 * step,
        TokensConsumed = 512 * step,
        Seed = 1,
        Mesh = new CheckpointMesh(1, 2),
        ThreadsPerRank = 1,
        MicroBatchSize = 4,
        Corpus = "2 files",
        Files = [],
    };

    private static CheckpointManifest Sharded(long step) => Manifest(step) with { FormatVersion = CheckpointManifest.ShardedVersion };

    // a is 0 … 7 in three slices, b is 10 … 12 in two, and what one rank wrote in a single file is there in the three of three ranks.
    private string SaveInShards()
    {
        using ProcessGroup alone = ProcessGroup.Solo("alone");
        string saved = Store.SaveSharded(alone, Sharded(10), [("weight", ones(1))], [("step", tensor(10f))], [], "seed: 1\n");
        CheckpointManifest manifest = CheckpointStore.Verify(saved);
        var partial = new PartialCheckpoint(folder["."], "by hand");
        partial.Create();
        StateSlice[][] shards =
        [
            [new("exp_avg.a", 0, tensor(new[] { 0f, 1, 2 }))],
            [new("exp_avg.a", 3, tensor(new[] { 3f, 4, 5 })), new("exp_avg.b", 0, tensor(new[] { 10f }))],
            [new("exp_avg.b", 1, tensor(new[] { 11f, 12 })), new("exp_avg.a", 6, tensor(new[] { 6f, 7 }))],
        ];
        CheckpointFile[] files = [.. shards.Select((slices, rank) => partial.WriteTensors(
            OptimizerShard.FileName(rank, shards.Length),
            slices.Select(slice => (slice.Name, slice.Value)).Concat(rank == 0 ? [("step", tensor(10f))] : []),
            OptimizerShard.Metadata(slices)))];
        foreach (CheckpointFile file in files)
            File.Move(Path.Combine(partial.Path, file.Name), Path.Combine(saved, file.Name));
        File.WriteAllText(
            Path.Combine(saved, "manifest.json"),
            (manifest with { OptimizerShards = shards.Length, Files = [manifest.Files[0], .. files, manifest.Files[^1]] }).ToJson());
        return saved;
    }

    private string Save(long step) =>
        Store.Save(Manifest(step), [("weight", ones(2, 3) * step)], [("step", tensor((float)step))], $"# step {step}\n");
}
