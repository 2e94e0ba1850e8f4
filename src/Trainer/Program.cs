using System.CommandLine;
using LongNet.Core;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Commands;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer;

internal static class Program
{
    public static int Main(string[] arguments)
    {
        // Under a launcher the console is no terminal, but Open MPI makes it look like one, and .NET would print escape
        // sequences.
        if (Console.IsOutputRedirected || RankEnvironment.IsLaunched)
            Environment.SetEnvironmentVariable("TERM", "dumb");
        var root = new RootCommand(
            "Trains transformers with dilated attention on sequences that no single device holds"
        )
        {
            TrainCommand.Create(),
            PlanCommand.Create(),
            BenchCommand.Create(),
            DoctorCommand.Create(),
            FlightRecordCommand.Create(),
            CheckpointCommand.Create(),
            DataCommand.Create(),
        };
        ParseResult parsed = root.Parse(arguments);
        if (parsed.Errors.Count == 0)
            return parsed.Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false });

        // Every rank has the same command line, so one rank reports the errors.
        if (ReportsForAll())
        {
            foreach (string problem in Problems(root, parsed))
                Console.Error.WriteLine($"longnet: {problem}");
            Console.Error.WriteLine("longnet: --help shows what there is.");
        }

        return RankProgram.UserError;
    }

    private static bool ReportsForAll()
    {
        try
        {
            return RankEnvironment.FromProcess().IsRoot;
        }
        catch (UserException)
        {
            return true; // The launcher's variables are invalid, so no rank knows whether it is rank 0.
        }
    }

    private static IEnumerable<string> Problems(RootCommand root, ParseResult parsed)
    {
        if (parsed.CommandResult.Command != root || parsed.UnmatchedTokens.Count == 0)
            return parsed.Errors.Select(error => error.Message);
        string name = parsed.UnmatchedTokens[0];
        string[] commands = [.. root.Subcommands.Select(command => command.Name)];
        string? nearest = ConfigurationProblems.Nearest(name, commands);
        return
        [
            $"There is no command \"{name}\""
                + (
                    nearest is null
                        ? $"; the commands are {string.Join(", ", commands)}."
                        : $"; did you mean \"{nearest}\"?"
                ),
        ];
    }
}
