using LongNet.Trainer.Checkpoints;
using LongNet.Trainer.Reporting;

namespace LongNet.Trainer.Tests.Reporting;

public sealed class ConsoleReporterTests : IDisposable
{
    private readonly StringWriter output = new();

    private static readonly StepMetrics Metrics = new()
    {
        Step = 1,
        Loss = 1.5,
        GradientNorm = 0.25,
        LearningRate = 3e-4,
        Tokens = 2048,
        TokensPerSecond = 4096,
        StepSeconds = 0.5,
        BytesSent = 0,
        ExposedCommunicationSeconds = 0,
        InFlightCommunicationSeconds = 0,
    };

    public void Dispose() => output.Dispose();

    [Fact]
    public void Step_OfMany_IsALineAtTheFirstTheLastAndEverySoMany()
    {
        IRunReporter console = new ConsoleReporter(output, lastStep: 9, everySteps: 4);
        for (long step = 2; step <= 9; step++)
            console.Step(Metrics with { Step = step });
        Assert.Equal(["2/9", "4/9", "8/9", "9/9"], Lines().Select(line => line.Split(' ')[1]));
        Assert.Equal("step 2/9  loss 1.5000  grad norm 0.250  lr 0.0003  4096 tokens/s", Lines()[0]);
    }

    [Fact]
    public void Step_Skipped_NamesTheLossScale()
    {
        new ConsoleReporter(output, 9, 1).Step(Metrics with { Loss = double.NaN, LossScale = 65536 });
        Assert.Equal(["step 1/9  loss NaN  skipped: it overflows with loss scale 65536"], Lines());
    }

    [Fact]
    public void Checkpoint_SavedOrFailed_IsALineWithItsWarning()
    {
        IRunReporter console = new ConsoleReporter(output, 9, 1);
        console.CheckpointSaved(4, new CommittedCheckpoint("run/step-4", 1, "LATEST cannot be written."));
        console.CheckpointFailed("It failed.", trainingContinues: true);
        console.CheckpointFailed("It failed.", trainingContinues: false);
        Assert.Equal(
            [
                "step 4/9  checkpoint run/step-4",
                "warning: LATEST cannot be written.",
                "warning: It failed. Training goes on (checkpoint.required: true would end it).",
                "warning: It failed.",
            ],
            Lines()
        );
    }

    [Fact]
    public void Composite_OfSeveral_CallsAllInTheirOrder()
    {
        IRunReporter composite = new CompositeReporter(
            new ConsoleReporter(output, 1, 1),
            NullReporter.Instance,
            new ConsoleReporter(output, 2, 1)
        );
        composite.Message("note: both");
        composite.Step(Metrics);
        composite.Evaluation(new EvaluationMetrics(1, 1));
        composite.CheckpointSaved(1, new CommittedCheckpoint("run/step-1", 1, null));
        composite.Stopping(1, "a reason");
        Assert.Equal(
            ["note: both", "note: both", "step 1/1", "step 1/2", "step 1/1", "step 1/2", "step 1/1", "step 1/2"],
            Lines().Take(8).Select(line => line.Split("  ")[0])
        );
        Assert.Equal(["stopping after step 1 of 1: a reason", "stopping after step 1 of 2: a reason"], Lines()[8..]);
    }

    private string[] Lines() => output.ToString().Split('\n', StringSplitOptions.RemoveEmptyEntries);
}
