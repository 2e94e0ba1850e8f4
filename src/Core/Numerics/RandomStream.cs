namespace LongNet.Core.Numerics;

/// <summary>
/// Counter-based randomness: every value is a function of a key and a counter, never of how many values were drawn
/// before, so it does not change with the number of ranks, the order of computation, or a resume.
/// </summary>
/// <remarks>
/// The mixing function is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014); a stream is a chain of keys, e.g. (seed, step, layer, site).
/// </remarks>
public readonly record struct RandomStream(ulong Key)
{
    /// <summary>What a counter is multiplied by: 2⁶⁴ divided by the golden ratio.</summary>
    internal const ulong Golden = 0x9E3779B97F4A7C15;

    /// <summary>Factors of the mixing function.</summary>
    internal const ulong FirstFactor = 0xBF58476D1CE4E5B9,
        SecondFactor = 0x94D049BB133111EB;

    /// <summary>The stream that a number selects within this one.</summary>
    public RandomStream Derive(long selector) => new(Mix(Key + Golden * ((ulong)selector + 1)));

    /// <summary>The stream that a name selects within this one.</summary>
    public RandomStream Derive(string name)
    {
        ArgumentNullException.ThrowIfNull(name);
        RandomStream stream = Derive(name.Length);
        foreach (char character in name)
            stream = stream.Derive(character);
        return stream;
    }

    /// <summary>64 random bits.</summary>
    public ulong Bits(long counter) => Mix(Key + Golden * ((ulong)counter + 1));

    private static ulong Mix(ulong value)
    {
        value = (value ^ (value >> 30)) * FirstFactor;
        value = (value ^ (value >> 27)) * SecondFactor;
        return value ^ (value >> 31);
    }
}
