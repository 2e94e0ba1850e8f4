using System.Text;
using LongNet.TestKit;

namespace LongNet.Trainer.Tests.Data;

/// <summary>The text that losses are compared on stays what it is.</summary>
public sealed class FixedTextTests
{
    [Fact]
    public void Files_OfTheFixedText_AreWhatTheirSeedWrites()
    {
        string folder = Repository.PathOf("configs/text");
        Assert.Equal(FixedText.Files, Directory.GetFiles(folder, "*.txt").Length);
        for (int file = 0; file < FixedText.Files; file++)
            Assert.Equal(
                FixedText.Write(file),
                Encoding.UTF8.GetString(File.ReadAllBytes(Path.Combine(folder, $"village-{file + 1}.txt")))
            );
    }
}
