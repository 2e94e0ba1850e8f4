namespace LongNet.Core.Numerics;

/// <summary>Arithmetic of whole numbers.</summary>
internal static class Integers
{
    /// <summary>The greatest common divisor of two numbers that are not negative; of 0 and a, a.</summary>
    public static long GreatestCommonDivisor(long a, long b)
    {
        while (b != 0)
            (a, b) = (b, a % b);
        return a;
    }

    /// <summary>The least common multiple of two positive numbers.</summary>
    public static long LeastCommonMultiple(long a, long b) => a / GreatestCommonDivisor(a, b) * b;

    /// <summary>The divisor of a positive number that is nearest to another number, the smaller of two such.</summary>
    public static long NearestDivisor(long number, long near) =>
        Enumerable
            .Range(1, (int)Math.Min(number, int.MaxValue - 1))
            .Where(candidate => number % candidate == 0)
            .MinBy(candidate => Math.Abs(candidate - near));
}
