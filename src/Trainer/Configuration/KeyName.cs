using System.Text;

namespace LongNet.Trainer.Configuration;

/// <summary>How the program's names are written in configurations, messages and reports.</summary>
internal static class KeyName
{
    /// <summary>A property's key: its name in snake_case.</summary>
    public static string OfProperty(string property)
    {
        var key = new StringBuilder();
        foreach (char character in property)
        {
            if (char.IsUpper(character) && key.Length > 0)
                key.Append('_');
            key.Append(char.ToLowerInvariant(character));
        }

        return key.ToString();
    }

    /// <summary>A choice: its name in lower case.</summary>
    public static string OfValue(Enum choice) => choice.ToString().ToLowerInvariant();

    /// <summary>All choices of an enum, in the order of their values.</summary>
    public static IEnumerable<string> OfValues(Type choices) =>
        Enum.GetNames(choices).Select(name => name.ToLowerInvariant());
}
