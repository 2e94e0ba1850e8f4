using LongNet.Distributed.Collectives;
using LongNet.TestKit;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Runs;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Checkpoints;

/// <summary>
/// A run cannot be lost: whatever befalls a save at any of its operations, the newest whole checkpoint is found, older
/// ones are as they were, an error is told, and the next save is whole.
/// </summary>
public class SaveFaultTests
{
    // A file of the larger takes three writes.
    private const int Small = 6,
        Large = 9_000_000 / sizeof(float);

    private static readonly Case First = new([], 10, CheckpointRetention.All),
        Best = new([10, 20], 30, new CheckpointRetention(1, 0)),
        Shared = new([10], 20, CheckpointRetention.All, Ranks: 2);

    [Fact]
    public void SaveOfANewRun_WithAFaultAtAnyOperation_LosesNothing() => StrikeEverywhere(First);

    [Fact]
    public void SaveThatBecomesTheBestAndLetsOthersGo_WithAFaultAtAnyOperation_LosesNothing() => StrikeEverywhere(Best);

    [Fact]
    public void SaveOfTwoRanks_WithAFaultAtAnyOperation_LosesNothing() => StrikeEverywhere(Shared);

    [Fact]
    public void SaveOfALargeModel_WithAFaultAtAnyWriteOfIt_LosesNothing() =>
        StrikeEverywhere(First with { Weights = Large }, point =>
            point.StartsWith("write checkpoints/.step-00000010.partial/model.safetensors #", StringComparison.Ordinal)
        );

    [Theory]
    [Trait("Category", "slow")]
    [InlineData(1)]
    [InlineData(2)]
    public void SaveOfALargeState_WithAFaultAtAnyOperation_LosesNothing(int ranks) =>
        StrikeEverywhere(Best with { Weights = Large, Moments = ranks * Large, Ranks = ranks }, point =>
            point.Contains(".partial", StringComparison.Ordinal)
        );

    private static void StrikeEverywhere(Case save, Func<string, bool>? chosen = null)
    {
        using var before = new TemporaryFolder();
        foreach (long step in save.Before)
            Save(before.Path, Parts(step, save), CheckpointRetention.All, new FaultyFiles(before.Path), required: true);

        string[] points = Record(before.Path, save);
        string partial = $"checkpoints/.{CheckpointStore.NameOf(save.Step)}.partial";
        Assert.Contains($"rename {partial} #1", points);
        Assert.Contains($"write {partial}/model.safetensors #{(save.Weights == Small ? 1 : 3)}", points);
        Assert.Contains("rename checkpoints/LATEST.partial #1", points);
        Assert.Equal(
            save.Retention.KeepLast > 0,
            points.Contains("delete folder checkpoints/.step-00000010.expired #1")
        );
        Assert.Equal(save.Ranks == 2, points.Contains($"sync {partial}/optimizer-00001-of-00002.safetensors #1"));
        foreach (string point in points.Where(chosen ?? (_ => true)))
        {
            foreach (
                Fault fault in Enum.GetValues<Fault>()
                    .Where(fault =>
                        fault is not (Fault.ShortWrite or Fault.StopWithin)
                        || point.StartsWith("write ", StringComparison.Ordinal)
                    )
            )
                Strike(before.Path, save, point, fault);
        }
    }

    [Fact]
    public void Save_RequiredWhereAnyOperationFails_EndsTheRun()
    {
        Case save = Best;
        using var before = new TemporaryFolder();
        foreach (long step in save.Before)
            Save(before.Path, Parts(step, save), CheckpointRetention.All, new FaultyFiles(before.Path), required: true);
        string[] points = Record(before.Path, save);
        // From there on it is whole: that LATEST and BEST do not name it, or that an older one cannot be deleted, is
        // told, and no reason to end.
        int whole = Array.FindIndex(points, point => point.Contains("LATEST", StringComparison.Ordinal));
        int named = Array.FindIndex(points, point =>
            point.Contains("checkpoints/step-00000010", StringComparison.Ordinal)
        );
        Assert.InRange(whole, 10, named - 4);
        Assert.InRange(named, 20, points.Length - 2);
        for (int p = 0; p < points.Length; p++)
        {
            using var scope = NewDisposeScope();
            using var folder = new TemporaryFolder();
            Copy(before.Path, folder.Path);
            var files = new FaultyFiles(folder.Path);
            files.Strike(points[p], Fault.Refuse);
            string Saved() => Save(folder.Path, Parts(save.Step, save), save.Retention, files, required: true)!;
            if (p < whole)
            {
                string message = Assert.Throws<AgreedUserException>(Saved).Message;
                Assert.StartsWith(
                    $"The checkpoint of step 30 cannot be written to {folder["checkpoints"]}: No space left "
                        + $"on device : '{folder.Path}",
                    message,
                    StringComparison.Ordinal
                );
                Assert.EndsWith(
                    "'. Older checkpoints are untouched. It is required (checkpoint.required): free space "
                        + "or mend permissions, then go on with --resume auto.",
                    message,
                    StringComparison.Ordinal
                );
            }
            else if (p < named)
            {
                Assert.StartsWith(
                    "LATEST and BEST do not tell of the checkpoint of step 30, which is whole: No space "
                        + $"left on device : '{folder.Path}",
                    Saved(),
                    StringComparison.Ordinal
                );
            }
            else
            {
                Assert.Matches(
                    "^The checkpoint of step [12]0, which is no longer to be kept, cannot be removed: No "
                        + "space left on device : '",
                    Saved()
                );
            }

            Assert.True(files.HasStruck, points[p]);
        }
    }

    private static string[] Record(string before, Case save)
    {
        using var folder = new TemporaryFolder();
        Copy(before, folder.Path);
        var files = new FaultyFiles(folder.Path);
        Assert.Null(Save(folder.Path, Parts(save.Step, save), save.Retention, files, required: true));
        Assert.Equal(save.Step, new RunDirectory(folder.Path).FindStart("auto")!.Manifest.Step);
        return [.. files.Points];
    }

    private static void Strike(string before, Case save, string point, Fault fault)
    {
        using var scope = NewDisposeScope();
        using var folder = new TemporaryFolder();
        Copy(before, folder.Path);
        try
        {
            var files = new FaultyFiles(folder.Path);
            files.Strike(point, fault);
            string? told = Save(folder.Path, Parts(save.Step, save), save.Retention, files, required: false);
            Assert.True(files.HasStruck, "the fault did not strike");
            Assert.Equal(fault is Fault.Refuse or Fault.ShortWrite, told is not null);
            if (told is not null)
                Assert.Contains($"No space left on device : '{folder.Path}", told, StringComparison.Ordinal);
            bool renamed = files.Has($"rename checkpoints/.{CheckpointStore.NameOf(save.Step)}.partial #1");
            AssertWhole(folder.Path, save, renamed && (fault != Fault.PowerCut || IsNameSynced(files, save)));
            // What could not be deleted waits for the next run.
            if (
                told is null
                || Directory.GetDirectories(folder.Path, "*.expired", SearchOption.AllDirectories).Length > 0
            )
                new RunDirectory(folder.Path).RemoveLeftovers();
            AssertGoesOn(folder.Path, save);
        }
        catch (Exception error)
        {
            throw new InvalidOperationException($"{fault} at \"{point}\": {error.Message}", error);
        }
    }

    // A power cut takes the name away until its folder is synced.
    private static bool IsNameSynced(FaultyFiles files, Case save)
    {
        string[] points = [.. files.Points];
        int renamed = Array.IndexOf(points, $"rename checkpoints/.{CheckpointStore.NameOf(save.Step)}.partial #1");
        return points[renamed..].Any(point => point.StartsWith("sync folder checkpoints #", StringComparison.Ordinal));
    }

    // As the next process finds it.
    private static void AssertWhole(string run, Case save, bool isThere)
    {
        var directory = new RunDirectory(run);
        StartingPoint? start = directory.FindStart("auto");
        long[] expected = isThere ? [.. save.Before, save.Step] : save.Before;
        Assert.Equal(expected.Length == 0 ? null : expected[^1], start?.Manifest.Step);
        Assert.Empty(start?.Notes ?? []);
        CheckpointStore store = directory.Checkpoints();
        IReadOnlyList<long> steps = store.Steps();
        Assert.Empty(steps.Except(expected));
        // What retention lets go is there until the new one is whole.
        if (!isThere)
            Assert.Equal(expected, steps);
        Assert.Empty(expected.Except(save.Retention.Expired(expected, save.Step)).Except(steps));
        foreach (long step in steps)
            AssertHolds(store.PathOf(step), step, save);
        foreach (
            string pointer in new[] { CheckpointStore.LatestFile, CheckpointStore.BestFile }
                .Select(file => Path.Combine(store.Folder, file))
                .Where(File.Exists)
        )
            CheckpointStore.Verify(CheckpointStore.Find(pointer)!);
    }

    private static void AssertGoesOn(string run, Case save)
    {
        var directory = new RunDirectory(run);
        CheckpointStore store = directory.Checkpoints();
        if (!store.Steps().Contains(save.Step))
            Assert.Null(Save(run, Parts(save.Step, save), save.Retention, new FaultyFiles(run), required: true));
        long next = save.Step + 10;
        Assert.Null(Save(run, Parts(next, save), save.Retention, new FaultyFiles(run), required: true));
        Assert.Equal(next, directory.FindStart("auto")!.Manifest.Step);
        // Every later one has a lower loss.
        long[] all = [.. save.Before, save.Step, next],
            kept = [.. all.Except(save.Retention.Expired(all, next))];
        Assert.Equal(kept, store.Steps());
        foreach (long step in kept)
            AssertHolds(store.PathOf(step), step, save);
        Assert.Equal(store.PathOf(next), store.Latest());
        Assert.Equal(store.PathOf(next), CheckpointStore.Find(Path.Combine(store.Folder, CheckpointStore.BestFile)));
        Assert.Equal(
            ["BEST", "LATEST", .. kept.Select(CheckpointStore.NameOf)],
            Directory.GetFileSystemEntries(store.Folder).Select(Path.GetFileName).Order(StringComparer.Ordinal)
        );
    }

    private static void AssertHolds(string checkpoint, long step, Case save)
    {
        using var scope = NewDisposeScope();
        CheckpointManifest manifest = CheckpointStore.Verify(checkpoint);
        Assert.Equal(step, manifest.Step);
        Tensor weight = zeros(save.Weights),
            moment = zeros(save.Moments),
            count = zeros([]);
        CheckpointStore.ReadInto(Path.Combine(checkpoint, CheckpointStore.ModelFile), [("weight", weight)]);
        using OptimizerReader reader = OptimizerReader.Open(
            checkpoint,
            manifest,
            [("step", []), ("exp_avg.weight", [save.Moments])]
        );
        reader.ReadInto("exp_avg.weight", moment);
        reader.ReadInto("step", count);
        Assert.True(weight.eq(Numbers(step, save.Weights)).all().item<bool>(), "the model's numbers");
        Assert.True(moment.eq(Numbers(-step, save.Moments)).all().item<bool>(), "the optimizer's numbers");
        Assert.Equal(step, count.item<float>());
    }

    /// <summary>Saves as a run does, on one rank or on as many as there are parts.</summary>
    /// <returns>The error or the warning that was told; null for none, and where the process was gone.</returns>
    private static string? Save(
        string run,
        CheckpointPart[] parts,
        CheckpointRetention retention,
        FaultyFiles files,
        bool required
    )
    {
        CheckpointStore store = new RunDirectory(run).Checkpoints();
        return parts is [var only]
            ? SaveAlone(store, only, retention, files, required)
            : SaveParts(store, parts, retention, files);
    }

    private static string? SaveAlone(
        CheckpointStore store,
        CheckpointPart part,
        CheckpointRetention retention,
        FaultyFiles files,
        bool required
    )
    {
        using ProcessGroup alone = ProcessGroup.Solo("alone");
        var events = new RecordedEvents();
        using var saver = new CheckpointSaver(
            store,
            alone,
            new CheckpointOptions(Asynchronous: false, required, retention),
            events,
            files
        );
        try
        {
            saver.Start(part);
        }
        catch (StoppedException)
        {
            Assert.Empty(events.Failures);
            Assert.Empty(events.Warnings);
            return null;
        }

        Assert.Equal(saver.Failure, events.Failures.SingleOrDefault());
        return events.Failures.Concat(events.Warnings).SingleOrDefault();
    }

    // The ranks of a shared checkpoint, one after another; the first makes the whole of it.
    private static string? SaveParts(
        CheckpointStore store,
        CheckpointPart[] parts,
        CheckpointRetention retention,
        FaultyFiles files
    )
    {
        var writer = new CheckpointWriter(store, retention, files, ICheckpointEvents.None);
        try
        {
            CheckpointFile[][] written = [.. parts.Reverse().Select(writer.WritePart).Reverse()];
            return writer
                .Commit(parts[0], [.. written.SelectMany(file => file)], System.Diagnostics.Stopwatch.StartNew())
                .Warning;
        }
        catch (StoppedException)
        {
            return null;
        }
        catch (IOException error)
        {
            writer.Abandon(parts[0]);
            return error.Message;
        }
    }

    // Every later checkpoint has a lower validation loss.
    private static CheckpointPart[] Parts(long step, Case save)
    {
        CheckpointPart part = SavedCheckpoint.Part(step, 1.0 / step);
        Tensor weight = Numbers(step, save.Weights),
            moment = Numbers(-step, save.Moments);
        StateSlice count = new("step", null, tensor((float)step));
        if (save.Ranks == 1)
            return
            [
                part with
                {
                    Model = [("weight", weight)],
                    Optimizer = [count, new("exp_avg.weight", null, moment)],
                },
            ];
        int half = save.Moments / 2;
        CheckpointManifest manifest = part.Manifest with { OptimizerShards = 2, OptimizerSharded = true };
        return
        [
            part with
            {
                Manifest = manifest,
                Model = [("weight", weight)],
                Optimizer = [count, new("exp_avg.weight", 0, moment[..half])],
            },
            part with
            {
                Manifest = manifest,
                Model = [],
                Optimizer = [new("exp_avg.weight", half, moment[half..])],
                Shard = 1,
            },
        ];
    }

    private static Tensor Numbers(long seed, int count)
    {
        using var generator = new Generator((ulong)(1000 + seed), CPU);
        return randn(count, generator: generator);
    }

    private static void Copy(string from, string to)
    {
        foreach (string folder in Directory.GetDirectories(from, "*", SearchOption.AllDirectories))
            Directory.CreateDirectory(Path.Combine(to, Path.GetRelativePath(from, folder)));
        foreach (string file in Directory.GetFiles(from, "*", SearchOption.AllDirectories))
            File.Copy(file, Path.Combine(to, Path.GetRelativePath(from, file)));
    }

    /// <param name="Before">Steps of the checkpoints that there are.</param>
    /// <param name="Step">Of the save.</param>
    /// <param name="Retention">What is kept.</param>
    /// <param name="Ranks">How many write.</param>
    /// <param name="Weights">Elements of the model.</param>
    /// <param name="Moments">Elements of the optimizer's state.</param>
    private sealed record Case(
        long[] Before,
        long Step,
        CheckpointRetention Retention,
        int Ranks = 1,
        int Weights = Small,
        int Moments = Small
    );
}
