// SPDX-License-Identifier: MIT
// What kernels may call: CUDA's intrinsics with the meaning that its manual gives them.
#ifndef MOE_EMULATE_DEVICE_H
#define MOE_EMULATE_DEVICE_H

#include "engine.h"

/* ---- bits of a value ---- */

template <class To, class From> static inline To moe_emulate_bits(From from)
{
    static_assert(sizeof(To) >= sizeof(From), "the value must fit");
    To to = 0;
    memcpy((void *)&to, &from, sizeof from);
    return to;
}
template <class To> static inline To moe_emulate_value(uint64_t bits)
{
    To to;
    memcpy((void *)&to, &bits, sizeof to);
    return to;
}

#define MOE_EMULATE_CAST(name, to, from)                                                                               \
    static inline to name(from x)                                                                                      \
    {                                                                                                                  \
        return moe_emulate_bits<to>(x);                                                                                \
    }
MOE_EMULATE_CAST(__float_as_uint, unsigned, float)
MOE_EMULATE_CAST(__float_as_int, int, float)
MOE_EMULATE_CAST(__uint_as_float, float, unsigned)
MOE_EMULATE_CAST(__int_as_float, float, int)
MOE_EMULATE_CAST(__double_as_longlong, long long, double)
MOE_EMULATE_CAST(__longlong_as_double, double, long long)

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __ffsll(long long x)
{
    return __builtin_ffsll(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __clzll(long long x)
{
    return x ? __builtin_clzll((unsigned long long)x) : 64;
}
static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) << (shift & 31) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) << (shift < 32 ? shift : 32) >> 32);
}
static inline unsigned __funnelshift_rc(unsigned low, unsigned high, unsigned shift)
{
    return (unsigned)(((uint64_t)high << 32 | low) >> (shift < 32 ? shift : 32));
}
/* Byte i of the result is byte (selector >> 4 i) & 7 of b:a, or its sign eight times if bit 3 is set. */
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> (4 * i) & 15u;
        unsigned byte = (unsigned)(bytes >> (8 * (nibble & 7u))) & 255u;
        if (nibble & 8u)
            byte = byte & 128u ? 255u : 0;
        result |= byte << (8 * i);
    }
    return result;
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c = (int)((unsigned)c + (unsigned)((int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i))));
    return c;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((uint64_t)a * b >> 32);
}

/* ---- loads and stores with a hint ---- */

#define MOE_EMULATE_LOAD(name)                                                                                         \
    template <class T> static inline T name(const T *p)                                                                \
    {                                                                                                                  \
        return *p;                                                                                                     \
    }
MOE_EMULATE_LOAD(__ldg)
MOE_EMULATE_LOAD(__ldca)
MOE_EMULATE_LOAD(__ldcg)
MOE_EMULATE_LOAD(__ldcs)
MOE_EMULATE_LOAD(__ldlu)
MOE_EMULATE_LOAD(__ldcv)
#define MOE_EMULATE_STORE(name)                                                                                        \
    template <class T> static inline void name(T *p, T value)                                                          \
    {                                                                                                                  \
        *p = value;                                                                                                    \
    }
MOE_EMULATE_STORE(__stwb)
MOE_EMULATE_STORE(__stcg)
MOE_EMULATE_STORE(__stcs)
MOE_EMULATE_STORE(__stwt)

/* ---- arithmetic; the approximate ones are exact here ---- */

#define MOE_EMULATE_ROUNDED(type, prefix)                                                                              \
    static inline type __##prefix##mul_rn(type a, type b)                                                              \
    {                                                                                                                  \
        return a * b;                                                                                                  \
    }                                                                                                                  \
    static inline type __##prefix##add_rn(type a, type b)                                                              \
    {                                                                                                                  \
        return a + b;                                                                                                  \
    }                                                                                                                  \
    static inline type __##prefix##sub_rn(type a, type b)                                                              \
    {                                                                                                                  \
        return a - b;                                                                                                  \
    }                                                                                                                  \
    static inline type __##prefix##div_rn(type a, type b)                                                              \
    {                                                                                                                  \
        return a / b;                                                                                                  \
    }
MOE_EMULATE_ROUNDED(float, f)
MOE_EMULATE_ROUNDED(double, d)
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline double __dsqrt_rn(double x)
{
    return sqrt(x);
}
static inline float moe_emulate_rsqrtf(float x)
{
    return (float)(1.0 / sqrt((double)x));
}
static inline double moe_emulate_rsqrt(double x)
{
    return 1.0 / sqrt(x);
}
static inline float __saturatef(float x)
{
    return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f;
}
/* Macros, as some C libraries have functions of these names. */
#define rsqrtf(x)      moe_emulate_rsqrtf(x)
#define rsqrt(x)       moe_emulate_rsqrt(x)
#define __frsqrt_rn(x) moe_emulate_rsqrtf(x)
#define __expf(x)      expf(x)
#define __exp2f(x)     exp2f(x)
#define __logf(x)      logf(x)
#define __log2f(x)     log2f(x)
#define __powf(x, y)   powf(x, y)
#define __tanhf(x)     tanhf(x)

#define MOE_EMULATE_CONVERT(name, to, from, expression)                                                                \
    static inline to name(from x)                                                                                      \
    {                                                                                                                  \
        return (to)(expression);                                                                                       \
    }
/* Out of range: the nearest end; NaN: 0. */
template <class To> static inline To moe_emulate_to_integer(double x)
{
    double low = std::is_signed_v<To> ? -2147483648.0 : 0.0;
    double high = std::is_signed_v<To> ? 2147483647.0 : 4294967295.0;
    return x != x ? 0 : x <= low ? (To)low : x >= high ? (To)high : (To)x;
}
MOE_EMULATE_CONVERT(__double2float_rn, float, double, x)
MOE_EMULATE_CONVERT(__int2float_rn, float, int, x)
MOE_EMULATE_CONVERT(__uint2float_rn, float, unsigned, x)
MOE_EMULATE_CONVERT(__ll2float_rn, float, long long, x)
MOE_EMULATE_CONVERT(__ull2float_rn, float, unsigned long long, x)
MOE_EMULATE_CONVERT(__int2double_rn, double, int, x)
MOE_EMULATE_CONVERT(__uint2double_rn, double, unsigned, x)
MOE_EMULATE_CONVERT(__float2int_rn, int, float, moe_emulate_to_integer<int>(nearbyint((double)x)))
MOE_EMULATE_CONVERT(__float2uint_rn, unsigned, float, moe_emulate_to_integer<unsigned>(nearbyint((double)x)))
MOE_EMULATE_CONVERT(__float2int_rz, int, float, moe_emulate_to_integer<int>(trunc((double)x)))
MOE_EMULATE_CONVERT(__float2uint_rz, unsigned, float, moe_emulate_to_integer<unsigned>(trunc((double)x)))
MOE_EMULATE_CONVERT(__float2int_rd, int, float, moe_emulate_to_integer<int>(floor((double)x)))
MOE_EMULATE_CONVERT(__float2int_ru, int, float, moe_emulate_to_integer<int>(ceil((double)x)))

template <class A, class B> static inline std::common_type_t<A, B> moe_emulate_min(A a, B b)
{
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return (T)a != (T)a ? (T)b : (T)b < (T)a ? (T)b : (T)a;
    else
        return (T)b < (T)a ? (T)b : (T)a;
}
template <class A, class B> static inline std::common_type_t<A, B> moe_emulate_max(A a, B b)
{
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return (T)a != (T)a ? (T)b : (T)b > (T)a ? (T)b : (T)a;
    else
        return (T)b > (T)a ? (T)b : (T)a;
}
#define MOE_EMULATE_EXTREMES(type)                                                                                     \
    static inline type min(type a, type b)                                                                             \
    {                                                                                                                  \
        return moe_emulate_min(a, b);                                                                                  \
    }                                                                                                                  \
    static inline type max(type a, type b)                                                                             \
    {                                                                                                                  \
        return moe_emulate_max(a, b);                                                                                  \
    }
#define MOE_EMULATE_MIXED(signed_type, unsigned_type)                                                                  \
    MOE_EMULATE_EXTREMES(signed_type)                                                                                  \
    MOE_EMULATE_EXTREMES(unsigned_type)                                                                                \
    static inline unsigned_type min(signed_type a, unsigned_type b)                                                    \
    {                                                                                                                  \
        return moe_emulate_min(a, b);                                                                                  \
    }                                                                                                                  \
    static inline unsigned_type min(unsigned_type a, signed_type b)                                                    \
    {                                                                                                                  \
        return moe_emulate_min(a, b);                                                                                  \
    }                                                                                                                  \
    static inline unsigned_type max(signed_type a, unsigned_type b)                                                    \
    {                                                                                                                  \
        return moe_emulate_max(a, b);                                                                                  \
    }                                                                                                                  \
    static inline unsigned_type max(unsigned_type a, signed_type b)                                                    \
    {                                                                                                                  \
        return moe_emulate_max(a, b);                                                                                  \
    }
MOE_EMULATE_MIXED(int, unsigned)
MOE_EMULATE_MIXED(long, unsigned long)
MOE_EMULATE_MIXED(long long, unsigned long long)
MOE_EMULATE_EXTREMES(float)
MOE_EMULATE_EXTREMES(double)

/* ---- atomics: fibers do not interrupt each other ---- */

#define MOE_EMULATE_ATOMIC(name, expression)                                                                           \
    template <class T> static inline T name(T *p, std::common_type_t<T> x)                                             \
    {                                                                                                                  \
        static_assert(std::is_integral_v<T>, "sums have one order: no atomics on floats");                             \
        T old = *p;                                                                                                    \
        *p = (T)(expression);                                                                                          \
        return old;                                                                                                    \
    }
MOE_EMULATE_ATOMIC(atomicAdd, old + x)
MOE_EMULATE_ATOMIC(atomicSub, old - x)
MOE_EMULATE_ATOMIC(atomicMin, x < old ? x : old)
MOE_EMULATE_ATOMIC(atomicMax, x > old ? x : old)
MOE_EMULATE_ATOMIC(atomicAnd, old &x)
MOE_EMULATE_ATOMIC(atomicOr, old | x)
MOE_EMULATE_ATOMIC(atomicXor, old ^ x)
MOE_EMULATE_ATOMIC(atomicExch, x)
MOE_EMULATE_ATOMIC(atomicInc, old >= x ? 0 : old + 1)
template <class T> static inline T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> desired)
{
    T old = *p;
    if (old == expected)
        *p = desired;
    return old;
}
static inline void __threadfence(void)
{
}
static inline void __threadfence_block(void)
{
}
static inline void __threadfence_system(void)
{
}

/* ---- threads of a block ---- */

static inline void __syncthreads(MOE_EMULATE_SITE)
{
    moe_emulate_barrier(0, 0, false, "__syncthreads", MOE_EMULATE_HERE);
}
static inline int __syncthreads_or(int predicate, MOE_EMULATE_SITE)
{
    return moe_emulate_barrier(0, 0, predicate != 0, "__syncthreads_or", MOE_EMULATE_HERE).any;
}
static inline int __syncthreads_and(int predicate, MOE_EMULATE_SITE)
{
    return moe_emulate_barrier(0, 0, predicate != 0, "__syncthreads_and", MOE_EMULATE_HERE).all;
}
static inline int __syncthreads_count(int predicate, MOE_EMULATE_SITE)
{
    return moe_emulate_barrier(0, 0, predicate != 0, "__syncthreads_count", MOE_EMULATE_HERE).count;
}
static inline void __nanosleep(unsigned)
{
    moe_emulate_yield();
}
static inline long long clock64(void)
{
    return moe_emulate_clock();
}

/* ---- lanes of a warp ---- */

static inline void __syncwarp(unsigned mask = 0xffffffffu, MOE_EMULATE_SITE)
{
    moe_emulate_sync_warp(mask, MOE_EMULATE_HERE);
}
/* No promise is made of which lanes run together: only the caller is sure. */
static inline unsigned __activemask(void)
{
    return 1u << moe_emulate_lane();
}

#define MOE_EMULATE_SHUFFLE(name, mode, second)                                                                        \
    template <class T> static inline auto name(unsigned mask, T value, second lane, int width = 32, MOE_EMULATE_SITE)  \
    {                                                                                                                  \
        using U = decltype(+value);                                                                                    \
        static_assert(sizeof(U) == 4 || sizeof(U) == 8, "shuffles are of 32 or 64 bits");                              \
        uint64_t bits = moe_emulate_bits<uint64_t>((U)value);                                                          \
        return moe_emulate_value<U>(moe_emulate_shuffle(mask, bits, mode, (int)lane, width, MOE_EMULATE_HERE));        \
    }
MOE_EMULATE_SHUFFLE(__shfl_sync, MOE_SHUFFLE_INDEX, int)
MOE_EMULATE_SHUFFLE(__shfl_up_sync, MOE_SHUFFLE_UP, unsigned)
MOE_EMULATE_SHUFFLE(__shfl_down_sync, MOE_SHUFFLE_DOWN, unsigned)
MOE_EMULATE_SHUFFLE(__shfl_xor_sync, MOE_SHUFFLE_XOR, int)

static inline unsigned __ballot_sync(unsigned mask, int predicate, MOE_EMULATE_SITE)
{
    return moe_emulate_ballot(mask, predicate != 0, "__ballot_sync", MOE_EMULATE_HERE);
}
static inline int __any_sync(unsigned mask, int predicate, MOE_EMULATE_SITE)
{
    return moe_emulate_ballot(mask, predicate != 0, "__any_sync", MOE_EMULATE_HERE) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, MOE_EMULATE_SITE)
{
    return moe_emulate_ballot(mask, predicate != 0, "__all_sync", MOE_EMULATE_HERE) == mask;
}

#define MOE_EMULATE_REDUCE(name, type, what)                                                                           \
    static inline type name(unsigned mask, type value, MOE_EMULATE_SITE)                                               \
    {                                                                                                                  \
        return (type)moe_emulate_reduce(mask, (uint32_t)value, what, MOE_EMULATE_HERE);                                \
    }
MOE_EMULATE_REDUCE(__reduce_add_sync, unsigned, MOE_REDUCE_ADD)
MOE_EMULATE_REDUCE(__reduce_add_sync, int, MOE_REDUCE_ADD)
MOE_EMULATE_REDUCE(__reduce_min_sync, unsigned, MOE_REDUCE_MIN)
MOE_EMULATE_REDUCE(__reduce_min_sync, int, MOE_REDUCE_MIN_SIGNED)
MOE_EMULATE_REDUCE(__reduce_max_sync, unsigned, MOE_REDUCE_MAX)
MOE_EMULATE_REDUCE(__reduce_max_sync, int, MOE_REDUCE_MAX_SIGNED)
MOE_EMULATE_REDUCE(__reduce_and_sync, unsigned, MOE_REDUCE_AND)
MOE_EMULATE_REDUCE(__reduce_or_sync, unsigned, MOE_REDUCE_OR)
MOE_EMULATE_REDUCE(__reduce_xor_sync, unsigned, MOE_REDUCE_XOR)

template <class T> static inline unsigned __match_any_sync(unsigned mask, T value, MOE_EMULATE_SITE)
{
    return moe_emulate_match(mask, moe_emulate_bits<uint64_t>(value), MOE_EMULATE_HERE);
}

#endif
