// What the kernels share. They are compiled as one program, this file first, and include no header, as the run-time
// compiler brings none. Every thread works on eight neighbouring channels.

#ifndef KERNEL
#define KERNEL(name, Parameters) extern "C" __global__ void __launch_bounds__(256) name(const Parameters p)
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bfloat16 { unsigned short bits; };
struct float16 { unsigned short bits; };

__device__ __forceinline__ float widen(float x) { return x; }

__device__ __forceinline__ float widen(bfloat16 x) { return __uint_as_float((u32)x.bits << 16); }

__device__ __forceinline__ float widen(float16 x)
{
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
    return result;
}

template <typename T> __device__ __forceinline__ T narrow(float x);

template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }

// To the nearest, ties to even; NaN stays NaN.
template <> __device__ __forceinline__ bfloat16 narrow<bfloat16>(float x)
{
    u32 bits = __float_as_uint(x);
    bfloat16 result;
    result.bits = x != x ? (unsigned short)0x7fc0 : (unsigned short)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    return result;
}

template <> __device__ __forceinline__ float16 narrow<float16>(float x)
{
    float16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
}

// Eight elements as the 16-byte words that memory is read and written in.
template <typename T> struct __align__(16) Eight { T element[8]; };

// Reads eight channels from `first` on; zeros beyond the last. Aligned: there are eight, on a boundary of 16 bytes.
template <typename T, bool aligned>
__device__ __forceinline__ void load(float* values, const T* first, int channels)
{
    if (aligned)
    {
        Eight<T> read = *reinterpret_cast<const Eight<T>*>(first);
#pragma unroll
        for (int c = 0; c < 8; c++)
            values[c] = widen(read.element[c]);
    }
    else
    {
#pragma unroll
        for (int c = 0; c < 8; c++)
            values[c] = c < channels ? widen(first[c]) : 0.0f;
    }
}

template <typename T, bool aligned>
__device__ __forceinline__ void store(T* first, const float* values, int channels)
{
    if (aligned)
    {
        Eight<T> written;
#pragma unroll
        for (int c = 0; c < 8; c++)
            written.element[c] = narrow<T>(values[c]);
        *reinterpret_cast<Eight<T>*>(first) = written;
    }
    else
    {
#pragma unroll
        for (int c = 0; c < 8; c++)
        {
            if (c < channels)
                first[c] = narrow<T>(values[c]);
        }
    }
}

// Division of 0 ... 2^31 - 1 by a number that the host knows, as a product (Granlund and Montgomery, PLDI 1994).
// Multiplier 0 stands for the divisor 1.
struct Divisor
{
    int value;
    u32 multiplier;
    int shift;
};

__device__ __forceinline__ int divide(int dividend, const Divisor& divisor)
{
    int quotient = (int)(__umulhi((u32)dividend, divisor.multiplier) >> divisor.shift);
    return divisor.multiplier == 0 ? dividend : quotient;
}

// This thread's index among all; as many as the host counted, below 2^31 after rounding up to complete blocks.
__device__ __forceinline__ int thread_index() { return (int)(blockIdx.x * blockDim.x + threadIdx.x); }
