using System.CommandLine;

namespace LongNet.Trainer.Commands;

/// <summary>Options that mean the same in every command.</summary>
internal static class CommonOptions
{
    public static Option<string> Config() => Config<string>(required: true);

    /// <summary>The same for commands that can do without a configuration; null where it is not given.</summary>
    public static Option<string?> OptionalConfig() => Config<string?>(required: false);

    public static Option<string[]> Set() =>
        new("--set")
        {
            Description = "Overrides a key, e.g. --set optimizer.lr=3e-4; may be repeated",
            HelpName = "KEY.PATH=VALUE",
            DefaultValueFactory = _ => [],
        };

    private static Option<T> Config<T>(bool required) =>
        new("--config", "-c")
        {
            Description = "YAML file, or the name of one in the nearest configs folder",
            Required = required,
            HelpName = "FILE",
        };
}
