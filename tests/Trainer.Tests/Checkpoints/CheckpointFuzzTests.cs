using System.Buffers.Binary;
using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using LongNet.Core;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Checkpoints.Tools;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Runs;
using LongNet.Trainer.Storage;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Checkpoints;

/// <summary>
/// Whatever lies where a checkpoint should be, it is loaded as what was written, or refused in a sentence: without
/// reading anything else, and with memory in proportion to what is there.
/// </summary>
public sealed class CheckpointFuzzTests : IDisposable
{
    // Parsing keeps 12 bytes per JSON value, of which there is one in every second byte of [1,1,1,…, in tables that
    // grow by doubling, and parses twice, for the version and for the rest; what JSON holds as it is (the
    // configuration) is copied: 2 · 4 · 6, and the text thrice.
    private const int Factor = 51;

    // Smallest tables, the serializer's stacks, and an exception with its text.
    private const int Constant = 256 << 10;

    private const long Elements = 6;

    private static readonly RunConfig Config = ConfigurationFile.Load(
        Path.Combine(Repository.Root, "configs", "quickstart.yaml"),
        []
    );

    // A case takes a millisecond; what hangs is what this ends.
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(3);

    private readonly TemporaryFolder folder = new();
    private readonly TorchSharp.DisposeScope scope = NewDisposeScope();
    private readonly string saved;
    private readonly Dictionary<string, byte[]> files;
    private readonly List<FileStream> decoys = [];

    public CheckpointFuzzTests()
    {
        Save(10);
        saved = Save(20);
        files = Directory.GetFiles(saved).ToDictionary(path => Path.GetFileName(path), File.ReadAllBytes);
        // Whoever opens one of these is told that it is in use, or waits for ever.
        foreach (string decoy in new[] { "decoy", "checkpoints/decoy" })
        {
            File.WriteAllBytes(folder[decoy], files[CheckpointStore.ModelFile]);
            decoys.Add(new FileStream(folder[decoy], FileMode.Open, FileAccess.ReadWrite, FileShare.None));
        }

        if (OperatingSystem.IsLinux())
            MakePipe(Path.Combine(saved, "pipe"));
        File.CreateSymbolicLink(Path.Combine(saved, "link"), folder["decoy"]);
    }

    private CheckpointStore Store => new(folder["checkpoints"]);

    public void Dispose()
    {
        foreach (FileStream decoy in decoys)
            decoy.Dispose();
        scope.Dispose();
        folder.Dispose();
    }

    [Fact]
    public void Load_AnyMutation_GivesWhatWasWrittenOrRefusesInASentence() => Fuzz(0, 6_000);

    [Fact]
    [Trait("Category", "slow")]
    public void Load_VeryManyMutations_GivesWhatWasWrittenOrRefusesInASentence() => Fuzz(1_000_000, 60_000);

    [Fact]
    public void Find_AnyMutationOfAPointer_GivesACheckpointOrRefusesInASentence() =>
        InTime(() =>
        {
            byte[] valid = File.ReadAllBytes(folder["checkpoints/LATEST"]);
            int found = 0;
            for (int seed = 0; seed < 2_000; seed++)
            {
                string pointer = folder[seed % 2 == 0 ? "checkpoints/LATEST" : "checkpoints/BEST"];
                var mutations = new Mutations(seed);
                File.WriteAllBytes(pointer, mutations.Bytes(valid));
                Try(mutations, () =>
                {
                    string checkpoint = CheckpointStore.Find(
                        seed % 2 == 0 && mutations.OneOf(2) ? folder.Path : pointer
                    )!;
                    Assert.Contains(checkpoint, new[] { Store.PathOf(10), Store.PathOf(20) });
                    found++;
                });
                File.WriteAllBytes(pointer, valid);
            }

            // Blanks at the end, and bytes that are again the same.
            Assert.InRange(found, 20, 400);
        });

    [Theory]
    [InlineData("../decoy")]
    [InlineData("../../decoy")]
    [InlineData("..")]
    [InlineData(".")]
    [InlineData("")]
    [InlineData("decoy\\u0000")]
    [InlineData("a/../../decoy")]
    [InlineData("a\\\\..\\\\decoy")]
    [InlineData("FOLDER/decoy")]
    public void Verify_ANameThatLeadsElsewhere_IsRefusedAndNotOpened(string name)
    {
        // With the right size and digest, so that nothing but the name is wrong.
        byte[] content = files[CheckpointStore.ModelFile];
        string written = name.Replace("FOLDER", folder.Path, StringComparison.Ordinal);
        string digest = Convert.ToHexStringLower(SHA256.HashData(content));
        string entry = $$"""{"name": "{{written}}", "bytes": {{content.Length}}, "sha256": "{{digest}}"}""";
        SavedCheckpoint.Rewrite(StateFile, text =>
            text.Replace("\"files\": [", $"\"files\": [{entry},", StringComparison.Ordinal)
        );
        InTime(() =>
            AssertDamaged("state.json", "it is not what was written (a file has no plain name or a size below zero)")
        );
    }

    [Theory]
    [InlineData("state.json")]
    [InlineData("model.safetensors")]
    [InlineData("optimizer-00001-of-00002.safetensors")]
    public void Verify_WhatIsNoFile_IsRefusedAndNotOpened(string name)
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems do not tell pipes from files.");
        string path = Path.Combine(saved, name);
        File.Delete(path);
        MakePipe(path);
        InTime(() => AssertDamaged(name, "it is no plain file"));
        InTime(() => Assert.IsType<DamagedCheckpointException>(Record.Exception(() => CheckpointSummary.Read(saved))));
        File.Delete(path);
        File.CreateSymbolicLink(path, Path.Combine(saved, "pipe"));
        InTime(() => AssertDamaged(name, "it is a symbolic link, and only files of the checkpoint's own are read"));
        File.Delete(path);
        // What is linked is just what was written.
        File.WriteAllBytes(folder["elsewhere"], files[name]);
        File.CreateSymbolicLink(path, folder["elsewhere"]);
        AssertDamaged(name, "it is a symbolic link, and only files of the checkpoint's own are read");
        Assert.Throws<DamagedCheckpointException>(() => CheckpointSummary.Read(saved));
        File.Delete(path);
        Directory.CreateDirectory(path);
        AssertDamaged(name, name == "state.json" ? "it is missing" : "it is a folder");
    }

    [Fact]
    public void Find_APointerThatIsNoFile_IsRefusedAndNotOpened()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Other systems do not tell pipes from files.");
        string latest = folder["checkpoints/LATEST"];
        File.Delete(latest);
        MakePipe(latest);
        InTime(() =>
            Assert.Equal(
                $"{latest} cannot be read: it is no plain file.",
                Assert.Throws<UserException>(() => CheckpointStore.Find(folder.Path)).Message
            )
        );
    }

    [Fact]
    public void Verify_AStateOfGigabytes_IsRefusedUnread()
    {
        // A file of which the disk holds nothing.
        using (FileStream state = new(StateFile, FileMode.Open))
            state.SetLength(3L << 30);
        long before = GC.GetAllocatedBytesForCurrentThread();
        AssertDamaged("state.json", "it has 3221225472 bytes, and at most 16777216 are ever written");
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, Constant);
    }

    [Fact]
    public void Verify_AStateOfVeryManyFiles_TakesTimeAndMemoryInProportion()
    {
        const int Count = 100_000;
        string digest = new('0', 64);
        IEnumerable<string> entries = Enumerable
            .Range(0, Count)
            .Select(shard =>
                $$"""{"name":"{{OptimizerShard.FileName(shard, Count + 1)}}","bytes":0,"sha256":"{{digest}}"}"""
            );
        SavedCheckpoint.Rewrite(StateFile, text =>
            text.Replace("\"optimizer_shards\": 2", $"\"optimizer_shards\": {Count + 1}", StringComparison.Ordinal)
                .Replace("\"files\": [", $"\"files\": [{string.Join(",", entries)},", StringComparison.Ordinal)
        );
        Assert.InRange(new FileInfo(StateFile).Length, 10 << 20, CheckpointManifest.MaxBytes);
        var clock = Stopwatch.StartNew();
        AssertDamaged("state.json", $"it does not list {OptimizerShard.FileName(Count, Count + 1)}");
        // Looking every one of so many up among all takes minutes.
        Assert.True(clock.Elapsed < TimeSpan.FromSeconds(20), $"{clock.Elapsed}");
    }

    [Theory]
    [InlineData("4,2", "0,4", true)]
    [InlineData("4,2", "0,3", false)]
    [InlineData("4,2", "0,5", false)]
    [InlineData("4,2", "4,0", false)]
    [InlineData("2,4", "4,0", true)]
    [InlineData("4,2", "-4,0", false)]
    [InlineData("4,2", "0,x", false)]
    [InlineData("4,2", "0,9223372036854775807", false)]
    [InlineData("6,6", "0,0", false)]
    [InlineData("6,0", "0,0", true)]
    [InlineData("6,0", "0,3", false)]
    [InlineData("6,0", "0,7", false)]
    [InlineData("6,0", "0,6", true)]
    [InlineData("3,2", "0,3", false)]
    [InlineData("5,2", "0,5", false)]
    public void OptimizerReader_OfSlicesThatDoNotFit_IsRefused(string lengths, string starts, bool fit)
    {
        int[] length = [.. lengths.Split(',').Select(text => int.Parse(text, CultureInfo.InvariantCulture))];
        string[] start = starts.Split(',');
        for (int shard = 0; shard < 2; shard++)
        {
            SafetensorsWriter.Write(
                Path.Combine(saved, OptimizerShard.FileName(shard, 2)),
                [
                    new("exp_avg.weight", arange(length[shard], dtype: ScalarType.Float32)),
                    .. shard > 0 ? [] : new[] { KeyValuePair.Create("step", tensor(1f)) },
                ],
                new Dictionary<string, string> { ["exp_avg.weight"] = start[shard] }
            );
        }

        CheckpointManifest manifest = CheckpointManifest.Read(saved);
        if (fit)
        {
            OpenOptimizer(manifest).Dispose();
            return;
        }

        Assert.Equal(
            $"The optimizer state of {saved} belongs to another model: its shards do not make up the 6 "
                + "elements of this model's exp_avg.weight. "
                + "Give the model.* keys that the checkpoint was made with (longnet checkpoint inspect shows them).",
            Assert.Throws<UserException>(() => OpenOptimizer(manifest).Dispose()).Message
        );
    }

    [Fact]
    public void Load_OfAnotherType_IsRefusedBeforeAnythingIsRead()
    {
        string shard = Path.Combine(saved, OptimizerShard.FileName(1, 2)),
            model = Path.Combine(saved, CheckpointStore.ModelFile);
        SafetensorsWriter.Write(
            shard,
            [new("exp_avg.weight", zeros(2, dtype: ScalarType.Int32))],
            new Dictionary<string, string> { ["exp_avg.weight"] = "4" }
        );
        const string GiveKeys =
            "Give the model.* keys that the checkpoint was made with (longnet checkpoint inspect shows them).";
        Assert.Equal(
            $"{shard} belongs to another model: its exp_avg.weight is of type Int32, and this model's of "
                + $"type Float32. {GiveKeys}",
            Assert.Throws<UserException>(() => OpenOptimizer(CheckpointManifest.Read(saved)).Dispose()).Message
        );
        SafetensorsWriter.Write(model, [new("bias", ones(2)), new("weight", ones([2, 3], dtype: ScalarType.Float64))]);
        Tensor bias = zeros(2);
        Assert.Equal(
            $"{model} belongs to another model: its weight is of type Float64, and this model's of type "
                + $"Float32. {GiveKeys}",
            Assert
                .Throws<UserException>(() => CheckpointStore.ReadInto(model, [("bias", bias), ("weight", zeros(2, 3))]))
                .Message
        );
        Assert.Equal(0, bias.sum().item<float>());
    }

    private string StateFile => Path.Combine(saved, CheckpointManifest.FileName);

    private void Fuzz(int firstSeed, int count) =>
        InTime(() =>
        {
            string[] names = [.. files.Keys.Order(StringComparer.Ordinal)];
            int loaded = 0;
            for (int seed = firstSeed; seed < firstSeed + count; seed++)
            {
                var mutations = new Mutations(seed);
                // Half of all cases are about state.json.
                string name = mutations.OneOf(2) ? CheckpointManifest.FileName : names[seed % (names.Length - 1)];
                byte[] mutated = Mutate(mutations, name);
                if (Try(mutations, () => Load(name, mutated, fromRun: mutations.OneOf(3))))
                    loaded++;
                Restore(name);
            }

            // Some change nothing that is read, and some tell another consistent story.
            Assert.InRange(loaded, count / 50, count / 2);
        });

    // Changes a file, and in half of the cases every digest of it, so that what is behind the digests is reached.
    private byte[] Mutate(Mutations mutations, string name)
    {
        byte[] valid = files[name],
            mutated;
        bool digests = mutations.OneOf(2);
        if (name != CheckpointManifest.FileName)
        {
            mutated = mutations.Safetensors(valid);
            File.WriteAllBytes(Path.Combine(saved, name), mutated);
            if (digests)
            {
                SavedCheckpoint.Rewrite(StateFile, text =>
                    text.Replace(
                            Convert.ToHexStringLower(SHA256.HashData(valid)),
                            Convert.ToHexStringLower(SHA256.HashData(mutated)),
                            StringComparison.Ordinal
                        )
                        .Replace(
                            $"\"name\": \"{name}\",\n      \"bytes\": {valid.Length}",
                            $"\"name\": \"{name}\",\n      \"bytes\": {mutated.Length}",
                            StringComparison.Ordinal
                        )
                );
            }

            return mutated;
        }

        byte[] content = digests ? valid[..^CheckpointManifest.Seal([]).Length] : valid;
        mutated = mutations.OneOf(2)
            ? mutations.Bytes(content)
            : Encoding.UTF8.GetBytes(mutations.Json(Encoding.UTF8.GetString(content)));
        if (digests)
            mutated = [.. mutated, .. Encoding.UTF8.GetBytes(CheckpointManifest.Seal(mutated))];
        File.WriteAllBytes(StateFile, mutated);
        return mutated;
    }

    private void Restore(string name)
    {
        foreach (string damaged in Directory.GetDirectories(Store.Folder, "*.damaged"))
            Directory.Move(damaged, saved);
        File.WriteAllBytes(Path.Combine(saved, name), files[name]);
        File.WriteAllBytes(StateFile, files[CheckpointManifest.FileName]);
    }

    private void Load(string name, byte[] mutated, bool fromRun)
    {
        long before = GC.GetAllocatedBytesForCurrentThread(),
            length = new FileInfo(StateFile).Length;
        try
        {
            CheckpointManifest.Read(saved);
        }
        finally
        {
            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.True(
                allocated <= Factor * length + Constant,
                $"{allocated} bytes were allocated for a state.json of {length}"
            );
        }

        CheckpointManifest manifest;
        if (fromRun)
        {
            StartingPoint start = new RunDirectory(folder.Path).FindStart("auto")!;
            if (start.Checkpoint != saved)
            {
                // The older one, and why.
                Assert.Equal(Store.PathOf(10), start.Checkpoint);
                throw new UserException(Assert.Single(start.Notes) + ".");
            }

            manifest = start.Manifest;
        }
        else
        {
            manifest = CheckpointStore.Verify(saved);
        }

        AssertIsWhatItSays(manifest, File.ReadAllBytes(StateFile));
        // What is done with the configuration: a resumed run tells what has changed, inspect shows it, export asks it
        // for the model.
        ConfigurationChanges.ChangedKeys(manifest.Config, Config);
        ConfigurationText.ToYaml(manifest.Config);
        ConfigurationFile.ModelOf(manifest.Config);
        var summary = CheckpointSummary.Read(saved);
        Assert.DoesNotContain(summary.ToText(), character => char.IsControl(character) && character != '\n');
        summary.ToJson();
        Tensor weight = zeros(2, 3),
            moment = zeros(Elements),
            step = zeros([]);
        CheckpointStore.ReadInto(Path.Combine(saved, CheckpointStore.ModelFile), [("weight", weight)]);
        using OptimizerReader optimizer = OpenOptimizer(manifest);
        optimizer.ReadInto("exp_avg.weight", moment);
        optimizer.ReadInto("step", step);
        // As they were, or, with digests to fit, what the file says in another way.
        byte[] File1(string file) => file == name ? mutated : files[file];
        string first = OptimizerShard.FileName(0, 2),
            second = OptimizerShard.FileName(1, 2);
        Assert.Equal(Said(File1(CheckpointStore.ModelFile), "weight"), weight.bytes.ToArray());
        Assert.Equal(Said(File1(first), "step"), step.bytes.ToArray());
        byte[][] slices = [Said(File1(first), "exp_avg.weight"), Said(File1(second), "exp_avg.weight")];
        Assert.Equal([.. slices[0], .. slices[1]], moment.bytes.ToArray());
    }

    private OptimizerReader OpenOptimizer(CheckpointManifest manifest) =>
        OptimizerReader.Open(saved, manifest, [("step", []), ("exp_avg.weight", [Elements])]);

    // Read in another way than the program does.
    private static byte[] Said(byte[] file, string tensor)
    {
        int start = 8 + (int)BinaryPrimitives.ReadInt64LittleEndian(file);
        using JsonDocument header = JsonDocument.Parse(file.AsMemory(8, start - 8));
        JsonElement entry = header.RootElement.GetProperty(tensor);
        Assert.Equal("F32", entry.GetProperty("dtype").GetString());
        return file[
            (start + entry.GetProperty("data_offsets")[0].GetInt32())..(
                start + entry.GetProperty("data_offsets")[1].GetInt32()
            )
        ];
    }

    // Every member that the program knows is in the text with the same value; null where it is not there.
    private void AssertIsWhatItSays(CheckpointManifest manifest, byte[] text)
    {
        int end = text.Length - CheckpointManifest.Seal([]).Length;
        Assert.Equal(CheckpointManifest.Seal(text.AsSpan(0, end)), Encoding.UTF8.GetString(text.AsSpan(end)));
        using JsonDocument said = JsonDocument.Parse(text),
            read = JsonDocument.Parse(manifest.ToJson());
        foreach (JsonProperty member in read.RootElement.EnumerateObject().Where(member => member.Name != "sha256"))
        {
            if (!said.RootElement.TryGetProperty(member.Name, out JsonElement value))
                Assert.Equal(JsonValueKind.Null, member.Value.ValueKind);
            else
                AssertHolds(value, member.Value, member.Name);
        }
    }

    // Members that the program does not know are skipped; numbers may be written in another way.
    private static void AssertHolds(JsonElement said, JsonElement read, string path)
    {
        Assert.Equal(said.ValueKind, read.ValueKind);
        switch (read.ValueKind)
        {
            case JsonValueKind.Object:
                foreach (JsonProperty member in read.EnumerateObject())
                    AssertHolds(said.GetProperty(member.Name), member.Value, $"{path}.{member.Name}");
                break;
            case JsonValueKind.Array:
                Assert.Equal(said.GetArrayLength(), read.GetArrayLength());
                for (int i = 0; i < read.GetArrayLength(); i++)
                    AssertHolds(said[i], read[i], $"{path}[{i}]");
                break;
            case JsonValueKind.Number:
                Assert.Equal(said.GetDouble(), read.GetDouble());
                break;
            default:
                Assert.True(JsonElement.DeepEquals(said, read), path);
                break;
        }
    }

    // Whether it was done, and not refused in a sentence.
    private static bool Try(Mutations mutations, Action action)
    {
        using var each = NewDisposeScope();
        try
        {
            action();
            return true;
        }
        catch (UserException refused)
        {
            Assert.True(
                refused.Message.EndsWith('.')
                    && refused.Message.Length < 2000
                    && !refused.Message.Any(char.IsControl)
                    && !refused.Message.Contains("being used", StringComparison.Ordinal),
                $"{mutations}: \"{refused.Message}\""
            );
            return false;
        }
        catch (Exception error)
        {
            throw new InvalidOperationException($"{mutations}: {error.Message}", error);
        }
    }

    // To open a pipe is to wait for ever.
    private static void InTime(Action action)
    {
        Task task = Task.Run(() =>
        {
            using var each = NewDisposeScope();
            action();
        });
        Assert.True(Task.WhenAny(task, Task.Delay(Limit)).Result == task, "it waits for ever");
        task.GetAwaiter().GetResult();
    }

    private void AssertDamaged(string file, string problem) =>
        Assert.Equal(
            $"The checkpoint {saved} is damaged: {file}: {problem}. Resume from another one: --resume auto "
                + "takes the newest that is whole.",
            Assert.Throws<DamagedCheckpointException>(() => CheckpointStore.Verify(saved)).Message
        );

    private static void MakePipe(string path) =>
        ProgramRun.ToEnd(TimeSpan.FromSeconds(30), "mkfifo", [path]).AssertSuccess();

    private string Save(long step)
    {
        CheckpointPart part = SavedCheckpoint.Part(step, 1.0 / step);
        CheckpointManifest manifest = part.Manifest with
        {
            OptimizerShards = 2,
            OptimizerSharded = true,
            LossScaler = new CheckpointLossScaler(65536, 1, 0),
            Config = ConfigurationText.ToJson(Config),
        };
        Tensor moment = arange(Elements, dtype: ScalarType.Float32);
        CheckpointPart[] parts =
        [
            part with
            {
                Manifest = manifest,
                Optimizer = [new("step", null, tensor((float)step)), new("exp_avg.weight", 0, moment[..4])],
            },
            part with
            {
                Manifest = manifest,
                Model = [],
                Optimizer = [new("exp_avg.weight", 4, moment[4..])],
                Shard = 1,
            },
        ];
        var writer = new CheckpointWriter(Store, CheckpointRetention.All, FileOperations.Real, ICheckpointEvents.None);
        return writer
            .Commit(parts[0], [.. parts.SelectMany(writer.WritePart)], System.Diagnostics.Stopwatch.StartNew())
            .Path;
    }
}
