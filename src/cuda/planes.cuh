// SPDX-License-Identifier: MIT
// Scales, and zeros, that lie apart from the values: what the structs of such formats share (unit.cuh: side, fetch,
// scales). The value at (r, c) is (q - zero - zero_offset) * scale * factor, of block row (first_row + r) / block_rows
// and block column c / block_cols; blocks are a whole number of groups wide, or as wide as the matrix.
//
// Lane l has row l of a unit, of two tiles at most. When the copy of a unit begins, it loads the words that hold its
// codes of the segment, as they lie there. When the unit is used, it takes these apart, if blocks are as wide as groups
// or as the matrix, or else reads code by code, from the first cache by then.
#ifndef MOE_CUDA_PLANES_CUH
#define MOE_CUDA_PLANES_CUH

#include "cuda/unit.cuh"
#include "moe/format.h"

/* No scales. */
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

MOE_DEVICE bool moe_plane_is_there(const struct moe_cuda_plane &plane)
{
    return plane.data != NULL || plane.bases != NULL;
}

MOE_DEVICE uint32_t moe_planes_size(int format)
{
    return format == MOE_FORMAT_F32 ? 4 : format == MOE_FORMAT_F16 || format == MOE_FORMAT_BF16 ? 2 : 1;
}

/* The block that holds i, of blocks that are a power of two nearly always. */
MOE_DEVICE uint32_t moe_planes_block(uint32_t i, uint32_t size)
{
    if ((size & (size - 1)) == 0)
        return i >> (31 - __clz(size));
    return i / size;
}

/* A lane's row in the planes beside the values. */
struct moe_planes_row {
    const struct moe_cuda_stack *stack;
    bool exists;
    uint32_t row, expert;

    __device__ __forceinline__ moe_planes_row(const struct moe_unit_rows &rows, int tiles, int lane)
    {
        const bool is_low = lane % 16 < 8;
        const uint32_t r = lane / 16 * 8 + lane % 8;
        stack = is_low ? rows.low_stack : rows.high_stack;
        exists = lane < tiles * MOE_TILE_ROWS && r < (is_low ? rows.low_left : rows.high_left);
        row = (is_low ? rows.low_row : rows.high_row) + r;
        expert = rows.expert;
    }

    /* The code of block column j. */
    __device__ __forceinline__ const unsigned char *at(const struct moe_cuda_plane &plane, uint32_t j,
                                                       uint32_t size) const
    {
        uint32_t block = moe_planes_block(stack->first_row + row, stack->block_rows);
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

/* Codes first .. first + count - 1, of `size` bytes each, of such words; they begin at bit `bits` modulo 32. */
template <int most, int first, int count>
MOE_DEVICE void moe_planes_split(uint32_t codes[count], const uint32_t words[most], uint32_t bits, uint32_t size)
{
#pragma unroll
    for (int k = 0; k < count; k++) {
        const int i = first + k, at4 = i < most ? i : 0, at2 = i / 2 < most ? i / 2 : 0, at1 = i / 4;
        const uint32_t next2 = at2 + 1 < most ? words[at2 + 1] : 0, next1 = at1 + 1 < most ? words[at1 + 1] : 0;
        const uint32_t of2 = __funnelshift_r(words[at2], next2, bits) >> 16 * (i % 2) & 0xffff;
        const uint32_t of1 = __funnelshift_r(words[at1], next1, bits) >> 8 * (i % 4) & 0xff;
        codes[k] = size == 4 ? words[at4] : size == 2 ? of2 : of1;
    }
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
    /* Groups of a segment; words for 16 bytes of scales and 8 of zeros, or for what two codes take anywhere. */
    enum { COUNT = MOE_SEGMENT / group, SCALE_WORDS = COUNT == 2 ? 2 : 4, ZERO_WORDS = 2 };

    /* What of a row there is, and how its codes are read: SINGLE, all groups have the first; WORDS, taken apart. */
    enum { EXISTS = 1, HAS_SCALES = 2, HAS_ZEROS = 4, SINGLE = 8, WORDS = 16 };

    struct side {
        uint32_t scale[SCALE_WORDS], zero[offset ? ZERO_WORDS : 1];
        uint32_t flags;    /* and 8 times the skew of scale << 8, of zero << 16 */
    };

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
        const struct moe_cuda_stack &s = *row.stack;
        uint32_t count, first = first_block(s, segment, &count), size = moe_planes_size(s.scale.format);
        const bool single = COUNT == 2 && s.block_cols >= s.cols;
        side->flags = single ? SINGLE : 0;
        if (!row.exists)
            return;
        uint32_t skew = 0, zero_skew = 0;
        side->flags |= EXISTS;
        if (moe_plane_is_there(s.scale)) {
            skew = moe_planes_words<SCALE_WORDS>(side->scale, row.at(s.scale, first, size), count * size);
            side->flags |= HAS_SCALES | skew << 11;
        }
        if (offset && moe_plane_is_there(s.zero)) {
            zero_skew = moe_planes_words<ZERO_WORDS>(side->zero, row.at(s.zero, first, 1), count);
            side->flags |= HAS_ZEROS | zero_skew << 19;
        }
        if (single || (s.block_cols == group && skew + size * COUNT <= 4 * SCALE_WORDS &&
                       zero_skew + (offset ? COUNT : 0) <= 4 * ZERO_WORDS))
            side->flags |= WORDS;
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

    /* Groups first .. COUNT - 1, a few at a time. */
    template <int pitch, int first>
    static __device__ __forceinline__ void take_apart(float2 *out, const struct side &side, const struct parts &parts,
                                                      int format)
    {
        constexpr int few = COUNT < 4 ? COUNT : 4;
        const bool single = COUNT == 2 && (side.flags & SINGLE) != 0;
        uint32_t codes[few], zeros[few] = {};
        float values[few];
        moe_planes_split<SCALE_WORDS, first, few>(codes, side.scale, side.flags >> 8, moe_planes_size(format));
        if (offset)
            moe_planes_split<ZERO_WORDS, first, few>(zeros, side.zero, side.flags >> 16, 1);
        moe_planes_values<few>(values, codes, format);
#pragma unroll
        for (int k = 0; k < few; k++) {
            const float2 own = entry(parts, values[k], zeros[k]);
            out[(first + k) * pitch] = single ? entry(parts, values[0], zeros[0]) : own;
        }
        if constexpr (first + few < COUNT)
            take_apart<pitch, first + few>(out, side, parts, format);
    }

    /* The same, code by code from memory. Behind the last column any code will do: the first. */
    template <int pitch>
    static __device__ __forceinline__ void read(float2 *out, const struct parts &parts,
                                                const struct moe_planes_row &row, uint32_t segment)
    {
        const struct moe_cuda_stack &s = *row.stack;
        const uint32_t size = moe_planes_size(s.scale.format);
#pragma unroll 1
        for (uint32_t i = 0; i < COUNT; i++) {
            const uint32_t col = segment * MOE_SEGMENT + i * group, j = col < s.cols ? col / s.block_cols : 0;
            uint32_t code = 0, zero = 0;
            float value = 1.0f;
            if (parts.has_scales) {
                code = moe_planes_code(row.at(s.scale, j, size), size);
                moe_planes_values<1>(&value, &code, s.scale.format);
            }
            if (parts.has_zeros)
                zero = moe_planes_code(row.at(s.zero, j, 1), 1);
            out[i * pitch] = entry(parts, value, zero);
        }
    }

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *, const struct side &side,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        constexpr int pitch = tiles * MOE_TILE_ROWS;
        const struct moe_planes_row row(rows, tiles, lane);
        const struct moe_cuda_stack &s = *row.stack;
        const uint32_t flags = side.flags;
        struct parts parts;
        parts.has_scales = (flags & HAS_SCALES) != 0;
        parts.has_zeros = offset && (flags & HAS_ZEROS) != 0;
        parts.factor = !(flags & EXISTS) ? 0.0f : s.factors != NULL ? __ldg(&s.factors[rows.expert]) : 1.0f;
        parts.zero = s.zero_offset + bias;
        if (lane >= pitch)
            return;
        if ((flags & (EXISTS | WORDS)) != EXISTS)
            take_apart<pitch, 0>(table + lane, side, parts, s.scale.format);
        else
            read<pitch>(table + lane, parts, row, segment);
    }
};

#endif
