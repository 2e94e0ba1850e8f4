using System.IO.Compression;
using System.Reflection;
using System.Text;
using LongNet.TestKit;

namespace LongNet.Trainer.Tests.Data.Tokenization;

/// <summary>A real vocabulary of 100 256 tokens as a file of tiktoken's, from the package that has it.</summary>
public sealed class Cl100k : IDisposable
{
    private readonly TemporaryFolder folder = new();

    public Cl100k()
    {
        Assembly data = Assembly.Load("Microsoft.ML.Tokenizers.Data.Cl100kBase");
        using Stream packed = data.GetManifestResourceStream("cl100k_base.tiktoken.deflate")!;
        using var unpacked = new StreamReader(new DeflateStream(packed, CompressionMode.Decompress));
        // The package leaves out the ranks, which are the lines' numbers after a first line of its own.
        unpacked.ReadLine();
        var lines = new StringBuilder();
        for (int rank = 0; unpacked.ReadLine() is { } token; rank++)
        {
            lines.Append($"{token} {rank}\n");
            Tokens.Add(Convert.FromBase64String(token));
        }

        Path = folder.Write("cl100k_base.tiktoken", lines.ToString());
    }

    public string Path { get; }

    /// <summary>The tokens' bytes in order.</summary>
    internal List<byte[]> Tokens { get; } = [];

    public void Dispose() => folder.Dispose();
}
