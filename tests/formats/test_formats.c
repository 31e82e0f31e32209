// SPDX-License-Identifier: MIT
// The table of formats and the functions over it; for every format of the table: layout, guards, alignment, blocks
// apart, what a poisoned block does. A new row is tested here at once; for its layout, give value_of a case.
#include <math.h>
#include <string.h>

#include "half.h"
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
    assert_true(count >= 8);
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
    } rows[] = {{"f32", 0, 1, 4},        {"f16", 1, 1, 2},        {"q4_0", 2, 32, 18},  {"q8_0", 8, 32, 34},
                {"q4_k", 12, 256, 144},  {"q6_k", 14, 256, 210},  {"i32", 26, 1, 4},    {"i64", 27, 1, 8},
                {"bf16", 30, 1, 2},      {"mxfp4", 39, 32, 17}};
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
        test_assert_ok(moe_format_quantise(format, bytes, values, 0, cols));
        test_assert_ok(moe_format_dequantise(format, values, bytes, 1, 0));
        test_assert_ok(moe_format_validate(format, bytes, 0, cols, &bad));
        if (cols == 1)
            continue;
        test_assert_status(moe_format_quantise(format, bytes, values, 1, cols - 1), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_dequantise(format, values, bytes, 1, cols + 1), MOE_ERR_ARGUMENT);
        test_assert_status(moe_format_validate(format, bytes, cols, cols / 2, NULL), MOE_ERR_ARGUMENT);
    }
    assert_int_equal(bad, 77);
}

/* ---- layouts ------------------------------------------------------------------------------------------------ */

static float scale_at(const uint8_t *bytes)
{
    return moe_f16_to_f32((uint16_t)(bytes[0] + 256 * bytes[1]));
}

/* Value i of a block, alone, from the layout of GGUF: the bits are gathered in another way than in the library. */
static float value_q4_k(const uint8_t *block, int i)
{
    const uint8_t *six = block + 4, *quants = block + 16;
    int group = i / 32, scale, minimum, q = quants[i / 64 * 32 + i % 32] >> (group % 2 ? 4 : 0) & 15;
    if (group < 4) {
        scale = six[group] % 64;
        minimum = six[group + 4] % 64;
    } else {
        scale = six[group + 4] % 16 + 16 * (six[group - 4] / 64);
        minimum = six[group + 4] / 16 + 16 * (six[group] / 64);
    }
    volatile float product = scale_at(block) * (float)scale, offset = scale_at(block + 2) * (float)minimum;
    volatile float scaled = product * (float)q;
    return scaled - offset;
}

static float value_q6_k(const uint8_t *block, int i)
{
    int half = i / 128, in_half = i % 128;
    int low = block[64 * half + in_half % 64], high = block[128 + 32 * half + i % 32];
    int q = (in_half < 64 ? low % 16 : low / 16) + 16 * (high >> in_half / 32 * 2 & 3) - 32;
    volatile float product = scale_at(block + 208) * (float)(int8_t)block[192 + i / 16];
    return product * (float)q;
}

static float value_of(enum moe_format format, const uint8_t *block, int i)
{
    static const float e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float f;
    int q;
    switch (format) {
    case MOE_FORMAT_F32:
        memcpy(&f, block, 4);
        return f;
    case MOE_FORMAT_F16:
        return scale_at(block);
    case MOE_FORMAT_BF16:
        return moe_bf16_to_f32((uint16_t)(block[0] + 256 * block[1]));
    case MOE_FORMAT_Q8_0:
        return scale_at(block) * (float)(int8_t)block[2 + i];
    case MOE_FORMAT_Q4_0:
        return scale_at(block) * (float)((i < 16 ? block[2 + i] % 16 : block[2 + i - 16] / 16) - 8);
    case MOE_FORMAT_MXFP4:
        q = i < 16 ? block[1 + i] % 16 : block[1 + i - 16] / 16;
        f = (float)((double)moe_e8m0_to_f32(block[0]) * (double)e2m1[q & 7]);
        return q > 8 ? -f : f;
    case MOE_FORMAT_Q4_K:
        return value_q4_k(block, i);
    case MOE_FORMAT_Q6_K:
        return value_q6_k(block, i);
    default:
        return NAN;
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

/* ---- every format ------------------------------------------------------------------------------------------- */

/* Quantising reads and writes exactly the blocks, at any alignment of theirs, and each block alone. */
static void quantise_keeps_to_its_blocks(void **state)
{
    struct test_rng rng = {2};
    (void)state;
    for (size_t f = 0; moe_format_at(f); f++) {
        const struct moe_format_info *info = moe_format_at(f);
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
        cmocka_unit_test(quantise_keeps_to_its_blocks),
        cmocka_unit_test(nonfinite_input_stays_visible),
        cmocka_unit_test(validate_agrees_with_dequantise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
