// Rotation of pairs of channels: complex products. C# counterpart: RotationParameters.

struct Rotation
{
    // [batch, length, heads, channels], the last axis dense.
    const void* input;
    i64 inputSequence, inputRow, inputHead;
    // Dense.
    void* result;
    // [length, channels / 2], real and imaginary parts in turn; dense.
    const float* factors;
    int threads, channels;
    Divisor length, heads, groups; // groups: of eight channels
    // 1, or -1 for the conjugate factors.
    float sign;
};

template <typename T, bool aligned>
__device__ __forceinline__ void rotate(const Rotation& p)
{
    int index = thread_index();
    if (index >= p.threads)
        return;
    int place = divide(index, p.groups);
    int channel = (index - place * p.groups.value) * 8;
    int token = divide(place, p.heads);
    int head = place - token * p.heads.value;
    int sequence = divide(token, p.length);
    int row = token - sequence * p.length.value;
    int channels = p.channels - channel;

    float values[8], factors[8];
    const T* input = static_cast<const T*>(p.input) + sequence * p.inputSequence + row * p.inputRow
        + head * p.inputHead + channel;
    load<T, aligned>(values, input, channels);
    load<float, aligned>(factors, p.factors + (i64)row * p.channels + channel, channels);
#pragma unroll
    for (int c = 0; c < 8; c += 2)
    {
        float real = values[c], imaginary = values[c + 1], factor = factors[c], turn = p.sign * factors[c + 1];
        values[c] = real * factor - imaginary * turn;
        values[c + 1] = real * turn + imaginary * factor;
    }

    store<T, aligned>(static_cast<T*>(p.result) + (i64)place * p.channels + channel, values, channels);
}

#define ROTATION_KERNELS(T) \
    KERNEL(rotate_##T##_aligned, Rotation) { rotate<T, true>(p); } \
    KERNEL(rotate_##T, Rotation) { rotate<T, false>(p); }

ROTATION_KERNELS(float)
ROTATION_KERNELS(bfloat16)
ROTATION_KERNELS(float16)
