// SPDX-License-Identifier: MIT
// Levels of instruction sets: what the processor has, and what the operating system saves on a task switch.
#include "cpu/cpuid.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <stdint.h>

/* XCR0: the register states that the system saves. Bit 1 xmm, bit 2 the upper halves of ymm. */
static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static bool has_avx2(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return false;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned wanted = fma | osxsave | avx | f16c;
    if ((c & wanted) != wanted || (read_xcr0() & 6) != 6)
        return false;
    const unsigned avx2 = 1u << 5;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & avx2) != 0;
}
#else
static bool has_avx2(void)
{
    return false;
}
#endif

bool moe_cpuid_has(enum moe_level level)
{
    switch (level) {
    case MOE_LEVEL_C:
        return true;
    case MOE_LEVEL_AVX2:
        return has_avx2();
    case MOE_NUM_LEVELS:
        break;
    }
    return false;
}

enum moe_level moe_cpuid_best(void)
{
    enum moe_level best = MOE_LEVEL_C;
    for (int level = 0; level < MOE_NUM_LEVELS; level++) {
        if (moe_cpuid_has((enum moe_level)level))
            best = (enum moe_level)level;
    }
    return best;
}
