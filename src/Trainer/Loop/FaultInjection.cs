using System.Diagnostics;
using System.Globalization;
using LongNet.Core;
using LongNet.Distributed.Lifetime;

namespace LongNet.Trainer.Loop;

/// <summary>Where in a run a drill can strike.</summary>
internal enum FaultPoint
{
    /// <summary>Reading the batch.</summary>
    Data,
    Forward,

    /// <summary>Inside the backward pass, when the last block's gradients are complete.</summary>
    Backward,
    Optimizer,

    /// <summary>Writing a checkpoint, when one of its files is there; only on a rank that writes.</summary>
    Checkpoint,
}

/// <summary>
/// A failure on purpose, to see that a job on these machines ends as it should: the environment variable LONGNET_FAULT
/// says action:rank:step:place, e.g. kill:1:20:backward. Actions are throw, kill, stop, exit and hang.
/// </summary>
internal sealed record FaultInjection
{
    public const string Variable = "LONGNET_FAULT";

    private static readonly string[] Actions = ["throw", "kill", "stop", "exit", "hang"];

    private readonly string action;
    private readonly int rank;
    private readonly long step;
    private readonly FaultPoint place;

    private FaultInjection(string action, int rank, long step, FaultPoint place) =>
        (this.action, this.rank, this.step, this.place) = (action, rank, step, place);

    /// <summary>The drill that this process's environment asks for; null for none.</summary>
    /// <exception cref="UserException">The variable makes no sense; says what would.</exception>
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
                is { } place
        )
        {
            return new FaultInjection(parts[0], rank, step, Enum.Parse<FaultPoint>(place));
        }

        throw new UserException(
            $"{Variable} is \"{text}\", but must be action:rank:step:place such as kill:1:20:backward, with "
                + $"one of {string.Join(", ", Actions)} and one of "
                + $"{string.Join(", ", Enum.GetNames<FaultPoint>()).ToLowerInvariant()}: or unset it."
        );
    }

    /// <summary>Strikes if this is the place.</summary>
    /// <param name="worldRank">This rank.</param>
    /// <param name="currentStep">1 for the first step.</param>
    public void At(FaultPoint reached, int worldRank, long currentStep)
    {
        if (reached != place || worldRank != rank || currentStep != step)
            return;
        string where = $"{place.ToString().ToLowerInvariant()} of step {step}";
        Console.WriteLine(
            $"{Variable}: {action} on rank {rank} in {where} at {TimeProvider.System.GetUtcNow().UtcDateTime:O}"
        );
        Console.Out.Flush();
        switch (action)
        {
            case "throw":
                throw new InvalidOperationException($"{Variable} struck in {where}.");
            case "exit":
                Environment.Exit(0);
                break;
            case "hang":
                EndOfProcess.Await();
                break;
            default:
                using (
                    var kill = Process.Start(
                        "kill",
                        [action == "kill" ? "-KILL" : "-STOP", Environment.ProcessId.ToString()]
                    )
                )
                    EndOfProcess.Await();
                break;
        }
    }
}
