using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Distributed.Collectives.Transport;

/// <summary>The content of small tensors that carry bytes between ranks.</summary>
internal static class TensorBytes
{
    /// <summary>A copy of all bytes of a contiguous CPU tensor.</summary>
    public static byte[] ToArray(Tensor content)
    {
        var bytes = new byte[TensorMemory.ByteLength(content)];
        TensorMemory.Read(content, (span, offset) => span.CopyTo(bytes.AsSpan((int)offset)));
        return bytes;
    }
}
