using System.CommandLine;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Reporting;

namespace LongNet.Trainer.Commands;

/// <summary>longnet plan pattern: a picture of the keys that queries see.</summary>
internal static class PlanPatternCommand
{
    public static Command Create()
    {
        Option<string> config = CommonOptions.Config();
        var output = new Option<string>("--output", "-o")
        {
            Description = "SVG file to write",
            Required = true,
            HelpName = "FILE",
        };
        var command = new Command("pattern", "Draws which keys the queries of the first heads see") { config, output };
        command.SetAction(parsed =>
            RankProgram.Run(_ =>
            {
                ModelConfig model = ConfigurationFile
                    .Load(ConfigurationFile.Find(parsed.GetRequiredValue(config)), [])
                    .Model;
                var picture = new PatternPicture(
                    model.ToModel().Schedule,
                    model.Attention.HeadOffsets,
                    model.Heads,
                    Causal: true
                );
                OutputFile.Write("--output", parsed.GetRequiredValue(output), picture.ToSvg);
            })
        );
        return command;
    }
}
