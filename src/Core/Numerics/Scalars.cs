using TorchSharp;

namespace LongNet.Core.Numerics;

/// <summary>
/// Scalars that live as long as the program. TorchSharp passes a scalar's handle without keeping the object alive, so
/// one made for a single call may be finalised during that call; numbers that enter native code come from here.
/// </summary>
public static class Scalars
{
    public static Scalar One { get; } = 1.0.ToScalar();

    public static Scalar MinusOne { get; } = (-1.0).ToScalar();

    public static Scalar NegativeInfinity { get; } = double.NegativeInfinity.ToScalar();
}
