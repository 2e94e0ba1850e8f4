// Results of attention blocks, brought together in one pass over what is written. C# counterparts: BlockEntry and
// BlockKernelParameters.

// A RowBlock and its tensors: values [segments, heads, rows, channels], log-sum-exp [segments, heads, rows].
struct Block
{
    const void* values;
    const float* logSumExp;
    i64 valueSegment, valueHead, valueRow;
    i64 logSumExpSegment, logSumExpHead, logSumExpRow;
    int firstRow, rows, segments;
    int firstHead, headSpan, offsetStride;
    Divisor segmentStride, rowStride, headStride;
    int unused;
};

const int BLOCKS = 28;

struct Blocks
{
    // Dense, [rows, heads, channels] and [rows, heads].
    void* result;
    float* logSumExp;
    // What earlier launches made of other blocks, shaped likewise; null for none.
    const float* startResult;
    const float* startLogSumExp;
    int threads, channels, count;
    Divisor heads, groups; // groups: of eight channels
    int unused;
    Block block[BLOCKS];
};

// Where a row and head lie in a block.
struct Place { int segment, head, row; };

__device__ __forceinline__ bool find(const Block& block, int row, int head, Place& place)
{
    int headDistance = head - block.firstHead;
    if ((u32)headDistance >= (u32)block.headSpan)
        return false;
    place.head = divide(headDistance, block.headStride);
    if (place.head * block.headStride.value != headDistance)
        return false;
    int distance = row - block.firstRow - place.head * block.offsetStride;
    if (distance < 0)
        return false;
    place.segment = divide(distance, block.segmentStride);
    if (place.segment >= block.segments)
        return false;
    int inside = distance - place.segment * block.segmentStride.value;
    place.row = divide(inside, block.rowStride);
    return place.row < block.rows && place.row * block.rowStride.value == inside;
}

template <typename T>
__device__ __forceinline__ const T* values_at(const Block& block, const Place& place, int channel)
{
    return static_cast<const T*>(block.values) + place.segment * block.valueSegment + place.head * block.valueHead
        + place.row * block.valueRow + channel;
}

// The mixture of all blocks that keep a row, by their softmax denominators, in one pass with a running maximum.
template <typename In, typename Out, bool aligned>
__device__ __forceinline__ void merge(const Blocks& p)
{
    int index = thread_index();
    if (index >= p.threads)
        return;
    int place = divide(index, p.groups);
    int channel = (index - place * p.groups.value) * 8;
    int row = divide(place, p.heads);
    int head = place - row * p.heads.value;
    int channels = p.channels - channel;
    i64 first = (i64)place * p.channels + channel;

    const float none = -__int_as_float(0x7f800000);
    float sum[8], largest = none, weights = 0.0f;
    if (p.startResult != 0)
        largest = p.startLogSumExp[place];
    if (largest != none)
    {
        load<float, aligned>(sum, p.startResult + first, channels);
        weights = 1.0f;
    }
    else
    {
#pragma unroll
        for (int c = 0; c < 8; c++)
            sum[c] = 0.0f;
    }

    for (int b = 0; b < p.count; b++)
    {
        const Block& block = p.block[b];
        Place at;
        if (!find(block, row, head, at))
            continue;
        float logSumExp = block.logSumExp[at.segment * block.logSumExpSegment + at.head * block.logSumExpHead
            + at.row * block.logSumExpRow];
        float values[8];
        load<In, aligned>(values, values_at<In>(block, at, channel), channels);
        if (logSumExp == none)
            continue;
        float maximum = fmaxf(largest, logSumExp);
        float before = expf(largest - maximum), now = expf(logSumExp - maximum);
        largest = maximum;
        weights = weights * before + now;
#pragma unroll
        for (int c = 0; c < 8; c++)
            sum[c] = sum[c] * before + values[c] * now;
    }

    float scale = weights > 0.0f ? 1.0f / weights : 0.0f;
#pragma unroll
    for (int c = 0; c < 8; c++)
        sum[c] *= scale;
    store<Out, aligned>(static_cast<Out*>(p.result) + first, sum, channels);
    if (channel == 0)
        p.logSumExp[place] = weights > 0.0f ? largest + logf(weights) : none;
}

// The sum of all blocks that keep a row, in the order of the table.
template <typename In, typename Out, bool aligned>
__device__ __forceinline__ void add_up(const Blocks& p)
{
    int index = thread_index();
    if (index >= p.threads)
        return;
    int place = divide(index, p.groups);
    int channel = (index - place * p.groups.value) * 8;
    int row = divide(place, p.heads);
    int head = place - row * p.heads.value;
    int channels = p.channels - channel;
    i64 first = (i64)place * p.channels + channel;

    float sum[8];
    if (p.startResult != 0)
    {
        load<float, aligned>(sum, p.startResult + first, channels);
    }
    else
    {
#pragma unroll
        for (int c = 0; c < 8; c++)
            sum[c] = 0.0f;
    }

    for (int b = 0; b < p.count; b++)
    {
        const Block& block = p.block[b];
        Place at;
        if (!find(block, row, head, at))
            continue;
        float values[8];
        load<In, aligned>(values, values_at<In>(block, at, channel), channels);
#pragma unroll
        for (int c = 0; c < 8; c++)
            sum[c] += values[c];
    }

    store<Out, aligned>(static_cast<Out*>(p.result) + first, sum, channels);
}

#define BLOCK_KERNELS(In, Out) \
    KERNEL(merge_##In##_##Out##_aligned, Blocks) { merge<In, Out, true>(p); } \
    KERNEL(merge_##In##_##Out, Blocks) { merge<In, Out, false>(p); } \
    KERNEL(sum_##In##_##Out##_aligned, Blocks) { add_up<In, Out, true>(p); } \
    KERNEL(sum_##In##_##Out, Blocks) { add_up<In, Out, false>(p); }

BLOCK_KERNELS(float, float)
BLOCK_KERNELS(bfloat16, float)
BLOCK_KERNELS(bfloat16, bfloat16)
BLOCK_KERNELS(float16, float)
BLOCK_KERNELS(float16, float16)
