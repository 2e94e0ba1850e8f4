namespace LongNet.Trainer.Reporting;

/// <summary>Reports nothing: that of every rank but 0.</summary>
internal sealed class NullReporter : IRunReporter
{
    private NullReporter() { }

    public static NullReporter Instance { get; } = new();
}
