using System.CommandLine;
using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Checkpoints.Tools;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Commands;

/// <summary>longnet checkpoint inspect: what a checkpoint holds, from its state.json and its files' headers.</summary>
internal static class CheckpointInspectCommand
{
    public static Command Create()
    {
        Argument<string> path = CheckpointCommand.Path();
        var config = new Option<bool>("--config")
        {
            Description = "Prints only the configuration, as YAML that longnet train --config takes",
        };
        var json = new Option<bool>("--json") { Description = "Prints the same as JSON, with the whole of state.json" };
        var command = new Command("inspect", "Shows where a run was and which tensors its checkpoint holds")
        {
            path,
            config,
            json,
        };
        command.Validators.Add(result =>
        {
            if (result.GetValue(config) && result.GetValue(json))
                result.AddError("--config prints YAML and --json prints JSON: give one of them.");
        });
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                string checkpoint = CheckpointCommand.Find(parsed.GetRequiredValue(path));
                if (parsed.GetValue(config))
                {
                    Console.Write(ConfigurationText.ToYaml(CheckpointManifest.Read(checkpoint).Config));
                    return 0;
                }

                CheckpointSummary summary = CheckpointSummary.Read(checkpoint);
                Console.Write(parsed.GetValue(json) ? summary.ToJson() : summary.ToText());
                return 0;
            })
        );
        return command;
    }
}
