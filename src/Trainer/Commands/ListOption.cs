using System.CommandLine;
using System.Globalization;

namespace LongNet.Trainer.Commands;

/// <summary>Options that take several values, separated by commas.</summary>
internal static class ListOption
{
    /// <summary>Reads one value of a list.</summary>
    /// <returns>Whether the text is one.</returns>
    public delegate bool TryParse<T>(string text, out T value);

    /// <param name="name">Of the option.</param>
    /// <param name="description">Of the option; that commas separate the values is added.</param>
    /// <param name="helpName">The values in the help.</param>
    /// <param name="standard">The default.</param>
    /// <param name="takes">What a value may be, for the message about one that is not.</param>
    /// <param name="parse">Reads a value.</param>
    public static Option<T[]> Of<T>(
        string name,
        string description,
        string helpName,
        T[] standard,
        string takes,
        TryParse<T> parse
    ) =>
        new(name)
        {
            Description = $"{description}, separated by commas",
            HelpName = helpName,
            DefaultValueFactory = _ => standard,
            CustomParser = result =>
            {
                var values = new List<T>();
                foreach (string text in result.Tokens.SelectMany(token => token.Value.Split(',')))
                {
                    if (parse(text, out T value))
                        values.Add(value);
                    else
                        result.AddError($"{name} has {text}, but takes {takes}, separated by commas.");
                }

                return [.. values];
            },
        };

    /// <summary>Whole numbers from 1 on.</summary>
    public static Option<long[]> Numbers(string name, string description, long[] standard) =>
        Of(name, description, "N,N,...", standard, "whole numbers of at least 1", TryParseNumber);

    /// <summary>Text that a command reads later, such as names.</summary>
    public static Option<string[]> Texts(
        string name,
        string description,
        string helpName,
        string[] standard,
        string takes,
        Func<string, bool> isValid
    )
    {
        return Of(name, description, helpName, standard, takes, TryParseText);

        bool TryParseText(string text, out string value)
        {
            value = text;
            return isValid(text);
        }
    }

    private static bool TryParseNumber(string text, out long number) =>
        long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number) && number >= 1;
}
