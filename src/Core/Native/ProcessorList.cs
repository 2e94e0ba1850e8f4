using System.Globalization;

namespace LongNet.Core.Native;

/// <summary>Lists of processors as the kernel writes them, e.g. "0-3,8".</summary>
internal static class ProcessorList
{
    /// <summary>The numbers in a list, in its order; null where the text is no list or an empty one.</summary>
    public static int[]? Parse(string? list)
    {
        var numbers = new List<int>();
        foreach (string range in list?.Trim().Split(',', StringSplitOptions.RemoveEmptyEntries) ?? [])
        {
            string[] ends = range.Split('-');
            if (!Number(ends[0], out int first) || !Number(ends[^1], out int last) || ends.Length > 2 || last < first)
                return null;
            numbers.AddRange(Enumerable.Range(first, last - first + 1));
        }

        return numbers.Count == 0 ? null : [.. numbers];
    }

    private static bool Number(string text, out int number) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out number);
}
