namespace LongNet.Core.Model;

/// <summary>How attention learns where a row lies.</summary>
public enum PositionEncoding
{
    /// <summary>Nothing but the causal mask tells positions.</summary>
    None,

    /// <summary>
    /// Rotation by absolute position with decay over distance: <see cref="Attention.RotaryPositions.XPos"/>.
    /// </summary>
    XPos,

    /// <summary>Rotation by absolute position: <see cref="Attention.RotaryPositions.Rope"/>.</summary>
    Rope,
}
