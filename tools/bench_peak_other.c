// SPDX-License-Identifier: MIT
// The loops of bench_peak.h for AArch64, in assembly, and for any other machine, in C: f32 only.
#include "bench_peak.h"

#if defined(__aarch64__)
/* step(0) .. step(15): 16 sums hide 4 cycles on four ports. */
#define SIXTEEN(step)                                                                                              \
    step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11) step(12)    \
    step(13) step(14) step(15)
#define CLOBBERS "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", \
                 "v15", "v16", "cc"

#define NEON_CLEAR(i) "fmov v" #i ".4s, #1.0\n"
#define NEON_FMA(i) "fmla v" #i ".4s, v16.4s, v16.4s\n"
static void f32_neon(size_t rounds)
{
    __asm__ volatile("fmov v16.4s, #1.0\n" SIXTEEN(NEON_CLEAR) "1:\n" SIXTEEN(NEON_FMA) "subs %0, %0, #1\n b.ne 1b\n"
                     : "+r"(rounds) : : CLOBBERS);
}

/* sdot vI.4s, v16.16b, v16.16b, and smmla: as numbers, for assemblers know them only with flags of their own. */
#define DOT(i) ".inst 0x4e909600 + " #i "\n"
static void int8_dotprod(size_t rounds)
{
    __asm__ volatile("fmov v16.4s, #1.0\n" SIXTEEN(NEON_CLEAR)
                     "1:\n" SIXTEEN(DOT) "subs %0, %0, #1\n b.ne 1b\n" : "+r"(rounds) : : CLOBBERS);
}

#define MMLA(i) ".inst 0x4e90a600 + " #i "\n"
static void int8_i8mm(size_t rounds)
{
    __asm__ volatile("fmov v16.4s, #1.0\n" SIXTEEN(NEON_CLEAR)
                     "1:\n" SIXTEEN(MMLA) "subs %0, %0, #1\n b.ne 1b\n" : "+r"(rounds) : : CLOBBERS);
}

const struct peak_row peak_rows[] = {
    {PEAK_F32, "c", 16 * 8, f32_neon},
    {PEAK_INT8, "dotprod", 16 * 32, int8_dotprod},
    {PEAK_INT8, "i8mm", 16 * 64, int8_i8mm},
    {0},
};
#elif !defined(__x86_64__)
enum { SUMS = 64 };

static void f32_plain(size_t rounds)
{
    static volatile float sink;      /* so that the sums must be computed */
    volatile float one = 1;          /* so that they cannot be known before */
    float sums[SUMS], factor = one;
    for (int i = 0; i < SUMS; i++)
        sums[i] = factor;
    for (; rounds > 0; rounds--)
        for (int i = 0; i < SUMS; i++)
            sums[i] = sums[i] * factor + factor;
    for (int i = 0; i < SUMS; i++)
        sink = sink + sums[i];
}

const struct peak_row peak_rows[] = {{PEAK_F32, "c", 2 * SUMS, f32_plain}, {0}};
#else
typedef int bench_peak_other_is_empty;    /* ISO C has no empty translation unit */
#endif
