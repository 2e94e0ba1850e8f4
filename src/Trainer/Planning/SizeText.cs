using System.Globalization;

namespace LongNet.Trainer.Planning;

/// <summary>Numbers of rows, ranks and bytes as people write them.</summary>
internal static class SizeText
{
    private static readonly string[] LengthUnits = ["", "K", "M", "G"];
    private static readonly string[] BinaryUnits = ["B", "KiB", "MiB", "GiB", "TiB"];
    private static readonly string[] DecimalUnits = ["B", "KB", "MB", "GB", "TB"];

    /// <summary>Reads rows: a whole number, with K, M or G of 1024 each; "1G" is 2^30.</summary>
    /// <returns>At least 1; null where the text is no length.</returns>
    public static long? ParseLength(string text)
    {
        string number = text.Trim().ToUpperInvariant();
        int unit = Math.Max(
            0,
            Array.FindLastIndex(LengthUnits, each => number.EndsWith(each, StringComparison.Ordinal))
        );
        number = number[..^LengthUnits[unit].Length];
        return
            long.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out long value)
            && value >= 1
            && value <= (1L << 50) >> (10 * unit)
            ? value << (10 * unit)
            : null;
    }

    /// <summary>Reads lengths separated by commas.</summary>
    /// <returns>In the order given; null where one of them is no length.</returns>
    public static long[]? ParseLengths(string text)
    {
        long?[] lengths = [.. text.Split(',').Select(ParseLength)];
        return lengths.Contains(null) ? null : [.. lengths.Select(length => length!.Value)];
    }

    /// <summary>Reads bytes: GiB and the like are of 1024, GB and the like of 1000; a point is allowed.</summary>
    /// <returns>At least 1; null where the text is no amount of memory.</returns>
    public static double? ParseMemory(string text)
    {
        foreach (var (units, step) in new[] { (BinaryUnits, 1024.0), (DecimalUnits, 1000.0) })
        {
            int unit = Array.FindLastIndex(units, each =>
                text.Trim().EndsWith(each, StringComparison.OrdinalIgnoreCase) && each.Length > 1
            );
            if (
                unit > 0
                && double.TryParse(
                    text.Trim()[..^units[unit].Length].TrimEnd(),
                    NumberStyles.AllowDecimalPoint,
                    CultureInfo.InvariantCulture,
                    out double value
                )
            )
                return value * Math.Pow(step, unit) is >= 1 and < 1e18 and double bytes ? bytes : null;
        }

        return null;
    }

    /// <summary>
    /// Reads counts of ranks: "4", "1,2,8", or "1..4096" for the powers of two of the range and its ends.
    /// </summary>
    /// <returns>In the order given; null where the text is none.</returns>
    public static int[]? ParseRanks(string text)
    {
        string[] ends = text.Split("..");
        if (ends.Length == 2 && Number(ends[0]) is int first && Number(ends[1]) is int last && first <= last)
        {
            var ranks = new List<int>();
            for (long rank = first; rank <= last; rank *= 2)
                ranks.Add((int)rank);
            return ranks[^1] == last ? [.. ranks] : [.. ranks, last];
        }

        int?[] each = [.. text.Split(',').Select(Number)];
        return each.All(number => number is not null) ? [.. each.Select(number => number!.Value)] : null;

        static int? Number(string part) =>
            int.TryParse(part.Trim(), NumberStyles.None, CultureInfo.InvariantCulture, out int number)
            && number is >= 1 and <= 1 << 20
                ? number
                : null;
    }

    /// <summary>Rows in the largest unit that divides them.</summary>
    public static string Length(long rows)
    {
        int unit = 0;
        for (; unit < LengthUnits.Length - 1 && rows % 1024 == 0; unit++)
            rows /= 1024;
        return $"{rows}{LengthUnits[unit]}";
    }

    /// <summary>Bytes in the unit of 1024 in which they are a number from 1 to 1024.</summary>
    public static string Memory(double bytes)
    {
        int unit = 0;
        for (; bytes >= 1023.95 && unit < BinaryUnits.Length - 1; unit++)
            bytes /= 1024;
        return $"{bytes.ToString(unit == 0 ? "0" : "0.0")} {BinaryUnits[unit]}";
    }

    /// <summary>A duration in a unit that fits it.</summary>
    public static string Time(double seconds) =>
        seconds switch
        {
            < 1e-3 => $"{seconds * 1e6:0.0} us",
            < 1 => $"{seconds * 1e3:0.0} ms",
            < 600 => $"{seconds:0.00} s",
            < 6 * 3600 => $"{seconds / 60:0.0} min",
            < 72 * 3600 => $"{seconds / 3600:0.0} h",
            < 3 * 365 * 86400.0 => $"{seconds / 86400:0.0} days",
            _ => $"{seconds / 365 / 86400:0} years",
        };

    /// <summary>A large number with three digits and the SI prefix.</summary>
    public static string Count(double number)
    {
        string[] prefixes = ["", "k", "M", "G", "T", "P", "E", "Z"];
        int prefix = 0;
        for (; number >= 999.5 && prefix < prefixes.Length - 1; prefix++)
            number /= 1000;
        if (prefix == 0)
            return number.ToString("0");
        string digits = number switch
        {
            < 10 => "0.00",
            < 100 => "0.0",
            _ => "0",
        };
        return $"{number.ToString(digits)} {prefixes[prefix]}";
    }
}
