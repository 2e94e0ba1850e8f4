namespace LongNet.Core.Attention;

/// <summary>How attention learns where a token lies.</summary>
public enum PositionEncoding
{
    /// <summary>By the causal mask only.</summary>
    None,

    /// <summary>Rotation by position with decay over distance: <see cref="RotaryPositions.XPos"/>.</summary>
    XPos,

    /// <summary>Rotation by position: <see cref="RotaryPositions.Rope"/>.</summary>
    Rope,
}
