using System.Text;
using LongNet.Core;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// Makes a mistake that some ranks see (a missing file on one machine) end the program on all of them alike.
/// </summary>
public static class RankAgreement
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
    /// Runs the function on rank 0 alone, for what one process does on behalf of all, such as files. Collective.
    /// </summary>
    /// <returns>What the function returned on rank 0; the default on other ranks.</returns>
    /// <exception cref="AgreedUserException">On every rank, with the message of rank 0's
    /// <see cref="UserException"/>.</exception>
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
            done = Broadcast(group, [work?.IsCompleted == true ? (byte)1 : (byte)0], 0) is [1];
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
        byte[] failed = AllGather(group, [own is null ? (byte)0 : (byte)1]);
        int first = Array.IndexOf(failed, (byte)1);
        if (first < 0)
            return result;
        string message = BroadcastText(group, group.Rank == first ? own!.Message : null, first);
        bool onAll = Array.TrueForAll(failed, status => status == 1);
        string told = onAll || !namesRank ? message : $"Rank {first}: {message}";
        throw new AgreedUserException(told, own);
    }

    /// <summary>Gives every rank the root's bytes. Collective.</summary>
    /// <param name="value">What the root says; not read on other ranks.</param>
    public static byte[] Broadcast(ProcessGroup group, byte[]? value, int root)
    {
        ArgumentNullException.ThrowIfNull(group);
        bool isRoot = group.Rank == root;
        if (isRoot)
            ArgumentNullException.ThrowIfNull(value);
        using var scope = NewDisposeScope();
        Tensor length = tensor(new long[] { isRoot ? value!.LongLength : 0 });
        group.Broadcast(length, root);
        Tensor content = empty([length.item<long>()], dtype: uint8);
        if (isRoot)
            TensorMemory.Write(content, (span, offset) => value.AsSpan((int)offset, span.Length).CopyTo(span));
        group.Broadcast(content, root);
        return isRoot ? value! : Bytes(content);
    }

    /// <summary>Gives every rank the root's text. Collective.</summary>
    /// <param name="value">What the root says; not read on other ranks.</param>
    public static string BroadcastText(ProcessGroup group, string? value, int root) =>
        Encoding.UTF8.GetString(Broadcast(group, value is null ? null : Encoding.UTF8.GetBytes(value), root));

    /// <summary>Gives every rank the texts of all. Collective.</summary>
    /// <returns>In rank order.</returns>
    public static string[] GatherTexts(ProcessGroup group, string own)
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        byte[] bytes = Encoding.UTF8.GetBytes(own);
        long[] lengths = group.AllGather(tensor(new[] { bytes.LongLength })).data<long>().ToArray();
        byte[] all = Bytes(group.AllGatherUneven(tensor(bytes, dtype: uint8), lengths));
        var texts = new string[group.Size];
        int start = 0;
        for (int rank = 0; rank < texts.Length; rank++)
        {
            texts[rank] = Encoding.UTF8.GetString(all, start, (int)lengths[rank]);
            start += (int)lengths[rank];
        }

        return texts;
    }

    /// <summary>Gives every rank the bytes of all, one after another in rank order. Collective.</summary>
    /// <param name="own">As many on every rank.</param>
    public static byte[] AllGather(ProcessGroup group, byte[] own)
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        return Bytes(group.AllGather(tensor(own, dtype: uint8)));
    }

    private static byte[] Bytes(Tensor content)
    {
        var bytes = new byte[TensorMemory.ByteLength(content)];
        TensorMemory.Read(content, (span, offset) => span.CopyTo(bytes.AsSpan((int)offset)));
        return bytes;
    }
}
