// SPDX-License-Identifier: MIT
// Values of the caller's rows, whatever their format: f32, f16 and bf16 as float, which is exact, i32 and i64.
#ifndef MOE_CUDA_VALUES_CUH
#define MOE_CUDA_VALUES_CUH

#include "cuda/call.h"
#include "cuda/ptx.cuh"
#include "moe/format.h"

MOE_DEVICE float moe_value_f16(uint32_t half)
{
    return moe_f16_value(half);
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

/* Values in two steps, so that nothing waits for one load before another begins: first their bits, then what they are.
 * Value i of a row of floats; of integers. */
MOE_DEVICE uint32_t moe_value_bits(const unsigned char *row, uint32_t i, int format)
{
    return format == MOE_FORMAT_F32 ? ((const uint32_t *)row)[i] : ((const uint16_t *)row)[i];
}

MOE_DEVICE float moe_value_of_bits(uint32_t bits, int format)
{
    return format == MOE_FORMAT_F32   ? __uint_as_float(bits)
           : format == MOE_FORMAT_F16 ? moe_value_f16(bits)
                                      : moe_value_bf16(bits);
}

MOE_DEVICE float moe_value_float(const unsigned char *row, uint32_t i, int format)
{
    return moe_value_of_bits(moe_value_bits(row, i, format), format);
}

MOE_DEVICE uint2 moe_value_integer_bits(const unsigned char *row, uint32_t i, int format)
{
    const uint32_t *words = (const uint32_t *)row + (format == MOE_FORMAT_I64 ? 2 * (size_t)i : i);
    return make_uint2(words[0], format == MOE_FORMAT_I64 ? words[1] : 0);
}

MOE_DEVICE int64_t moe_value_of_integer_bits(uint2 bits, int format)
{
    return format == MOE_FORMAT_I64 ? (int64_t)((uint64_t)bits.y << 32 | bits.x) : (int64_t)(int32_t)bits.x;
}

#endif
