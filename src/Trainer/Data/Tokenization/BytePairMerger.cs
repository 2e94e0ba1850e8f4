using System.Text;

namespace LongNet.Trainer.Data.Tokenization;

/// <summary>
/// Merges long pieces: always the two neighbours whose bytes together are the token of lowest rank, the leftmost first.
/// Takes time n log n where the library, which merges shorter pieces, takes n²: a piece can be as long as a run of
/// letters, and some texts consist of a single run.
/// </summary>
/// <param name="ranks">Tokens by their bytes, each byte as the character of its number.</param>
internal sealed class BytePairMerger(Dictionary<string, int> ranks)
{
    /// <summary>Bytes as the characters of their numbers.</summary>
    public static string KeyOf(ReadOnlySpan<byte> bytes) => Encoding.Latin1.GetString(bytes);

    /// <summary>Appends the tokens of a piece. Every single byte must be a token.</summary>
    public void Encode(ReadOnlySpan<byte> piece, List<int> tokens)
    {
        string bytes = KeyOf(piece);
        var byBytes = ranks.GetAlternateLookup<ReadOnlySpan<char>>();
        // Part p is bytes p … ends[p] − 1; where ends[p] is 0, it was merged into the part before it.
        var ends = new int[bytes.Length];
        var previous = new int[bytes.Length];
        var queue = new PriorityQueue<(int Left, int Middle, int End), (int Rank, int Left)>();
        for (int at = 0; at < bytes.Length; at++)
            (ends[at], previous[at]) = (at + 1, at - 1);
        for (int at = 0; at < bytes.Length; at++)
            Offer(at);
        while (queue.TryDequeue(out var pair, out _))
        {
            var (left, middle, end) = pair;
            if (ends[left] != middle || ends[middle] != end)
                continue;
            ends[left] = end;
            ends[middle] = 0;
            if (end < bytes.Length)
                previous[end] = left;
            Offer(left);
            if (previous[left] >= 0)
                Offer(previous[left]);
        }

        for (int at = 0; at < bytes.Length; at = ends[at])
            tokens.Add(byBytes[bytes.AsSpan(at, ends[at] - at)]);

        void Offer(int left)
        {
            int middle = ends[left];
            if (middle < bytes.Length && byBytes.TryGetValue(bytes.AsSpan(left, ends[middle] - left), out int rank))
                queue.Enqueue((left, middle, ends[middle]), (rank, left));
        }
    }
}
