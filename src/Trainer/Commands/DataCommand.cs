using System.CommandLine;

namespace LongNet.Trainer.Commands;

/// <summary>longnet data: text made ready for training. None of it needs ranks or MPI.</summary>
internal static class DataCommand
{
    public static Command Create() =>
        new("data", "Makes text ready for training") { DataPrepareCommand.Create(), DataInspectCommand.Create() };
}
