// SPDX-License-Identifier: MIT
// Which kernel makes a product: few tokens a matrix go to small, many to large, and nothing overflows.
#include "cuda/regime.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct moe_cuda_product product(uint32_t matrices, uint32_t tokens, uint32_t top_k, uint32_t rows, bool gated)
{
    struct moe_cuda_product p;
    memset(&p, 0, sizeof p);
    p.up.rows = rows;
    p.up.cols = 2048;
    p.up.values.stride = 2048 * 2;
    p.gated = p.activated = gated;
    p.pairs.num_matrices = matrices;
    p.pairs.num_pairs = tokens * top_k;
    p.pairs.tokens_of = tokens;
    p.multiprocessors = 132;
    return p;
}

static bool large(uint32_t matrices, uint32_t tokens, uint32_t top_k, uint32_t rows, bool gated)
{
    struct moe_cuda_product p = product(matrices, tokens, top_k, rows, gated);
    const enum moe_cuda_way way = moe_cuda_choose(&p, true, false);
    assert_true(way == MOE_CUDA_SMALL || way == MOE_CUDA_LARGE);
    assert_true(moe_cuda_choose(&p, false, false) == MOE_CUDA_SMALL);
    return way == MOE_CUDA_LARGE;
}

static void few_go_to_small(void **state)
{
    (void)state;
    for (uint32_t tokens = 1; tokens <= 128; tokens++) {
        assert_false(large(128, tokens, 8, 768, true));
        assert_false(large(128, tokens, 8, 2048, false));
        assert_false(large(256, tokens, 8, 2048, true));
    }
    for (uint32_t tokens = 1; tokens <= 32; tokens++) {
        assert_false(large(8, tokens, 2, 14336, true));
        assert_false(large(64, tokens, 8, 1024, true));
        assert_false(large(1, tokens, 1, 768, true));
    }
}

static void many_go_to_large(void **state)
{
    (void)state;
    for (uint32_t tokens = 512; tokens <= 16384; tokens += 64) {
        assert_true(large(128, tokens, 8, 768, true));
        assert_true(large(128, tokens, 8, 2048, false));
        assert_true(large(8, tokens, 2, 14336, true));
        assert_true(large(64, tokens, 8, 1024, true));
        assert_true(large(1, tokens, 1, 768, true));
    }
}

/* A matrix whose tiles would leave most multiprocessors idle. */
static void small_matrices_want_more_tokens(void **state)
{
    (void)state;
    assert_false(large(1, 100, 1, 192, true));
    assert_true(large(1, 100, 1, 192 * 132, true));
}

static void extremes(void **state)
{
    (void)state;
    struct moe_cuda_product p = product(4096, UINT32_MAX / 8, 8, UINT32_MAX, true);
    const struct moe_cuda_regime most = moe_cuda_regime(&p);
    assert_true(most.rows[MOE_CUDA_SMALL] > most.rows[MOE_CUDA_LARGE] && most.rows[MOE_CUDA_LARGE] > UINT32_MAX &&
                most.rows[MOE_CUDA_SMALL] < 1e30);
    assert_false(large(128, 0, 8, 768, true));
    assert_false(large(0, 8, 8, 768, true));
    assert_true(most.tokens_of == (UINT32_MAX / 8 * 8) / 4096.0);
}

/* Tokens of a matrix from which on wide is taken, for so many bytes of a row of 2048 weights. */
static uint32_t first_wide(size_t stride)
{
    for (uint32_t tokens = 8; tokens < 4096; tokens += 8) {
        struct moe_cuda_product p = product(128, tokens, 8, 768, true);
        p.up.values.stride = stride;
        if (moe_cuda_choose(&p, true, true) == MOE_CUDA_WIDE)
            return tokens * 8 / 128;
    }
    return UINT32_MAX;
}

/* Measured: between 8 and 16 for 8 and 16 bits, about 16 for 4, see regime.c. */
static void bytes_count(void **state)
{
    (void)state;
    assert_in_range(first_wide(2 * 2048), 9, 15);
    assert_in_range(first_wide(2048), 9, 15);
    assert_in_range(first_wide(1024), 14, 20);
    assert_in_range(first_wide(1152), 14, 20);
}

/* A sum over slots in down's launch: always for few pairs, else where tiles of 16 rows, and large weights, fill blocks.
 */
static bool sums(uint32_t pairs, uint32_t rows, size_t stride)
{
    struct moe_cuda_product p = product(128, pairs / 8, 8, rows, false);
    p.up.values.stride = stride;
    return moe_cuda_prefers_sum(&p);
}

static void sums_where_it_pays(void **state)
{
    (void)state;
    assert_true(sums(8, 2880, 1024) && sums(8, 7168, 4096));
    assert_true(sums(64, 2048, 4096) && sums(64, 4096, 2048));
    assert_false(sums(64, 2880, 4096) || sums(64, 7168, 4096) || sums(16, 2048, 1024));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_go_to_small),
        cmocka_unit_test(many_go_to_large),
        cmocka_unit_test(small_matrices_want_more_tokens),
        cmocka_unit_test(extremes),
        cmocka_unit_test(bytes_count),
        cmocka_unit_test(sums_where_it_pays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
