// SPDX-License-Identifier: MIT
// Value i of a block, alone, from the layout of GGUF: the bits are gathered in another way than in the library. Each
// product and sum is rounded to f32 once, which volatile makes sure of.
#ifndef MOE_TEST_LAYOUTS_H
#define MOE_TEST_LAYOUTS_H

#include <math.h>
#include <stdint.h>

#include "half.h"
#include "moe/format.h"

static float scale_at(const uint8_t *bytes)
{
    return moe_f16_to_f32((uint16_t)(bytes[0] + 256 * bytes[1]));
}

/* a * b + c, rounded twice. */
static float line_at(float a, float b, float c)
{
    volatile float product = a * b;
    return product + c;
}

static float product_of(float a, float b, float c)
{
    volatile float product = a * b;
    return product * c;
}

/* Bit n of a field of bytes, the lowest of the first byte being bit 0. */
static int bit_at(const uint8_t *bytes, int n)
{
    return bytes[n / 8] >> n % 8 & 1;
}

/* The nibble of value i of 32: the first 16 bytes' low ones, then their high ones. */
static int nibble_at(const uint8_t *bytes, int i)
{
    return i < 16 ? bytes[i] % 16 : bytes[i - 16] / 16;
}

/* The scale and the minimum, of 6 bits, of group g of Q4_K and Q5_K. */
static void six_bits_at(int *scale, int *minimum, const uint8_t *six, int g)
{
    if (g < 4) {
        *scale = six[g] % 64;
        *minimum = six[g + 4] % 64;
    } else {
        *scale = six[g + 4] % 16 + 16 * (six[g - 4] / 64);
        *minimum = six[g + 4] / 16 + 16 * (six[g] / 64);
    }
}

static float value_q2_k(const uint8_t *block, int i)
{
    int group = i / 16, q = block[16 + 32 * (i / 128) + i % 32] / (1 << i % 128 / 32 * 2) % 4;
    volatile float scale = scale_at(block + 80) * (float)(block[group] % 16);
    volatile float minimum = scale_at(block + 82) * (float)(block[group] / 16);
    return line_at(scale, (float)q, -minimum);
}

static float value_q3_k(const uint8_t *block, int i)
{
    int group = i / 16, q = block[32 + 32 * (i / 128) + i % 32] / (1 << i % 128 / 32 * 2) % 4;
    int low = group < 8 ? block[96 + group] % 16 : block[96 + group - 8] / 16;
    int high = block[104 + group % 4] / (1 << 2 * (group / 4)) % 4;
    q -= bit_at(block + i % 32, i / 32) ? 0 : 4;
    return product_of(scale_at(block + 108), (float)(16 * high + low - 32), (float)q);
}

static float value_q4_k(const uint8_t *block, int i)
{
    int scale, minimum, q = block[16 + i / 64 * 32 + i % 32] >> (i / 32 % 2 ? 4 : 0) & 15;
    six_bits_at(&scale, &minimum, block + 4, i / 32);
    volatile float product = scale_at(block) * (float)scale, offset = scale_at(block + 2) * (float)minimum;
    return line_at(product, (float)q, -offset);
}

static float value_q5_k(const uint8_t *block, int i)
{
    int scale, minimum, q = block[48 + i / 64 * 32 + i % 32] >> (i / 32 % 2 ? 4 : 0) & 15;
    six_bits_at(&scale, &minimum, block + 4, i / 32);
    q += 16 * bit_at(block + 16 + i % 32, i / 32);
    volatile float product = scale_at(block) * (float)scale, offset = scale_at(block + 2) * (float)minimum;
    return line_at(product, (float)q, -offset);
}

static float value_q6_k(const uint8_t *block, int i)
{
    int half = i / 128, in_half = i % 128;
    int low = block[64 * half + in_half % 64], high = block[128 + 32 * half + i % 32];
    int q = (in_half < 64 ? low % 16 : low / 16) + 16 * (high >> in_half / 32 * 2 & 3) - 32;
    return product_of(scale_at(block + 208), (float)(int8_t)block[192 + i / 16], (float)q);
}

static const float iq4_book[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static float value_iq4_xs(const uint8_t *block, int i)
{
    int group = i / 32, low = group % 2 ? block[4 + group / 2] / 16 : block[4 + group / 2] % 16;
    int scale = low + 16 * bit_at(block + 2, 2 * group) + 32 * bit_at(block + 2, 2 * group + 1) - 32;
    return product_of(scale_at(block), (float)scale, iq4_book[nibble_at(block + 8 + 16 * group, i % 32)]);
}

/* A ternary digit: the byte as a fraction of 256, times 3 as often as there are digits before it, is taken modulo 1. */
static float value_tq1_0(const uint8_t *block, int i)
{
    static const int powers[5] = {256, 256 * 3, 256 * 9, 256 * 27, 256 * 81};
    int byte = i < 160 ? block[i % 32] : i < 240 ? block[32 + i % 16] : block[48 + i % 4];
    int digit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
    return scale_at(block + 52) * (float)(byte * (powers[digit] / 256) % 256 * 3 / 256 - 1);
}

static const float e2m1_magnitudes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};

static float value_e2m1(int code, double scale)
{
    float f = (float)(scale * (double)e2m1_magnitudes[code % 8]);
    return code > 8 ? -f : f;
}

/* NaN's scale counts as 0, bit 7 is not read. */
static float value_nvfp4(const uint8_t *block, int i)
{
    int code = block[i / 16], byte = block[4 + i / 16 * 8 + i % 8];
    int exponent = code / 8 % 16, mantissa = code % 8;
    double scale = exponent == 0 ? ldexp(mantissa, -9) : ldexp(8 + mantissa, exponent - 10);
    return value_e2m1(i % 16 < 8 ? byte % 16 : byte / 16, code == 0x7f ? 0 : scale);
}

/* NaN: a format that is not here. */
static float value_of_blocks(enum moe_format format, const uint8_t *block, int i)
{
    float d = scale_at(block), m = scale_at(block + 2);
    switch (format) {
    case MOE_FORMAT_Q8_0:
        return d * (float)(int8_t)block[2 + i];
    case MOE_FORMAT_Q4_0:
        return d * (float)(nibble_at(block + 2, i) - 8);
    case MOE_FORMAT_Q4_1:
        return line_at(d, (float)nibble_at(block + 4, i), m);
    case MOE_FORMAT_Q5_0:
        return d * (float)(nibble_at(block + 6, i) + 16 * bit_at(block + 2, i) - 16);
    case MOE_FORMAT_Q5_1:
        return line_at(d, (float)(nibble_at(block + 8, i) + 16 * bit_at(block + 4, i)), m);
    case MOE_FORMAT_Q2_K:
        return value_q2_k(block, i);
    case MOE_FORMAT_Q3_K:
        return value_q3_k(block, i);
    case MOE_FORMAT_Q4_K:
        return value_q4_k(block, i);
    case MOE_FORMAT_Q5_K:
        return value_q5_k(block, i);
    case MOE_FORMAT_Q6_K:
        return value_q6_k(block, i);
    case MOE_FORMAT_IQ4_NL:
        return d * iq4_book[nibble_at(block + 2, i)];
    case MOE_FORMAT_IQ4_XS:
        return value_iq4_xs(block, i);
    case MOE_FORMAT_TQ1_0:
        return value_tq1_0(block, i);
    case MOE_FORMAT_TQ2_0:
        return scale_at(block + 64) * (float)(block[i / 128 * 32 + i % 32] / (1 << i % 128 / 32 * 2) % 4 - 1);
    case MOE_FORMAT_MXFP4:
        return value_e2m1(nibble_at(block + 1, i), (double)moe_e8m0_to_f32(block[0]));
    case MOE_FORMAT_NVFP4:
        return value_nvfp4(block, i);
    default:
        return NAN;
    }
}

#endif
