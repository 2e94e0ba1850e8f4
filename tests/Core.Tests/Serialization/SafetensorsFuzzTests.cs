using System.Buffers.Binary;
using System.Text;
using System.Text.Json;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Serialization;

/// <summary>
/// Whatever a file holds, it is read as what it says, or refused in a sentence, with memory in proportion to its size.
/// </summary>
public sealed class SafetensorsFuzzTests : IDisposable
{
    // Parsing keeps 12 bytes per JSON value, of which there is one in every second byte of [1,1,1,…; its table grows by
    // doubling, so that all of its tables together come to at most four times the last; 8 bytes per number of a shape,
    // and the header itself: 4 · 6 + 4 + 1.
    private const int Factor = 29;

    // Smallest tables and an exception with its text.
    private const int Constant = 64 << 10;

    private readonly TemporaryFolder folder = new();
    private readonly DisposeScope scope = NewDisposeScope();

    private string File => folder["t.safetensors"];

    public void Dispose()
    {
        scope.Dispose();
        folder.Dispose();
    }

    [Fact]
    public void Open_AnyMutation_ReadsWhatTheFileSaysOrRefusesInASentence() => Fuzz(0, 8_000);

    [Fact]
    [Trait("Category", "slow")]
    public void Open_VeryManyMutations_ReadsWhatTheFileSaysOrRefusesInASentence() => Fuzz(1_000_000, 200_000);

    [Theory]
    [InlineData("[1,", 1_000_000)]
    [InlineData("1,", 2_000_000)]
    [InlineData("\"a\",", 1_000_000)]
    [InlineData("{", 4_000_000)]
    public void Open_AHeaderOfMegabytes_TakesMemoryInProportion(string piece, int times)
    {
        const string Begin = "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,0],\"shape\":[";
        Write(Encoding.UTF8.GetBytes(new StringBuilder(Begin).Insert(Begin.Length, piece, times).ToString()), []);
        Assert.Throws<SafetensorsException>(Open);
    }

    [Fact]
    public void Open_AHeaderOfManyTensors_TakesMemoryInProportion()
    {
        // Of no bytes each, so that the file holds little else. A name, an entry, its shape and places in two tables:
        // more than text takes.
        IEnumerable<string> entries = Enumerable
            .Range(0, 20_000)
            .Select(t => $"\"{t}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
        Write(Encoding.UTF8.GetBytes($"{{{string.Join(",", entries)}}}"), []);
        using SafetensorsReader reader = Open();
        Assert.Equal(20_000, reader.Names.Count);
    }

    [Fact]
    public void Open_APipe_IsRefused()
    {
        Assert.SkipUnless(OperatingSystem.IsLinux(), "Standard input has another name elsewhere.");
        using var pipe = new System.IO.Pipes.AnonymousPipeServerStream(System.IO.Pipes.PipeDirection.Out);
        string path = $"/proc/self/fd/{pipe.ClientSafePipeHandle.DangerousGetHandle()}";
        Assert.StartsWith(
            $"Cannot read {path}: ",
            Assert.Throws<SafetensorsException>(() => SafetensorsReader.Open(path)).Message,
            StringComparison.Ordinal
        );
    }

    private void Fuzz(int firstSeed, int count)
    {
        SafetensorsWriter.Write(
            File,
            [
                new("weight", arange(6, dtype: ScalarType.Float32).view(2, 3)),
                new("step", tensor(7f)),
                new("half", ones(5).to(ScalarType.BFloat16)),
                new("none", ones(0)),
                new("flags", ones(3).to(ScalarType.Bool)),
            ],
            new Dictionary<string, string> { ["weight"] = "0" }
        );
        byte[] valid = System.IO.File.ReadAllBytes(File);
        int read = 0;
        for (int seed = firstSeed; seed < firstSeed + count; seed++)
        {
            var mutations = new Mutations(seed);
            byte[] bytes = mutations.Safetensors(valid);
            while (
                mutations.OneOf(4)
                && bytes.Length > 8
                && BinaryPrimitives.ReadUInt64LittleEndian(bytes) <= (ulong)bytes.Length - 8
            )
                bytes = mutations.Safetensors(bytes);
            System.IO.File.WriteAllBytes(File, bytes);
            try
            {
                using var each = NewDisposeScope();
                using SafetensorsReader reader = Open();
                AssertReads(reader, bytes);
                read++;
            }
            catch (SafetensorsException refused)
            {
                Assert.True(
                    refused.Message.Contains(File, StringComparison.Ordinal)
                        && refused.Message.EndsWith('.')
                        && refused.Message.Length < 1000
                        && !refused.Message.Any(char.IsControl),
                    $"{mutations}: \"{refused.Message}\""
                );
            }
            catch (Exception error)
            {
                throw new InvalidOperationException($"{mutations}: {error.Message}", error);
            }
        }

        // What does no harm, such as another value: else only refusing would be tried.
        Assert.InRange(read, count / 50, count / 2);
    }

    private SafetensorsReader Open()
    {
        long length = new FileInfo(File).Length,
            before = GC.GetAllocatedBytesForCurrentThread();
        try
        {
            return SafetensorsReader.Open(File);
        }
        finally
        {
            long allocated = GC.GetAllocatedBytesForCurrentThread() - before;
            Assert.True(
                allocated <= Factor * length + Constant,
                $"{allocated} bytes were allocated for a file of {length}"
            );
        }
    }

    // Tensors are the bytes that the header, read here in another way, says they are, and fill the file.
    private static void AssertReads(SafetensorsReader reader, byte[] file)
    {
        int start = 8 + (int)BinaryPrimitives.ReadInt64LittleEndian(file);
        using JsonDocument header = JsonDocument.Parse(file.AsMemory(8, start - 8));
        JsonProperty[] entries = [.. header.RootElement.EnumerateObject().Where(entry => entry.Name != "__metadata__")];
        Assert.Equal(entries.Select(entry => entry.Name), reader.Names);
        long bytes = 0;
        foreach (var (name, value) in entries.Select(entry => (entry.Name, entry.Value)))
        {
            long from = value.GetProperty("data_offsets")[0].GetInt64(),
                to = value.GetProperty("data_offsets")[1].GetInt64();
            bytes += to - from;
            Assert.True(bytes <= file.Length - start, "its tensors are larger than the file");
            Tensor tensor;
            try
            {
                tensor = reader.Read(name);
            }
            catch (SafetensorsException refused) when (refused.Message.Contains("BOOL", StringComparison.Ordinal))
            {
                continue;
            }

            Assert.Equal(value.GetProperty("shape").EnumerateArray().Select(size => size.GetInt64()), tensor.shape);
            Assert.Equal(to - from, tensor.NumberOfElements * tensor.ElementSize);
            Assert.Equal(file[(int)(start + from)..(int)(start + to)], tensor.bytes.ToArray());
        }

        Assert.Equal(file.Length - start, bytes);
    }

    private void Write(byte[] header, byte[] data)
    {
        var length = new byte[8];
        BinaryPrimitives.WriteInt64LittleEndian(length, header.Length);
        System.IO.File.WriteAllBytes(File, [.. length, .. header, .. data]);
    }
}
