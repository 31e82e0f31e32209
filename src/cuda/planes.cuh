// SPDX-License-Identifier: MIT
// Scales, and zeros, that lie apart from the values: what the structs of such formats share (unit.cuh: side, fetch,
// scales). The value at (r, c) is (q - zero - zero_offset) * scale * factor, of block row (first_row + r) / block_rows
// and block column c / block_cols; blocks are a whole number of groups wide, or as wide as the matrix.
//
// Of the 16 rows of a tile and the 256 / group groups of a segment, lane l has row l % 16 and the groups of one half.
// What a lane needs is loaded when the copy of its unit begins, as it lies there, and converted when the unit is used.
#ifndef MOE_CUDA_PLANES_CUH
#define MOE_CUDA_PLANES_CUH

#include "cuda/unit.cuh"
#include "moe/format.h"

/* No scales, or such that blocks hold themselves. */
struct moe_no_planes {
    static constexpr uint32_t centre = 0;

    struct side {
    };

    template <int tiles>
    static __device__ __forceinline__ void fetch(struct side *, const struct moe_unit_rows &, uint32_t, int)
    {
    }

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *, const unsigned char *, const struct side &,
                                                  const struct moe_unit_rows &, uint32_t, int)
    {
    }
};

/* Which row and which groups of a segment a lane has. */
template <int group> struct moe_planes_part {
    static constexpr int count = MOE_SEGMENT / group / 2;
    const struct moe_cuda_stack *stack;
    bool exists;
    uint32_t row, first;    /* of the matrix; of the segment's groups */

    __device__ __forceinline__ moe_planes_part(const struct moe_unit_rows &rows, int tile, int lane)
    {
        const bool is_low = lane % 16 < 8;
        const uint32_t r = 8 * tile + lane % 8;
        stack = is_low ? rows.low_stack : rows.high_stack;
        exists = r < (is_low ? rows.low_left : rows.high_left);
        row = (is_low ? rows.low_row : rows.high_row) + r;
        first = lane / 16 * count;
    }
};

MOE_DEVICE bool moe_plane_is_there(const struct moe_cuda_plane &plane)
{
    return plane.data != NULL || plane.bases != NULL;
}

/* Codes of the scales at places at[i] of a row; 0 for i >= count. Planes are aligned as their values. */
template <class Code, int most>
MOE_DEVICE void moe_planes_load(uint32_t out[most], const unsigned char *row, const uint32_t at[most], int count)
{
#pragma unroll
    for (int i = 0; i < most; i++)
        out[i] = i < count ? (uint32_t)__ldg((const Code *)row + at[i]) : 0;
}

/* E8M0 is 2^(v - 127); 0 is an f32 denormal, 255 NaN. */
MOE_DEVICE float moe_planes_e8m0(uint32_t v)
{
    uint32_t bits = max(v << 23, 0x00400000u);
    return __uint_as_float(v == 255 ? 0x7fc00000u : bits);
}

/* E4M3's exponent and significand, denormal or not, in the places of an f32's are the value by 2^120 too small. */
MOE_DEVICE float moe_planes_e4m3(uint32_t v)
{
    float magnitude = __uint_as_float((v & 0x7f) == 0x7f ? 0x7fc00000u : (v & 0x7f) << 20) * 0x1p120f;
    return v & 0x80 ? -magnitude : magnitude;
}

template <int count> MOE_DEVICE void moe_planes_values(float out[count], const uint32_t codes[count], int format)
{
#define MOE_PLANES_EACH(value)          \
    _Pragma("unroll")                   \
    for (int i = 0; i < count; i++) {   \
        const uint32_t code = codes[i]; \
        out[i] = value;                 \
    }                                   \
    break
    switch (format) {
    case MOE_FORMAT_F16:
        MOE_PLANES_EACH(moe_f16_value(code));
    case MOE_FORMAT_BF16:
        MOE_PLANES_EACH(__uint_as_float(code << 16));
    case MOE_FORMAT_E4M3:
        MOE_PLANES_EACH(moe_planes_e4m3(code));
    case MOE_FORMAT_E8M0:
        MOE_PLANES_EACH(moe_planes_e8m0(code));
    default:
        MOE_PLANES_EACH(__uint_as_float(code));
    }
#undef MOE_PLANES_EACH
}

/* For codes that stand for q + bias. Without offset there are no zeros and bias is 0. */
template <int group, bool offset, int bias> struct moe_planes {
    static constexpr uint32_t centre = 0;
    typedef struct moe_planes_part<group> part;
    enum { MOST_TILES = 2 };

    struct side {
        uint32_t scale[MOST_TILES][part::count], zero[MOST_TILES][offset ? part::count : 1];
    };

    template <int tiles>
    static __device__ __forceinline__ void fetch(struct side *side, const struct moe_unit_rows &rows, uint32_t segment,
                                                 int lane)
    {
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            const part here(rows, m, lane);
            const struct moe_cuda_stack &s = *here.stack;
            fetch_tile(side, m, s, here, segment * MOE_SEGMENT + here.first * group, rows.expert);
        }
    }

    static __device__ __forceinline__ void fetch_tile(struct side *side, int m, const struct moe_cuda_stack &s,
                                                      const part &here, uint32_t col, uint32_t expert)
    {
        const uint32_t block_cols = s.block_cols;
        uint32_t at[part::count], j = col / block_cols, rest = col - j * block_cols;
        int count = 0;
#pragma unroll
        for (int i = 0; i < part::count; i++) {
            at[i] = j;
            count += here.exists && col + i * group < s.cols;
            rest += group;
            j += rest >= block_cols;
            rest = rest >= block_cols ? 0 : rest;
        }
        const uint32_t block_row = s.block_rows == 1 ? here.row : (s.first_row + here.row) / s.block_rows;
        if (moe_plane_is_there(s.scale)) {
            const unsigned char *row = moe_plane_row(s.scale, expert, count > 0 ? block_row : 0);
            if (s.scale.format == MOE_FORMAT_F32)
                moe_planes_load<uint32_t, part::count>(side->scale[m], row, at, count);
            else if (s.scale.format == MOE_FORMAT_F16 || s.scale.format == MOE_FORMAT_BF16)
                moe_planes_load<uint16_t, part::count>(side->scale[m], row, at, count);
            else
                moe_planes_load<uint8_t, part::count>(side->scale[m], row, at, count);
        }
        if (offset && moe_plane_is_there(s.zero))
            moe_planes_load<uint8_t, part::count>(side->zero[m], moe_plane_row(s.zero, expert, count > 0 ? block_row : 0),
                                                  at, count);
    }

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *, const struct side &side,
                                                  const struct moe_unit_rows &rows, uint32_t, int lane)
    {
#pragma unroll
        for (int m = 0; m < tiles; m++) {
            const part here(rows, m, lane);
            const struct moe_cuda_stack &s = *here.stack;
            const float factor = !here.exists ? 0.0f : s.factors != NULL ? __ldg(&s.factors[rows.expert]) : 1.0f;
            float values[part::count];
            const bool has_scales = moe_plane_is_there(s.scale), has_zeros = offset && moe_plane_is_there(s.zero);
            moe_planes_values<part::count>(values, side.scale[m], s.scale.format);
#pragma unroll
            for (int i = 0; i < part::count; i++) {
                float scale = has_scales ? values[i] * factor : factor;
                float zero = offset ? (has_zeros ? (float)side.zero[m][i] : 0.0f) + s.zero_offset + bias : 0.0f;
                table[(here.first + i) * (tiles * MOE_TILE_ROWS) + 16 * m + lane % 16] =
                    make_float2(scale, offset ? -zero * scale : 0.0f);
            }
        }
    }
};

#endif
