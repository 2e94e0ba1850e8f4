using System.Runtime.InteropServices;
using LongNet.Core.Native;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Checkpoints.Tools;
using LongNet.Trainer.Measuring;
using LongNet.Trainer.Storage;
using static TorchSharp.torch;

namespace LongNet.Trainer.Tests.Checkpoints;

/// <summary>
/// Memory that tensors take while they are written and read: one of them at a time, and no second copy.
/// </summary>
public sealed class LargeTensorTests : IDisposable
{
    // Buffers, digests and the runtime's own garbage; far less than any tensor here.
    private const long Overhead = 200_000_000;

    private readonly TemporaryFolder folder = new();

    public void Dispose() => folder.Dispose();

    [Fact]
    [Trait("Category", "slow")]
    public void WriteThenRead_TensorAboveTwoGigabytes_TakesItsMemoryOnceAndKeepsEveryByte()
    {
        // Not a multiple of a chunk, a buffer or a block.
        const long Bytes = 2_200_000_040;
        Assert.True(Bytes > int.MaxValue);
        var partial = new PartialCheckpoint(folder.Path, CheckpointStore.NameOf(1), FileOperations.Real);
        partial.Create(Bytes);
        AssertPeak(Bytes, () =>
        {
            using var scope = NewDisposeScope();
            Tensor written = empty([Bytes], ScalarType.Byte, CPU);
            TensorMemory.Write(written, Fill);
            CheckpointFile file = partial.WriteTensors("large.safetensors", [("large", written)]);
            Assert.Equal(Bytes + 8 + Header("large.safetensors"), file.Bytes);
            Assert.Null(CheckpointVerification.Of(partial.Path, file).Problem);
        });
        AssertPeak(Bytes, () =>
        {
            using var scope = NewDisposeScope();
            Tensor read = empty([Bytes], ScalarType.Byte, CPU);
            using SafetensorsReader reader = SafetensorsReader.Open(Path.Combine(partial.Path, "large.safetensors"));
            reader.ReadInto("large", read);
            byte[] expected = new byte[TensorMemory.DefaultChunkBytes];
            TensorMemory.Read(read, (bytes, offset) =>
            {
                Fill(expected.AsSpan(0, bytes.Length), offset);
                Assert.True(bytes.SequenceEqual(expected.AsSpan(0, bytes.Length)), $"the chunk at {offset}");
            });
        });
    }

    [Theory]
    [InlineData("float32", 1)]
    [InlineData("bfloat16", 1.5)]
    public void Export_ManyTensors_HoldsOneAndItsConversion(string type, double tensorsInMemory)
    {
        const int Tensors = 12;
        const long Elements = 5_000_000,
            Bytes = 4 * Elements;
        string checkpoint;
        using (NewDisposeScope())
        {
            Tensor value = arange(Elements, dtype: ScalarType.Float32);
            checkpoint = SavedCheckpoint.Save(
                new CheckpointStore(folder["checkpoints"]),
                SavedCheckpoint.Part(1) with
                {
                    Model = [.. Enumerable.Range(0, Tensors).Select(t => ($"weight{t}", value))],
                }
            )!;
        }

        string output = folder["weights.safetensors"];
        // 12 tensors of 20 MB: a whole model would be 240 MB.
        AssertPeak(
            (long)(tensorsInMemory * Bytes),
            () => CheckpointExport.Write(checkpoint, output, type, overwrite: false),
            overhead: 100_000_000
        );
        using SafetensorsReader reader = SafetensorsReader.Open(output);
        Assert.Equal(Tensors, reader.Names.Count);
    }

    private static void AssertPeak(long tensorBytes, Action work, long overhead = Overhead)
    {
        GC.Collect();
        long? peak = Measurement.PeakGrowth(BenchDevice.Cpu, work);
        Assert.SkipWhen(peak is null, "the system does not tell the peak of a process's memory");
        // A tenth for what the allocator rounds up.
        Assert.InRange(peak!.Value, 0, (long)(1.1 * tensorBytes) + overhead);
        // Else the measure would prove nothing.
        Assert.True(peak > tensorBytes / 2, $"only {peak} bytes were seen");
    }

    // Every eight bytes say where they are, so that none can stand for another.
    private static void Fill(Span<byte> bytes, long offset)
    {
        Span<ulong> words = MemoryMarshal.Cast<byte, ulong>(bytes);
        for (int w = 0; w < words.Length; w++)
            words[w] = ((ulong)offset / 8 + (ulong)w) * 0x9E3779B97F4A7C15;
        for (int rest = words.Length * 8; rest < bytes.Length; rest++)
            bytes[rest] = (byte)rest;
    }

    private long Header(string file)
    {
        using var reader = new BinaryReader(File.OpenRead(Path.Combine(folder[".step-00000001.partial"], file)));
        return reader.ReadInt64();
    }
}
