using System.CommandLine;

namespace LongNet.Trainer.Commands;

/// <summary>
/// What the value of an option must be. A value that breaks the rule gives one line that names option and value.
/// </summary>
internal static class OptionRules
{
    /// <param name="option">Where it has no value, its default counts and is not checked.</param>
    /// <param name="isValid">Whether a value, as it was typed, is allowed.</param>
    /// <param name="what">Ends "but must be …".</param>
    /// <returns>The option itself.</returns>
    public static Option<T> MustBe<T>(this Option<T> option, Func<string, bool> isValid, string what)
    {
        option.Validators.Add(result =>
        {
            if (result.Tokens is [{ Value: var text }] && !isValid(text))
                result.AddError($"{option.Name} is {text}, but must be {what}.");
        });
        return option;
    }

    /// <summary>One of several words.</summary>
    public static Option<T> MustBeOneOf<T>(this Option<T> option, IEnumerable<string> words)
    {
        string[] all = [.. words];
        return option.MustBe(all.Contains, $"one of {string.Join(", ", all)}");
    }

    /// <summary>A number from 1 on. Text that is no number is left to the parser of the option's type.</summary>
    public static Option<T> AtLeastOne<T>(this Option<T> option) =>
        option.MustBe(text => !long.TryParse(text, out long value) || value >= 1, "at least 1");
}
