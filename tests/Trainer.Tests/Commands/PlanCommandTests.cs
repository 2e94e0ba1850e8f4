using System.Text.Json;
using System.Text.RegularExpressions;
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
        Assert.Equal(
            File.ReadAllText(Repository.PathOf("docs/attention-pattern.svg")),
            File.ReadAllText(folder["pattern.svg"])
        );
    }

    [Fact]
    public void Pattern_FileThatCannotBeWritten_IsNamed()
    {
        ProgramResult result = Run("--config", "quickstart", "--output", "/proc/nowhere.svg");
        Assert.Equal(2, result.ExitCode);
        Assert.StartsWith(
            "longnet: --output /proc/nowhere.svg cannot be written: ",
            result.Error,
            StringComparison.Ordinal
        );
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
        foreach (
            XElement rectangle in XDocument
                .Parse(svg)
                .Descendants()
                .Where(element => element.Name.LocalName == "rect" && Number(element, "height") == 5)
        )
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

    [Fact]
    public void Plan_OfOneConfiguration_IsBrokenDown()
    {
        ProgramResult result = Plan("--config", "quickstart", "--ranks", "2", "--machine", "desk");
        result.AssertSuccess();
        string[] lines = result.Output.Split('\n');
        Assert.Equal(
            "quickstart: sequences of 1K, batch 4 in micro-batches of 4, 2 ranks as 1 data x 2 sequence, "
                + "float32, nothing recomputed",
            lines[0]
        );
        Assert.Contains("parameters: 826,112, 198,272 in each of 4 blocks", lines);
        Assert.Contains(lines, line => Regex.IsMatch(line, "^memory per rank: [0-9.]+ MiB, fits 11.0 GiB$"));
        Assert.Contains(lines, line =>
            Regex.IsMatch(line, @"^  \(w = 1024, r = 4\) +[0-9.]+ k pairs +[0-9]+ %  over 2 ranks$")
        );
        Assert.Contains(lines, line => Regex.IsMatch(line, @"^  gradients: all-reduce +2 ranks +5 calls  3.2 MiB$"));
        Assert.Contains(lines, line => Regex.IsMatch(line, "^step: [0-9.]+ ms, bound by [a-z ]+$"));
        Assert.Contains(lines, line => Regex.IsMatch(line, "^training: 200 steps of 4.10 k tokens in [0-9.]+ s$"));
    }

    [Fact]
    public void Plan_OfSeveralRanks_IsATableThatSaysWhatDoesNotFit()
    {
        ProgramResult result = Plan(
            "--config",
            "longnet",
            "--ranks",
            "1,7,8",
            "--lengths",
            "32K,64K",
            "--machine",
            "h100-80gb"
        );
        result.AssertSuccess();
        string[] lines = result.Output.TrimEnd().Split('\n');
        Assert.Matches(
            "^length  ranks +mesh +memory per rank  fits  sent per step +step  tokens/s  bound by$",
            lines[0]
        );
        Assert.Equal(
            ["32K 1 1 x 1", "32K 8 1 x 8", "64K 1 1 x 1", "64K 8 1 x 8"],
            lines[1..5].Select(line => string.Join(" ", line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[..5]))
        );
        Assert.Equal(
            [
                "32K on 7 ranks: A sequence of 32768 rows cannot be shared evenly by 7 ranks: choose a "
                    + "sequence length that is a multiple of 7, such as 32774.",
                "64K on 7 ranks: A sequence of 65536 rows cannot be shared evenly by 7 ranks: choose a "
                    + "sequence length that is a multiple of 7, such as 65541.",
            ],
            lines[5..]
        );
    }

    [Fact]
    public void Plan_OfAMemory_FindsTheLongestSequenceAndTheFewestRanks()
    {
        string[] options =
        [
            "--config",
            "longnet",
            "--set",
            "training.batch_size=1",
            "--set",
            "memory.recompute=full",
            "--machine",
            "h100-80gb",
            "--target-memory",
            "40GiB",
            "--json",
        ];
        JsonElement[] longest = Plans(Plan([.. options, "--ranks", "1,8"])),
            fewest = Plans(Plan([.. options, "--lengths", "1M,1G"]));
        // Eight ranks hold eight times as much, to the steps of the search: the model's own share is small.
        Assert.Equal(8 * longest[0].GetProperty("length").GetInt64(), longest[1].GetProperty("length").GetInt64());
        Assert.Equal(1024 * fewest[0].GetProperty("ranks").GetInt32(), fewest[1].GetProperty("ranks").GetInt32());
        Assert.All(longest.Concat(fewest), plan =>
            Assert.InRange(plan.GetProperty("memory_bytes").GetDouble(), 10L << 30, 40L << 30)
        );
    }

    [Fact]
    public void Plan_OnThisMachine_MeasuresIt()
    {
        ProgramResult result = Plan("--config", "quickstart", "--json");
        result.AssertSuccess();
        JsonElement machine = JsonElement.Parse(result.Output).GetProperty("machine");
        Assert.Equal(Environment.MachineName, machine.GetProperty("name").GetString());
        // Slower than this no machine is, and faster none with so few processors.
        Assert.InRange(machine.GetProperty("matrix_float32").GetDouble(), 1e8, 1e14);
        Assert.InRange(machine.GetProperty("attention_float32").GetDouble(), 1e8, 1e14);
        Assert.InRange(machine.GetProperty("memory_bandwidth").GetDouble(), 1e8, 1e13);
        Assert.InRange(machine.GetProperty("memory_per_rank").GetDouble(), 1 << 28, 1L << 44);
    }

    [Theory]
    [InlineData("plan takes either --config FILE, or --check RUN, whose configuration it reads.")]
    [InlineData(
        "--ranks is none, but must be a number of ranks, a list such as 1,2,8, or a range such as 1..4096.",
        "--config",
        "quickstart",
        "--ranks",
        "none"
    )]
    [InlineData(
        "--lengths is 8X, but must be a list of lengths such as 8192,64K,1M,1G.",
        "--config",
        "quickstart",
        "--lengths",
        "8X"
    )]
    [InlineData(
        "--target-memory is 80, but must be an amount of memory such as 80GiB or 80GB.",
        "--config",
        "quickstart",
        "--target-memory",
        "80"
    )]
    [InlineData(
        "--check compares with what the run did: leave out --lengths and --target-memory.",
        "--check",
        "runs/none",
        "--lengths",
        "8K"
    )]
    [InlineData(
        "--json and --markdown are two ways to print the same: give one of them.",
        "--config",
        "quickstart",
        "--json",
        "--markdown"
    )]
    public void Plan_MistakenOption_IsNamed(string message, params string[] arguments)
    {
        ProgramResult result = Plan(arguments);
        Assert.Equal(2, result.ExitCode);
        Assert.Equal($"longnet: {message}\nlongnet: --help shows what there is.\n", result.Error);
    }

    [Fact]
    public void Plan_OfWhatTrainingRefuses_RefusesAlike()
    {
        ProgramResult result = Plan(
            "--config",
            "longnet",
            "--machine",
            "desk",
            "--lengths",
            "64K",
            "--set",
            "model.attention.segment_lengths=[65536]",
            "--set",
            "model.attention.dilation_rates=[1]"
        );
        Assert.Equal(2, result.ExitCode);
        Assert.Equal(
            "longnet: xPos over blocks of 65536 rows (the least common multiple of the segment lengths, or "
                + "the whole sequence) needs scales up to e^80, more than Float32 holds; "
                + "blocks of at most 40869 rows work: shorten the longest segment or choose segment lengths "
                + "that divide it.\n",
            result.Error
        );
    }

    [Fact]
    public void Plan_OfABillionTokens_IsTheDocumentationsTable()
    {
        string text = File.ReadAllText(Repository.PathOf("docs/planning.md"));
        Match command = Regex.Match(text, @"    longnet (plan --config longnet [^\n]+) \\\n        ([^\n]+)\n");
        ProgramResult result = ProgramRun.ToEnd(
            TimeSpan.FromMinutes(1),
            Repository.LongNet,
            $"{command.Groups[1].Value} {command.Groups[2].Value}".Split(' ')
        );
        result.AssertSuccess();
        Assert.Contains(
            $"<!-- predicted: begin -->\n{result.Output}<!-- predicted: end -->",
            text,
            StringComparison.Ordinal
        );
    }

    private static JsonElement[] Plans(ProgramResult result)
    {
        result.AssertSuccess();
        return [.. JsonElement.Parse(result.Output).GetProperty("plans").EnumerateArray()];
    }

    private static ProgramResult Plan(params string[] arguments) =>
        ProgramRun.ToEnd(TimeSpan.FromMinutes(1), Repository.LongNet, ["plan", .. arguments]);

    private static ProgramResult Run(params string[] arguments) =>
        ProgramRun.ToEnd(TimeSpan.FromMinutes(1), Repository.LongNet, ["plan", "pattern", .. arguments]);
}
