using System.Runtime.ExceptionServices;
using LongNet.Core.Attention;
using LongNet.Core.Sequences;
using static TorchSharp.torch;

namespace LongNet.TestKit;

/// <summary>
/// The ranks of one sharded sequence in one process: every rank has a thread, and one of them computes at a time, until
/// it waits for a collective. Sums are added in rank order, as the process group adds them.
/// </summary>
public sealed class InProcessSequence
{
    // Far above what a test's collectives take; a rank that never calls one must not hang the tests.
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(60);

    private readonly SequenceLayout layout;

    // Acquired by the rank that computes; a rank that waits releases it.
    private readonly object turn = new();
    private readonly Dictionary<(string Group, int Call), Tensor?[]> contributions = [];
    private ExceptionDispatchInfo? failure;

    private InProcessSequence(SequenceLayout layout) => this.layout = layout;

    /// <summary>Runs a program on every rank of the layout.</summary>
    /// <param name="layout">Which rank holds which positions.</param>
    /// <param name="program">Called with a rank and its sharding, in a dispose scope of its own.</param>
    /// <returns>What the program returned, by rank. Owned by the caller.</returns>
    public static Tensor[][] Run(SequenceLayout layout, Func<int, ISequenceSharding, Tensor[]> program)
    {
        var sequence = new InProcessSequence(layout);
        var results = new Tensor[layout.Ranks][];
        Thread[] threads =
        [
            .. Enumerable
                .Range(0, layout.Ranks)
                .Select(rank => new Thread(() => results[rank] = sequence.RunRank(rank, program))),
        ];
        foreach (Thread thread in threads)
            thread.Start();
        foreach (Thread thread in threads)
            thread.Join();
        sequence.failure?.Throw();
        return [.. results.Select(tensors => tensors.Select(Adopt).ToArray())];
    }

    // Dispose scopes belong to a thread: the caller's must own what other threads made.
    private static Tensor Adopt(Tensor tensor)
    {
        Tensor own = tensor.clone();
        tensor.Dispose();
        return own;
    }

    private Tensor[] RunRank(int rank, Func<int, ISequenceSharding, Tensor[]> program)
    {
        lock (turn)
        {
            try
            {
                using var scope = NewDisposeScope();
                return [.. program(rank, new Sharding(this, rank)).Select(tensor => tensor.DetachFromDisposeScope())];
            }
            catch (Exception error)
            {
                failure ??= ExceptionDispatchInfo.Capture(error);
                Monitor.PulseAll(turn);
                return [];
            }
        }
    }

    private Tensor?[] ContributionsOf((string Group, int Call) collective, int peers)
    {
        if (!contributions.TryGetValue(collective, out Tensor?[]? parts))
            contributions.Add(collective, parts = new Tensor?[peers]);
        return parts;
    }

    // Lets the other ranks compute until all of them have contributed.
    private void AwaitAll(Tensor?[] parts)
    {
        while (parts.Contains(null))
        {
            if (failure is not null || !Monitor.Wait(turn, Patience))
                throw new InvalidOperationException("A rank of the sequence did not call a collective.");
        }
    }

    private sealed class Sharding(InProcessSequence sequence, int rank) : ISequenceSharding
    {
        private readonly Dictionary<string, int> calls = [];

        public SequenceShard ShardOf(long localLength) => sequence.layout.ShardOf(rank);

        public ISegmentPeers? JoinSegment(Branch branch, SequenceShard shard)
        {
            long segment = shard.Range.First / branch.SegmentLength;
            IReadOnlyList<int> ranks = sequence.layout.RanksOf(
                new PositionRange(segment * branch.SegmentLength, branch.SegmentLength)
            );
            return branch.SegmentLength <= shard.Length ? null : new Peers(sequence, this, ranks, rank);
        }

        public int NextCall(string group) => calls[group] = calls.GetValueOrDefault(group) + 1;
    }

    private sealed class Peers(InProcessSequence sequence, Sharding sharding, IReadOnlyList<int> ranks, int rank)
        : ISegmentPeers
    {
        private readonly string group = string.Join(' ', ranks);

        public IReadOnlyList<SequenceShard> Shards { get; } = [.. ranks.Select(sequence.layout.ShardOf)];

        public int OwnIndex { get; } = ranks.ToList().IndexOf(rank);

        public IPendingTensor StartAllGather(Tensor rows, IReadOnlyList<long> counts) =>
            Start(rows, parts => cat(parts));

        public IPendingTensor StartReduceScatter(Tensor gradients, IReadOnlyList<long> counts)
        {
            long first = counts.Take(OwnIndex).Sum();
            return Start(gradients, parts =>
                parts.Select(part => part.narrow(0, first, counts[OwnIndex])).Aggregate((sum, part) => sum + part)
            );
        }

        private Pending Start(Tensor own, Func<Tensor[], Tensor> combine)
        {
            Tensor?[] parts = sequence.ContributionsOf((group, sharding.NextCall(group)), ranks.Count);
            parts[OwnIndex] = own.clone().DetachFromDisposeScope();
            Monitor.PulseAll(sequence.turn);
            return new Pending(sequence, parts, combine);
        }
    }

    private sealed class Pending(InProcessSequence sequence, Tensor?[] parts, Func<Tensor[], Tensor> combine)
        : IPendingTensor
    {
        private Tensor? result;

        public Tensor Result()
        {
            if (result is null)
            {
                sequence.AwaitAll(parts);
                using var noGradient = no_grad();
                using var scope = NewDisposeScope();
                result = combine([.. parts.Select(part => part!)]).MoveToOuterDisposeScope();
            }

            return result;
        }
    }
}
