using System.CommandLine;
using LongNet.Core;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Platform;
using LongNet.Trainer.Reporting;

namespace LongNet.Trainer.Commands;

/// <summary>longnet plan: what a configuration comes to, before anything runs.</summary>
internal static class PlanCommand
{
    public static Command Create()
    {
        var config = new Option<string?>("--config", "-c")
        {
            Description = "YAML file, or the name of one in the nearest configs folder",
            HelpName = "FILE",
        };
        Option<string[]> set = CommonOptions.Set();
        var ranks = new Option<string?>("--ranks")
        {
            Description = "Ranks: 4, 1,2,8, or 1..4096 for powers of two; default 1",
            HelpName = "N",
        };
        ranks.Validators.Add(result =>
            Require(
                result.Tokens,
                text => SizeText.ParseRanks(text) is not null,
                "--ranks",
                "a number of ranks, a list such as 1,2,8, or a range such as 1..4096",
                result.AddError
            )
        );
        var lengths = new Option<string?>("--lengths")
        {
            Description = "Sequence lengths such as 8K,1M,1G; default: training.sequence_length",
            HelpName = "LIST",
        };
        lengths.Validators.Add(result =>
            Require(
                result.Tokens,
                text => text.Split(',').All(length => SizeText.ParseLength(length) is not null),
                "--lengths",
                "a list of lengths such as 8192,64K,1M,1G",
                result.AddError
            )
        );
        var target = new Option<string?>("--target-memory")
        {
            Description =
                "Finds the longest sequence for the ranks, or the fewest ranks for the lengths, that fit so "
                + "much memory per rank",
            HelpName = "SIZE",
        };
        target.Validators.Add(result =>
            Require(
                result.Tokens,
                text => SizeText.ParseMemory(text) is not null,
                "--target-memory",
                "an amount of memory such as 80GiB or 80GB",
                result.AddError
            )
        );
        var machine = new Option<string?>("--machine")
        {
            Description =
                $"{string.Join(", ", MachinePresets.All.Select(each => each.Name))}, or a file written by "
                + "longnet doctor --json; default: this one, measured now",
            HelpName = "NAME|FILE",
        };
        var check = new Option<string?>("--check")
        {
            Description = "Compares the prediction for a run with what the run measured",
            HelpName = "RUN",
        };
        var json = new Option<bool>("--json") { Description = "Prints all of it as JSON" };
        var markdown = new Option<bool>("--markdown")
        {
            Description = "Prints the table, or the row of --check, as Markdown",
        };
        var command = new Command(
            "plan",
            "Predicts memory, traffic and time of a configuration on any number of ranks, before anything runs"
        )
        {
            config,
            set,
            ranks,
            lengths,
            target,
            machine,
            check,
            json,
            markdown,
            Pattern(),
        };
        command.Validators.Add(result =>
        {
            if (result.Children.Any(child => child is System.CommandLine.Parsing.CommandResult))
                return;
            bool checks = result.GetResult(check) is not null;
            if (checks == (result.GetResult(config) is not null))
                result.AddError("plan takes either --config FILE, or --check RUN, whose configuration it reads.");
            if (checks && (result.GetResult(lengths) ?? result.GetResult(target)) is not null)
                result.AddError("--check compares with what the run did: leave out --lengths and --target-memory.");
            if (result.GetValue(json) && result.GetValue(markdown))
                result.AddError("--json and --markdown are two ways to print the same: give one of them.");
        });
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                int[]? counts = parsed.GetValue(ranks) is { } text ? SizeText.ParseRanks(text) : null;
                if (parsed.GetValue(check) is { } run)
                {
                    Check(
                        run,
                        parsed.GetValue(set)!,
                        counts,
                        parsed.GetValue(machine),
                        parsed.GetValue(json),
                        parsed.GetValue(markdown)
                    );
                    return 0;
                }

                RunConfig loaded = ConfigurationFile.Load(
                    ConfigurationFile.Find(parsed.GetValue(config)!),
                    parsed.GetValue(set)!
                );
                long[]? chosen = parsed
                    .GetValue(lengths)
                    ?.Split(',')
                    .Select(length => SizeText.ParseLength(length)!.Value)
                    .ToArray();
                double? memory = parsed.GetValue(target) is { } size ? SizeText.ParseMemory(size) : null;
                Machine where = Where(parsed.GetValue(machine), loaded);
                IReadOnlyList<PlanRow> rows =
                    memory is double limit && (counts is null || chosen is null)
                        ? Search(loaded, counts, chosen, where, limit)
                        :
                        [
                            .. (chosen ?? [loaded.Training.SequenceLength]).SelectMany(length =>
                                (counts ?? [1]).Select(count => Row(loaded, length, count, where))
                            ),
                        ];
                if (rows is [{ Refusal: { } refusal }])
                    throw new UserException(refusal);
                Console.Write(
                    parsed.GetValue(json) ? PlanReport.Json(rows, where, memory)
                    : parsed.GetValue(markdown) ? PlanReport.Markdown(rows, memory)
                    : rows is [{ Prediction: { } single }] ? PlanReport.Breakdown(single, memory)
                    : PlanReport.Text(rows, memory)
                );
                return 0;
            })
        );
        return command;
    }

    private static PlanRow Row(RunConfig config, long length, int ranks, Machine machine)
    {
        try
        {
            return new PlanRow(
                length,
                ranks,
                Prediction.Of(Prediction.WithLength(config, length), ranks, machine),
                null
            );
        }
        catch (UserException mistake)
        {
            return new PlanRow(length, ranks, null, mistake.Message);
        }
    }

    private static IReadOnlyList<PlanRow> Search(
        RunConfig config,
        int[]? ranks,
        long[]? lengths,
        Machine machine,
        double memory
    )
    {
        string size = SizeText.Memory(memory);
        if (lengths is not null)
        {
            return
            [
                .. lengths.Select(length =>
                    PlanSearch.FewestRanks(Prediction.WithLength(config, length), machine, memory) is { } found
                        ? new PlanRow(length, found.Run.Ranks, found, null)
                        : new PlanRow(
                            length,
                            0,
                            null,
                            "no number of ranks that the schedule and the batch allow holds sequences of "
                                + $"{SizeText.Length(length)} in {size} per rank: recompute (memory.recompute: "
                                + "full), or allow more."
                        )
                ),
            ];
        }

        return
        [
            .. (ranks ?? [1]).Select(count =>
                PlanSearch.LongestSequence(config, count, machine, memory) is { } found
                    ? new PlanRow(found.Run.SequenceLength, count, found, null)
                    : new PlanRow(
                        0,
                        count,
                        null,
                        $"{PlanReport.Ranks(count)} cannot hold a sequence of any length in {size} each: "
                            + "the model, or the schedule on so many ranks, does not fit."
                    )
            ),
        ];
    }

    private static void Check(string run, string[] set, int[]? ranks, string? machine, bool json, bool markdown)
    {
        RunConfig config = RunCheck.ConfigOf(run, set);
        RunCheck measured = RunCheck.Read(run);
        int count =
            ranks is [int given] ? given
            : ranks is null ? RunCheck.RanksOf(run) ?? 1
            : throw new UserException("--check compares with one run, which had one number of ranks: give one.");
        var prediction = Prediction.Of(config, count, Where(machine, config));
        Console.Write(
            json ? System.Text.Json.JsonSerializer.Serialize(measured.ToJson(prediction), MachineFile.Json) + "\n"
            : markdown ? measured.ToMarkdown(prediction)
            : $"{config.Name}: {PlanReport.Ranks(count)} as {prediction.Run.DataRanks} data x "
                + $"{prediction.Run.SequenceRanks} sequence, on {prediction.Machine.Name}\n"
                + measured.ToText(prediction)
        );
    }

    // Without a name, this machine as the configuration would use it.
    private static Machine Where(string? nameOrPath, RunConfig config)
    {
        if (nameOrPath is not null)
            return MachineFile.Find(nameOrPath);
        LibTorch.Load();
        var alone = new RankEnvironment(RankLauncher.None, 0, 1, 0, 1);
        ProcessSettings.Apply(config.Runtime, alone);
        using ProcessGroup world = ProcessGroup.Solo("world");
        return MachineMeasurement.Run(
            world,
            1,
            (config.Model.DModel, config.Model.FeedForward!.Value, config.Model.Heads),
            config.Memory.Offload == Offload.Disk ? config.Memory.OffloadDirectory ?? Path.GetTempPath() : null
        );
    }

    private static void Require(
        IReadOnlyList<System.CommandLine.Parsing.Token> tokens,
        Func<string, bool> holds,
        string option,
        string what,
        Action<string> add
    )
    {
        if (tokens is [{ Value: var text }] && !holds(text))
            add($"{option} is {text}, but must be {what}.");
    }

    private static Command Pattern()
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
                string path = parsed.GetRequiredValue(output);
                try
                {
                    File.WriteAllText(path, picture.ToSvg());
                }
                catch (Exception error) when (error is IOException or UnauthorizedAccessException)
                {
                    throw new UserException($"--output {path} cannot be written: {error.Message}");
                }
            })
        );
        return command;
    }
}
