// SPDX-License-Identifier: MIT
// Values of the caller's rows, whatever their format: f32, f16 and bf16 as float, which is exact, i32 and i64.
#ifndef MOE_CUDA_VALUES_CUH
#define MOE_CUDA_VALUES_CUH

#include "cuda/call.h"
#include "cuda/ptx.cuh"
#include "moe/format.h"

/* The magnitude's bits read as f32 are the value times 2^-112, denormals too; infinity and NaN keep their exponent. */
MOE_DEVICE float moe_value_f16(uint32_t half)
{
    uint32_t magnitude = half & 0x7fffu;
    float value = __uint_as_float(magnitude << 13) * 5192296858534827628530496329220096.0f;
    uint32_t bits = magnitude < 0x7c00u ? __float_as_uint(value) : 0x7f800000u | magnitude << 13;
    return __uint_as_float(bits | (half & 0x8000u) << 16);
}

MOE_DEVICE float moe_value_bf16(uint32_t half)
{
    return __uint_as_float(half << 16);
}

/* Of a pair of them, the first in the low half. */
MOE_DEVICE float2 moe_values_f16(uint32_t halves)
{
    return make_float2(moe_value_f16(halves & 0xffffu), moe_value_f16(halves >> 16));
}

MOE_DEVICE float2 moe_values_bf16(uint32_t halves)
{
    return make_float2(__uint_as_float(halves << 16), __uint_as_float(halves & 0xffff0000u));
}

MOE_DEVICE const unsigned char *moe_values_row(const struct moe_cuda_rows &rows, size_t row)
{
    return rows.data + row * rows.stride;
}

/* Value i of a row. */
MOE_DEVICE float moe_value_float(const unsigned char *row, uint32_t i, int format)
{
    if (format == MOE_FORMAT_F32)
        return ((const float *)row)[i];
    uint32_t half = ((const uint16_t *)row)[i];
    return format == MOE_FORMAT_F16 ? moe_value_f16(half) : moe_value_bf16(half);
}

MOE_DEVICE int64_t moe_value_integer(const unsigned char *row, uint32_t i, int format)
{
    return format == MOE_FORMAT_I64 ? ((const int64_t *)row)[i] : ((const int32_t *)row)[i];
}

#endif
