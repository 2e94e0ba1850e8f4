using System.Buffers.Binary;
using System.Text;
using CsCheck;
using LongNet.Core.Serialization;
using LongNet.TestKit;
using TorchSharp;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Serialization;

public sealed class SafetensorsTests : IDisposable
{
    private readonly TemporaryFolder folder = new();
    private readonly DisposeScope scope = NewDisposeScope();

    private string File => folder["t.safetensors"];

    public void Dispose()
    {
        scope.Dispose();
        folder.Dispose();
    }

    [Fact]
    public void Write_ThenRead_GivesBackEveryTypeAndShape()
    {
        var tensors = new List<KeyValuePair<string, Tensor>>();
        foreach (
            ScalarType dtype in new[]
            {
                ScalarType.Float64,
                ScalarType.Float32,
                ScalarType.Float16,
                ScalarType.BFloat16,
                ScalarType.Int64,
                ScalarType.Int32,
                ScalarType.Int16,
                ScalarType.Int8,
                ScalarType.Byte,
                ScalarType.Bool,
            }
        )
        {
            foreach (long[] shape in new long[][] { [], [0], [3], [2, 3, 5], [4, 0, 2] })
                tensors.Add(new($"{dtype} [{string.Join(",", shape)}]", randn(shape).mul(50).abs().to(dtype)));
        }

        tensors.Add(new("strided", arange(12).view(3, 4).t()));
        tensors.Add(new("ünïcode \"name\"", ones(1)));
        var metadata = new Dictionary<string, string> { ["step"] = "7" };
        SafetensorsWriter.Write(File, tensors, metadata, chunkBytes: 7);

        using var stream = new MemoryStream();
        SafetensorsLayout layout = SafetensorsLayout.Of(tensors, metadata);
        layout.Write(stream, chunkBytes: 3);
        Assert.Equal(stream.ToArray(), System.IO.File.ReadAllBytes(File));
        Assert.Equal(stream.Length, layout.FileLength);
        using SafetensorsReader reader = SafetensorsReader.Open(File, chunkBytes: 5);
        Assert.Equal(tensors.Select(entry => entry.Key), reader.Names);
        Assert.Equal("7", reader.Metadata["step"]);
        foreach (var (name, value) in tensors)
        {
            Tensor read = reader.Read(name);
            Assert.Equal((value.dtype, string.Join(",", value.shape)), (read.dtype, string.Join(",", read.shape)));
            Assert.True(read.eq(value).all().item<bool>(), name);
        }
    }

    [Fact]
    public void Write_TensorsMadeInTurn_AreGoneWhenTheNextIsMade()
    {
        var made = new List<Tensor>();
        Tensor kept = full(4, 7f);
        Func<Tensor> Make(float value) =>
            () =>
            {
                Assert.All(made, tensor => Assert.True(tensor.IsInvalid));
                made.Add(full(3, value));
                return made[^1];
            };
        SafetensorsEntry[] entries =
        [
            new("first", ScalarType.Float32, [3], Make(1)),
            SafetensorsEntry.Of("kept", kept),
            new("last", ScalarType.Float32, [3], Make(2)),
        ];
        SafetensorsWriter.Write(File, SafetensorsLayout.Of(entries));
        Assert.Equal(2, made.Count);
        Assert.False(kept.IsInvalid);
        byte[] lazy = System.IO.File.ReadAllBytes(File);
        SafetensorsWriter.Write(File, [new("first", full(3, 1f)), new("kept", kept), new("last", full(3, 2f))]);
        Assert.Equal(System.IO.File.ReadAllBytes(File), lazy);

        // All that follow would lie elsewhere than the header says.
        entries[0] = new("first", ScalarType.Float32, [3], () => ones(4));
        Assert.Equal(
            "Tensor 'first' was announced as F32 [3] and is F32 [4].",
            Assert
                .Throws<InvalidOperationException>(() =>
                    SafetensorsWriter.Write(folder["x"], SafetensorsLayout.Of(entries))
                )
                .Message
        );
        Assert.False(System.IO.File.Exists(folder["x"]));
    }

    [Fact]
    public void Write_Layout_IsTheFormats()
    {
        SafetensorsWriter.Write(File, [new("a", tensor(new[] { 1f, 2f })), new("b", tensor(new byte[] { 9 }))]);
        byte[] bytes = System.IO.File.ReadAllBytes(File);
        int header = (int)BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        // Data begin at a multiple of 8, which blanks at the header's end see to.
        Assert.Equal(0, header % 8);
        Assert.Equal(
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                + "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}",
            Encoding.UTF8.GetString(bytes, 8, header).TrimEnd(' ')
        );
        Assert.Equal([0, 0, 128, 63, 0, 0, 0, 64, 9], bytes[(8 + header)..]);
    }

    [Fact]
    public void Write_Fails_LeavesTheOldFile()
    {
        SafetensorsWriter.Write(File, [new("a", ones(2))]);
        byte[] before = System.IO.File.ReadAllBytes(File);
        Directory.CreateDirectory(File + ".partial");
        var error = Assert.Throws<SafetensorsException>(() => SafetensorsWriter.Write(File, [new("a", zeros(2))]));
        Assert.Equal(File, error.Path);
        Assert.Equal(before, System.IO.File.ReadAllBytes(File));
        Assert.Throws<ArgumentException>(() =>
            SafetensorsWriter.Write(folder["x"], [new("a", ones(1)), new("a", ones(1))])
        );
        Assert.False(System.IO.File.Exists(folder["x"]));
    }

    [Theory]
    [InlineData("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4)]
    [InlineData("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 3)]
    [InlineData("{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 5)]
    [InlineData("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4)]
    [InlineData("{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0)]
    [InlineData(
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
            + "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
        3
    )]
    [InlineData(
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
            + "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
        2
    )]
    [InlineData("{\"__metadata__\":{\"x\":1}}", 0)]
    [InlineData("[]", 0)]
    [InlineData("{", 0)]
    [InlineData("", 0)]
    public void Open_HeaderThatLies_IsRefused(string header, int dataBytes)
    {
        WriteRaw(header, dataBytes);
        var error = Assert.Throws<SafetensorsException>(() => SafetensorsReader.Open(File));
        Assert.StartsWith($"{File} is not a valid safetensors file: ", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Open_AnyDamage_ReadsOrThrowsItsOwnException()
    {
        SafetensorsWriter.Write(File, [new("a", ones(3, 2)), new("b", ones(5).to(ScalarType.BFloat16))]);
        byte[] valid = System.IO.File.ReadAllBytes(File);
        string damaged = folder["damaged"];
        Gen.Select(Gen.Select(Gen.Int[0, valid.Length - 1], Gen.Byte).Array[0, 4], Gen.Int[0, valid.Length + 20])
            .Sample(
                (edits, length) =>
                {
                    byte[] bytes = [.. valid];
                    foreach (var (place, value) in edits)
                        bytes[place] = value;
                    Array.Resize(ref bytes, length);
                    System.IO.File.WriteAllBytes(damaged, bytes);
                    try
                    {
                        using SafetensorsReader reader = SafetensorsReader.Open(damaged);
                        foreach (string name in reader.Names)
                            reader.Read(name).Dispose();
                    }
                    catch (SafetensorsException) { }
                },
                iter: 2000,
                threads: 1
            );
    }

    [Fact]
    public void ReadInto_AnotherShapeOrName_IsNamed()
    {
        SafetensorsWriter.Write(File, [new("a", ones(3, 2))]);
        using SafetensorsReader reader = SafetensorsReader.Open(File);
        var shape = Assert.Throws<SafetensorsException>(() => reader.ReadInto("a", zeros(2, 3)));
        Assert.Equal("a", shape.TensorName);
        Assert.Contains("to be read into", shape.Message, StringComparison.Ordinal);
        Assert.Throws<SafetensorsException>(() => reader.ReadInto("a", zeros([3, 2], dtype: float64)));
        Assert.Equal("b", Assert.Throws<SafetensorsException>(() => reader.Read("b")).TensorName);

        Tensor strided = zeros(2, 3).t();
        reader.ReadInto("a", strided);
        Assert.Equal(6, strided.sum().item<float>());
    }

    [Fact]
    public void Open_Missing_IsNamed() =>
        Assert.Contains(
            folder["nowhere"],
            Assert.Throws<SafetensorsException>(() => SafetensorsReader.Open(folder["nowhere"])).Message,
            StringComparison.Ordinal
        );

    [Fact]
    public void Open_TypeThatIsUnknown_IsNamed()
    {
        WriteRaw("{\"a\":{\"dtype\":\"F99\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
        string message = Assert.Throws<SafetensorsException>(() => SafetensorsReader.Open(File)).Message;
        Assert.StartsWith($"{File} holds tensor 'a' of dtype", message, StringComparison.Ordinal);
        Assert.Contains("F99", message, StringComparison.Ordinal);
    }

    private void WriteRaw(string header, int dataBytes)
    {
        byte[] text = Encoding.UTF8.GetBytes(header);
        byte[] bytes = new byte[8 + text.Length + dataBytes];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, (ulong)text.Length);
        text.CopyTo(bytes, 8);
        System.IO.File.WriteAllBytes(File, bytes);
    }
}
