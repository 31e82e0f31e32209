// SPDX-License-Identifier: MIT
// Levels of instruction sets: what the processor has, and what the operating system saves on a task switch.
#define _GNU_SOURCE
#define _DARWIN_C_SOURCE
#include "cpu/cpuid.h"

#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

struct features {
    uint32_t leaf1_c, leaf7_b, leaf7_c, leaf7_d, leaf71_a;
    uint64_t xcr0;
};

/* XCR0: the register states that the system saves. */
enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6, XCR0_AMX = 0x60000 };

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static struct features read_features(void)
{
    struct features f = {0};
    unsigned a, b, c, d;
    const unsigned osxsave = 1u << 27;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & osxsave) == 0)
        return f;
    f.leaf1_c = c;
    f.xcr0 = read_xcr0();
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        f.leaf7_b = b;
        f.leaf7_c = c;
        f.leaf7_d = d;
    }
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d))
        f.leaf71_a = a;
    return f;
}

static bool all(uint32_t word, uint32_t wanted)
{
    return (word & wanted) == wanted;
}

static bool has_avx2(const struct features *f)
{
    const uint32_t fma = 1u << 12, avx = 1u << 28, f16c = 1u << 29, avx2 = 1u << 5;
    return all(f->leaf1_c, fma | avx | f16c) && all(f->leaf7_b, avx2) && (f->xcr0 & XCR0_AVX) == XCR0_AVX;
}

static bool has_avx512(const struct features *f)
{
    const uint32_t foundation = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31;
    return has_avx2(f) && all(f->leaf7_b, foundation | dq | bw | vl) && (f->xcr0 & XCR0_AVX512) == XCR0_AVX512;
}

static bool has_avx512vnni(const struct features *f)
{
    const uint32_t vbmi = 1u << 1, vnni = 1u << 11;
    return has_avx512(f) && all(f->leaf7_c, vbmi | vnni);
}

static bool has_avx512bf16(const struct features *f)
{
    const uint32_t bf16 = 1u << 5;
    return has_avx512vnni(f) && all(f->leaf71_a, bf16);
}

/* Linux gives the tiles' 8 KB of state to processes that ask for it; asked again it says the same. */
static bool may_use_tiles(void)
{
#if defined(__linux__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return false;
#endif
}

static bool has_amx(const struct features *f)
{
    const uint32_t bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
    return has_avx512bf16(f) && all(f->leaf7_d, bf16 | tile | int8) && (f->xcr0 & XCR0_AMX) == XCR0_AMX &&
           may_use_tiles();
}

static bool has(enum moe_level level)
{
    const struct features f = read_features();
    switch (level) {
    case MOE_LEVEL_AVX2:
        return has_avx2(&f);
    case MOE_LEVEL_AVX512:
        return has_avx512(&f);
    case MOE_LEVEL_AVX512VNNI:
        return has_avx512vnni(&f);
    case MOE_LEVEL_AVX512BF16:
        return has_avx512bf16(&f);
    case MOE_LEVEL_AMX:
        return has_amx(&f);
    default:
        return false;
    }
}
#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>

/* Bits of the kernel's interface, which headers older than the processor lack. */
enum { HWCAP_DOTPROD = 20, HWCAP2_I8MM_BIT = 13 };

static bool has_dotprod(void)
{
    return (getauxval(AT_HWCAP) >> HWCAP_DOTPROD & 1) != 0;
}

static bool has_i8mm(void)
{
    return (getauxval(AT_HWCAP2) >> HWCAP2_I8MM_BIT & 1) != 0;
}
#elif defined(__APPLE__)
#include <sys/sysctl.h>

static bool has_feature(const char *name)
{
    int32_t value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && size == sizeof value && value != 0;
}

static bool has_dotprod(void)
{
    return has_feature("hw.optional.arm.FEAT_DotProd");
}

static bool has_i8mm(void)
{
    return has_feature("hw.optional.arm.FEAT_I8MM");
}
#else
static bool has_dotprod(void)
{
    return false;
}

static bool has_i8mm(void)
{
    return false;
}
#endif

static bool has(enum moe_level level)
{
    switch (level) {
    case MOE_LEVEL_NEON:
        return true;
    case MOE_LEVEL_DOTPROD:
        return has_dotprod();
    case MOE_LEVEL_I8MM:
        return has_dotprod() && has_i8mm();
    default:
        return false;
    }
}
#else
static bool has(enum moe_level level)
{
    (void)level;
    return false;
}
#endif

bool moe_cpuid_has(enum moe_level level)
{
    return level == MOE_LEVEL_C || has(level);
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
