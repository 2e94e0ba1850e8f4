using System.CommandLine;
using LongNet.Core;
using LongNet.Trainer.Storage;

namespace LongNet.Trainer.Commands;

/// <summary>Files that a command writes because an option names them.</summary>
internal static class OutputFile
{
    /// <summary>--json of commands that measure.</summary>
    public static Option<string?> Json() => ReportOption("--json", "numbers");

    /// <summary>--markdown of commands that measure.</summary>
    public static Option<string?> Markdown() => ReportOption("--markdown", "table");

    /// <summary>Writes a text.</summary>
    /// <param name="option">The option that names the file, for the message.</param>
    /// <param name="path">Null: nothing is written.</param>
    /// <param name="text">Makes the text where it is needed.</param>
    /// <exception cref="UserException">The file cannot be written.</exception>
    public static void Write(string option, string? path, Func<string> text)
    {
        if (path is null)
            return;
        try
        {
            File.WriteAllText(path, text());
        }
        catch (Exception error) when (DiskError.Is(error))
        {
            throw new UserException($"{option} {path} cannot be written: {error.Message}");
        }
    }

    private static Option<string?> ReportOption(string name, string what) =>
        new(name) { Description = $"Writes the {what} to this file too", HelpName = "FILE" };
}
