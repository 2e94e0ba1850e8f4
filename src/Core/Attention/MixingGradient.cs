namespace LongNet.Core.Attention;

/// <summary>How the weights that mix the branches enter the gradient.</summary>
public enum MixingGradient
{
    /// <summary>The exact gradient of the mixture.</summary>
    Exact,

    /// <summary>
    /// The weights count as constants in backward, as in the authors' published Python code. For comparison only; costs
    /// a second forward in backward.
    /// </summary>
    Detached,
}
