using System.CommandLine;
using LongNet.Distributed.Diagnostics;

namespace LongNet.Trainer.Commands;

/// <summary>longnet flight-record: explains a failed job from its ranks' flight records.</summary>
internal static class FlightRecordCommand
{
    public static Command Create()
    {
        var folder = new Argument<string>("DIR") { Description = "A run directory, or its folder flight-record" };
        var last = new Option<int>("--last")
        {
            Description = "Also shows the last N collectives of every rank",
            HelpName = "N",
        };
        var command = new Command("flight-record", "Says what went wrong in a job whose ranks left flight records")
        {
            folder,
            last,
        };
        command.SetAction(parsed =>
            RankProgram.Run(runtime =>
            {
                if (runtime.Environment.IsRoot)
                    Show(FlightRecord.ReadAll(parsed.GetRequiredValue(folder)), parsed.GetValue(last));
            })
        );
        return command;
    }

    private static void Show(IReadOnlyList<FlightRecord> records, int last)
    {
        Console.WriteLine(FlightRecordAnalysis.Explain(records));
        int[] missing = [.. Enumerable.Range(0, records[0].Size).Except(records.Select(record => record.Rank))];
        if (missing.Length > 0)
            Console.WriteLine($"No record of {FlightRecordAnalysis.Ranks(missing)}.");
        if (last <= 0)
            return;
        foreach (FlightRecord record in records)
        {
            Console.WriteLine();
            string activity =
                record.Activity.Length == 0 ? "" : $", at \"{record.Activity}\" for {record.ActivitySeconds:F1} s";
            Console.WriteLine($"rank {record.Rank} ({record.Host}, process {record.ProcessId}){activity}");
            foreach (RecordedCollective call in record.Collectives.TakeLast(last))
                Console.WriteLine("  " + Line(record, call));
        }
    }

    private static string Line(FlightRecord record, RecordedCollective call)
    {
        string time =
            call.Completed is { } completed ? $"{(completed - call.Called).TotalMilliseconds:F2} ms"
            : call.Started is null ? "not started"
            : "not finished";
        return $"{call.Called:HH:mm:ss.fff} {call.Kind} #{call.Number} '{record.Groups[call.Group].Name}' "
            + $"{call.Signature} {call.CallSite} {time}";
    }
}
