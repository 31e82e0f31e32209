// SPDX-License-Identifier: MIT
// The IQ formats, which are only read: the code books, blocks worked out by hand, every value of random blocks against
// a second reading of the layout, alignment, what a poisoned block does. test_gguf_reference.py has the foreign proof.
#include <math.h>
#include <string.h>

#include "format/iq_grids.h"
#include "half.h"
#include "support.h"

static const enum moe_format iq_formats[] = {MOE_FORMAT_IQ2_XXS, MOE_FORMAT_IQ2_XS, MOE_FORMAT_IQ3_XXS,
                                             MOE_FORMAT_IQ1_S,   MOE_FORMAT_IQ3_S,  MOE_FORMAT_IQ2_S, MOE_FORMAT_IQ1_M};
enum { NUM_IQ = sizeof iq_formats / sizeof iq_formats[0] };

static void ids_are_those_of_gguf(void **state)
{
    static const struct {
        const char *name;
        uint32_t id, bytes;
    } rows[] = {{"iq2_xxs", 16, 66}, {"iq2_xs", 17, 74}, {"iq3_xxs", 18, 98}, {"iq1_s", 19, 50},
                {"iq3_s", 21, 110},  {"iq2_s", 22, 82},  {"iq1_m", 29, 56}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct moe_format_info *info = moe_format_find(rows[i].name);
        assert_non_null(info);
        assert_int_equal(info->format, rows[i].id);
        assert_int_equal(info->block_values, 256);
        assert_int_equal(info->block_bytes, rows[i].bytes);
    }
}

static void they_are_only_read(void **state)
{
    float values[256] = {0};
    uint8_t block[110];
    (void)state;
    for (size_t f = 0; f < NUM_IQ; f++) {
        memset(block, 0xa5, sizeof block);
        assert_int_equal(moe_format_can_quantise(iq_formats[f]), 0);
        test_assert_status(moe_format_quantise(iq_formats[f], block, values, 1, 256), MOE_ERR_UNSUPPORTED);
        for (size_t i = 0; i < sizeof block; i++)
            assert_int_equal(block[i], 0xa5);
    }
}

/* ---- code books --------------------------------------------------------------------------------------------- */

/* FNV-1a of the rows, lowest byte first, over the hexadecimal constants of the gguf package 0.19.0: no row was lost or
 * changed since. All books are in ascending order. */
static void check_book(const char *name, const uint16_t *rows, size_t n, int bits, int num_values, uint64_t expected)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && rows[i] <= rows[i - 1])
            fail_msg("%s: row %zu is out of order", name, i);
        for (int shift = 0; shift < 16; shift += bits)
            assert_true((rows[i] >> shift & ((1 << bits) - 1)) < num_values);
        hash = (hash ^ (rows[i] & 0xff)) * 0x100000001b3u;
        hash = (hash ^ rows[i] >> 8) * 0x100000001b3u;
    }
    if (hash != expected)
        fail_msg("%s: its rows have changed", name);
}

static void books_are_those_of_gguf(void **state)
{
    (void)state;
    check_book("iq1", moe_iq_grids_iq1, 2048, 2, 3, 0x03f1880817eeffa4u);
    check_book("iq2_xxs", moe_iq_grids_iq2_xxs, 256, 2, 3, 0x6fca17f5c451905du);
    check_book("iq2_xs", moe_iq_grids_iq2_xs, 512, 2, 3, 0x29d6ac8e0e6b14e3u);
    check_book("iq2_s", moe_iq_grids_iq2_s, 1024, 2, 3, 0x641f9aa3fbd98694u);
    check_book("iq3_xxs", moe_iq_grids_iq3_xxs, 256, 4, 8, 0xa3a695908a710942u);
    check_book("iq3_s", moe_iq_grids_iq3_s, 512, 4, 8, 0xde38cc0714d23202u);
}

/* ---- layouts ------------------------------------------------------------------------------------------------ */

/* Bits first .. first + n - 1 of a field, counted from the lowest bit of its first byte. */
static unsigned bits_at(const uint8_t *bytes, int first, int n)
{
    unsigned value = 0;
    for (int i = 0; i < n; i++)
        value |= (unsigned)(bytes[(first + i) / 8] >> (first + i) % 8 & 1) << i;
    return value;
}

/* Sign i of 8 of which 7 are stored from bit first on, the last one making their number even. */
static int even_sign(const uint8_t *bytes, int first, int i)
{
    unsigned count = 0;
    for (int k = 0; k < 7; k++)
        count += bits_at(bytes, first + k, 1);
    return i < 7 ? (int)bits_at(bytes, first + i, 1) : (int)(count % 2);
}

static float scale_at(const uint8_t *bytes)
{
    return moe_f16_to_f32((uint16_t)bits_at(bytes, 0, 16));
}

static float value_iq2(float d, unsigned scale, uint16_t row, int i, int negative)
{
    static const float magnitudes[3] = {8, 25, 43};
    volatile float product = d * (0.5f + (float)scale);
    volatile float group = product * 0.25f;
    float value = group * magnitudes[row >> 2 * (i % 8) & 3];
    return negative ? -value : value;
}

static float value_iq3_xxs(const uint8_t *block, int i)
{
    static const float magnitudes[8] = {4, 12, 20, 28, 36, 44, 52, 62};
    const uint8_t *word = block + 66 + i / 32 * 4;
    volatile float product = scale_at(block) * (0.5f + (float)bits_at(word, 28, 4));
    volatile float group = product * 0.5f;
    float value = group * magnitudes[moe_iq_grids_iq3_xxs[block[2 + i / 4]] >> 4 * (i % 4) & 7];
    return even_sign(word, i % 32 / 8 * 7, i % 8) ? -value : value;
}

static float value_iq3_s(const uint8_t *block, int i)
{
    unsigned row = block[2 + i / 4] + 256 * bits_at(block + 66, i / 4, 1);
    volatile float group = scale_at(block) * (float)(2 * bits_at(block + 106, i / 32 * 4, 4) + 1);
    float value = group * (float)(2 * (moe_iq_grids_iq3_s[row] >> 4 * (i % 4) & 7) + 1);
    return bits_at(block + 74, i, 1) ? -value : value;
}

static float value_iq1(float d, unsigned scale, unsigned row, int i, unsigned negative)
{
    volatile float group = d * (float)(2 * scale + 1);
    return group * ((float)(moe_iq_grids_iq1[row] >> 2 * (i % 8) & 3) - 1 + (negative ? -0.125f : 0.125f));
}

static float value_of(enum moe_format format, const uint8_t *block, int i)
{
    const uint8_t *group = block + 2 + i / 32 * 8;
    float d = scale_at(block);
    unsigned code, row;
    switch (format) {
    case MOE_FORMAT_IQ2_XXS:
        return value_iq2(d, bits_at(group, 60, 4), moe_iq_grids_iq2_xxs[group[i % 32 / 8]], i,
                         even_sign(group, 32 + i % 32 / 8 * 7, i % 8));
    case MOE_FORMAT_IQ2_XS:
        code = bits_at(block + 2, i / 8 * 16, 9);
        return value_iq2(d, bits_at(block + 66, i / 16 * 4, 4), moe_iq_grids_iq2_xs[code], i,
                         even_sign(block + 2, i / 8 * 16 + 9, i % 8));
    case MOE_FORMAT_IQ2_S:
        row = block[2 + i / 8] + 256 * bits_at(block + 66, i / 8 * 2, 2);
        return value_iq2(d, bits_at(block + 74, i / 16 * 4, 4), moe_iq_grids_iq2_s[row], i,
                         (int)bits_at(block + 34, i, 1));
    case MOE_FORMAT_IQ3_XXS:
        return value_iq3_xxs(block, i);
    case MOE_FORMAT_IQ3_S:
        return value_iq3_s(block, i);
    case MOE_FORMAT_IQ1_S:
        row = block[2 + i / 8] + 256 * bits_at(block + 34 + i / 32 * 2, i % 32 / 8 * 3, 3);
        code = bits_at(block + 34 + i / 32 * 2, 12, 4);
        return value_iq1(d, code % 8, row, i, code / 8);
    case MOE_FORMAT_IQ1_M:
        row = block[i / 8] + 256 * bits_at(block + 32, i / 8 * 4, 3);
        code = bits_at(block + 48, 12, 4) | bits_at(block + 50, 12, 4) << 4 | bits_at(block + 52, 12, 4) << 8 |
               bits_at(block + 54, 12, 4) << 12;
        return value_iq1(moe_f16_to_f32((uint16_t)code), bits_at(block + 48 + i / 64 * 2, i / 16 % 4 * 3, 3), row, i,
                         bits_at(block + 32, i / 8 * 4 + 3, 1));
    default:
        return NAN;
    }
}

static bool same_value(float a, float b)
{
    return moe_f32_bits(a) == moe_f32_bits(b) || (isnan(a) && isnan(b));
}

/* Random bytes at every alignment: all scales, denormal, infinite and NaN among them. */
static void layouts(void **state)
{
    enum { NUM_BLOCKS = 1500 };
    struct test_rng rng = {1};
    (void)state;
    for (size_t f = 0; f < NUM_IQ; f++) {
        const struct moe_format_info *info = moe_format_info(iq_formats[f]);
        size_t size = NUM_BLOCKS * info->block_bytes;
        for (size_t shift = 0; shift < 8; shift++) {
            uint8_t *bytes = test_alloc(size + shift);
            float *values = test_alloc(NUM_BLOCKS * 256 * sizeof *values);
            for (size_t i = 0; i < size + shift; i++)
                bytes[i] = (uint8_t)test_random(&rng);
            test_assert_ok(moe_format_dequantise(info->format, values, bytes + shift, NUM_BLOCKS, 256));
            for (size_t i = 0; i < NUM_BLOCKS * 256; i++) {
                float expected = value_of(info->format, bytes + shift + i / 256 * info->block_bytes, (int)(i % 256));
                if (!same_value(values[i], expected))
                    fail_msg("%s: value %zu is %a, not %a", info->name, i, (double)values[i], (double)expected);
            }
            test_release(values);
            test_release(bytes);
        }
    }
}

/* Blocks of zeros but for a few bytes; d = 4 is 0x4400. Row 0 of a book holds only its lowest magnitude, row 1 of iq2
 * has its third magnitude as value 0 (code 2), row 1 of iq3_s its second (code 1), row 1 of iq3_xxs its third. */
static void blocks_by_hand(void **state)
{
    uint8_t b[110];
    float v[256];
    (void)state;
    memset(b, 0, sizeof b);
    b[1] = 0x44;
    b[2 + 8 * 3 + 2] = 1;         /* group 3, row 2 */
    b[2 + 8 * 3 + 5] = 0x40;      /* bit 14 of the word: sign 0 of row 2, so that sign 7 is negative too */
    b[2 + 8 * 3 + 7] = 0x50;      /* scale 5: 4 * 5.5 / 4 = 5.5 */
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ2_XXS, v, b, 1, 256));
    assert_true(v[0] == 4 && v[96] == 44 && v[112] == -5.5f * 43 && v[113] == 44 && v[119] == -44 && v[120] == 44);
    test_assert_ok(moe_format_validate(MOE_FORMAT_IQ2_XXS, b, 1, 256, NULL));

    memset(b, 0, sizeof b);
    b[1] = 0x44;
    b[2 + 2 * 9] = 1;             /* values 72 .. 79: row 1, sign 1 and so sign 7 */
    b[2 + 2 * 9 + 1] = 0x04;
    b[66 + 2] = 0x31;             /* group 4 has scale 1, group 5 scale 3 */
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ2_XS, v, b, 1, 256));
    assert_true(v[0] == 4 && v[64] == 12 && v[72] == 1.5f * 43 && v[73] == -12 && v[79] == -12 && v[80] == 28);

    memset(b, 0, sizeof b);
    b[1] = 0x44;
    b[2 + 9] = 1;                 /* values 72 .. 79: row 1, value 7 negative alone */
    b[34 + 9] = 0x80;
    b[74 + 2] = 0x31;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ2_S, v, b, 1, 256));
    assert_true(v[0] == 4 && v[72] == 1.5f * 43 && v[73] == 12 && v[78] == 12 && v[79] == -12 && v[80] == 28);

    memset(b, 0, sizeof b);
    b[1] = 0x44;
    b[2 + 10] = 1;                /* values 40 .. 43 */
    b[66 + 4 + 1] = 0x40;         /* group 1, bit 14: sign 0 of values 48 .. 55 */
    b[66 + 4 + 3] = 0x20;         /* scale 2: 4 * 2.5 / 2 = 5 */
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ3_XXS, v, b, 1, 256));
    assert_true(v[0] == 4 && v[40] == 5 * 20 && v[41] == 20 && v[48] == -20 && v[49] == 20 && v[55] == -20);

    memset(b, 0, sizeof b);
    b[1] = 0x44;
    b[2 + 10] = 1;                /* values 40 .. 43 */
    b[74 + 5] = 0x02;             /* value 41 is negative */
    b[106] = 0x30;                /* group 1 has scale 3: 4 * 7 */
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ3_S, v, b, 1, 256));
    assert_true(v[0] == 4 && v[31] == 4 && v[40] == 28 * 3 && v[41] == -28 && v[42] == 28 && v[64] == 4);
}

static void blocks_of_one_bit_by_hand(void **state)
{
    uint8_t b[56] = {0};
    float v[256];
    (void)state;
    b[1] = 0x44;
    b[2 + 5] = 1;                 /* values 40 .. 47: row 1, 1 (code 2) and seven times -1 */
    b[34 + 3] = 0xa0;             /* group 1: scale 2, delta -1/8; 4 * 5 = 20 */
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ1_S, v, b, 1, 256));
    assert_true(v[0] == -3.5f && v[40] == 17.5f && v[41] == -22.5f && v[32] == -22.5f && v[64] == -3.5f);

    memset(b, 0, sizeof b);
    b[55] = 0x40;                 /* d = 4: 0x4400 in four parts */
    b[53] = 0x40;
    b[5] = 1;                     /* values 40 .. 47, in group 2 */
    b[32 + 2] = 0x80;             /* their delta is -1/8 */
    b[48] = 0x80;                 /* group 2: scale 2 */
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ1_M, v, b, 1, 256));
    assert_true(v[0] == -3.5f && v[32] == -17.5f && v[40] == 17.5f && v[41] == -22.5f && v[48] == -3.5f);
    b[53] = 0xb0;                 /* 0x7b00: the largest exponent of a number */
    b[55] = 0x70;
    test_assert_ok(moe_format_validate(MOE_FORMAT_IQ1_M, b, 1, 256, NULL));
    b[53] = 0xc0;                 /* 0x7c00: infinity */
    test_assert_status(moe_format_validate(MOE_FORMAT_IQ1_M, b, 1, 256, NULL), MOE_ERR_NONFINITE);
}

/* A block whose scale is no number is found, at its index, and touches no other. */
static void poisoned_blocks_are_found(void **state)
{
    struct test_rng rng = {2};
    (void)state;
    for (size_t f = 0; f < NUM_IQ; f++) {
        const struct moe_format_info *info = moe_format_info(iq_formats[f]);
        uint8_t *bytes = test_alloc(5 * info->block_bytes);
        for (size_t poisoned = 0; poisoned < 5; poisoned++) {
            size_t at = info->format == MOE_FORMAT_IQ1_M ? 55 : 1, bad = 77;
            for (size_t i = 0; i < 5 * info->block_bytes; i++)
                bytes[i] = (uint8_t)test_random(&rng);
            for (size_t i = 0; i < 5; i++)   /* the exponent is 0 to 15, so d is finite */
                bytes[i * info->block_bytes + at] &= 0x3f;
            test_assert_ok(moe_format_validate(info->format, bytes, 5, 256, &bad));
            assert_int_equal(bad, 77);
            bytes[poisoned * info->block_bytes + at] |= 0x7f;
            if (info->format == MOE_FORMAT_IQ1_M)
                bytes[poisoned * info->block_bytes + 53] |= 0xf0;
            test_assert_status(moe_format_validate(info->format, bytes, 5, 256, &bad), MOE_ERR_NONFINITE);
            assert_int_equal(bad, poisoned);
        }
        test_release(bytes);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_gguf),
        cmocka_unit_test(they_are_only_read),
        cmocka_unit_test(books_are_those_of_gguf),
        cmocka_unit_test(layouts),
        cmocka_unit_test(blocks_by_hand),
        cmocka_unit_test(blocks_of_one_bit_by_hand),
        cmocka_unit_test(poisoned_blocks_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
