// SPDX-License-Identifier: MIT
// Every format of weights in device code: 32 neighbouring values of a row as f32, with the bits that src/format gives.
// For kernels that are to serve any format; those made for one format unpack it in their own way.
//
// moe_cuda_dequantise_<name>(out, block, first): values first .. first + 31 of a block, first a multiple of 32; where
// blocks are shorter, of as many blocks as that takes. Blocks lie at any address, so bytes are read one by one. The
// layouts are described in src/format/<name>.c.
#ifndef MOE_CUDA_DEQUANTISE_CUH
#define MOE_CUDA_DEQUANTISE_CUH

#include <stddef.h>
#include <stdint.h>

#include "cuda/formats.h"
#include "cuda/ptx.cuh"
#include "half.h"

#define MOE_IQ_GRID static __device__ const uint16_t
#include "format/iq_grids.c"
#include "format/fp4.h"
#include "format/iq4.h"

/* Two roundings: nothing of this library is compiled with contraction. */
MOE_DEVICE float moe_cuda_line(float d, int x, float m)
{
    return d * (float)x - m;
}

MOE_DEVICE uint32_t moe_cuda_u16(const uint8_t *in)
{
    return in[0] | (uint32_t)in[1] << 8;
}

MOE_DEVICE uint32_t moe_cuda_u32(const uint8_t *in)
{
    return moe_cuda_u16(in) | moe_cuda_u16(in + 2) << 16;
}

MOE_DEVICE float moe_cuda_f16(const uint8_t *in)
{
    return moe_f16_to_f32((uint16_t)moe_cuda_u16(in));
}

/* ---- one or two values a block: value i of a run ---- */

MOE_DEVICE float moe_cuda_value_f32(const uint8_t *in, int i)
{
    return moe_f32_from_bits(moe_cuda_u32(in + 4 * i));
}

MOE_DEVICE float moe_cuda_value_f16(const uint8_t *in, int i)
{
    return moe_cuda_f16(in + 2 * i);
}

MOE_DEVICE float moe_cuda_value_bf16(const uint8_t *in, int i)
{
    return moe_bf16_to_f32((uint16_t)moe_cuda_u16(in + 2 * i));
}

MOE_DEVICE float moe_cuda_value_e4m3(const uint8_t *in, int i)
{
    return moe_e4m3_to_f32(in[i]);
}

MOE_DEVICE float moe_cuda_value_e8m0(const uint8_t *in, int i)
{
    return moe_e8m0_to_f32(in[i]);
}

MOE_DEVICE float moe_cuda_value_i8(const uint8_t *in, int i)
{
    return (float)(int8_t)in[i];
}

MOE_DEVICE float moe_cuda_value_u8(const uint8_t *in, int i)
{
    return (float)in[i];
}

MOE_DEVICE float moe_cuda_value_u4(const uint8_t *in, int i)
{
    return (float)(in[i / 2] >> 4 * (i % 2) & 15);
}

/* Doubled, values are integers; there is a -0. */
MOE_DEVICE float moe_cuda_value_e2m1(const uint8_t *in, int i)
{
    uint32_t code = (uint32_t)in[i / 2] >> 4 * (i % 2) & 15;
    float magnitude = 0.5f * (float)fp4_doubled((int)(code & 7));
    return moe_f32_from_bits(moe_f32_bits(magnitude) | (code & 8) << 28);
}

/* X(NAME, name) */
#define MOE_CUDA_PLAIN_MAP(X) \
    X(F32, f32) X(F16, f16) X(BF16, bf16) X(E4M3, e4m3) X(E8M0, e8m0) X(I8, i8) X(U8, u8) X(U4, u4) X(E2M1, e2m1)

#define MOE_CUDA_PLAIN(NAME, name)                                                                \
    MOE_DEVICE void moe_cuda_dequantise_##name(float *out, const uint8_t *block, int first)       \
    {                                                                                             \
        for (int i = 0; i < 32; i++)                                                              \
            out[i] = moe_cuda_value_##name(block, first + i);                                     \
    }
MOE_CUDA_PLAIN_MAP(MOE_CUDA_PLAIN)
#undef MOE_CUDA_PLAIN

/* ---- 32 values a block ---- */

/* Code i of 32 in nibbles: the low ones, then the high ones. */
MOE_DEVICE int moe_cuda_nibble(const uint8_t *q, int i)
{
    return q[i % 16] >> 4 * (i / 16) & 15;
}

MOE_DEVICE void moe_cuda_dequantise_q4_0(float *out, const uint8_t *block, int)
{
    float d = moe_cuda_f16(block);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)(moe_cuda_nibble(block + 2, i) - 8);
}

MOE_DEVICE void moe_cuda_dequantise_q4_1(float *out, const uint8_t *block, int)
{
    float d = moe_cuda_f16(block), m = moe_cuda_f16(block + 2);
    for (int i = 0; i < 32; i++)
        out[i] = moe_cuda_line(d, moe_cuda_nibble(block + 4, i), -m);
}

MOE_DEVICE void moe_cuda_dequantise_q5_0(float *out, const uint8_t *block, int)
{
    float d = moe_cuda_f16(block);
    uint32_t high = moe_cuda_u32(block + 2);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)((moe_cuda_nibble(block + 6, i) | (int)(high >> i & 1) << 4) - 16);
}

MOE_DEVICE void moe_cuda_dequantise_q5_1(float *out, const uint8_t *block, int)
{
    float d = moe_cuda_f16(block), m = moe_cuda_f16(block + 2);
    uint32_t high = moe_cuda_u32(block + 4);
    for (int i = 0; i < 32; i++)
        out[i] = moe_cuda_line(d, moe_cuda_nibble(block + 8, i) | (int)(high >> i & 1) << 4, -m);
}

MOE_DEVICE void moe_cuda_dequantise_q8_0(float *out, const uint8_t *block, int)
{
    float d = moe_cuda_f16(block);
    for (int i = 0; i < 32; i++)
        out[i] = (float)(int8_t)block[2 + i] * d;
}

static __device__ const int8_t moe_cuda_iq4_values[16] = {IQ4_VALUES};

MOE_DEVICE void moe_cuda_iq4(float *out, const uint8_t *q, float d)
{
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)moe_cuda_iq4_values[moe_cuda_nibble(q, i)];
}

MOE_DEVICE void moe_cuda_dequantise_iq4_nl(float *out, const uint8_t *block, int)
{
    moe_cuda_iq4(out, block + 2, moe_cuda_f16(block));
}

/* The scale is halved, as codes are doubled; e = 0 and 1 give f32 denormals. */
MOE_DEVICE void moe_cuda_dequantise_mxfp4(float *out, const uint8_t *block, int)
{
    uint32_t e = block[0], bits = e < 2 ? 0x00200000u << e : (e - 1) << 23;
    float d = moe_f32_from_bits(e == 255 ? 0x7fc00000u : bits);
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)fp4_doubled(moe_cuda_nibble(block + 1, i));
}

/* ---- 64 values a block ---- */

/* Half of a scale of E4M3 without a sign; NaN is 0. */
MOE_DEVICE float moe_cuda_nvfp4_scale(uint32_t code)
{
    uint32_t exponent = code >> 3 & 15, mantissa = code & 7;
    if (code == 0x7f)
        return 0.0f;
    return exponent > 0 ? moe_f32_from_bits((exponent + 119) << 23 | mantissa << 20) : (float)mantissa * 0x1p-10f;
}

MOE_DEVICE void moe_cuda_dequantise_nvfp4(float *out, const uint8_t *block, int first)
{
    for (int g = 0; g < 2; g++) {
        float d = moe_cuda_nvfp4_scale(block[first / 16 + g]);
        const uint8_t *q = block + 4 + 8 * (first / 16 + g);
        for (int i = 0; i < 16; i++)
            out[16 * g + i] = d * (float)fp4_doubled(q[i % 8] >> 4 * (i / 8) & 15);
    }
}

/* ---- 256 values a block; s: which of its 8 parts of 32 ---- */

/* The halves of 128 values have 2 bits of a value in a byte: of value 32 k + l in byte l, bits 2 k and up. */
MOE_DEVICE int moe_cuda_two_bits(const uint8_t *q, int s, int l)
{
    return q[32 * (s / 4) + l] >> 2 * (s % 4) & 3;
}

MOE_DEVICE void moe_cuda_dequantise_q2_k(float *out, const uint8_t *block, int first)
{
    int s = first / 32;
    float d = moe_cuda_f16(block + 80), dmin = moe_cuda_f16(block + 82);
    for (int g = 0; g < 2; g++) {
        int scales = block[2 * s + g];
        float scale = d * (float)(scales & 15), minimum = dmin * (float)(scales >> 4);
        for (int l = 16 * g; l < 16 * g + 16; l++)
            out[l] = moe_cuda_line(scale, moe_cuda_two_bits(block + 16, s, l), minimum);
    }
}

MOE_DEVICE void moe_cuda_dequantise_q3_k(float *out, const uint8_t *block, int first)
{
    int s = first / 32;
    float d = moe_cuda_f16(block + 108);
    const uint8_t *scales = block + 96;
    for (int g = 2 * s; g < 2 * s + 2; g++) {
        int low = scales[g % 8] >> 4 * (g / 8) & 15, high = scales[8 + g % 4] >> 2 * (g / 4) & 3;
        float scale = d * (float)((low | high << 4) - 32);
        for (int l = 16 * (g % 2); l < 16 * (g % 2) + 16; l++)
            out[l] = scale * (float)((moe_cuda_two_bits(block + 32, s, l) | (block[l] >> s & 1) << 2) - 4);
    }
}

/* Scale and minimum s of 6 bits, as format/lines.h has them. */
MOE_DEVICE void moe_cuda_six_bits(int *scale, int *minimum, const uint8_t *packed, int s)
{
    int j = s % 4;
    if (s < 4) {
        *scale = packed[j] & 63;
        *minimum = packed[4 + j] & 63;
    } else {
        *scale = (packed[8 + j] & 15) | (packed[j] >> 6) << 4;
        *minimum = packed[8 + j] >> 4 | (packed[4 + j] >> 6) << 4;
    }
}

MOE_DEVICE void moe_cuda_dequantise_q4_k(float *out, const uint8_t *block, int first)
{
    int s = first / 32, scale, minimum;
    moe_cuda_six_bits(&scale, &minimum, block + 4, s);
    float d = moe_cuda_f16(block) * (float)scale, m = moe_cuda_f16(block + 2) * (float)minimum;
    const uint8_t *q = block + 16 + 32 * (s / 2);
    for (int l = 0; l < 32; l++)
        out[l] = moe_cuda_line(d, q[l] >> 4 * (s % 2) & 15, m);
}

MOE_DEVICE void moe_cuda_dequantise_q5_k(float *out, const uint8_t *block, int first)
{
    int s = first / 32, scale, minimum;
    moe_cuda_six_bits(&scale, &minimum, block + 4, s);
    float d = moe_cuda_f16(block) * (float)scale, m = moe_cuda_f16(block + 2) * (float)minimum;
    const uint8_t *high = block + 16, *low = block + 48 + 32 * (s / 2);
    for (int l = 0; l < 32; l++)
        out[l] = moe_cuda_line(d, (low[l] >> 4 * (s % 2) & 15) | (high[l] >> s & 1) << 4, m);
}

MOE_DEVICE void moe_cuda_dequantise_q6_k(float *out, const uint8_t *block, int first)
{
    int s = first / 32, k = s % 4;
    float d = moe_cuda_f16(block + 208);
    const uint8_t *low = block + 64 * (s / 4) + 32 * (k & 1), *high = block + 128;
    for (int g = 0; g < 2; g++) {
        float scale = d * (float)(int8_t)block[192 + 2 * s + g];
        for (int l = 16 * g; l < 16 * g + 16; l++)
            out[l] = scale * (float)(((low[l] >> 4 * (k >> 1) & 15) | moe_cuda_two_bits(high, s, l) << 4) - 32);
    }
}

MOE_DEVICE void moe_cuda_dequantise_tq1_0(float *out, const uint8_t *block, int first)
{
    const uint32_t powers = 27u << 24 | 9u << 16 | 3u << 8 | 1u;   /* of 3; and 81 */
    float d = moe_cuda_f16(block + 52);
    for (int l = 0; l < 32; l++) {
        int i = first + l;
        int digit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
        int byte = i < 160 ? i % 32 : i < 240 ? 32 + i % 16 : 48 + i % 4;
        uint32_t fraction = block[byte] * (digit < 4 ? powers >> 8 * digit & 255 : 81) & 255;
        out[l] = d * (float)((int)(fraction * 3 >> 8) - 1);
    }
}

MOE_DEVICE void moe_cuda_dequantise_tq2_0(float *out, const uint8_t *block, int first)
{
    float d = moe_cuda_f16(block + 64);
    for (int l = 0; l < 32; l++)
        out[l] = d * (float)(moe_cuda_two_bits(block, first / 32, l) - 1);
}

MOE_DEVICE void moe_cuda_dequantise_iq4_xs(float *out, const uint8_t *block, int first)
{
    int s = first / 32;
    int scale = (block[4 + s / 2] >> 4 * (s % 2) & 15) | (int)(moe_cuda_u16(block + 2) >> 2 * s & 3) << 4;
    moe_cuda_iq4(out, block + 8 + 16 * s, moe_cuda_f16(block) * (float)(scale - 32));
}

/* 8 values d * q of bytes with signs. */
MOE_DEVICE void moe_cuda_iq_scale(float *out, uint64_t q, float d)
{
    for (int i = 0; i < 8; i++)
        out[i] = d * (float)(int8_t)(q >> 8 * i & 255);
}

MOE_DEVICE void moe_cuda_dequantise_iq2_xxs(float *out, const uint8_t *block, int first)
{
    const uint8_t *group = block + 2 + first / 32 * 8;
    uint32_t word = moe_cuda_u32(group + 4);
    float d = moe_cuda_f16(block) * (0.5f + (float)(word >> 28)) * 0.25f;
    for (int k = 0; k < 4; k++) {
        uint64_t magnitudes = iq_magnitudes_2(moe_iq_grids_iq2_xxs[group[k]]);
        moe_cuda_iq_scale(out + 8 * k, iq_negate(magnitudes, iq_even_signs(word >> 7 * k & 127)), d);
    }
}

MOE_DEVICE void moe_cuda_dequantise_iq2_xs(float *out, const uint8_t *block, int first)
{
    int s = first / 32, scales = block[66 + s];
    float d = moe_cuda_f16(block);
    for (int k = 0; k < 4; k++) {
        uint32_t code = moe_cuda_u16(block + 2 + 8 * s + 2 * k);
        float scale = d * (0.5f + (float)(scales >> 4 * (k / 2) & 15)) * 0.25f;
        uint64_t magnitudes = iq_magnitudes_2(moe_iq_grids_iq2_xs[code & 511]);
        moe_cuda_iq_scale(out + 8 * k, iq_negate(magnitudes, iq_even_signs(code >> 9)), scale);
    }
}

MOE_DEVICE void moe_cuda_dequantise_iq2_s(float *out, const uint8_t *block, int first)
{
    int s = first / 32, scales = block[74 + s];
    float d = moe_cuda_f16(block);
    for (int k = 0; k < 4; k++) {
        int row = block[2 + 4 * s + k] | (block[66 + s] >> 2 * k & 3) << 8;
        float scale = d * (0.5f + (float)(scales >> 4 * (k / 2) & 15)) * 0.25f;
        uint64_t magnitudes = iq_magnitudes_2(moe_iq_grids_iq2_s[row]);
        moe_cuda_iq_scale(out + 8 * k, iq_negate(magnitudes, block[34 + 4 * s + k]), scale);
    }
}

/* 4 + 8 c in each byte, and 2 more for c = 7. */
MOE_DEVICE void moe_cuda_dequantise_iq3_xxs(float *out, const uint8_t *block, int first)
{
    int s = first / 32;
    const uint8_t *rows = block + 2 + 8 * s;
    uint32_t word = moe_cuda_u32(block + 66 + 4 * s);
    float d = moe_cuda_f16(block) * (0.5f + (float)(word >> 28)) * 0.5f;
    for (int k = 0; k < 4; k++) {
        uint64_t c = iq_spread_4(moe_iq_grids_iq3_xxs[rows[2 * k]], moe_iq_grids_iq3_xxs[rows[2 * k + 1]]);
        uint64_t magnitudes = 4 * IQ_EACH_BYTE + 8 * c + 2 * (c & c >> 1 & c >> 2 & IQ_EACH_BYTE);
        moe_cuda_iq_scale(out + 8 * k, iq_negate(magnitudes, iq_even_signs(word >> 7 * k & 127)), d);
    }
}

MOE_DEVICE void moe_cuda_dequantise_iq3_s(float *out, const uint8_t *block, int first)
{
    int s = first / 32, scale = block[106 + s / 2] >> 4 * (s % 2) & 15;
    float d = moe_cuda_f16(block) * (float)(2 * scale + 1);
    const uint8_t *low = block + 2 + 8 * s;
    int high = block[66 + s];
    for (int k = 0; k < 4; k++) {
        uint64_t c = iq_spread_4(moe_iq_grids_iq3_s[low[2 * k] | (high >> 2 * k & 1) << 8],
                                 moe_iq_grids_iq3_s[low[2 * k + 1] | (high >> (2 * k + 1) & 1) << 8]);
        moe_cuda_iq_scale(out + 8 * k, iq_negate(2 * c + IQ_EACH_BYTE, block[74 + 4 * s + k]), d);
    }
}

/* 8 values of eighths plus 9; d / 8 is exact. */
MOE_DEVICE void moe_cuda_iq1_scale(float *out, uint32_t row, uint32_t is_negative, float d)
{
    uint64_t q = iq_eighths(moe_iq_grids_iq1[row], is_negative);
    float eighth = d * 0.125f;
    for (int i = 0; i < 8; i++)
        out[i] = eighth * (float)((int)(q >> 8 * i & 255) - 9);
}

MOE_DEVICE void moe_cuda_dequantise_iq1_s(float *out, const uint8_t *block, int first)
{
    int s = first / 32;
    uint32_t high = moe_cuda_u16(block + 34 + 2 * s);
    float d = moe_cuda_f16(block) * (float)(int)(2 * (high >> 12 & 7) + 1);
    for (int k = 0; k < 4; k++)
        moe_cuda_iq1_scale(out + 8 * k, block[2 + 4 * s + k] | (high >> 3 * k & 7) << 8, high >> 15, d);
}

/* d has 4 bits in each of the 4 numbers of scales. */
MOE_DEVICE void moe_cuda_dequantise_iq1_m(float *out, const uint8_t *block, int first)
{
    int s = first / 32;
    const uint8_t *scales = block + 48;
    uint32_t bits = scales[1] >> 4 | (scales[3] & 0xf0) | (scales[5] & 0xf0) << 4 | (scales[7] & 0xf0) << 8;
    float d = moe_f16_to_f32((uint16_t)bits);
    for (int k = 0; k < 4; k++) {
        int g = 2 * s + k / 2;
        uint32_t scale = moe_cuda_u16(scales + 2 * (g / 4)) >> 3 * (g % 4) & 7;
        uint32_t high = block[32 + (4 * s + k) / 2] >> 4 * (k % 2) & 15;
        moe_cuda_iq1_scale(out + 8 * k, block[4 * s + k] | (high & 7) << 8, high >> 3, d * (float)(int)(2 * scale + 1));
    }
}

/* ---- any of them ---- */

/* Values first_col .. first_col + 31 of a row, first_col a multiple of 32. format_index: enum moe_cuda_format. */
MOE_DEVICE void moe_cuda_dequantise(int format_index, float *out32, const unsigned char *row, size_t first_col)
{
    switch (format_index) {
#define MOE_CUDA_CASE(id, NAME, name, values, bytes)                                                              \
    case MOE_CUDA_##NAME:                                                                                         \
        moe_cuda_dequantise_##name(out32, row + first_col / (values) * (bytes), (int)(first_col % (values)));      \
        break;
        MOE_FORMAT_MAP(MOE_CUDA_CASE)
#undef MOE_CUDA_CASE
    }
}

/* The same of a row's last n < 32 values, 0 after them. Only formats of one or two values a block have such rows. */
MOE_DEVICE void moe_cuda_dequantise_rest(int format_index, float *out32, const unsigned char *row, size_t first_col,
                                         int n)
{
    for (int i = 0; i < 32; i++)
        out32[i] = 0.0f;
    switch (format_index) {
#define MOE_CUDA_CASE(NAME, name)                                                             \
    case MOE_CUDA_##NAME:                                                                     \
        row += first_col / MOE_CUDA_VALUES_##NAME * MOE_CUDA_BYTES_##NAME;                    \
        for (int i = 0; i < 32; i++)                                                          \
            if (i < n)                                                                        \
                out32[i] = moe_cuda_value_##name(row, i);                                     \
        break;
        MOE_CUDA_PLAIN_MAP(MOE_CUDA_CASE)
#undef MOE_CUDA_CASE
    }
}

#endif
