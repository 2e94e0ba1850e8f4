using System.CommandLine;
using System.CommandLine.Parsing;
using LongNet.Trainer.Planning;
using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Commands;

/// <summary>The options of longnet plan.</summary>
internal sealed class PlanOptions
{
    public Option<string?> Config { get; } = CommonOptions.OptionalConfig();

    public Option<string[]> Set { get; } = CommonOptions.Set();

    public Option<string?> Ranks { get; } =
        new Option<string?>("--ranks")
        {
            Description = "Ranks: 4, 1,2,8, or 1..4096 for powers of two; default 1",
            HelpName = "N",
        }.MustBe(
            text => SizeText.ParseRanks(text) is not null,
            "a number of ranks, a list such as 1,2,8, or a range such as 1..4096"
        );

    public Option<string?> Lengths { get; } =
        new Option<string?>("--lengths")
        {
            Description = "Sequence lengths such as 8K,1M,1G; default: training.sequence_length",
            HelpName = "LIST",
        }.MustBe(text => SizeText.ParseLengths(text) is not null, "a list of lengths such as 8192,64K,1M,1G");

    public Option<string?> TargetMemory { get; } =
        new Option<string?>("--target-memory")
        {
            Description =
                "Finds the longest sequence for the ranks, or the fewest ranks for the lengths, that fit so "
                + "much memory per rank",
            HelpName = "SIZE",
        }.MustBe(text => SizeText.ParseMemory(text) is not null, "an amount of memory such as 80GiB or 80GB");

    public Option<string?> Machine { get; } =
        new("--machine")
        {
            Description =
                $"{string.Join(", ", MachinePresets.All.Select(machine => machine.Name))}, or a file written by "
                + "longnet doctor --json; default: this one, measured now",
            HelpName = "NAME|FILE",
        };

    public Option<string?> Check { get; } =
        new("--check")
        {
            Description = "Compares the prediction for a run with what the run measured",
            HelpName = "RUN",
        };

    public Option<bool> Json { get; } = new("--json") { Description = "Prints all of it as JSON" };

    public Option<bool> Markdown { get; } =
        new("--markdown") { Description = "Prints the table, or the row of --check, as Markdown" };

    /// <summary>Adds an error for options that exclude each other.</summary>
    public void CheckTogether(CommandResult result)
    {
        if (result.Children.Any(child => child is CommandResult))
            return; // A subcommand has options of its own.
        bool isCheck = result.GetResult(Check) is not null;
        if (isCheck == (result.GetResult(Config) is not null))
            result.AddError("plan takes either --config FILE, or --check RUN, whose configuration it reads.");
        if (isCheck && (result.GetResult(Lengths) ?? result.GetResult(TargetMemory)) is not null)
            result.AddError("--check compares with what the run did: leave out --lengths and --target-memory.");
        if (result.GetValue(Json) && result.GetValue(Markdown))
            result.AddError("--json and --markdown are two ways to print the same: give one of them.");
    }

    public PlanRequest Read(ParseResult parsed) =>
        new()
        {
            Config = parsed.GetValue(Config),
            Overrides = parsed.GetValue(Set)!,
            Ranks = parsed.GetValue(Ranks) is { } ranks ? SizeText.ParseRanks(ranks) : null,
            Lengths = parsed.GetValue(Lengths) is { } lengths ? SizeText.ParseLengths(lengths) : null,
            TargetMemory = parsed.GetValue(TargetMemory) is { } size ? SizeText.ParseMemory(size) : null,
            Machine = parsed.GetValue(Machine),
            CheckedRun = parsed.GetValue(Check),
            Format =
                parsed.GetValue(Json) ? PlanFormat.Json
                : parsed.GetValue(Markdown) ? PlanFormat.Markdown
                : PlanFormat.Text,
        };
}
