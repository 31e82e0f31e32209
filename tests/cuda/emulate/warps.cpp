// SPDX-License-Identifier: MIT
// What the lanes of a warp compute together. The last lane to arrive does it for all.
#include "engine.h"

#include <math.h>
#include <string.h>

/* ---- shuffles ---- */

struct shuffle {
    uint64_t value, result;
    moe_emulate_shuffle_mode mode;
    int lane, width;
};

static int shuffle_source(const shuffle *s, int self)
{
    int width = s->width, first = self & ~(width - 1), own = self & (width - 1);
    switch (s->mode) {
    case MOE_SHUFFLE_INDEX:
        return first + (s->lane & (width - 1));
    case MOE_SHUFFLE_UP:
        return own - s->lane < 0 ? self : self - s->lane;
    case MOE_SHUFFLE_DOWN:
        return own + s->lane >= width ? self : self + s->lane;
    default:
        return (self ^ s->lane) >= first + width ? self : self ^ s->lane;
    }
}

static void combine_shuffle(void *const operands[32], uint32_t mask)
{
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1u))
            continue;
        shuffle *s = (shuffle *)operands[i];
        int source = shuffle_source(s, i);
        /* a lane outside the mask has no value that anyone may rely on */
        s->result = mask >> source & 1u ? ((const shuffle *)operands[source])->value : UINT64_MAX;
    }
}

uint64_t moe_emulate_shuffle(uint32_t mask, uint64_t value, moe_emulate_shuffle_mode mode, int lane, int width,
                             moe_emulate_site site)
{
    static const char *const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
    if (width < 1 || width > 32 || width & (width - 1))
        moe_emulate_die("%s at %s:%d: width %d", names[mode], site.file, site.line, width);
    shuffle s = {value, 0, mode, mode == MOE_SHUFFLE_INDEX ? lane : lane & 31, width};
    moe_emulate_meet(mask, &s, combine_shuffle, names[mode], site);
    return s.result;
}

/* ---- votes, reductions, matches ---- */

struct word {
    uint64_t value;
    uint32_t result;
    moe_emulate_reduction what;
};

static void combine_ballot(void *const operands[32], uint32_t mask)
{
    uint32_t ballot = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1u && ((const word *)operands[i])->value)
            ballot |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1u)
            ((word *)operands[i])->result = ballot;
}

uint32_t moe_emulate_ballot(uint32_t mask, bool predicate, const char *name, moe_emulate_site site)
{
    word w = {predicate, 0, MOE_REDUCE_ADD};
    moe_emulate_meet(mask, &w, combine_ballot, name, site);
    return w.result;
}

static uint32_t reduce_two(moe_emulate_reduction what, uint32_t a, uint32_t b)
{
    switch (what) {
    case MOE_REDUCE_ADD:
        return a + b;
    case MOE_REDUCE_MIN:
        return a < b ? a : b;
    case MOE_REDUCE_MAX:
        return a > b ? a : b;
    case MOE_REDUCE_MIN_SIGNED:
        return (int32_t)a < (int32_t)b ? a : b;
    case MOE_REDUCE_MAX_SIGNED:
        return (int32_t)a > (int32_t)b ? a : b;
    case MOE_REDUCE_AND:
        return a & b;
    case MOE_REDUCE_OR:
        return a | b;
    default:
        return a ^ b;
    }
}

static void combine_reduce(void *const operands[32], uint32_t mask)
{
    uint32_t sum = 0;
    bool first = true;
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1u))
            continue;
        const word *w = (const word *)operands[i];
        sum = first ? (uint32_t)w->value : reduce_two(w->what, sum, (uint32_t)w->value);
        first = false;
    }
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1u)
            ((word *)operands[i])->result = sum;
}

uint32_t moe_emulate_reduce(uint32_t mask, uint32_t value, moe_emulate_reduction what, moe_emulate_site site)
{
    word w = {value, 0, what};
    moe_emulate_meet(mask, &w, combine_reduce, "__reduce_sync", site);
    return w.result;
}

static void combine_match(void *const operands[32], uint32_t mask)
{
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1u))
            continue;
        word *w = (word *)operands[i];
        w->result = 0;
        for (int j = 0; j < 32; j++)
            if (mask >> j & 1u && ((const word *)operands[j])->value == w->value)
                w->result |= 1u << j;
    }
}

uint32_t moe_emulate_match(uint32_t mask, uint64_t value, moe_emulate_site site)
{
    word w = {value, 0, MOE_REDUCE_ADD};
    moe_emulate_meet(mask, &w, combine_match, "__match_any_sync", site);
    return w.result;
}

static void combine_nothing(void *const[32], uint32_t)
{
}

void moe_emulate_sync_warp(uint32_t mask, moe_emulate_site site)
{
    moe_emulate_meet(mask, NULL, combine_nothing, "__syncwarp", site);
}

/* ---- bf16 ---- */

static float bf16_value(uint32_t bits)
{
    uint32_t word = bits << 16;
    float x;
    memcpy(&x, &word, sizeof x);
    return x;
}

uint32_t moe_emulate_round_bf16(double x)
{
    if (x != x)
        return 0x7fffu;
    /* to f32 by truncation, with a lowest bit that says whether anything was lost; then once to nearest even */
    float f = (float)x;
    if (isinf(f) && !isinf(x))
        f = copysignf(3.4028234663852886e38f, f);
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (fabs((double)f) > fabs(x))
        bits--;
    if ((double)f != x)
        bits |= 1u;
    if ((bits & 0x7fffffffu) == 0x7f800000u)
        return bits >> 16;
    return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
}

uint32_t moe_emulate_fma_bf16(uint32_t a, uint32_t b, uint32_t c)
{
    double product = (double)bf16_value(a) * (double)bf16_value(b), addend = (double)bf16_value(c);
    double sum = product + addend;
    if (!isfinite(sum))
        return moe_emulate_round_bf16(sum);
    /* what the sum lost goes into its lowest bit, so that it is rounded only once */
    double part = sum - product, lost = (product - (sum - part)) + (addend - part);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if (lost != 0 && !(bits & 1u))
        sum = nextafter(sum, lost > 0 ? INFINITY : -INFINITY);
    return moe_emulate_round_bf16(sum);
}

/* ---- the matrix instruction ---- */

struct matrices {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
};

static void combine_mma(void *const operands[32], uint32_t)
{
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const matrices *m = (const matrices *)operands[lane];
        int g = lane / 4, t = lane % 4;
        for (int i = 0; i < 4; i++)
            for (int half = 0; half < 2; half++)
                a[g + 8 * (i & 1)][2 * t + 8 * (i >> 1) + half] = bf16_value(m->a[i] >> (16 * half) & 0xffffu);
        for (int i = 0; i < 2; i++)
            for (int half = 0; half < 2; half++)
                b[2 * t + 8 * i + half][g] = bf16_value(m->b[i] >> (16 * half) & 0xffffu);
    }
    for (int row = 0; row < 16; row++) {
        double sums[8] = {0};
        for (int k = 0; k < 16; k++)
            for (int column = 0; column < 8; column++)
                sums[column] += (double)a[row][k] * (double)b[k][column];
        for (int column = 0; column < 8; column++) {
            float *d = ((const matrices *)operands[row % 8 * 4 + column / 2])->d + 2 * (row / 8) + column % 2;
            *d = (float)((double)*d + sums[column]);
        }
    }
}

void moe_emulate_mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, moe_emulate_site site)
{
    matrices m = {d, a, {b0, b1}};
    moe_emulate_meet(0xffffffffu, &m, combine_mma, "mma", site);
}
