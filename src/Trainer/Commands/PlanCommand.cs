using System.CommandLine;
using LongNet.Core;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Reporting;

namespace LongNet.Trainer.Commands;

/// <summary>longnet plan: what a configuration comes to, before anything runs.</summary>
internal static class PlanCommand
{
    public static Command Create() => new("plan", "Shows what a configuration comes to, before anything runs") { Pattern() };

    private static Command Pattern()
    {
        Option<string> config = CommonOptions.Config();
        var output = new Option<string>("--output", "-o") { Description = "SVG file to write", Required = true, HelpName = "FILE" };
        var command = new Command("pattern", "Draws which keys the queries of the first heads see") { config, output };
        command.SetAction(parsed => RankProgram.Run(_ =>
        {
            ModelConfig model = ConfigurationFile.Load(ConfigurationFile.Find(parsed.GetRequiredValue(config)), []).Model;
            var picture = new PatternPicture(model.ToModel().Schedule, model.Attention.HeadOffsets, model.Heads, Causal: true);
            string path = parsed.GetRequiredValue(output);
            try
            {
                File.WriteAllText(path, picture.ToSvg());
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                throw new UserException($"--output {path} cannot be written: {error.Message}");
            }
        }));
        return command;
    }
}
