using LongNet.Core.Numerics;
using static TorchSharp.torch;

namespace LongNet.Core.Tests.Numerics;

internal static class BackwardPassRunner
{
    /// <summary>Backward from a tensor and its cotangent, with errors surfacing.</summary>
    public static void Run(Tensor output, Tensor cotangent) => BackwardPass.Run(output.mul(cotangent).sum());
}
