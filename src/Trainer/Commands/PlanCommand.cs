using System.CommandLine;
using System.Text.Json;
using LongNet.Core;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Launch;
using LongNet.Trainer.Configuration;
using LongNet.Trainer.Planning;
using LongNet.Trainer.Planning.Machines;
using LongNet.Trainer.Platform;

namespace LongNet.Trainer.Commands;

/// <summary>longnet plan: memory, traffic and time of a configuration, before anything runs.</summary>
internal static class PlanCommand
{
    public static Command Create()
    {
        var options = new PlanOptions();
        var command = new Command(
            "plan",
            "Predicts memory, traffic and time of a configuration on any number of ranks, before anything runs"
        )
        {
            options.Config,
            options.Set,
            options.Ranks,
            options.Lengths,
            options.TargetMemory,
            options.Machine,
            options.Check,
            options.Json,
            options.Markdown,
            PlanPatternCommand.Create(),
        };
        command.Validators.Add(options.CheckTogether);
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                PlanRequest request = options.Read(parsed);
                if (request.CheckedRun is { } run)
                    Check(run, request);
                else
                    Predict(request);
                return 0;
            })
        );
        return command;
    }

    private static void Predict(PlanRequest request)
    {
        RunConfig config = ConfigurationFile.Load(ConfigurationFile.Find(request.Config!), request.Overrides);
        Machine machine = FindMachine(request.Machine, config);
        IReadOnlyList<PlanRow> rows = Rows(request, config, machine);
        if (rows is [{ Refusal: { } refusal }])
            throw new UserException(refusal);
        Console.Write(
            request.Format switch
            {
                PlanFormat.Json => PlanReport.Json(rows, machine, request.TargetMemory),
                PlanFormat.Markdown => PlanReport.Markdown(rows, request.TargetMemory),
                _ when rows is [{ Prediction: { } single }] => PlanReport.Breakdown(single, request.TargetMemory),
                _ => PlanReport.Text(rows, request.TargetMemory),
            }
        );
    }

    // With lengths, ranks and a target memory all given there is nothing to search for.
    private static IReadOnlyList<PlanRow> Rows(PlanRequest request, RunConfig config, Machine machine)
    {
        int[] ranks = request.Ranks ?? [1];
        if (request.TargetMemory is double memory && (request.Ranks is null || request.Lengths is null))
            return request.Lengths is { } lengths
                ? FewestRanks(config, lengths, machine, memory)
                : LongestSequences(config, ranks, machine, memory);
        return
        [
            .. (request.Lengths ?? [config.Training.SequenceLength]).SelectMany(length =>
                ranks.Select(count => Row(config, length, count, machine))
            ),
        ];
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
        catch (UserException error)
        {
            return new PlanRow(length, ranks, null, error.Message);
        }
    }

    private static IReadOnlyList<PlanRow> FewestRanks(
        RunConfig config,
        long[] lengths,
        Machine machine,
        double memory
    ) =>
        [
            .. lengths.Select(length =>
                PlanSearch.FewestRanks(Prediction.WithLength(config, length), machine, memory) is { } prediction
                    ? new PlanRow(length, prediction.Run.Ranks, prediction, null)
                    : new PlanRow(
                        length,
                        0,
                        null,
                        "no number of ranks that the schedule and the batch allow holds sequences of "
                            + $"{SizeText.Length(length)} in {SizeText.Memory(memory)} per rank: recompute "
                            + "(memory.recompute: full), or allow more."
                    )
            ),
        ];

    private static IReadOnlyList<PlanRow> LongestSequences(
        RunConfig config,
        int[] ranks,
        Machine machine,
        double memory
    ) =>
        [
            .. ranks.Select(count =>
                PlanSearch.LongestSequence(config, count, machine, memory) is { } prediction
                    ? new PlanRow(prediction.Run.SequenceLength, count, prediction, null)
                    : new PlanRow(
                        0,
                        count,
                        null,
                        $"{PlanReport.Ranks(count)} cannot hold a sequence of any length in "
                            + $"{SizeText.Memory(memory)} each: "
                            + "the model, or the schedule on so many ranks, does not fit."
                    )
            ),
        ];

    private static void Check(string run, PlanRequest request)
    {
        RunConfig config = RunCheck.ConfigOf(run, request.Overrides);
        RunCheck measured = RunCheck.Read(run);
        int ranks = request.Ranks switch
        {
            null => RunCheck.RanksOf(run) ?? 1,
            [int single] => single,
            _ => throw new UserException("--check compares with one run, which had one number of ranks: give one."),
        };
        var prediction = Prediction.Of(config, ranks, FindMachine(request.Machine, config));
        Console.Write(
            request.Format switch
            {
                PlanFormat.Json => JsonSerializer.Serialize(measured.ToJson(prediction), MachineFile.Json) + "\n",
                PlanFormat.Markdown => measured.ToMarkdown(prediction),
                _ => $"{config.Name}: {PlanReport.Ranks(ranks)} as {prediction.Run.DataRanks} data x "
                    + $"{prediction.Run.SequenceRanks} sequence, on {prediction.Machine.Name}\n"
                    + measured.ToText(prediction),
            }
        );
    }

    // Without a name, this machine is measured with the settings of the configuration.
    private static Machine FindMachine(string? nameOrPath, RunConfig config)
    {
        if (nameOrPath is not null)
            return MachineFile.Find(nameOrPath);
        LibTorch.Load();
        var singleRank = new RankEnvironment(RankLauncher.None, 0, 1, 0, 1);
        ProcessSettings.Apply(config.Runtime, singleRank);
        using ProcessGroup world = ProcessGroup.Solo("world");
        return MachineMeasurement.Run(
            world,
            1,
            (config.Model.DModel, config.Model.FeedForward!.Value, config.Model.Heads),
            config.Memory.Offload == Offload.Disk ? config.Memory.OffloadDirectory ?? Path.GetTempPath() : null
        );
    }
}
