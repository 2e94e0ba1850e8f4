using System.Text;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives;
using LongNet.Distributed.Collectives.Transport;
using static TorchSharp.torch;

namespace LongNet.Distributed.Diagnostics;

/// <summary>Compares a collective among the ranks of its group before it runs (parallel.check_collectives).</summary>
internal static class CollectiveCheck
{
    // Every rank's description has this many bytes, so that ranks which disagree about everything else still meet here.
    private const int Length = 512;

    /// <summary>Blocking; collective.</summary>
    /// <exception cref="CollectiveException">A rank is about to run something else; names it and both.</exception>
    public static void Run(ICommunicator communicator, CollectiveCall call)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        var own = new byte[Length];
        Encoding.UTF8.GetBytes(
            Fit($"{call}\n at {call.CallSite}{(call.Activity.Length == 0 ? "" : $", {call.Activity}")}"),
            own
        );
        Tensor all = empty([communicator.Size * Length], dtype: uint8);
        communicator
            .AllGather(
                call.Untracked(),
                tensor(own, dtype: uint8),
                all,
                [.. Enumerable.Repeat((long)Length, communicator.Size)]
            )
            .Wait();
        var texts = new string[communicator.Size];
        TensorMemory.Read(all, (span, _) =>
        {
            for (int rank = 0; rank < texts.Length; rank++)
                texts[rank] = Encoding.UTF8.GetString(span.Slice(rank * Length, Length)).TrimEnd('\0');
        });
        string What(int rank) => texts[rank].Split('\n')[0];
        // What most ranks do is taken to be right; of equals, what the lowest rank does.
        string usual = Enumerable
            .Range(0, texts.Length)
            .GroupBy(What)
            .OrderByDescending(group => group.Count())
            .ThenBy(group => group.First())
            .First()
            .Key;
        int different = Array.FindIndex(texts, text => text.Split('\n')[0] != usual);
        if (different < 0)
            return;
        int other = Array.FindIndex(texts, text => text.Split('\n')[0] == usual);
        throw new CollectiveException(
            $"Ranks are about to run different collectives: rank {call.Members[different]} calls "
                + $"{texts[different].Replace("\n", "", StringComparison.Ordinal)}; "
                + $"rank {call.Members[other]} calls "
                + $"{texts[other].Replace("\n", "", StringComparison.Ordinal)}. All ranks of a group must make "
                + "the same calls in the same order.",
            speaker: call.Members.Min()
        );
    }

    // Cut where a character ends.
    private static string Fit(string text)
    {
        while (Encoding.UTF8.GetByteCount(text) > Length)
            text = text[..^1];
        return text;
    }
}
