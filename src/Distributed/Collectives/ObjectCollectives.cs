using System.Text;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>
/// Collectives of bytes and text, as PyTorch's <c>broadcast_object_list</c> and <c>all_gather_object</c> are for objects.
/// </summary>
public static class ObjectCollectives
{
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
    public static string[] AllGatherText(ProcessGroup group, string own)
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
