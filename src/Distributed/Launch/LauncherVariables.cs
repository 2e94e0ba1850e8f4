using System.Globalization;
using LongNet.Core;

namespace LongNet.Distributed.Launch;

/// <summary>Environment variables that launchers set, with messages for values that no launcher sets.</summary>
/// <param name="variable">A variable's value by its name; null where unset.</param>
internal sealed class LauncherVariables(Func<string, string?> variable)
{
    /// <summary>Null where the variable is unset.</summary>
    public string? this[string name] => variable(name);

    /// <summary>Whether the variable is set and not empty.</summary>
    public bool Has(string name) => variable(name) is { Length: > 0 };

    /// <param name="otherwise">The number where the variable is unset or empty; null: that is an error.</param>
    /// <exception cref="UserException">The variable has no number from <paramref name="least"/> to
    /// <paramref name="most"/>.</exception>
    public int Number(string name, int least, int most, int? otherwise = null)
    {
        if (!Has(name) && otherwise is int value)
            return value;
        bool isNumber = int.TryParse(variable(name), NumberStyles.None, CultureInfo.InvariantCulture, out int number);
        if (isNumber && number >= least && number <= most)
            return number;
        throw new UserException(
            $"The environment variable {name} is {Shown(name)}, where a launcher puts a number from "
                + $"{least} to {most}: "
                + "start the ranks with mpiexec, or unset the variables a launcher left behind."
        );
    }

    /// <summary>The value as messages show it.</summary>
    public string Shown(string name) => variable(name) is string text ? $"'{text}'" : "not set";
}
