using TorchSharp;

namespace LongNet.Core.Numerics;

/// <summary>
/// Scalars that live as long as the program. TorchSharp passes a scalar's handle without keeping the object alive, so
/// one made for a single call may be finalised during that call; numbers that enter native code come from here.
/// </summary>
/// <remarks>Each is made at its first use, as libtorch may not be loaded yet when this class is first seen.</remarks>
internal static class Scalars
{
    private static readonly Lazy<Scalar> LazyOne = new(() => 1.0.ToScalar()),
        LazyMinusOne = new(() => (-1.0).ToScalar()),
        LazyNegativeInfinity = new(() => double.NegativeInfinity.ToScalar());

    public static Scalar One => LazyOne.Value;

    public static Scalar MinusOne => LazyMinusOne.Value;

    public static Scalar NegativeInfinity => LazyNegativeInfinity.Value;
}
