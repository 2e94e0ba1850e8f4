using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;
using LongNet.Core.Native;
using static TorchSharp.torch;

namespace LongNet.Core.Attention.Kernels;

/// <summary>
/// Where the rows of every head of every segment lie in a strided [batch, heads, rows, headDim] tensor of float32 or
/// bfloat16. The tensor must be kept alive.
/// </summary>
internal readonly unsafe struct HeadRows(Tensor tensor)
{
    private readonly nint first = TensorMemory.StridedAddress(tensor);
    private readonly bool isHalf = tensor.dtype == ScalarType.BFloat16;
    private readonly long heads = tensor.shape[1],
        batchStride = tensor.stride(0),
        headStride = tensor.stride(1),
        rowStride = tensor.stride(2);

    /// <summary>The rows of one head of one segment.</summary>
    /// <param name="unit">Segment × heads + head.</param>
    public OneHead Of(long unit) =>
        new(first, unit / heads * batchStride + unit % heads * headStride, rowStride, isHalf);

    /// <summary>Rows of one head of one segment, read and written as float32.</summary>
    public readonly struct OneHead
    {
        private const int Lanes = VectorMath.Lanes;

        private readonly float* singles; // null where the tensor is bfloat16
        private readonly ushort* halves;
        private readonly long stride;

        public OneHead(nint first, long offset, long stride, bool isHalf)
        {
            this.stride = stride;
            singles = isHalf ? null : (float*)first + offset;
            halves = isHalf ? (ushort*)first + offset : null;
        }

        /// <summary>Sixteen elements of a row.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public Vector512<float> Load(long row, int channel) =>
            singles is not null
                ? Vector512.Load(singles + row * stride + channel)
                : (Avx512F.ConvertToVector512UInt32(Vector256.Load(halves + row * stride + channel)) << 16).AsSingle();

        /// <summary>Writes sixteen elements; bfloat16 is rounded to nearest, ties to even.</summary>
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        public void Store(long row, int channel, Vector512<float> values)
        {
            if (singles is not null)
            {
                values.Store(singles + row * stride + channel);
                return;
            }

            Vector512<uint> bits = values.AsUInt32(),
                rounded = bits + Vector512.Create(0x7FFFu) + ((bits >> 16) & Vector512<uint>.One);
            // Rounding could turn a NaN into infinity.
            rounded = Vector512.ConditionalSelect(
                Vector512.Equals(values, values).AsUInt32(),
                rounded,
                Vector512.Create(0x7FC00000u)
            );
            Avx512F.ConvertToVector256UInt16(rounded >> 16).Store(halves + row * stride + channel);
        }

        /// <summary>A row in float32.</summary>
        /// <param name="row">Its index.</param>
        /// <param name="channels">A multiple of 16.</param>
        /// <param name="space">Room for as many elements, used where the row must be converted.</param>
        public float* Read(long row, int channels, float* space)
        {
            if (singles is not null)
                return singles + row * stride;
            for (int c = 0; c < channels; c += Lanes)
                Load(row, c).Store(space + c);
            return space;
        }
    }
}
