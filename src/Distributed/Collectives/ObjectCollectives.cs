using System.Runtime.CompilerServices;
using System.Text;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives.Transport;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// Collectives of bytes and text, as PyTorch's <c>broadcast_object_list</c> and <c>all_gather_object</c> are for
/// objects. Messages name the caller of these methods.
/// </summary>
public static class ObjectCollectives
{
    /// <summary>Gives every rank the root's bytes. Collective.</summary>
    /// <param name="value">The root's bytes; not read on other ranks.</param>
    public static byte[] Broadcast(
        ProcessGroup group,
        byte[]? value,
        int root,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(group);
        bool isRoot = group.Rank == root;
        if (isRoot)
            ArgumentNullException.ThrowIfNull(value);
        using var scope = NewDisposeScope();
        Tensor length = tensor(new long[] { isRoot ? value!.LongLength : 0 }, device: CPU);
        group.Broadcast(length, root, file, line);
        Tensor content = empty([length.item<long>()], dtype: uint8, device: CPU);
        if (isRoot)
            TensorMemory.Write(content, (span, offset) => value.AsSpan((int)offset, span.Length).CopyTo(span));
        group.Broadcast(content, root, file, line);
        return isRoot ? value! : TensorBytes.ToArray(content);
    }

    /// <summary>Gives every rank the root's text. Collective.</summary>
    /// <param name="value">The root's text; not read on other ranks.</param>
    public static string BroadcastText(
        ProcessGroup group,
        string? value,
        int root,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    ) =>
        Encoding.UTF8.GetString(
            Broadcast(group, value is null ? null : Encoding.UTF8.GetBytes(value), root, file, line)
        );

    /// <summary>Gives every rank the texts of all. Collective.</summary>
    /// <returns>In rank order.</returns>
    public static string[] AllGatherText(
        ProcessGroup group,
        string own,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        byte[] bytes = Encoding.UTF8.GetBytes(own);
        long[] lengths = group
            .AllGather(tensor(new[] { bytes.LongLength }, device: CPU), file, line)
            .data<long>()
            .ToArray();
        byte[] all = TensorBytes.ToArray(
            group.AllGatherUneven(tensor(bytes, dtype: uint8, device: CPU), lengths, file, line)
        );
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
    /// <param name="own">This rank's bytes; the same number on every rank.</param>
    public static byte[] AllGather(
        ProcessGroup group,
        byte[] own,
        [CallerFilePath] string file = "",
        [CallerLineNumber] int line = 0
    )
    {
        ArgumentNullException.ThrowIfNull(group);
        using var scope = NewDisposeScope();
        return TensorBytes.ToArray(group.AllGather(tensor(own, dtype: uint8, device: CPU), file, line));
    }
}
