// SPDX-License-Identifier: MIT
// The table of formats and the functions over it; for every format of the table: layout, guards, alignment, blocks
// apart, what a poisoned block does. A new row is tested here at once; for its layout, give value_of a case.
#include <math.h>
#include <string.h>

#include "half.h"
#include "layouts.h"
#include "support.h"

/* ---- table -------------------------------------------------------------------------------------------------- */

static void table_is_consistent(void **state)
{
    size_t count = 0;
    (void)state;
    for (const struct moe_format_info *a; (a = moe_format_at(count)) != NULL; count++) {
        assert_true(a->block_values > 0 && a->block_bytes > 0);
        assert_ptr_equal(moe_format_info(a->format), a);
        assert_ptr_equal(moe_format_find(a->name), a);
        for (size_t j = 0; j < count; j++) {
            assert_true(moe_format_at(j)->format != a->format);
            assert_string_not_equal(moe_format_at(j)->name, a->name);
        }
    }
    assert_true(count >= 20);
    assert_null(moe_format_at(count + 1));
    assert_null(moe_format_at(SIZE_MAX));
    assert_null(moe_format_info((enum moe_format)4));   /* GGUF took this number back */
    assert_null(moe_format_info(MOE_FORMAT_PRIVATE));
    assert_int_equal(moe_format_info(MOE_FORMAT_I64)->block_bytes, 8);
}

/* Type numbers and sizes of GGUF, which files depend on. */
static void ids_are_those_of_gguf(void **state)
{
    static const struct {
        const char *name;
        uint32_t id, values, bytes;
    } rows[] = {{"f32", 0, 1, 4},        {"f16", 1, 1, 2},        {"q4_0", 2, 32, 18},    {"q4_1", 3, 32, 20},
                {"q5_0", 6, 32, 22},     {"q5_1", 7, 32, 24},     {"q8_0", 8, 32, 34},    {"q2_k", 10, 256, 84},
                {"q3_k", 11, 256, 110},  {"q4_k", 12, 256, 144},  {"q5_k", 13, 256, 176}, {"q6_k", 14, 256, 210},
                {"iq4_nl", 20, 32, 18},  {"iq4_xs", 23, 256, 136}, {"i32", 26, 1, 4},     {"i64", 27, 1, 8},
                {"bf16", 30, 1, 2},      {"tq1_0", 34, 256, 54},  {"tq2_0", 35, 256, 66}, {"mxfp4", 39, 32, 17},
                {"nvfp4", 40, 64, 36}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct moe_format_info *info = moe_format_info((enum moe_format)rows[i].id);
        assert_non_null(info);
        assert_string_equal(info->name, rows[i].name);
        assert_int_equal(info->block_values, rows[i].values);
        assert_int_equal(info->block_bytes, rows[i].bytes);
    }
}

static void names_ignore_case(void **state)
{
    (void)state;
    assert_int_equal(moe_format_find("Q4_K")->format, MOE_FORMAT_Q4_K);
    assert_int_equal(moe_format_find("MxFp4")->format, MOE_FORMAT_MXFP4);
    assert_int_equal(moe_format_find("I32")->format, MOE_FORMAT_I32);
    assert_null(moe_format_find(NULL));
    assert_null(moe_format_find(""));
    assert_null(moe_format_find("q4"));
    assert_null(moe_format_find("q4_k_m"));
    assert_null(moe_format_find("f32 "));
    assert_null(moe_format_find("Q4\x7fK"));   /* '_' is no letter: only case is ignored */
}

static void row_bytes(void **state)
{
    (void)state;
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_BF16, 7), 14);
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_Q4_K, 512), 288);
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_I64, 3), 24);
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_Q4_K, 255), 0);
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_Q8_0, 33), 0);
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_F32, 0), 0);
    assert_int_equal(moe_format_row_bytes((enum moe_format)99, 32), 0);
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_F32, SIZE_MAX), 0);
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_F32, SIZE_MAX / 4 + 1), 0);
    assert_true(moe_format_row_bytes(MOE_FORMAT_F32, SIZE_MAX / 4) == SIZE_MAX / 4 * 4);
    /* 34 bytes for 32 values: the bytes overflow where the values do not */
    assert_int_equal(moe_format_row_bytes(MOE_FORMAT_Q8_0, SIZE_MAX / 32 * 32), 0);
    assert_true(moe_format_row_bytes(MOE_FORMAT_Q8_0, SIZE_MAX / 34 * 32) == SIZE_MAX / 34 * 34);
}

/* What quantises, here and in test_quantise.c, leaves out formats that can only be read: the library refuses those. */
static bool can_quantise(const struct moe_format_info *info)
{
    return moe_format_can_quantise(info->format) != 0;
}

/* ---- arguments ---------------------------------------------------------------------------------------------- */

static void arguments_are_checked(void **state)
{
    float values[256] = {0};
    unsigned char bytes[1024] = {0};
    size_t bad = 77;
    const size_t huge = (size_t)1 << (4 * sizeof(size_t));   /* its square is 0 */
    const enum moe_format unknown[] = {MOE_FORMAT_I32, MOE_FORMAT_I64, MOE_FORMAT_PRIVATE, (enum moe_format)4};
    (void)state;
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        test_assert_status(moe_format_quantise(unknown[i], bytes, values, 1, 32), MOE_ERR_UNSUPPORTED);
        test_assert_status(moe_format_dequantise(unknown[i], values, bytes, 1, 32), MOE_ERR_UNSUPPORTED);
        test_assert_status(moe_format_validate(unknown[i], bytes, 1, 32, &bad), MOE_ERR_UNSUPPORTED);
    }
    for (size_t i = 0; moe_format_at(i); i++) {
        enum moe_format format = moe_format_at(i)->format;
        size_t cols = moe_format_at(i)->block_values;
        test_assert_status(moe_format_quantise(format, NULL, values, 1, cols), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_quantise(format, bytes, NULL, 1, cols), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_dequantise(format, NULL, bytes, 1, cols), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_dequantise(format, values, NULL, 1, cols), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_validate(format, NULL, 1, cols, &bad), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_quantise(format, bytes, values, huge, huge * cols), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_dequantise(format, values, bytes, SIZE_MAX, cols), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_validate(format, bytes, SIZE_MAX / 2, 2 * cols, &bad), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_quantise(format, bytes, values, 0, cols),
                           can_quantise(moe_format_at(i)) ? MOE_OK : MOE_ERR_UNSUPPORTED);
        test_assert_ok(moe_format_dequantise(format, values, bytes, 1, 0));
        test_assert_ok(moe_format_validate(format, bytes, 0, cols, &bad));
        if (cols == 1)
            continue;
        test_assert_status(moe_format_quantise(format, bytes, values, 1, cols - 1), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_dequantise(format, values, bytes, 1, cols + 1), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_validate(format, bytes, cols, cols / 2, NULL), MOE_ERR_ARGUMENT);
    }
    assert_int_equal(bad, 77);
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        assert_int_equal(moe_format_can_quantise(unknown[i]), 0);
}

/* ---- layouts (those of blocks: layouts.h) --------------------------------------------------------------------- */

static float value_of(enum moe_format format, const uint8_t *block, int i)
{
    float f;
    switch (format) {
    case MOE_FORMAT_F32:
        memcpy(&f, block, 4);
        return f;
    case MOE_FORMAT_F16:
        return scale_at(block);
    case MOE_FORMAT_BF16:
        return moe_bf16_to_f32((uint16_t)(block[0] + 256 * block[1]));
    case MOE_FORMAT_I8:
        return (float)(int8_t)block[0];
    case MOE_FORMAT_U8:
        return (float)block[0];
    case MOE_FORMAT_U4:
        return (float)(i ? block[0] / 16 : block[0] % 16);
    case MOE_FORMAT_E2M1:   /* of these formats the only one with -0 */
        f = e2m1_magnitudes[(i ? block[0] / 16 : block[0]) % 8];
        return block[0] & (i ? 0x80 : 0x08) ? -f : f;
    case MOE_FORMAT_E4M3:
        if (block[0] % 128 == 127)
            return NAN;
        f = block[0] % 128 < 8 ? ldexpf(block[0] % 8, -9) : ldexpf((float)(8 + block[0] % 8), block[0] / 8 % 16 - 10);
        return block[0] & 0x80 ? -f : f;
    case MOE_FORMAT_E8M0:
        return moe_e8m0_to_f32(block[0]);
    default:
        return value_of_blocks(format, block, i);
    }
}

static bool has_layout(const struct moe_format_info *info)
{
    const uint8_t zeros[1024] = {0};
    if (isnan(value_of(info->format, zeros, 0)))
        print_message("%s: value_of has no layout for it\n", info->name);
    return !isnan(value_of(info->format, zeros, 0));
}

static bool same_value(float a, float b)
{
    return moe_f32_bits(a) == moe_f32_bits(b) || (isnan(a) && isnan(b));
}

/* Random bytes: every scale there is, denormal, infinite, NaN, among them. Twice, at every alignment. */
static void layouts(void **state)
{
    struct test_rng rng = {1};
    (void)state;
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        size_t num_blocks = 20000 / info->block_values + 2000, size = num_blocks * info->block_bytes;
        size_t n = num_blocks * info->block_values;
        for (size_t shift = 0; shift < 8 && has_layout(info); shift++) {
            uint8_t *bytes = test_alloc(size + shift);
            float *values = test_alloc(n * sizeof *values);
            for (size_t i = 0; i < size + shift; i++)
                bytes[i] = (uint8_t)test_random(&rng);
            test_assert_ok(moe_format_dequantise(info->format, values, bytes + shift, num_blocks, info->block_values));
            for (size_t i = 0; i < n; i++) {
                const uint8_t *block = bytes + shift + i / info->block_values * info->block_bytes;
                float expected = value_of(info->format, block, (int)(i % info->block_values));
                if (!same_value(values[i], expected))
                    fail_msg("%s: value %zu is %a, not %a", info->name, i, (double)values[i], (double)expected);
            }
            test_release(values);
            test_release(bytes);
        }
    }
}

/* Blocks with values worked out by hand. */
static void blocks_by_hand(void **state)
{
    uint8_t q8_0[34] = {0x00, 0x38, 0x7f, 0x80, 1}, q4_0[18] = {0x00, 0xc0, 0x0f, 0xf0};
    uint8_t mxfp4[17] = {128, 0x07, 0xf1, 0x98}, q6_k[210] = {0}, q4_k[144] = {0};
    float v[256];
    (void)state;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q8_0, v, q8_0, 1, 32));   /* d = 0.5 */
    assert_true(v[0] == 63.5f && v[1] == -64.0f && v[2] == 0.5f && v[3] == 0 && v[31] == 0);
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q4_0, v, q4_0, 1, 32));   /* d = -2 */
    assert_true(v[0] == -14 && v[16] == 16 && v[1] == 16 && v[17] == -14 && v[2] == 16);
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_MXFP4, v, mxfp4, 1, 32));   /* scale 2 */
    assert_true(v[0] == 12 && v[16] == 0 && v[1] == 1 && v[17] == -12 && v[2] == 0 && v[18] == -1);
    /* Q6_K, d = 1, scale of the group of value 100 (group 6, k = 3, l = 4) -3: 0x2d = 45 gives 13 * -3 */
    q6_k[209] = 0x3c;
    q6_k[192 + 6] = (uint8_t)-3;
    q6_k[32 + 4] = 0xd0;
    q6_k[128 + 4] = 0x80;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q6_K, v, q6_k, 1, 256));
    assert_true(v[100] == -39 && v[101] == 96 && v[99] == 96 && v[0] == 0 && v[95] == 0 && v[112] == 0);
    /* Q4_K, d = 2, dmin = 0.5; group 5: scale 0x2b = 43, minimum 0x1c = 28; value 163 is q = 9 */
    q4_k[1] = 0x40;
    q4_k[3] = 0x38;
    q4_k[4 + 1] = 0x80;
    q4_k[8 + 1] = 0x40;
    q4_k[12 + 1] = 0xcb;
    q4_k[16 + 64 + 3] = 0x90;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q4_K, v, q4_k, 1, 256));
    assert_true(v[163] == 2 * 43 * 9 - 14 && v[162] == -14 && v[159] == 0 && v[131] == 0 && v[192] == 0);
}

/* The same for the other formats with 32 values, and for the ternary ones. */
static void more_blocks_by_hand(void **state)
{
    uint8_t q4_1[20] = {0x00, 0x38, 0x00, 0xbc, 0x0f, 0xf0}, iq4_nl[18] = {0x00, 0x3c, 0x80, 0x0f};
    uint8_t q5_0[22] = {0x00, 0x40, 0x02, 0, 0, 0x80, 0x0f, 0x01}, q5_1[24] = {0x00, 0x3c, 0x00, 0x40, 0x01};
    uint8_t tq1_0[54] = {255, 1}, tq2_0[66] = {0x24}, nvfp4[36] = {0x38, 0x40, 1, 0x7f, 0x72, 0x0f};
    float v[256];
    (void)state;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q4_1, v, q4_1, 1, 32));   /* d = 0.5, m = -1 */
    assert_true(v[0] == 6.5f && v[16] == -1 && v[1] == -1 && v[17] == 6.5f && v[31] == -1);
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q5_0, v, q5_0, 1, 32));   /* d = 2; values 1 and 31 have bit 4 */
    assert_true(v[0] == -2 && v[16] == -32 && v[1] == 2 && v[17] == -32 && v[31] == 0 && v[2] == -32);
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q5_1, v, q5_1, 1, 32));   /* d = 1, m = 2; value 0 has bit 4 */
    assert_true(v[0] == 18 && v[1] == 2 && v[16] == 2 && v[31] == 2);
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ4_NL, v, iq4_nl, 1, 32));   /* d = 1 */
    assert_true(v[0] == -127 && v[16] == 1 && v[1] == 113 && v[17] == -127 && v[2] == -127);
    /* TQ1_0, d = 2: 255 / 256 is 0.22222..., 1 / 256 is 0.00001 in base 3; 0 is all -1 */
    tq1_0[53] = 0x40;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_TQ1_0, v, tq1_0, 1, 256));
    assert_true(v[0] == 2 && v[32] == 2 && v[64] == 2 && v[96] == 2 && v[128] == 2 && v[2] == -2 && v[255] == -2);
    assert_true(v[1] == -2 && v[33] == -2 && v[65] == -2 && v[97] == -2 && v[129] == -2);
    tq2_0[65] = 0x3c;   /* d = 1; byte 0 is 0, 1, 2, 0 from the lowest bits */
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_TQ2_0, v, tq2_0, 1, 256));
    assert_true(v[0] == -1 && v[32] == 0 && v[64] == 1 && v[96] == -1 && v[128] == -1 && v[1] == -1);
    /* NVFP4: scales 1, 2, 2^-9 and NaN, which is read as 0 */
    nvfp4[4 + 8] = 0x91;
    nvfp4[4 + 16] = 0x07;
    nvfp4[4 + 24] = 0x77;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_NVFP4, v, nvfp4, 1, 64));
    assert_true(v[0] == 1 && v[8] == 6 && v[1] == -6 && v[9] == 0 && v[16] == 1 && v[24] == -1);
    assert_true(v[32] == 6 * 0x1p-9f && v[48] == 0 && v[56] == 0);
}

/* And for K formats and IQ4_XS, each value with other bits than 0 in all of its fields. */
static void k_blocks_by_hand(void **state)
{
    uint8_t q2_k[84] = {0}, q3_k[110] = {0}, q5_k[176] = {0}, iq4_xs[136] = {0};
    float v[256];
    (void)state;
    /* Q2_K, d = 1, dmin = 0.5; value 165 (half 1, k = 1, l = 5; group 10): q = 2, scale 7, minimum 12 */
    q2_k[81] = 0x3c;
    q2_k[83] = 0x38;
    q2_k[10] = 0xc7;
    q2_k[16 + 32 + 5] = 0x08;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q2_K, v, q2_k, 1, 256));
    assert_true(v[165] == 8 && v[166] == -6 && v[159] == 0 && v[176] == 0);
    /* Q3_K, d = 1; value 165: q = 2 + 4 - 4; scale of group 10: 0x2b = 43 - 32 */
    q3_k[109] = 0x3c;
    q3_k[32 + 32 + 5] = 0x08;
    q3_k[5] = 0x20;
    q3_k[96 + 2] = 0xb0;
    q3_k[96 + 8 + 2] = 0x20;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q3_K, v, q3_k, 1, 256));
    assert_true(v[165] == 22 && v[166] == -44 && v[159] == 128 && v[37] == 128 && v[0] == 128);
    /* Q5_K, d = 2, dmin = 0.5; group 5 as in Q4_K above; value 163 is q = 9 + 16 */
    q5_k[1] = 0x40;
    q5_k[3] = 0x38;
    q5_k[4 + 1] = 0x80;
    q5_k[8 + 1] = 0x40;
    q5_k[12 + 1] = 0xcb;
    q5_k[16 + 3] = 0x20;
    q5_k[48 + 64 + 3] = 0x90;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_Q5_K, v, q5_k, 1, 256));
    assert_true(v[163] == 2 * 43 * 25 - 14 && v[162] == -14 && v[159] == 0 && v[131] == 0 && v[192] == 0);
    /* IQ4_XS, d = 1; group 5: scale 0x2b = 43 - 32; value 163 is code 14, value 179 code 8; other scales are -32 */
    iq4_xs[1] = 0x3c;
    iq4_xs[3] = 0x08;
    iq4_xs[4 + 2] = 0xb0;
    iq4_xs[8 + 80 + 3] = 0x8e;
    test_assert_ok(moe_format_dequantise(MOE_FORMAT_IQ4_XS, v, iq4_xs, 1, 256));
    assert_true(v[163] == 11 * 89 && v[179] == 11 && v[162] == 11 * -127 && v[0] == -32 * -127);
}

/* ---- every format ------------------------------------------------------------------------------------------- */

/* Quantising reads and writes exactly the blocks, at any alignment of theirs, and each block alone. */
static void quantise_keeps_to_its_blocks(void **state)
{
    struct test_rng rng = {2};
    (void)state;
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        if (!can_quantise(info))
            continue;
        size_t rows = 3, cols = 2 * info->block_values, row_size = 2 * info->block_bytes;
        float *values = test_alloc(rows * cols * sizeof *values);
        uint8_t *whole = test_alloc(rows * row_size);
        test_fill_heavy(&rng, values, rows, cols, 0.05);
        test_assert_ok(moe_format_quantise(info->format, whole, values, rows, cols));
        for (size_t block = 0; block < 2 * rows; block++) {
            size_t shift = 1 + block % 3;
            uint8_t *alone = test_alloc(info->block_bytes + shift);
            test_assert_ok(moe_format_quantise(info->format, alone + shift, values + block * info->block_values, 1,
                                               info->block_values));
            assert_memory_equal(alone + shift, whole + block * info->block_bytes, info->block_bytes);
            for (size_t i = 0; i < shift; i++)
                assert_int_equal(alone[i], 0xff);
            test_release(alone);
        }
        test_release(whole);
        test_release(values);
    }
}

/* A value that is no number makes its block, and no other, one that validate finds: it is never hidden. */
static void nonfinite_input_stays_visible(void **state)
{
    static const float poisons[] = {NAN, INFINITY, -INFINITY};
    struct test_rng rng = {3};
    (void)state;
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        if (!can_quantise(info))
            continue;
        size_t n = 5 * info->block_values;
        float *values = test_alloc(n * sizeof *values), *back = test_alloc(n * sizeof *values);
        uint8_t *bytes = test_alloc(5 * info->block_bytes);
        for (size_t i = 0; i < n; i++) {
            size_t block = i / info->block_values, bad = 77;
            test_fill(&rng, values, n, 1.0);
            test_assert_ok(moe_format_quantise(info->format, bytes, values, 5, info->block_values));
            test_assert_ok(moe_format_validate(info->format, bytes, 5, info->block_values, &bad));
            assert_int_equal(bad, 77);
            values[i] = poisons[i % 3];
            test_assert_ok(moe_format_quantise(info->format, bytes, values, 5, info->block_values));
            test_assert_status(moe_format_validate(info->format, bytes, 5, info->block_values, &bad),
                               MOE_ERR_NONFINITE);
            assert_int_equal(bad, block);
            test_assert_status(moe_format_validate(info->format, bytes, 5, info->block_values, NULL),
                               MOE_ERR_NONFINITE);
            test_assert_ok(moe_format_dequantise(info->format, back, bytes, 5, info->block_values));
            for (size_t j = 0; j < n; j++)
                assert_true(j / info->block_values == block || isfinite(back[j]));
        }
        test_release(bytes);
        test_release(back);
        test_release(values);
    }
}

/* validate finds a block if, and only if, one of its values can be NaN or infinite: for each code of the scale, tried
 * with all quants 1, 0 and the largest. */
static void validate_agrees_with_dequantise(void **state)
{
    struct test_rng rng = {4};
    (void)state;
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
        float values[256];
        uint8_t block[1024];
        assert_true(info->block_values <= 256 && info->block_bytes <= sizeof block);
        for (int round = 0; round < 100000; round++) {
            bool finite = true;
            size_t bad = 77;
            enum moe_status status;
            for (size_t i = 0; i < info->block_bytes; i++)
                block[i] = (uint8_t)(test_random(&rng) | 1);
            test_assert_ok(moe_format_dequantise(info->format, values, block, 1, info->block_values));
            for (size_t i = 0; i < info->block_values; i++)
                finite = finite && isfinite(values[i]);
            for (size_t i = 0; i < 4 && info->format == MOE_FORMAT_NVFP4; i++)
                finite = finite && (block[i] & 0x7f) != 0x7f;   /* NaN, which is read as a number all the same */
            status = (enum moe_status)moe_format_validate(info->format, block, 1, info->block_values, &bad);
            test_assert_status(status, finite ? MOE_OK : MOE_ERR_NONFINITE);
            assert_int_equal(bad, finite ? 77 : 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table_is_consistent),
        cmocka_unit_test(ids_are_those_of_gguf),
        cmocka_unit_test(names_ignore_case),
        cmocka_unit_test(row_bytes),
        cmocka_unit_test(arguments_are_checked),
        cmocka_unit_test(layouts),
        cmocka_unit_test(blocks_by_hand),
        cmocka_unit_test(more_blocks_by_hand),
        cmocka_unit_test(k_blocks_by_hand),
        cmocka_unit_test(quantise_keeps_to_its_blocks),
        cmocka_unit_test(nonfinite_input_stays_visible),
        cmocka_unit_test(validate_agrees_with_dequantise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
