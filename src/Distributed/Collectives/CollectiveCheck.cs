using System.Text;
using LongNet.Core.Native;
using LongNet.Distributed.Collectives.Transport;
using LongNet.Distributed.Diagnostics;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives;

/// <summary>Compares a collective among the ranks of its group before it runs (parallel.check_collectives).</summary>
internal static class CollectiveCheck
{
    // Every rank's description has this many bytes, so that this exchange succeeds whatever the ranks disagree about.
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
        Tensor all = empty([communicator.Size * Length], dtype: uint8, device: CPU);
        communicator
            .AllGather(
                call.Untracked(),
                tensor(own, dtype: uint8, device: CPU),
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
        string Called(int rank) => texts[rank].Split('\n')[0];
        // The call that most ranks make counts as the right one; of equals, the lowest rank's.
        string usual = Enumerable
            .Range(0, texts.Length)
            .GroupBy(Called)
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
            reportingRank: call.Members.Min()
        );
    }

    // Cuts the text where a character ends.
    private static string Fit(string text)
    {
        while (Encoding.UTF8.GetByteCount(text) > Length)
            text = text[..^1];
        return text;
    }
}
