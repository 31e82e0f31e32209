// SPDX-License-Identifier: MIT
// What the format files share: sizes of the table as constants, little-endian fields, checks for NaN and infinity.
// Structs of blocks hold bytes only, so that a block may lie at any address.
#ifndef MOE_FORMAT_BLOCK_H
#define MOE_FORMAT_BLOCK_H

#include <float.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "format/format_def.h"
#include "half.h"
#if defined(__F16C__)
#include <immintrin.h>
#endif

/* MOE_BLOCK_VALUES_<NAME> and MOE_BLOCK_BYTES_<NAME>: a file asserts that its struct is as large as its row says. */
enum {
#define MOE_BLOCK_SIZES(id, NAME, name, values, bytes) MOE_BLOCK_VALUES_##NAME = values, MOE_BLOCK_BYTES_##NAME = bytes,
    MOE_FORMAT_MAP(MOE_BLOCK_SIZES)
#undef MOE_BLOCK_SIZES
};

/* The code of a scale that is no number: blocks whose input has no finite scale get it, and validate finds it. */
#define MOE_F16_NAN 0x7e00u

static inline uint16_t load_u16(const uint8_t bytes[2])
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static inline void store_u16(uint8_t bytes[2], uint16_t value)
{
    bytes[0] = (uint8_t)(value & 0xff);
    bytes[1] = (uint8_t)(value >> 8);
}

static inline float load_f16(const uint8_t bytes[2])
{
#if defined(__F16C__)    /* where it is compiled for a level that has the instruction */
    return _cvtsh_ss(load_u16(bytes));
#else
    return moe_f16_to_f32(load_u16(bytes));
#endif
}

static inline bool f16_is_finite(const uint8_t bytes[2])
{
    return (bytes[1] & 0x7c) != 0x7c;
}

/* Index of the first block whose f16 at offset is NaN or infinite; num_blocks if there is none. */
static inline size_t find_nonfinite_f16(const void *in, size_t num_blocks, size_t block_bytes, size_t offset)
{
    const uint8_t *field = (const uint8_t *)in + offset;
    for (size_t i = 0; i < num_blocks; i++) {
        if (!f16_is_finite(field + block_bytes * i))
            return i;
    }
    return num_blocks;
}

/* The first value of the largest magnitude, with its sign; NaN is passed over. */
static inline float extreme_value(const float *x, size_t n)
{
    float extreme = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        float magnitude = x[i] < 0 ? -x[i] : x[i];
        if (magnitude > largest) {
            largest = magnitude;
            extreme = x[i];
        }
    }
    return extreme;
}

/* 1 / d to scale with; 0 where d is 0, NaN, or so small that f32 cannot hold it (in f16, such a d is 0). */
static inline float inverse_of(float d)
{
    float inverse = d != 0 ? 1.0f / d : 0;
    return inverse <= FLT_MAX && inverse >= -FLT_MAX ? inverse : 0;
}

/* The largest magnitude of n values; infinite if one of them is NaN or infinite. Compares bits, which order magnitudes
 * as integers and put NaN above all. */
static inline float max_magnitude(const float *x, size_t n)
{
    uint32_t largest = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = moe_f32_bits(x[i]) & 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return moe_f32_from_bits(largest < 0x7f800000u ? largest : 0x7f800000u);
}

/* The integer nearest to f within low .. high, halves away from zero; low for NaN. low and high are below 2^24. */
static inline int round_clamped(float f, int low, int high)
{
    float limited = !(f > (float)low) ? (float)low : f > (float)high ? (float)high : f;
    float magnitude = limited < 0 ? -limited : limited;
    int whole = (int)magnitude;
    whole += magnitude - (float)whole >= 0.5f;
    return limited < 0 ? -whole : whole;
}

#endif
