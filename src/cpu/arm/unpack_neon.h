// SPDX-License-Identifier: MIT
// The formats without code books of rows on Arm: what a unit's values and a group's scales are (q8_neon.h). Layouts are
// those of src/format/<name>.c.
#ifndef MOE_UNPACK_NEON_H
#define MOE_UNPACK_NEON_H

#include "cpu/arm/q8_neon.h"
#include "format/iq4.h"
#include "half.h"

/* ---- bytes ---- */

/* Bits shift.. of each byte that mask leaves. */
Q8_INLINE uint8x16_t bits_of(uint8x16_t bytes, int shift, uint8_t mask)
{
    return vandq_u8(vshlq_u8(bytes, vdupq_n_s8((int8_t)-shift)), vdupq_n_u8(mask));
}

/* bit where bit number shift of a byte is set, otherwise 0. */
Q8_INLINE uint8x16_t test_bit(uint8x16_t bytes, size_t shift, uint8_t bit)
{
    return vandq_u8(vtstq_u8(bytes, vdupq_n_u8((uint8_t)(1u << shift))), vdupq_n_u8(bit));
}

Q8_INLINE struct q8_unit unit_of(uint8x16_t first, uint8x16_t other)
{
    return (struct q8_unit){{vreinterpretq_s8_u8(first), vreinterpretq_s8_u8(other)}};
}

Q8_INLINE struct q8_unit less(struct q8_unit unit, int8_t offset)
{
    return (struct q8_unit){{vsubq_s8(unit.q[0], vdupq_n_s8(offset)), vsubq_s8(unit.q[1], vdupq_n_s8(offset))}};
}

/* 16 bytes: the low nibbles, which are the first 16 columns, then the high ones. */
Q8_INLINE struct q8_unit nibbles(const unsigned char *in)
{
    uint8x16_t bytes = vld1q_u8(in);
    return unit_of(vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8(bytes, 4));
}

/* What 32 codes below 16 stand for. */
Q8_INLINE struct q8_unit look_up(const int8_t table[16], struct q8_unit codes)
{
    int8x16_t values = vld1q_s8(table);
    return (struct q8_unit){{vqtbl1q_s8(values, vreinterpretq_u8_s8(codes.q[0])),
                             vqtbl1q_s8(values, vreinterpretq_u8_s8(codes.q[1]))}};
}

/* ---- scales ---- */

Q8_INLINE float32x4_t halves_to_f32(uint16x4_t halves)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(halves));
}

Q8_INLINE float half_to_f32(const unsigned char *in)
{
    uint16_t half;
    memcpy(&half, in, sizeof half);
    return vgetq_lane_f32(halves_to_f32(vdup_n_u16(half)), 0);
}

/* f16 in each of 8 blocks. */
Q8_INLINE void scales_of_blocks(float out[Q8_UNITS], const unsigned char *in, size_t block_bytes)
{
    uint16_t halves[Q8_UNITS];
    for (size_t u = 0; u < Q8_UNITS; u++)
        memcpy(&halves[u], in + u * block_bytes, sizeof *halves);
    vst1q_f32(out, halves_to_f32(vld1_u16(halves)));
    vst1q_f32(out + 4, halves_to_f32(vld1_u16(halves + 4)));
}

/* Integers times a factor, which is exact: at most 24 significant bits. */
Q8_INLINE void scales_of_ints(float out[Q8_UNITS], int8x8_t ints, float factor)
{
    int16x8_t wide = vmovl_s8(ints);
    vst1q_f32(out, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), factor));
    vst1q_f32(out + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_high_s16(wide))), factor));
}

/* ---- blocks of 32 columns ---- */

Q8_INLINE void q8_scales_q4_0(struct q8_scales *out, const unsigned char *group)
{
    scales_of_blocks(out->scale[0], group, 18);
}

Q8_INLINE struct q8_unit q8_quants_q4_0(const unsigned char *group, size_t unit)
{
    return less(nibbles(group + unit * 18 + 2), 8);
}

Q8_INLINE void q8_scales_q4_1(struct q8_scales *out, const unsigned char *group)
{
    scales_of_blocks(out->scale[0], group, 20);
    scales_of_blocks(out->minimum[0], group + 2, 20);
}

Q8_INLINE struct q8_unit q8_quants_q4_1(const unsigned char *group, size_t unit)
{
    return nibbles(group + unit * 20 + 4);
}

/* Bits i of two bytes as 16 bytes, 16 where a bit is set. */
Q8_INLINE uint8x16_t fifth_bits(const unsigned char *in)
{
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t spread = vcombine_u8(vdup_n_u8(in[0]), vdup_n_u8(in[1]));
    return vandq_u8(vtstq_u8(spread, vld1q_u8(bits)), vdupq_n_u8(16));
}

Q8_INLINE struct q8_unit five_bits(const unsigned char *high, const unsigned char *low)
{
    struct q8_unit four = nibbles(low);
    return unit_of(vorrq_u8(vreinterpretq_u8_s8(four.q[0]), fifth_bits(high)),
                   vorrq_u8(vreinterpretq_u8_s8(four.q[1]), fifth_bits(high + 2)));
}

Q8_INLINE void q8_scales_q5_0(struct q8_scales *out, const unsigned char *group)
{
    scales_of_blocks(out->scale[0], group, 22);
}

Q8_INLINE struct q8_unit q8_quants_q5_0(const unsigned char *group, size_t unit)
{
    return less(five_bits(group + unit * 22 + 2, group + unit * 22 + 6), 16);
}

Q8_INLINE void q8_scales_q5_1(struct q8_scales *out, const unsigned char *group)
{
    scales_of_blocks(out->scale[0], group, 24);
    scales_of_blocks(out->minimum[0], group + 2, 24);
}

Q8_INLINE struct q8_unit q8_quants_q5_1(const unsigned char *group, size_t unit)
{
    return five_bits(group + unit * 24 + 4, group + unit * 24 + 8);
}

Q8_INLINE void q8_scales_q8_0(struct q8_scales *out, const unsigned char *group)
{
    scales_of_blocks(out->scale[0], group, 34);
}

Q8_INLINE struct q8_unit q8_quants_q8_0(const unsigned char *group, size_t unit)
{
    const unsigned char *in = group + unit * 34 + 2;
    return unit_of(vld1q_u8(in), vld1q_u8(in + 16));
}

Q8_INLINE void q8_scales_iq4_nl(struct q8_scales *out, const unsigned char *group)
{
    scales_of_blocks(out->scale[0], group, 18);
}

Q8_INLINE struct q8_unit q8_quants_iq4_nl(const unsigned char *group, size_t unit)
{
    return look_up(iq4_values, nibbles(group + unit * 18 + 2));
}

/* E2M1 in units of a half. */
static const int8_t fp4_halves[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* 2^(e - 128), for units of a half; a denormal for e = 0 and 1, NaN for 255. */
Q8_INLINE void q8_scales_mxfp4(struct q8_scales *out, const unsigned char *group)
{
    for (size_t u = 0; u < Q8_UNITS; u++) {
        uint32_t e = group[17 * u], bits = e < 2 ? (uint32_t)0x00200000u << e : (e - 1) << 23;
        bits = e == 255 ? 0x7fc00000u : bits;
        memcpy(&out->scale[0][u], &bits, sizeof bits);
    }
}

Q8_INLINE struct q8_unit q8_quants_mxfp4(const unsigned char *group, size_t unit)
{
    return look_up(fp4_halves, nibbles(group + unit * 17 + 1));
}

/* Blocks of 64 columns with 4 scales of E4M3, sign not read, for 16 columns each; NaN is 0. */
Q8_INLINE void q8_scales_nvfp4(struct q8_scales *out, const unsigned char *group)
{
    for (size_t i = 0; i < 2 * Q8_UNITS; i++) {
        uint8_t code = group[36 * (i / 4) + i % 4] & 0x7f;
        out->scale[i % 2][i / 2] = code == 0x7f ? 0 : 0.5f * moe_e4m3_to_f32(code);
    }
}

/* 8 bytes for 16 columns: the low nibbles are the first 8. */
Q8_INLINE struct q8_unit q8_quants_nvfp4(const unsigned char *group, size_t unit)
{
    struct q8_unit mixed = nibbles(group + unit / 2 * 36 + 4 + unit % 2 * 16);
    uint64x2_t low = vreinterpretq_u64_s8(mixed.q[0]), high = vreinterpretq_u64_s8(mixed.q[1]);
    return look_up(fp4_halves, unit_of(vreinterpretq_u8_u64(vtrn1q_u64(low, high)),
                                       vreinterpretq_u8_u64(vtrn2q_u64(low, high))));
}

/* ---- blocks of 256 columns ---- */

/* The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes, times d and dmin, which lie before them. */
Q8_INLINE void scales_of_k(struct q8_scales *out, const unsigned char *in)
{
    uint32_t low, mid, high;
    memcpy(&low, in + 4, 4);
    memcpy(&mid, in + 8, 4);
    memcpy(&high, in + 12, 4);
    uint32_t top_scales = (high & 0x0f0f0f0fu) | (low >> 2 & 0x30303030u);
    uint32_t top_minima = (high >> 4 & 0x0f0f0f0fu) | (mid >> 2 & 0x30303030u);
    uint64_t scales = (low & 0x3f3f3f3fu) | (uint64_t)top_scales << 32;
    uint64_t minima = (mid & 0x3f3f3f3fu) | (uint64_t)top_minima << 32;
    scales_of_ints(out->scale[0], vcreate_s8(scales), half_to_f32(in));
    scales_of_ints(out->minimum[0], vcreate_s8(minima), -half_to_f32(in + 2));
}

/* 32 bytes: a unit in the low nibbles, the next in the high ones. */
Q8_INLINE struct q8_unit nibbles_of_pair(const unsigned char *in, size_t unit)
{
    int shift = unit % 2 == 0 ? 0 : 4;
    return unit_of(bits_of(vld1q_u8(in), shift, 15), bits_of(vld1q_u8(in + 16), shift, 15));
}

Q8_INLINE void q8_scales_q4_k(struct q8_scales *out, const unsigned char *group)
{
    scales_of_k(out, group);
}

Q8_INLINE struct q8_unit q8_quants_q4_k(const unsigned char *group, size_t unit)
{
    return nibbles_of_pair(group + 16 + unit / 2 * 32, unit);
}

Q8_INLINE void q8_scales_q5_k(struct q8_scales *out, const unsigned char *group)
{
    scales_of_k(out, group);
}

Q8_INLINE struct q8_unit q8_quants_q5_k(const unsigned char *group, size_t unit)
{
    struct q8_unit four = nibbles_of_pair(group + 48 + unit / 2 * 32, unit);
    return unit_of(vorrq_u8(vreinterpretq_u8_s8(four.q[0]), test_bit(vld1q_u8(group + 16), unit, 16)),
                   vorrq_u8(vreinterpretq_u8_s8(four.q[1]), test_bit(vld1q_u8(group + 32), unit, 16)));
}

/* 16 int8, of the 16 columns in turn. */
Q8_INLINE void scales_of_halves(float out[2][Q8_UNITS], int8x16_t ints, float factor)
{
    int8x16_t firsts = vuzp1q_s8(ints, ints), others = vuzp2q_s8(ints, ints);
    scales_of_ints(out[0], vget_low_s8(firsts), factor);
    scales_of_ints(out[1], vget_low_s8(others), factor);
}

Q8_INLINE void q8_scales_q6_k(struct q8_scales *out, const unsigned char *group)
{
    scales_of_halves(out->scale, vreinterpretq_s8_u8(vld1q_u8(group + 192)), half_to_f32(group + 208));
}

Q8_INLINE struct q8_unit q8_quants_q6_k(const unsigned char *group, size_t unit)
{
    const unsigned char *low = group + unit / 4 * 64 + unit % 2 * 32, *high = group + 128 + unit / 4 * 32;
    int shift = unit % 4 < 2 ? 0 : 4, up = (int)(unit % 4) * 2;
    uint8x16_t q[2];
    for (size_t i = 0; i < 2; i++) {
        uint8x16_t upper = vshlq_n_u8(bits_of(vld1q_u8(high + 16 * i), up, 3), 4);
        q[i] = vorrq_u8(bits_of(vld1q_u8(low + 16 * i), shift, 15), upper);
    }
    return less(unit_of(q[0], q[1]), 32);
}

Q8_INLINE void q8_scales_q2_k(struct q8_scales *out, const unsigned char *group)
{
    struct q8_unit parts = nibbles(group);
    scales_of_halves(out->scale, parts.q[0], half_to_f32(group + 80));
    scales_of_halves(out->minimum, parts.q[1], -half_to_f32(group + 82));
}

/* 64 bytes: number of 2 bits k of byte 32 h + l is value l of unit 4 h + k. */
Q8_INLINE struct q8_unit two_bits(const unsigned char *in, size_t unit)
{
    const unsigned char *bytes = in + unit / 4 * 32;
    int shift = (int)(unit % 4) * 2;
    return unit_of(bits_of(vld1q_u8(bytes), shift, 3), bits_of(vld1q_u8(bytes + 16), shift, 3));
}

Q8_INLINE struct q8_unit q8_quants_q2_k(const unsigned char *group, size_t unit)
{
    return two_bits(group + 16, unit);
}

Q8_INLINE void q8_scales_q3_k(struct q8_scales *out, const unsigned char *group)
{
    uint8_t scales[16];
    for (size_t i = 0; i < 16; i++)
        scales[i] = (uint8_t)((group[96 + i % 8] >> i / 8 * 4 & 15) | (group[104 + i % 4] >> i / 4 * 2 & 3) << 4);
    int8x16_t ints = vsubq_s8(vreinterpretq_s8_u8(vld1q_u8(scales)), vdupq_n_s8(32));
    scales_of_halves(out->scale, ints, half_to_f32(group + 108));
}

Q8_INLINE struct q8_unit q8_quants_q3_k(const unsigned char *group, size_t unit)
{
    struct q8_unit low = two_bits(group + 32, unit);
    return less(unit_of(vorrq_u8(vreinterpretq_u8_s8(low.q[0]), test_bit(vld1q_u8(group), unit, 4)),
                        vorrq_u8(vreinterpretq_u8_s8(low.q[1]), test_bit(vld1q_u8(group + 16), unit, 4))), 4);
}

Q8_INLINE void q8_scales_iq4_xs(struct q8_scales *out, const unsigned char *group)
{
    uint8_t scales[Q8_UNITS];
    unsigned high = group[2] | (unsigned)group[3] << 8;
    for (size_t u = 0; u < Q8_UNITS; u++)
        scales[u] = (uint8_t)((group[4 + u / 2] >> 4 * (u % 2) & 15) | (high >> 2 * u & 3) << 4);
    int8x8_t ints = vsub_s8(vreinterpret_s8_u8(vld1_u8(scales)), vdup_n_s8(32));
    scales_of_ints(out->scale[0], ints, half_to_f32(group));
}

Q8_INLINE struct q8_unit q8_quants_iq4_xs(const unsigned char *group, size_t unit)
{
    return look_up(iq4_values, nibbles(group + 8 + unit * 16));
}

/* One factor for all columns. */
Q8_INLINE void scales_of_one(struct q8_scales *out, const unsigned char *in)
{
    vst1q_f32(out->scale[0], vdupq_n_f32(half_to_f32(in)));
    vst1q_f32(out->scale[0] + 4, vdupq_n_f32(half_to_f32(in)));
}

Q8_INLINE void q8_scales_tq2_0(struct q8_scales *out, const unsigned char *group)
{
    scales_of_one(out, group + 64);
}

Q8_INLINE struct q8_unit q8_quants_tq2_0(const unsigned char *group, size_t unit)
{
    return less(two_bits(group, unit), 1);
}

Q8_INLINE void q8_scales_tq1_0(struct q8_scales *out, const unsigned char *group)
{
    scales_of_one(out, group + 52);
}

/* Ternary digit n of bytes, less 1: the whole part of 3 times the fraction that 3^n b / 256 leaves. power: 3^n. */
Q8_INLINE uint8x16_t ternary(uint8x16_t bytes, uint8x16_t power)
{
    uint8x16_t fraction = vmulq_u8(bytes, power);
    uint8x16_t carries = vaddq_u8(vcgeq_u8(fraction, vdupq_n_u8(86)), vcgeq_u8(fraction, vdupq_n_u8(171)));
    return vsubq_u8(vdupq_n_u8(255), carries);
}

Q8_INLINE uint8x16_t ternary_at(const unsigned char *in, uint8_t power)
{
    return ternary(vld1q_u8(in), vdupq_n_u8(power));
}

/* Units 0 .. 4 are digits of 32 bytes, 5 .. 7 of 16 bytes but for the last 16 columns: four digits of 4 bytes. */
Q8_INLINE struct q8_unit q8_quants_tq1_0(const unsigned char *group, size_t unit)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    static const uint8_t last[16] = {1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27};
    if (unit < 5)
        return unit_of(ternary_at(group, powers[unit]), ternary_at(group + 16, powers[unit]));
    uint8x16_t first = ternary_at(group + 32, powers[2 * unit - 10]);
    if (unit < 7)
        return unit_of(first, ternary_at(group + 32, powers[2 * unit - 9]));
    uint32_t high;
    memcpy(&high, group + 48, sizeof high);
    return unit_of(first, ternary(vreinterpretq_u8_u32(vdupq_n_u32(high)), vld1q_u8(last)));
}

#endif
