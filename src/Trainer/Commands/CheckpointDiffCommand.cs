using System.CommandLine;
using LongNet.Core.Native;
using LongNet.Trainer.Checkpoints.Tools;

namespace LongNet.Trainer.Commands;

/// <summary>longnet checkpoint diff: what differs between two checkpoints, and by how much.</summary>
internal static class CheckpointDiffCommand
{
    /// <summary>Exit code where something differs, as that of diff.</summary>
    private const int Differ = 1;

    /// <summary>Lines per kind of difference, unless all are asked for.</summary>
    private const int Shown = 20;

    public static Command Create()
    {
        Argument<string> first = CheckpointCommand.Path("A"),
            second = CheckpointCommand.Path("B", "Likewise; ranks and shards may be others");
        var all = new Option<bool>("--all")
        {
            Description = $"Shows every tensor that differs, not only the {Shown} that differ most",
        };
        var command = new Command(
            "diff",
            "Says what differs between two checkpoints. Exit code 0 where they are equal, 1 where they "
                + "differ, 2 for mistakes"
        )
        {
            first,
            second,
            all,
        };
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                string a = CheckpointCommand.Find(parsed.GetRequiredValue(first)),
                    b = CheckpointCommand.Find(parsed.GetRequiredValue(second));
                LibTorch.Load();
                CheckpointComparison comparison = CheckpointComparison.Of(a, b);
                Show(comparison, parsed.GetValue(all) ? int.MaxValue : Shown);
                return comparison.IsEqual ? 0 : Differ;
            })
        );
        return command;
    }

    private static void Show(CheckpointComparison comparison, int shown)
    {
        foreach (StateDifference entry in comparison.State)
            Console.WriteLine($"state   {entry.Key}: {entry.First} → {entry.Second}");
        foreach (StateDifference entry in comparison.Configuration)
            Console.WriteLine($"config  {entry.Key}: {entry.First} → {entry.Second}");
        Lines([
            .. comparison.OnlyFirst.Select(name => $"only A  {name}"),
            .. comparison.OnlySecond.Select(name => $"only B  {name}"),
        ]);
        Lines([.. comparison.Misshapen.Select(entry => $"shape   {entry.Key}: {entry.First} → {entry.Second}")]);
        Lines([
            .. comparison.Tensors.Select(tensor =>
                (
                    $"tensor  {tensor.Name}: {tensor.Differing} of {tensor.Elements} elements, at most "
                    + $"{tensor.Largest:G3}, {tensor.Relative:G3} "
                    + "of its largest value"
                ) + (tensor.NotFinite > 0 ? $"; not finite: {tensor.NotFinite}" : "")
            ),
        ]);
        Console.WriteLine(Sentence(comparison));

        void Lines(string[] lines)
        {
            foreach (string line in lines.Take(shown))
                Console.WriteLine(line);
            if (lines.Length > shown)
                Console.WriteLine($"        and {lines.Length - shown} more, which --all shows");
        }
    }

    private static string Sentence(CheckpointComparison comparison)
    {
        if (comparison.IsEqual)
            return $"equal: state, configuration and {comparison.Compared} tensors";
        if (comparison.TensorsEqual)
            return $"0 of {comparison.Compared} tensors differ; entries of the state: {comparison.State.Count}, keys "
                + $"of the configuration: {comparison.Configuration.Count}";
        int inOneOnly = comparison.OnlyFirst.Count + comparison.OnlySecond.Count,
            misshapen = comparison.Misshapen.Count;
        var parts = new List<string>
        {
            $"{inOneOnly + misshapen + comparison.Tensors.Count} of {comparison.Compared} tensors differ",
        };
        if (comparison.Tensors.Count > 0)
        {
            // The optimizer's moments and step counts have other units than parameters.
            if (comparison.Tensors.Where(tensor => tensor.IsParameter).MaxBy(tensor => tensor.Largest) is { } largest)
                parts.Add($"at most {largest.Largest:G3} in a parameter ({largest.Name})");
            TensorDifference relative = comparison.Tensors.MaxBy(tensor => tensor.Relative)!;
            parts.Add($"at most {relative.Relative:G3} of a tensor's largest value ({relative.Name})");
            if (comparison.Tensors.Sum(tensor => tensor.NotFinite) is > 0 and var notFinite)
                parts.Add($"not finite: {notFinite} elements");
        }

        if (inOneOnly > 0)
            parts.Add($"in one alone: {inOneOnly}");
        if (misshapen > 0)
            parts.Add($"of another shape or type: {misshapen}");
        return string.Join(", ", parts);
    }
}
