using System.CommandLine;

namespace LongNet.Trainer.Commands;

/// <summary>Options that mean the same in every command.</summary>
internal static class CommonOptions
{
    public static Option<string> Config() =>
        new("--config", "-c")
        {
            Description = "YAML file, or the name of one in the nearest configs folder",
            Required = true,
            HelpName = "FILE",
        };

    public static Option<string[]> Set() =>
        new("--set")
        {
            Description = "Overrides a key, e.g. --set optimizer.lr=3e-4; may be repeated",
            HelpName = "KEY.PATH=VALUE",
            DefaultValueFactory = _ => [],
        };
}
