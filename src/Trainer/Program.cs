using System.CommandLine;
using LongNet.Distributed;
using LongNet.Trainer.Commands;

namespace LongNet.Trainer;

internal static class Program
{
    public static int Main(string[] arguments)
    {
        // Under a launcher the console is no terminal, but Open MPI makes it look like one, and .NET would print escapes.
        if (Console.IsOutputRedirected || RankEnvironment.IsLaunched)
            Environment.SetEnvironmentVariable("TERM", "dumb");
        var root = new RootCommand("Trains transformers with dilated attention on sequences that no single device holds") { TrainCommand.Create() };
        ParseResult parsed = root.Parse(arguments);
        if (parsed.Errors.Count == 0)
            return parsed.Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false });

        // Every rank has the same command line, so one of them speaks.
        if (!RankEnvironment.IsLaunched || RankEnvironment.FromProcess().IsRoot)
        {
            foreach (var error in parsed.Errors)
                Console.Error.WriteLine($"longnet: {error.Message}");
            Console.Error.WriteLine("longnet: --help shows what there is.");
        }

        return RankProgram.UserError;
    }
}
