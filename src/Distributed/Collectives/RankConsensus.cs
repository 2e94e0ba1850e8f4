using LongNet.Core;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// Makes a mistake that some ranks see (a missing file on one machine) end the program on all of them alike.
/// </summary>
public static class RankConsensus
{
    /// <summary>
    /// Runs the action on every rank; returns only if no rank threw a <see cref="UserException"/>. Collective. The
    /// action itself must not communicate, because a rank that throws would leave the others waiting.
    /// </summary>
    /// <exception cref="AgreedUserException">
    /// On every rank, with the message of the lowest rank that failed, and its number where not all did.
    /// </exception>
    public static void Run(ProcessGroup group, Action action)
    {
        ArgumentNullException.ThrowIfNull(action);
        Run(group, () =>
        {
            action();
            return true;
        });
    }

    /// <inheritdoc cref="Run(ProcessGroup, Action)"/>
    /// <returns>What the function returned on this rank.</returns>
    public static T Run<T>(ProcessGroup group, Func<T> function) => Run(group, function, namesRank: true);

    /// <summary>
    /// Runs the action on rank 0 only, for what one process does on behalf of all, such as files. Collective.
    /// </summary>
    /// <exception cref="AgreedUserException">On every rank, with the message of rank 0's
    /// <see cref="UserException"/>.</exception>
    public static void RunOnRoot(ProcessGroup group, Action action)
    {
        ArgumentNullException.ThrowIfNull(action);
        RunOnRoot(group, () =>
        {
            action();
            return true;
        });
    }

    /// <inheritdoc cref="RunOnRoot(ProcessGroup, Action)"/>
    /// <returns>What the function returned on rank 0; the default on other ranks.</returns>
    public static T? RunOnRoot<T>(ProcessGroup group, Func<T> function)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(function);
        return Run(group, () => group.Rank == 0 ? function() : default, namesRank: false);
    }

    /// <summary>
    /// The same for what may take longer than ranks wait for each other, such as reading a whole checkpoint: others
    /// hear from rank 0 meanwhile. The function runs on a thread of its own. Collective.
    /// </summary>
    /// <inheritdoc cref="RunOnRoot{T}"/>
    public static T? RunLongOnRoot<T>(ProcessGroup group, Func<T> function)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(function);
        if (group.Size == 1)
            return RunOnRoot(group, function);
        Task<T>? work =
            group.Rank == 0
                ? Task.Factory.StartNew(
                    function,
                    CancellationToken.None,
                    TaskCreationOptions.LongRunning,
                    TaskScheduler.Default
                )
                : null;
        bool done;
        do
        {
            work?.ContinueWith(_ => { }, TaskScheduler.Default).Wait(Patience(group));
            done = ObjectCollectives.Broadcast(group, [work?.IsCompleted == true ? (byte)1 : (byte)0], 0) is [1];
        } while (!done);
        return RunOnRoot(group, () => work!.GetAwaiter().GetResult());
    }

    /// <summary>How long a rank may be silent while others wait for it in a collective.</summary>
    public static TimeSpan Patience(ProcessGroup group)
    {
        ArgumentNullException.ThrowIfNull(group);
        return group.Monitor.Timeout / 4;
    }

    private static T Run<T>(ProcessGroup group, Func<T> function, bool namesRank)
    {
        ArgumentNullException.ThrowIfNull(group);
        ArgumentNullException.ThrowIfNull(function);
        UserException? own = null;
        T result = default!;
        try
        {
            result = function();
        }
        catch (UserException mistake)
        {
            own = mistake;
        }

        // One byte per rank is all that ranks in agreement pay.
        byte[] failed = ObjectCollectives.AllGather(group, [own is null ? (byte)0 : (byte)1]);
        int first = Array.IndexOf(failed, (byte)1);
        if (first < 0)
            return result;
        string message = ObjectCollectives.BroadcastText(group, group.Rank == first ? own!.Message : null, first);
        bool onAll = Array.TrueForAll(failed, status => status == 1);
        string told = onAll || !namesRank ? message : $"Rank {first}: {message}";
        throw new AgreedUserException(told, own);
    }
}
