// SPDX-License-Identifier: MIT
// The IQ formats with code books of rows on Arm (q8_neon.h): rows are looked up and spread to bytes in 64 bits, as
// src/format/iq_grids.h does. Layouts are those of src/format/<name>.c.
#ifndef MOE_UNPACK_IQ_NEON_H
#define MOE_UNPACK_IQ_NEON_H

#include "cpu/arm/unpack_neon.h"
#include "format/iq_grids.h"

Q8_INLINE struct q8_unit unit_of_rows(const uint64_t rows[4])
{
    return (struct q8_unit){{vcombine_s8(vcreate_s8(rows[0]), vcreate_s8(rows[1])),
                             vcombine_s8(vcreate_s8(rows[2]), vcreate_s8(rows[3]))}};
}

Q8_INLINE unsigned load_16(const unsigned char *in)
{
    return in[0] | (unsigned)in[1] << 8;
}

Q8_INLINE uint32_t load_32(const unsigned char *in)
{
    return load_16(in) | (uint32_t)load_16(in + 2) << 16;
}

/* (scale + 1/2) * factor of 16 scales of 4 bits in 8 bytes, exact. */
Q8_INLINE void scales_and_half(float out[2][Q8_UNITS], const unsigned char *in, float factor)
{
    for (size_t u = 0; u < Q8_UNITS; u++) {
        out[0][u] = factor * (0.5f + (float)(in[u] & 15));
        out[1][u] = factor * (0.5f + (float)(in[u] >> 4));
    }
}

/* ---- IQ1: values in eighths ---- */

/* iq_eighths adds 9 so that no byte is negative; here it comes off again, byte by byte. */
Q8_INLINE struct q8_unit eighths(const uint64_t rows[4])
{
    return less(unit_of_rows(rows), 9);
}

Q8_INLINE void q8_scales_iq1_s(struct q8_scales *out, const unsigned char *group)
{
    float eighth = 0.125f * half_to_f32(group);
    for (size_t u = 0; u < Q8_UNITS; u++)
        out->scale[0][u] = eighth * (float)(2 * (load_16(group + 34 + 2 * u) >> 12 & 7) + 1);
}

Q8_INLINE struct q8_unit q8_quants_iq1_s(const unsigned char *group, size_t unit)
{
    unsigned high = load_16(group + 34 + 2 * unit);
    uint64_t rows[4];
    for (size_t k = 0; k < 4; k++)
        rows[k] = iq_eighths(moe_iq_grids_iq1[group[2 + 4 * unit + k] | (high >> 3 * k & 7) << 8], high >> 15);
    return eighths(rows);
}

Q8_INLINE void q8_scales_iq1_m(struct q8_scales *out, const unsigned char *group)
{
    uint16_t d = (uint16_t)(group[49] >> 4 | (group[51] & 0xf0) | (group[53] & 0xf0) << 4 | (group[55] & 0xf0) << 8);
    float eighth = 0.125f * moe_f16_to_f32(d);
    for (size_t i = 0; i < 2 * Q8_UNITS; i++)
        out->scale[i % 2][i / 2] = eighth * (float)(2 * (load_16(group + 48 + i / 4 * 2) >> 3 * (i % 4) & 7) + 1);
}

Q8_INLINE struct q8_unit q8_quants_iq1_m(const unsigned char *group, size_t unit)
{
    uint64_t rows[4];
    for (size_t k = 0; k < 4; k++) {
        unsigned high = group[32 + 2 * unit + k / 2] >> 4 * (k % 2) & 15;
        rows[k] = iq_eighths(moe_iq_grids_iq1[group[4 * unit + k] | (high & 7) << 8], high >> 3);
    }
    return eighths(rows);
}

/* ---- IQ2 ---- */

Q8_INLINE void q8_scales_iq2_xxs(struct q8_scales *out, const unsigned char *group)
{
    float quarter = 0.25f * half_to_f32(group);
    for (size_t u = 0; u < Q8_UNITS; u++)
        out->scale[0][u] = quarter * (0.5f + (float)(group[2 + 8 * u + 7] >> 4));
}

Q8_INLINE struct q8_unit q8_quants_iq2_xxs(const unsigned char *group, size_t unit)
{
    const unsigned char *in = group + 2 + 8 * unit;
    uint32_t word = load_32(in + 4);
    uint64_t rows[4];
    for (size_t k = 0; k < 4; k++)
        rows[k] = iq_negate(iq_magnitudes_2(moe_iq_grids_iq2_xxs[in[k]]), iq_even_signs(word >> 7 * k & 127));
    return unit_of_rows(rows);
}

Q8_INLINE void q8_scales_iq2_xs(struct q8_scales *out, const unsigned char *group)
{
    scales_and_half(out->scale, group + 66, 0.25f * half_to_f32(group));
}

Q8_INLINE struct q8_unit q8_quants_iq2_xs(const unsigned char *group, size_t unit)
{
    uint64_t rows[4];
    for (size_t k = 0; k < 4; k++) {
        unsigned code = load_16(group + 2 + 2 * (4 * unit + k));
        rows[k] = iq_negate(iq_magnitudes_2(moe_iq_grids_iq2_xs[code & 511]), iq_even_signs(code >> 9));
    }
    return unit_of_rows(rows);
}

Q8_INLINE void q8_scales_iq2_s(struct q8_scales *out, const unsigned char *group)
{
    scales_and_half(out->scale, group + 74, 0.25f * half_to_f32(group));
}

Q8_INLINE struct q8_unit q8_quants_iq2_s(const unsigned char *group, size_t unit)
{
    uint64_t rows[4];
    for (size_t k = 0; k < 4; k++) {
        unsigned row = group[2 + 4 * unit + k] | (group[66 + unit] >> 2 * k & 3u) << 8;
        rows[k] = iq_negate(iq_magnitudes_2(moe_iq_grids_iq2_s[row]), group[34 + 4 * unit + k]);
    }
    return unit_of_rows(rows);
}

/* ---- IQ3 ---- */

Q8_INLINE void q8_scales_iq3_xxs(struct q8_scales *out, const unsigned char *group)
{
    float half = 0.5f * half_to_f32(group);
    for (size_t u = 0; u < Q8_UNITS; u++)
        out->scale[0][u] = half * (0.5f + (float)(group[66 + 4 * u + 3] >> 4));
}

/* 4 + 8 c in each byte, and 2 more for c = 7. */
Q8_INLINE struct q8_unit q8_quants_iq3_xxs(const unsigned char *group, size_t unit)
{
    uint32_t word = load_32(group + 66 + 4 * unit);
    uint64_t rows[4];
    for (size_t k = 0; k < 4; k++) {
        const unsigned char *codes = group + 2 + 2 * (4 * unit + k);
        uint64_t c = iq_spread_4(moe_iq_grids_iq3_xxs[codes[0]], moe_iq_grids_iq3_xxs[codes[1]]);
        uint64_t magnitudes = 4 * IQ_EACH_BYTE + 8 * c + 2 * (c & c >> 1 & c >> 2 & IQ_EACH_BYTE);
        rows[k] = iq_negate(magnitudes, iq_even_signs(word >> 7 * k & 127));
    }
    return unit_of_rows(rows);
}

Q8_INLINE void q8_scales_iq3_s(struct q8_scales *out, const unsigned char *group)
{
    float d = half_to_f32(group);
    for (size_t u = 0; u < Q8_UNITS; u++)
        out->scale[0][u] = d * (float)(2 * (group[106 + u / 2] >> 4 * (u % 2) & 15) + 1);
}

Q8_INLINE struct q8_unit q8_quants_iq3_s(const unsigned char *group, size_t unit)
{
    unsigned high = group[66 + unit];
    uint64_t rows[4];
    for (size_t k = 0; k < 4; k++) {
        const unsigned char *low = group + 2 + 2 * (4 * unit + k);
        unsigned first = low[0] | (high >> 2 * k & 1) << 8, second = low[1] | (high >> (2 * k + 1) & 1) << 8;
        uint64_t c = iq_spread_4(moe_iq_grids_iq3_s[first], moe_iq_grids_iq3_s[second]);
        rows[k] = iq_negate(2 * c + IQ_EACH_BYTE, group[74 + 4 * unit + k]);
    }
    return unit_of_rows(rows);
}

#endif
