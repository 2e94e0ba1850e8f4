using System.Diagnostics;
using System.Globalization;
using LongNet.Core;
using LongNet.Distributed.Lifetime;

namespace LongNet.Trainer.Loop;

/// <summary>Where in a run a fault can be injected.</summary>
internal enum FaultPoint
{
    /// <summary>Reading the batch.</summary>
    Data,
    Forward,

    /// <summary>Inside the backward pass, when the last block's gradients are complete.</summary>
    Backward,
    Optimizer,

    /// <summary>Writing a checkpoint, when one of its files is written; only on a rank that writes.</summary>
    Checkpoint,
}

/// <summary>
/// A failure on purpose, to see that a job on these machines ends as it should: the environment variable LONGNET_FAULT
/// is action:rank:step:place, e.g. kill:1:20:backward. Actions are throw, kill, stop, exit and hang.
/// </summary>
internal sealed record FaultInjection
{
    public const string Variable = "LONGNET_FAULT";

    private static readonly string[] Actions = ["throw", "kill", "stop", "exit", "hang"];

    private readonly string action;
    private readonly int rank;
    private readonly long step;
    private readonly FaultPoint point;

    private FaultInjection(string action, int rank, long step, FaultPoint point) =>
        (this.action, this.rank, this.step, this.point) = (action, rank, step, point);

    /// <summary>The fault that this process's environment asks for; null for none.</summary>
    /// <exception cref="UserException">The variable cannot be parsed; the message says what could.</exception>
    public static FaultInjection? FromProcess() =>
        Environment.GetEnvironmentVariable(Variable) is { Length: > 0 } text ? Parse(text) : null;

    /// <inheritdoc cref="FromProcess"/>
    public static FaultInjection Parse(string text)
    {
        string[] parts = text.Split(':');
        if (
            parts.Length == 4
            && Actions.Contains(parts[0])
            && int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out int rank)
            && long.TryParse(parts[2], NumberStyles.None, CultureInfo.InvariantCulture, out long step)
            && Enum.GetNames<FaultPoint>()
                .FirstOrDefault(name => name.Equals(parts[3], StringComparison.OrdinalIgnoreCase))
                is { } point
        )
        {
            return new FaultInjection(parts[0], rank, step, Enum.Parse<FaultPoint>(point));
        }

        throw new UserException(
            $"{Variable} is \"{text}\", but must be action:rank:step:place such as kill:1:20:backward, with "
                + $"one of {string.Join(", ", Actions)} and one of "
                + $"{string.Join(", ", Enum.GetNames<FaultPoint>()).ToLowerInvariant()}: or unset it."
        );
    }

    /// <summary>Fails if this is the point, the rank and the step of the fault.</summary>
    /// <param name="reached">Where this rank is.</param>
    /// <param name="worldRank">This rank.</param>
    /// <param name="currentStep">1 for the first step.</param>
    public void At(FaultPoint reached, int worldRank, long currentStep)
    {
        if (reached != point || worldRank != rank || currentStep != step)
            return;
        string where = $"{point.ToString().ToLowerInvariant()} of step {step}";
        DateTime now = TimeProvider.System.GetUtcNow().UtcDateTime;
        Console.WriteLine($"{Variable}: {action} on rank {rank} in {where} at {now:O}");
        Console.Out.Flush();
        switch (action)
        {
            case "throw":
                throw new InvalidOperationException($"{Variable} struck in {where}.");
            case "exit":
                Environment.Exit(0);
                return;
            case "kill":
                Signal("-KILL");
                break;
            case "stop":
                Signal("-STOP");
                break;
        }

        // Until the signal arrives, or for ever.
        EndOfProcess.Await();
    }

    private static void Signal(string signal) =>
        Process.Start("kill", [signal, Environment.ProcessId.ToString()]).Dispose();
}
