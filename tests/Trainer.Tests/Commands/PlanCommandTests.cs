using System.Xml.Linq;
using LongNet.Core.Attention;
using LongNet.TestKit;
using LongNet.TestKit.Ranks;
using LongNet.Trainer.Reporting;

namespace LongNet.Trainer.Tests.Commands;

public class PlanCommandTests
{
    [Fact]
    public void Pattern_OfTheQuickstart_IsTheDocumentationsPicture()
    {
        using var folder = new TemporaryFolder();
        Run("--config", "quickstart", "--output", folder["pattern.svg"]).AssertSuccess();
        Assert.Equal(File.ReadAllText(Repository.PathOf("docs/attention-pattern.svg")), File.ReadAllText(folder["pattern.svg"]));
    }

    [Fact]
    public void Pattern_FileThatCannotBeWritten_IsNamed()
    {
        ProgramResult result = Run("--config", "quickstart", "--output", "/proc/nowhere.svg");
        Assert.Equal(2, result.ExitCode);
        Assert.StartsWith("longnet: --output /proc/nowhere.svg cannot be written: ", result.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(HeadOffsets.Interleaved, true)]
    [InlineData(HeadOffsets.Blocked, false)]
    public void Pattern_EveryCell_IsWhatTheAttentionKeeps(HeadOffsets offsets, bool causal)
    {
        var schedule = new SegmentSchedule(new Branch(16, 1), new Branch(64, 3));
        string svg = new PatternPicture(schedule, offsets, Heads: 4, causal).ToSvg();
        // Cells of 5 pixels; panels are 64 cells and a gap of 24 pixels apart, and begin after one.
        var drawn = new HashSet<(int Head, int Query, int Key)>();
        foreach (XElement rectangle in XDocument.Parse(svg).Descendants().Where(element => element.Name.LocalName == "rect" && Number(element, "height") == 5))
        {
            int head = (Number(rectangle, "x") - 24) / 344;
            for (int x = Number(rectangle, "x"); x < Number(rectangle, "x") + Number(rectangle, "width"); x += 5)
                Assert.True(drawn.Add((head, (Number(rectangle, "y") - 24) / 5, (x - 24 - head * 344) / 5)));
        }

        var expected = new HashSet<(int, int, int)>();
        for (int head = 0; head < 4; head++)
        {
            int offset = offsets == HeadOffsets.Interleaved ? head % 3 : head / 2;
            for (int query = 0; query < 64; query++)
            {
                for (int key = 0; key < (causal ? query + 1 : 64); key++)
                {
                    if (query / 16 == key / 16 || (query % 3 == offset && key % 3 == offset))
                        expected.Add((head, query, key));
                }
            }
        }

        Assert.Equal(expected.Order(), drawn.Order());

        static int Number(XElement element, string name) => (int?)element.Attribute(name) ?? 0;
    }

    private static ProgramResult Run(params string[] arguments) =>
        ProgramRun.ToEnd(TimeSpan.FromMinutes(1), Repository.LongNet, ["plan", "pattern", .. arguments]);
}
