// SPDX-License-Identifier: MIT
// Rows of the caller's values (struct moe_cuda_rows: f32, f16, bf16) in pieces of four. Whole pieces at aligned
// addresses are one load or store, all others go value by value.
#ifndef MOE_CUDA_ROWS_CUH
#define MOE_CUDA_ROWS_CUH

#include "cuda/values.cuh"

/* Bytes of a value. */
static __host__ __device__ constexpr uint32_t moe_rows_bytes(int format)
{
    return format == MOE_FORMAT_F32 ? 4 : 2;
}

/* Do all rows begin at multiples of so many bytes? Launches ask it of the values themselves. */
static __host__ __device__ inline bool moe_rows_aligned(const struct moe_cuda_rows &rows, uint32_t bytes)
{
    return (((uintptr_t)rows.data | rows.stride) & (bytes - 1)) == 0;
}

/* Absent, or of a format that there is, with its values aligned. */
static inline bool moe_rows_good(const struct moe_cuda_rows &rows)
{
    bool known = rows.format == MOE_FORMAT_F32 || rows.format == MOE_FORMAT_F16 || rows.format == MOE_FORMAT_BF16;
    return rows.data == NULL || (known && moe_rows_aligned(rows, moe_rows_bytes(rows.format)));
}

/* Of f16 or bf16, in the low half. */
MOE_DEVICE float moe_rows_half(int format, uint32_t bits)
{
    return format == MOE_FORMAT_F16 ? moe_value_f16(bits & 0xffffu) : moe_value_bf16(bits);
}

/* Rounded to nearest, ties to even. */
MOE_DEVICE uint32_t moe_rows_bits(int format, float value)
{
    return format == MOE_FORMAT_F32   ? __float_as_uint(value)
           : format == MOE_FORMAT_F16 ? moe_f16x2(value, 0.0f) & 0xffffu
                                      : moe_bf16x2(value, 0.0f) & 0xffffu;
}

MOE_DEVICE void moe_rows_store(int format, unsigned char *row, uint32_t column, float value)
{
    if (format == MOE_FORMAT_F32)
        ((float *)row)[column] = value;
    else
        ((uint16_t *)row)[column] = (uint16_t)moe_rows_bits(format, value);
}

/* Four values as they lie in memory, so that many loads can be under way before the first is looked at. */
template <int format> struct moe_four {
    uint32_t words[moe_rows_bytes(format)];    /* 4 of one value, or 2 of two */

    __device__ __forceinline__ float value(int i) const
    {
        if constexpr (format == MOE_FORMAT_F32)
            return __uint_as_float(words[i]);
        else
            return moe_rows_half(format, words[i / 2] >> (16 * (i % 2)));
    }
};

/* From column on, a multiple of four; what lies behind the last column is 0. wide: rows are aligned to four values. */
template <int format>
MOE_DEVICE struct moe_four<format> moe_four_load(const unsigned char *row, uint32_t column, uint32_t cols, bool wide)
{
    struct moe_four<format> four = {};
    const unsigned char *at = row + (size_t)column * moe_rows_bytes(format);
    uint32_t left = cols - column;
    if constexpr (format == MOE_FORMAT_F32) {
        if (wide && left >= 4) {
            uint4 words = *(const uint4 *)at;
            four.words[0] = words.x, four.words[1] = words.y, four.words[2] = words.z, four.words[3] = words.w;
            return four;
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            four.words[i] = i < left ? ((const uint32_t *)at)[i] : 0;
    } else {
        if (wide && left >= 4) {
            uint2 words = *(const uint2 *)at;
            four.words[0] = words.x, four.words[1] = words.y;
            return four;
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            four.words[i / 2] |= i < left ? (uint32_t)((const uint16_t *)at)[i] << (16 * (i % 2)) : 0;
    }
    return four;
}

template <int format>
MOE_DEVICE void moe_four_values(float values[4], const unsigned char *row, uint32_t column, uint32_t cols, bool wide)
{
    struct moe_four<format> four = moe_four_load<format>(row, column, cols, wide);
#pragma unroll
    for (int i = 0; i < 4; i++)
        values[i] = four.value(i);
}

/* n values, 1 or 4, of a row whose format is known late. */
template <int n>
MOE_DEVICE void moe_rows_values(float values[n], const struct moe_cuda_rows &rows, size_t row, uint32_t column,
                                uint32_t cols)
{
    const unsigned char *at = rows.data + row * rows.stride;
    if constexpr (n == 1) {
        values[0] = moe_value_float(at, column, rows.format);
    } else {
        bool wide = moe_rows_aligned(rows, 4 * moe_rows_bytes(rows.format));
        if (rows.format == MOE_FORMAT_F32)
            moe_four_values<MOE_FORMAT_F32>(values, at, column, cols, wide);
        else if (rows.format == MOE_FORMAT_F16)
            moe_four_values<MOE_FORMAT_F16>(values, at, column, cols, wide);
        else
            moe_four_values<MOE_FORMAT_BF16>(values, at, column, cols, wide);
    }
}

MOE_DEVICE void moe_four_store(int format, unsigned char *row, uint32_t column, const float v[4])
{
    if (format == MOE_FORMAT_F32)
        ((float4 *)row)[column / 4] = make_float4(v[0], v[1], v[2], v[3]);
    else if (format == MOE_FORMAT_F16)
        ((uint2 *)row)[column / 4] = make_uint2(moe_f16x2(v[0], v[1]), moe_f16x2(v[2], v[3]));
    else
        ((uint2 *)row)[column / 4] = make_uint2(moe_bf16x2(v[0], v[1]), moe_bf16x2(v[2], v[3]));
}

/* row = values, or row += values: added in f32, rounded once. values are changed. */
template <int n>
MOE_DEVICE void moe_rows_put(const struct moe_cuda_rows &rows, size_t row, uint32_t column, uint32_t cols,
                             float values[n], bool accumulate)
{
    unsigned char *at = rows.data + row * rows.stride;
    if (accumulate) {
        float before[n];
        moe_rows_values<n>(before, rows, row, column, cols);
#pragma unroll
        for (int i = 0; i < n; i++)
            values[i] = __fadd_rn(before[i], values[i]);
    }
    if constexpr (n == 4) {
        if (cols - column >= 4 && moe_rows_aligned(rows, 4 * moe_rows_bytes(rows.format))) {
            moe_four_store(rows.format, at, column, values);
            return;
        }
    }
#pragma unroll
    for (uint32_t i = 0; i < n; i++)
        if (i < cols - column)
            moe_rows_store(rows.format, at, column + i, values[i]);
}

#endif
