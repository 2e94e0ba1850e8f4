using System.Globalization;

namespace LongNet.Trainer.Measuring;

/// <summary>
/// Sizes in the convention of nccl-tests, where "64KB" is 65536 bytes. The planner's memory sizes, where KB is 1000 and
/// KiB is 1024, are in the planning folder's SizeText.
/// </summary>
internal static class ByteSize
{
    private static readonly string[] Units = ["B", "KB", "MB", "GB", "TB"];

    /// <summary>Reads a whole number, with or without a unit.</summary>
    /// <returns>Bytes, at least 1; null where the text is no size.</returns>
    public static long? Parse(string text)
    {
        string number = text.Trim().ToUpperInvariant();
        int unit = Array.FindLastIndex(Units, each => number.EndsWith(each, StringComparison.Ordinal));
        if (unit >= 0)
            number = number[..^Units[unit].Length];
        return
            long.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out long value)
            && value >= 1
            && value <= long.MaxValue >> (10 * Math.Max(0, unit))
            ? value << (10 * Math.Max(0, unit))
            : null;
    }

    /// <summary>
    /// Writes a size in the unit in which it is a number from 1 to 1024, with at most one digit after the point.
    /// </summary>
    public static string Format(long bytes)
    {
        double value = bytes;
        int unit = 0;
        for (; value >= 1024 && unit < Units.Length - 1; unit++)
            value /= 1024;
        return $"{value:0.#}{Units[unit]}";
    }
}
