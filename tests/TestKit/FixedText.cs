using System.Text;
using LongNet.Core.Numerics;

namespace LongNet.TestKit;

/// <summary>
/// The text that tests and <c>configs/ranks-agree.yaml</c> train on. It lies in <c>configs/text</c> and must never
/// change, so that the losses of two versions of this program can be compared.
/// </summary>
/// <remarks>
/// The text is a chronicle of an invented village, written by a small grammar. Names and numbers come back within a
/// chapter, so that a model gains from what it read long before. Every choice is a function of <see cref="Seed"/> and a
/// counter.
/// </remarks>
public static class FixedText
{
    /// <summary>The seed of the text in <c>configs/text</c>.</summary>
    public const int Seed = 20261127;

    /// <summary>How many files there are. Each is one document.</summary>
    public const int Files = 4;

    /// <summary>The least size of a file, in bytes. It ends with the sentence that reaches this size.</summary>
    public const int BytesPerFile = 64 * 1024;

    private static readonly string[] People =
    [
        "Anna Holt",
        "Benedikt Marsh",
        "Clara Winter",
        "David Thorn",
        "Elsa Brook",
        "Felix Carter",
        "Greta Lind",
        "Henry Vale",
        "Ida Fisher",
        "Jonas Reed",
        "Karin Stone",
        "Lucas Field",
        "Martha Hill",
        "Nils Weaver",
        "Olga Frost",
        "Peter Lane",
    ];

    private static readonly string[] Trades =
    [
        "miller",
        "baker",
        "carpenter",
        "smith",
        "teacher",
        "ferryman",
        "shepherd",
        "doctor",
        "gardener",
        "tailor",
        "mason",
        "clerk",
    ];

    private static readonly string[] Places =
    [
        "the old bridge",
        "the mill",
        "the market square",
        "the north gate",
        "the harbour",
        "the school",
        "the orchard",
        "the quarry",
        "the chapel",
        "the lower meadow",
        "the granary",
        "the station",
    ];

    private static readonly string[] Goods =
    [
        "barley",
        "apples",
        "timber",
        "wool",
        "salt",
        "candles",
        "copper wire",
        "bricks",
        "honey",
        "letters",
        "seed potatoes",
        "lamp oil",
    ];

    private static readonly string[] Vessels = ["baskets", "sacks", "barrels", "crates", "carts", "bundles"];

    private static readonly string[] Months =
    [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];

    private static readonly string[] Weather =
    [
        "the river had risen",
        "it had snowed since dawn",
        "the wind came from the east",
        "the road was dry again",
        "fog lay over the fields",
        "the first swallows had returned",
        "the ice was too thin to walk on",
        "nobody had slept well",
    ];

    private static readonly string[] Verbs =
    [
        "carried",
        "sold",
        "counted",
        "lent",
        "borrowed",
        "found",
        "mended",
        "promised",
    ];

    /// <summary>The text of one file.</summary>
    /// <param name="file">Which, from 0.</param>
    public static string Write(int file)
    {
        RandomStream stream = new RandomStream(Seed).Derive(file);
        var text = new StringBuilder();
        for (int chapter = 1; text.Length < BytesPerFile; chapter++)
            WriteChapter(text, stream.Derive(chapter), chapter);
        return text.ToString();
    }

    private static void WriteChapter(StringBuilder text, RandomStream stream, int chapter)
    {
        var choice = new Choice(stream);
        string[] people = [choice.Of(People), choice.Of(People), choice.Of(People)];
        string[] trades = [choice.Of(Trades), choice.Of(Trades), choice.Of(Trades)];
        string place = choice.Of(Places);
        int year = 1820 + choice.Below(90);
        text.Append($"Chapter {chapter}. Of {place}, in the year {year}\n\n");
        int paragraphs = 3 + choice.Below(4);
        for (int paragraph = 0; paragraph < paragraphs; paragraph++)
        {
            int sentences = 3 + choice.Below(5);
            for (int sentence = 0; sentence < sentences && text.Length < BytesPerFile; sentence++)
            {
                int who = choice.Below(people.Length),
                    other = (who + 1 + choice.Below(people.Length - 1)) % people.Length;
                text.Append(Sentence(choice, (people[who], trades[who]), people[other], place, year))
                    .Append(sentence + 1 < sentences ? ' ' : '\n');
            }

            text.Append('\n');
        }
    }

    private static string Sentence(
        Choice choice,
        (string Name, string Trade) one,
        string other,
        string place,
        int year
    ) =>
        choice.Below(8) switch
        {
            0 => $"On the {1 + choice.Below(28)}. of {choice.Of(Months)} {year}, {one.Name} the {one.Trade} "
                + $"{choice.Of(Verbs)} "
                + $"{2 + choice.Below(40)} {choice.Of(Vessels)} of {choice.Of(Goods)} near {place}, "
                + $"although {choice.Of(Weather)}.",
            1 => $"{other} asked {one.Name} for {choice.Of(Goods)}, and got {choice.Of(Goods)} instead.",
            2 => $"\"If you go to {choice.Of(Places)},\" said {one.Name}, \"tell {other} that the {one.Trade} "
                + $"waits at {place}.\"",
            3 => $"That year {one.Name} {choice.Of(Verbs)} more {choice.Of(Goods)} than {other}, who was no "
                + $"{one.Trade}.",
            4 => $"Because {choice.Of(Weather)}, the {one.Trade} stayed at {place} until {choice.Of(Months)}.",
            5 => $"{one.Name} and {other} {choice.Of(Verbs)} the {choice.Of(Goods)} together; "
                + $"{2 + choice.Below(11)} {choice.Of(Vessels)} were left.",
            6 => $"Nobody at {place} remembered who had {choice.Of(Verbs)} the {choice.Of(Goods)}, but the "
                + $"{one.Trade} was {one.Name}.",
            _ => $"In {choice.Of(Months)} a stranger came to {choice.Of(Places)} and asked for {one.Name}, the "
                + $"{one.Trade}.",
        };

    /// <summary>One choice after another out of a stream.</summary>
    private sealed class Choice(RandomStream stream)
    {
        private long made;

        public int Below(int count) => (int)(stream.Bits(made++) % (ulong)count);

        public string Of(string[] values) => values[Below(values.Length)];
    }
}
