// SPDX-License-Identifier: MIT
// Scales, and zeros, that lie apart from the values: what the structs of such formats share (unit.cuh: side, fetch,
// scales). The value at (r, c) is (q - zero - zero_offset) * scale * factor, of block row (first_row + r) / block_rows
// and block column c / block_cols; blocks are a whole number of groups wide, or as wide as the matrix.
//
// Lane l has row l of a unit, of two tiles at most. When the copy of a unit begins, it loads the words that hold its
// codes of the segment, as they lie there. When the unit is used, it takes these apart, if blocks are as wide as groups
// or as the matrix, or else reads code by code, from the first cache by then.
//
// Lines: nearly always the codes of a segment are 1 to 16 bytes that a lane can load at once, aligned. The launch finds
// that out; then a unit of u4_128 takes 700 instructions instead of 757. (Lines in pieces, as 46 bytes of a row of 2880
// columns would need, were slower than the words.)
#ifndef MOE_CUDA_PLANES_CUH
#define MOE_CUDA_PLANES_CUH

#include "cuda/unit.cuh"
#include "moe/format.h"

/* No lines: scales are in the blocks, or there are none. */
struct moe_no_lines {
    struct line {
    };

    static void find_lines(struct moe_cuda_product *)
    {
    }

    static __device__ __forceinline__ void enter(struct line *, const struct moe_cuda_product &, uint32_t, int)
    {
    }

    template <int tiles, class Side>
    static __device__ __forceinline__ void fetch_line(Side *, const struct line &, const struct moe_unit_rows &,
                                                      uint32_t, int)
    {
    }

    template <int tiles, class Side>
    static __device__ __forceinline__ void scales_of_line(float2 *, const Side &, const struct moe_unit_rows &, int)
    {
    }
};

/* No scales. */
struct moe_no_planes : moe_no_lines {
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

static __host__ __device__ __forceinline__ bool moe_plane_is_there(const struct moe_cuda_plane &plane)
{
    return plane.data != NULL || plane.bases != NULL;
}

/* A lane's row in the planes beside the values. Those of gate and up have the same shapes. */
struct moe_planes_row {
    const struct moe_cuda_stack *stack;
    bool exists;
    uint32_t row, expert;

    __device__ __forceinline__ moe_planes_row(const struct moe_unit_rows &rows, int tiles, int lane)
    {
        const bool is_low = lane % 16 < 8;
        const uint32_t r = lane / 16 * 8 + lane % 8;
        stack = is_low && rows.product->gated ? &rows.product->gate : &rows.product->up;
        exists = lane < tiles * MOE_TILE_ROWS && r < (is_low ? rows.low_left : rows.high_left);
        row = (is_low ? rows.low_row : rows.high_row) + r;
        expert = rows.expert;
    }

    /* The code of block column j; shape: of any matrix of the unit. */
    __device__ __forceinline__ const unsigned char *at(const struct moe_cuda_plane &plane,
                                                       const struct moe_cuda_stack &shape, uint32_t j,
                                                       uint32_t size) const
    {
        const uint32_t first = stack->first_row + row;
        const uint32_t block = shape.block_shift < 32 ? first >> shape.block_shift : first / shape.block_rows;
        return moe_plane_row(plane, expert, block) + (size_t)j * size;
    }
};

/* Words with the `bytes` bytes from `from` on; how far into the first they begin. A word is read only if one of the
 * bytes is in it. */
template <int most>
MOE_DEVICE uint32_t moe_planes_words(uint32_t words[most], const unsigned char *from, uint32_t bytes)
{
    const uint32_t skew = (uint32_t)((uintptr_t)from & 3);
#pragma unroll
    for (uint32_t i = 0; i < most; i++)
        words[i] = 4 * i < skew + bytes ? __ldg((const uint32_t *)(from - skew) + i) : 0;
    return skew;
}

/* Such words, shifted so that the first code begins the first; bits: 8 times the skew. */
template <int most> MOE_DEVICE void moe_planes_shift(uint32_t words[most], uint32_t bits)
{
#pragma unroll
    for (int i = 0; i < most; i++)
        words[i] = __funnelshift_r(words[i], i + 1 < most ? words[i + 1] : 0, bits);
}

/* Code i of such words, of so many bytes; those that no word can have are 0. */
template <int most, int bytes> MOE_DEVICE uint32_t moe_planes_code_of(const uint32_t words[most], int i)
{
    const int at = i * bytes / 4, shift = i * bytes % 4 * 8;
    return at >= most ? 0 : bytes == 4 ? words[at] : words[at] >> shift & (bytes == 2 ? 0xffffu : 0xffu);
}

/* Planes are aligned as their codes. */
MOE_DEVICE uint32_t moe_planes_code(const unsigned char *at, uint32_t size)
{
    return size == 4 ? __ldg((const uint32_t *)at) : size == 2 ? __ldg((const uint16_t *)at) : __ldg(at);
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

MOE_DEVICE float moe_planes_value(uint32_t code, int format)
{
    switch (format) {
    case MOE_FORMAT_F16:
        return moe_f16_value(code);
    case MOE_FORMAT_BF16:
        return __uint_as_float(code << 16);
    case MOE_FORMAT_E4M3:
        return moe_planes_e4m3(code);
    case MOE_FORMAT_E8M0:
        return moe_planes_e8m0(code);
    default:
        return __uint_as_float(code);
    }
}

/* The values of codes first .. first + count - 1 of such words: one branch for all. */
template <int most, int first, int count>
MOE_DEVICE void moe_planes_values(float out[count], const uint32_t words[most], int format)
{
#define MOE_PLANES_EACH(format, bytes)                                                                  \
    case format:                                                                                        \
        _Pragma("unroll")                                                                               \
        for (int i = 0; i < count; i++)                                                                 \
            out[i] = moe_planes_value(moe_planes_code_of<most, bytes>(words, first + i), format);       \
        break
    switch (format) {
        MOE_PLANES_EACH(MOE_FORMAT_F16, 2);
        MOE_PLANES_EACH(MOE_FORMAT_BF16, 2);
        MOE_PLANES_EACH(MOE_FORMAT_E4M3, 1);
        MOE_PLANES_EACH(MOE_FORMAT_E8M0, 1);
        MOE_PLANES_EACH(MOE_FORMAT_F32, 4);
    default:
        break;
    }
#undef MOE_PLANES_EACH
}

/* For codes that stand for q + bias. Without offset there are no zeros and bias is 0. */
template <int group, bool offset, int bias> struct moe_planes {
    static constexpr uint32_t centre = 0;
    /* Groups of a segment; words for 16 bytes of scales and 8 of zeros, or for what two codes take anywhere. */
    enum { COUNT = MOE_SEGMENT / group, SCALE_WORDS = COUNT == 2 ? 2 : 4, ZERO_WORDS = 2 };

    /* What of a row there is, and how its codes are read: SINGLE, all groups have the first; WORDS, taken apart. */
    enum { EXISTS = 1, HAS_SCALES = 2, HAS_ZEROS = 4, SINGLE = 8, WORDS = 16 };

    struct side {
        uint32_t scale[SCALE_WORDS], zero[offset ? ZERO_WORDS : 1];
        uint32_t flags;    /* and 8 times the skew of scale << 8, of zero << 16 */
    };

    /* Of a row that exists, or does not. */
    static __device__ __forceinline__ uint32_t flags_of(const struct moe_cuda_stack &s, uint32_t exists, uint32_t skew,
                                                        uint32_t zero_skew)
    {
        const bool single = COUNT == 2 && s.block_cols >= s.cols;
        const uint32_t size = s.scale_size;
        const bool words = single || (s.block_cols == group && skew + size * COUNT <= 4 * SCALE_WORDS &&
                                      zero_skew + (offset ? COUNT : 0) <= 4 * ZERO_WORDS);
        return exists | (moe_plane_is_there(s.scale) ? HAS_SCALES : 0) |
               (offset && moe_plane_is_there(s.zero) ? HAS_ZEROS : 0) | (single ? SINGLE : 0) | (words ? WORDS : 0) |
               skew << 11 | zero_skew << 19;
    }

    /* The segment's block columns: the first, and how many. */
    static __device__ __forceinline__ uint32_t first_block(const struct moe_cuda_stack &s, uint32_t segment,
                                                           uint32_t *count)
    {
        const uint32_t col = segment * MOE_SEGMENT, left = s.cols - col;
        const uint32_t cols = left < MOE_SEGMENT ? left : (uint32_t)MOE_SEGMENT;
        if (s.block_cols == group) {
            *count = (cols + group - 1) / group;
            return segment * COUNT;
        }
        const uint32_t first = s.block_cols >= s.cols ? 0 : col / s.block_cols;
        *count = s.block_cols >= s.cols ? 1 : (col + cols - 1) / s.block_cols - first + 1;
        return first;
    }

    template <int tiles>
    static __device__ __forceinline__ void fetch(struct side *side, const struct moe_unit_rows &rows, uint32_t segment,
                                                 int lane)
    {
        static_assert(tiles <= 2, "a lane has one row");
        const struct moe_planes_row row(rows, tiles, lane);
        const struct moe_cuda_stack &s = rows.product->up;
        uint32_t count, first = first_block(s, segment, &count), size = s.scale_size;
        uint32_t skew = 0, zero_skew = 0;
        if (row.exists && moe_plane_is_there(s.scale))
            skew = moe_planes_words<SCALE_WORDS>(side->scale, row.at(row.stack->scale, s, first, size), count * size);
        if (row.exists && offset && moe_plane_is_there(s.zero))
            zero_skew = moe_planes_words<ZERO_WORDS>(side->zero, row.at(row.stack->zero, s, first, 1), count);
        side->flags = flags_of(s, row.exists ? EXISTS : 0, skew, zero_skew);
    }

    /* What a row of the table is made of. */
    struct parts {
        bool has_scales, has_zeros;
        float factor, zero;    /* zero: what all groups have */
    };

    static __device__ __forceinline__ float2 entry(const struct parts &parts, float value, uint32_t zero)
    {
        const float scale = parts.has_scales ? value * parts.factor : parts.factor;
        return make_float2(scale, offset ? -(parts.has_zeros ? parts.zero + (float)zero : parts.zero) * scale : 0.0f);
    }

    /* Groups first .. COUNT - 1, a few at a time; words of side are shifted. single: all have the first's. */
    template <int pitch, int first>
    static __device__ __forceinline__ void take_apart(float2 *out, const struct side &side, const struct parts &parts,
                                                      bool single, int format)
    {
        constexpr int few = COUNT < 4 ? COUNT : 4;
        float values[few];
        moe_planes_values<SCALE_WORDS, first, few>(values, side.scale, format);
        uint32_t zeros[few] = {};
        for (int k = 0; offset && k < few; k++)
            zeros[k] = moe_planes_code_of<offset ? ZERO_WORDS : 1, 1>(side.zero, first + k);
#pragma unroll
        for (int k = 0; k < few; k++)
            out[(first + k) * pitch] =
                entry(parts, single ? values[0] : values[k], single ? zeros[0] : zeros[k]);
        if constexpr (first + few < COUNT)
            take_apart<pitch, first + few>(out, side, parts, single, format);
    }

    /* The same, code by code from memory. Behind the last column any code will do: the first. */
    template <int pitch>
    static __device__ __forceinline__ void read(float2 *out, const struct parts &parts,
                                                const struct moe_planes_row &row, const struct moe_cuda_stack &s,
                                                uint32_t segment)
    {
        const uint32_t size = s.scale_size;
#pragma unroll 1
        for (uint32_t i = 0; i < COUNT; i++) {
            const uint32_t col = segment * MOE_SEGMENT + i * group, j = col < s.cols ? col / s.block_cols : 0;
            uint32_t zero = 0;
            float value = 1.0f;
            if (parts.has_scales)
                value = moe_planes_value(moe_planes_code(row.at(row.stack->scale, s, j, size), size), s.scale.format);
            if (parts.has_zeros)
                zero = moe_planes_code(row.at(row.stack->zero, s, j, 1), 1);
            out[i * pitch] = entry(parts, value, zero);
        }
    }

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *, const struct side &side,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        constexpr int pitch = tiles * MOE_TILE_ROWS;
        const struct moe_planes_row row(rows, tiles, lane);
        const struct moe_cuda_stack &s = rows.product->up;
        const uint32_t flags = side.flags;
        struct parts parts;
        parts.has_scales = (flags & HAS_SCALES) != 0;
        parts.has_zeros = offset && (flags & HAS_ZEROS) != 0;
        const float *factors = row.stack->factors;
        parts.factor = !(flags & EXISTS) ? 0.0f : factors != NULL ? __ldg(&factors[rows.expert]) : 1.0f;
        parts.zero = s.zero_offset + bias;
        if (lane >= pitch)
            return;
        if ((flags & (EXISTS | WORDS)) != EXISTS) {
            struct side words = side;
            moe_planes_shift<SCALE_WORDS>(words.scale, flags >> 8);
            if (offset)
                moe_planes_shift<offset ? ZERO_WORDS : 1>(words.zero, flags >> 16);
            take_apart<pitch, 0>(table + lane, words, parts, COUNT == 2 && (flags & SINGLE) != 0, s.scale.format);
        } else {
            read<pitch>(table + lane, parts, row, s, segment);
        }
    }

    /* ---- lines ---- */

    /* Block row 0 of a lane's matrix, with first_row in it. */
    struct line {
        const unsigned char *scale, *zero;
    };

    /* All columns have one scale. */
    static __host__ __device__ __forceinline__ bool is_single(const struct moe_cuda_stack &s)
    {
        return COUNT == 2 && s.block_cols >= s.cols;
    }

    /* Whether rows of a plane have lines of so many bytes, a power of two. */
    static bool lines_up(const struct moe_cuda_stack &s, const struct moe_cuda_plane &plane, uint32_t bytes)
    {
        return plane.data != NULL && plane.bases == NULL && s.block_shift < 32 && s.first_row % s.block_rows == 0 &&
               (((uintptr_t)plane.data | plane.expert_stride | plane.stride) & (bytes - 1)) == 0;
    }

    static bool all_line_up(const struct moe_cuda_stack &s, uint32_t count)
    {
        return lines_up(s, s.scale, count * s.scale_size) &&
               (!moe_plane_is_there(s.zero) || (count <= 4 * ZERO_WORDS && lines_up(s, s.zero, count)));
    }

    /* line_bytes: of the scales of a row in a whole segment, if these are lines, zeros too, and gate's like up's; 0. */
    static void find_lines(struct moe_cuda_product *p)
    {
        struct moe_cuda_stack &s = p->up;
        const struct moe_cuda_stack &other = p->gated ? p->gate : s;
        const uint32_t count = is_single(s) ? 1 : COUNT, bytes = count * s.scale_size;
        const bool alike = other.scale.stride == s.scale.stride && other.zero.stride == s.zero.stride &&
                           moe_plane_is_there(other.zero) == moe_plane_is_there(s.zero);
        const bool lines = (is_single(s) || s.block_cols == group) && bytes <= 4 * SCALE_WORDS && alike &&
                           all_line_up(s, count) && all_line_up(other, count);
        s.line_bytes = lines ? bytes : 0;
    }

    static __device__ __forceinline__ const unsigned char *line_of(const struct moe_cuda_stack &s,
                                                                   const struct moe_cuda_plane &plane, uint32_t expert)
    {
        const size_t block = s.first_row >> s.block_shift;
        return plane.data + (size_t)expert * plane.expert_stride + block * plane.stride;
    }

    /* The lines of a matrix, of all lanes. */
    static __device__ __forceinline__ void enter(struct line *line, const struct moe_cuda_product &p, uint32_t expert,
                                                 int lane)
    {
        const struct moe_cuda_stack &s = p.gated && lane % 16 < 8 ? p.gate : p.up;
        line->scale = line_of(s, s.scale, expert);
        line->zero = offset ? line_of(s, s.zero, expert) : NULL;
    }

    /* Bytes (a power of two) at a multiple of it. */
    template <uint32_t bytes> static __device__ __forceinline__ void load_line(uint32_t *words, const unsigned char *at)
    {
        if constexpr (bytes == 16) {
            const uint4 line = __ldg((const uint4 *)at);
            words[0] = line.x, words[1] = line.y, words[2] = line.z, words[3] = line.w;
        } else if constexpr (bytes == 8) {
            const uint2 line = __ldg((const uint2 *)at);
            words[0] = line.x, words[1] = line.y;
        } else {
            words[0] = moe_planes_code(at, bytes);
        }
    }

    static __device__ __forceinline__ void load_scales(uint32_t words[SCALE_WORDS], const unsigned char *at,
                                                       uint32_t bytes)
    {
        if (bytes == COUNT)
            load_line<COUNT>(words, at);
        else if (2 * COUNT <= 16 && bytes == 2 * COUNT)
            load_line<2 * COUNT <= 16 ? 2 * COUNT : 16>(words, at);
        else if (4 * COUNT <= 16 && bytes == 4 * COUNT)
            load_line<4 * COUNT <= 16 ? 4 * COUNT : 16>(words, at);
        else
            words[0] = moe_planes_code(at, bytes);    /* one of one byte */
    }

    /* As fetch, of a whole segment, where lines are; rows that do not exist have those of the last. */
    template <int tiles>
    static __device__ __forceinline__ void fetch_line(struct side *side, const struct line &line,
                                                      const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        const struct moe_cuda_stack &s = rows.product->up;
        const uint32_t row = (lane % 16 < 8 ? rows.low_row : rows.high_row) + lane / 16 * 8 + lane % 8;
        const size_t block = (row < s.rows ? row : s.rows - 1) >> s.block_shift;
        const uint32_t first = is_single(s) ? 0 : segment;
        if (tiles == 1 && lane >= MOE_TILE_ROWS)
            return;
        load_scales(side->scale, line.scale + block * s.scale.stride + (size_t)first * s.line_bytes, s.line_bytes);
        if (!offset || !moe_plane_is_there(s.zero))
            return;
        const unsigned char *zero = line.zero + block * s.zero.stride + (size_t)first * COUNT;
        if (is_single(s))
            load_line<1>(side->zero, zero);
        else
            load_line<COUNT <= 8 ? COUNT : 8>(side->zero, zero);
    }

    template <int tiles>
    static __device__ __forceinline__ void scales_of_line(float2 *table, const struct side &side,
                                                          const struct moe_unit_rows &rows, int lane)
    {
        constexpr int pitch = tiles * MOE_TILE_ROWS;
        const struct moe_cuda_stack &s = rows.product->up;
        const struct moe_cuda_stack &own = rows.product->gated && lane % 16 < 8 ? rows.product->gate : s;
        struct parts parts = {true, offset && moe_plane_is_there(s.zero), 1.0f, s.zero_offset + bias};
        if (s.factors != NULL)
            parts.factor = __ldg(&own.factors[rows.expert]);
        if (lane < pitch)
            take_apart<pitch, 0>(table + lane, side, parts, is_single(s), s.scale.format);
    }
};

#endif
