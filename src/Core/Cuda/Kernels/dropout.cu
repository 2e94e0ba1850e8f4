// Dropout with the masks of CounterDropout. C# counterpart: DropoutParameters.

const int SEQUENCES = 400;

struct Dropout
{
    // [sequences, length, channels], dense. Only rows firstRow ... firstRow + rows - 1 of every sequence are computed.
    const void* input;
    void* result;
    i64 length, firstRow;
    // Position of row firstRow; the next rows have the next positions.
    i64 position;
    int threads, channels;
    Divisor rows, groups; // groups: of eight channels
    // An element is dropped where its 32 bits are less.
    u32 threshold;
    float kept;
    u64 key[SEQUENCES];
};

// RandomStream.Derive and RandomStream.Bits.
__device__ __forceinline__ u64 random_bits(u64 key, i64 counter)
{
    u64 value = key + 0x9E3779B97F4A7C15ull * ((u64)counter + 1);
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
    return value ^ (value >> 31);
}

template <typename T, bool aligned>
__device__ __forceinline__ void drop(const Dropout& p)
{
    int index = thread_index();
    if (index >= p.threads)
        return;
    int place = divide(index, p.groups);
    int channel = (index - place * p.groups.value) * 8;
    int sequence = divide(place, p.rows);
    int row = place - sequence * p.rows.value;
    int channels = p.channels - channel;
    i64 first = (sequence * p.length + p.firstRow + row) * p.channels + channel;

    u64 key = random_bits(p.key[sequence], p.position + row);
    float kept = widen(narrow<T>(p.kept));
    float values[8];
    load<T, aligned>(values, static_cast<const T*>(p.input) + first, channels);
#pragma unroll
    for (int c = 0; c < 8; c += 2)
    {
        u64 bits = random_bits(key, channel + c);
        values[c] *= (u32)bits < p.threshold ? 0.0f : kept;
        values[c + 1] *= (u32)(bits >> 32) < p.threshold ? 0.0f : kept;
    }

    store<T, aligned>(static_cast<T*>(p.result) + first, values, channels);
}

#define DROPOUT_KERNELS(T) \
    KERNEL(drop_##T##_aligned, Dropout) { drop<T, true>(p); } \
    KERNEL(drop_##T, Dropout) { drop<T, false>(p); }

DROPOUT_KERNELS(float)
DROPOUT_KERNELS(bfloat16)
DROPOUT_KERNELS(float16)
