// SPDX-License-Identifier: MIT
// TQ1_0: 256 values of -1, 0 and 1 times one scale, five to a byte. value = d * (t - 1).
#include "format/block.h"

/* byte   0 .. 47  q: five ternary digits t each
 *       48 .. 51  high: four digits each
 *       52 .. 53  d, f16
 *
 * A byte is a fraction b / 256 whose ternary digits after the point are t of digit 0, 1, ...: digit n is the whole part
 * of 3 times the fraction that 3^n b / 256 leaves. Digit n of
 *      q[l], l = 0 .. 31       is value 32 n + l
 *      q[32 + l], l = 0 .. 15  is value 160 + 16 n + l
 *      high[l], l = 0 .. 3     is value 240 + 4 n + l */
struct block {
    uint8_t q[48];
    uint8_t high[4];
    uint8_t d[2];
};
_Static_assert(sizeof(struct block) == MOE_BLOCK_BYTES_TQ1_0, "the row of TQ1_0");

/* n bytes of num_digits digits each: the least fraction of 256 that is not below their number of 243. */
static void pack_digits(uint8_t *out, const float *x, float inverse, int n, int num_digits)
{
    for (int l = 0; l < n; l++) {
        int number = 0;
        for (int digit = 0; digit < 5; digit++)
            number = 3 * number + (digit < num_digits ? round_clamped(x[n * digit + l] * inverse, -1, 1) + 1 : 0);
        out[l] = (uint8_t)((number * 256 + 242) / 243);
    }
}

/* Made for weights that are ternary: d is the largest magnitude. NaN and infinities make it infinite. */
static void quantise(void *out, const float *in, size_t num_blocks)
{
    struct block *blocks = out;
    for (size_t i = 0; i < num_blocks; i++) {
        const float *x = in + 256 * i;
        float d = max_magnitude(x, 256), inverse = inverse_of(d);
        store_u16(blocks[i].d, moe_f32_to_f16(d));
        pack_digits(blocks[i].q, x, inverse, 32, 5);
        pack_digits(blocks[i].q + 32, x + 160, inverse, 16, 5);
        pack_digits(blocks[i].high, x + 240, inverse, 4, 4);
    }
}

/* n values of one digit, shifted to the point by power; n is a constant where it is inlined. */
static inline void dequantise_digit(float *restrict out, const uint8_t *restrict q, float d, unsigned power, int n)
{
    for (int i = 0; i < n; i++) {
        unsigned fraction = q[i] * power & 255;
        out[i] = d * (float)((int)(fraction * 3 >> 8) - 1);
    }
}

static void dequantise(float *out, const void *in, size_t num_blocks)
{
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    const struct block *blocks = in;
    for (size_t i = 0; i < num_blocks; i++) {
        float d = load_f16(blocks[i].d), *values = out + 256 * i;
        for (int digit = 0; digit < 5; digit++) {
            dequantise_digit(values + 32 * digit, blocks[i].q, d, powers[digit], 32);
            dequantise_digit(values + 160 + 16 * digit, blocks[i].q + 32, d, powers[digit], 16);
        }
        for (int digit = 0; digit < 4; digit++)
            dequantise_digit(values + 240 + 4 * digit, blocks[i].high, d, powers[digit], 4);
    }
}

static size_t find_nonfinite(const void *in, size_t num_blocks)
{
    return find_nonfinite_f16(in, num_blocks, sizeof(struct block), offsetof(struct block, d));
}

const struct moe_format_def moe_format_def_TQ1_0 = {quantise, dequantise, find_nonfinite};
