using System.CommandLine;
using LongNet.Core.Native;
using LongNet.Trainer.Checkpoints.Tools;
using LongNet.Trainer.Configuration;

namespace LongNet.Trainer.Commands;

/// <summary>longnet checkpoint export: the weights alone, for another run or another program.</summary>
internal static class CheckpointExportCommand
{
    public static Command Create()
    {
        Argument<string> path = CheckpointCommand.Path();
        var output = new Option<string>("--output", "-o")
        {
            Description = "Safetensors file to write",
            Required = true,
            HelpName = "FILE",
        };
        output.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && string.IsNullOrWhiteSpace(result.Tokens[0].Value))
                result.AddError("--output is empty: name a file.");
        });
        var type = new Option<string>("--dtype")
        {
            Description = "Type of the numbers in it",
            HelpName = string.Join('|', TypeNames.All),
            DefaultValueFactory = _ => TypeNames.Float32,
        };
        type.Validators.Add(result =>
        {
            if (result.Tokens.Count == 1 && !TypeNames.All.Contains(result.Tokens[0].Value))
                result.AddError(
                    $"--dtype is {result.Tokens[0].Value}, but must be one of " + $"{string.Join(", ", TypeNames.All)}."
                );
        });
        var force = new Option<bool>("--force") { Description = "Replaces a file that is there" };
        var command = new Command(
            "export",
            "Writes the weights alone to one file, which model.initial_weights and Python's safetensors read"
        )
        {
            path,
            output,
            type,
            force,
        };
        command.SetAction(parsed =>
            RankProgram.RunOnRoot(() =>
            {
                string checkpoint = CheckpointCommand.Find(parsed.GetRequiredValue(path)),
                    file = parsed.GetRequiredValue(output),
                    name = parsed.GetValue(type)!;
                LibTorch.Load();
                ExportedWeights written = CheckpointExport.Write(checkpoint, file, name, parsed.GetValue(force));
                foreach (string note in written.Notes)
                    Console.WriteLine($"note: {note}");
                Console.WriteLine(
                    $"{file}: {written.Tensors} tensors, {written.Parameters} parameters in {name}, "
                        + $"{CheckpointSummary.Megabytes(written.Bytes)} MB, from {checkpoint}"
                );
                return 0;
            })
        );
        return command;
    }
}
