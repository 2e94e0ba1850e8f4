using LongNet.Core;

namespace LongNet.Trainer.Configuration;

/// <summary>Collects everything that is wrong with a configuration, so that the user sees it all at once.</summary>
internal sealed class ConfigurationProblems
{
    private readonly List<string> problems = [];

    public void Add(string problem) => problems.Add(problem);

    /// <summary>Adds the problem unless the condition holds.</summary>
    public void Require(bool condition, string problem)
    {
        if (!condition)
            problems.Add(problem);
    }

    /// <exception cref="UserException">There is a problem; one line each.</exception>
    public void ThrowIfAny()
    {
        if (problems.Count > 0)
            throw new UserException(string.Join(Environment.NewLine, problems));
    }

    /// <summary>The candidate fewest edits away, or null where none is near.</summary>
    public static string? Nearest(string word, IEnumerable<string> candidates)
    {
        var nearest = candidates
            .Select(candidate => (Candidate: candidate, Edits: Distance(word, candidate)))
            .OrderBy(pair => pair.Edits)
            .ThenBy(pair => pair.Candidate, StringComparer.Ordinal)
            .FirstOrDefault();
        return nearest.Candidate is not null && nearest.Edits <= Math.Max(2, word.Length / 3)
            ? nearest.Candidate
            : null;
    }

    // Levenshtein distance.
    private static int Distance(string a, string b)
    {
        int[] row = [.. Enumerable.Range(0, b.Length + 1)];
        for (int i = 1; i <= a.Length; i++)
        {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.Length; j++)
            {
                int substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.Min(substituted, 1 + Math.Min(row[j], row[j - 1]));
            }
        }

        return row[^1];
    }
}
