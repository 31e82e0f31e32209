// SPDX-License-Identifier: MIT
// What the unpack_group of several formats share on AVX-512 with VBMI beyond unpack_avx512vnni.h: bits of scales to f32
// without a conversion, factors, look-ups whose codes need no masking, and bits that one mask adds.
#ifndef MOE_UNPACK_FIELDS_AVX512VNNI_H
#define MOE_UNPACK_FIELDS_AVX512VNNI_H

#include "cpu/x86/unpack_avx512vnni.h"

/* ---- scales ---- */

/* The bits of mask are the last ones of base's significand, a power of two: base + (x & mask) ulps - less, exact. */
static inline __m512 fields_to_f32(__m512i x, __m512i mask, float base, float less)
{
    __m512i sum = _mm512_ternarylogic_epi32(x, mask, _mm512_castps_si512(_mm512_set1_ps(base)), 0xea);
    return _mm512_sub_ps(_mm512_castsi512_ps(sum), _mm512_set1_ps(less));
}

static inline __m256 fields_to_f32_8(__m256i x, __m256i mask, float base, float less)
{
    __m256i sum = _mm256_ternarylogic_epi32(x, mask, _mm256_castps_si256(_mm256_set1_ps(base)), 0xea);
    return _mm256_sub_ps(_mm256_castsi256_ps(sum), _mm256_set1_ps(less));
}

/* a where mask has a bit, else b. */
static inline __m512i select_bits(__m512i mask, __m512i a, __m512i b)
{
    return _mm512_ternarylogic_epi32(a, b, mask, 0xe4);
}

/* 8 bytes in each 64 bits. */
static inline __m512i broadcast8(const unsigned char *in)
{
    long long bytes;
    memcpy(&bytes, in, sizeof bytes);
    return _mm512_set1_epi64(bytes);
}

static inline __m256i broadcast4(const unsigned char *in)
{
    int bytes;
    memcpy(&bytes, in, sizeof bytes);
    return _mm256_set1_epi32(bytes);
}

/* 4 f16. */
static inline __m128 load_factors(const unsigned char *in)
{
    return _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)(const void *)in));
}

/* Scales of halves: all first ones, then all second ones. */
static inline void put_halves(__m256 out[2], __m512 halves)
{
    out[0] = _mm512_castps512_ps256(halves);
    out[1] = _mm512_extractf32x8_ps(halves, 1);
}

/* f16 scales and minima of 8 blocks, which lie in 3 windows of 64 bytes, from in, in + 64 and in + last on. places: of
 * their bytes in the windows, scales first; second and third say which of them are in those windows. */
static inline void block_pairs(struct q8_group *out, const unsigned char *in, const uint8_t places[32],
                               uint32_t second, size_t last, uint32_t third)
{
    __m512i order = _mm512_castsi256_si512(load32(places));
    __m512i pairs = _mm512_permutexvar_epi8(order, _mm512_loadu_si512(in));
    pairs = _mm512_mask_permutexvar_epi8(pairs, second, order, _mm512_loadu_si512(in + 64));
    pairs = _mm512_mask_permutexvar_epi8(pairs, third, order, _mm512_loadu_si512(in + last));
    __m512 both = _mm512_cvtph_ps(_mm512_castsi512_si256(pairs));
    out->scale[0] = _mm512_castps512_ps256(both);
    out->minimum[0] = _mm512_extractf32x8_ps(both, 1);
}

/* The 8 scales and then 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes from in + 4 on, times d and -dmin, which lie
 * before them. Of numbers 4 .. 7 the upper 2 bits are with numbers 0 .. 3, as bits 6 and 7, the lower 4 in the last 4
 * bytes. */
static inline void fields_of_k(struct q8_group *out, const unsigned char *in)
{
    const __m512i first_at = _mm512_setr_epi32(0, 8, 16, 24, 2, 10, 18, 26, 32, 40, 48, 56, 34, 42, 50, 58);
    const __m512i last_at = _mm512_setr_epi32(0, 0, 0, 0, 32, 40, 48, 56, 0, 0, 0, 0, 36, 44, 52, 60);
    const __m512i last_bits = _mm512_setr_epi32(0, 0, 0, 0, 15, 15, 15, 15, 0, 0, 0, 0, 15, 15, 15, 15);
    __m512i first = _mm512_multishift_epi64_epi8(first_at, broadcast8(in + 4));
    __m512i last = _mm512_multishift_epi64_epi8(last_at, broadcast8(in + 8));
    __m512 numbers = fields_to_f32(select_bits(last_bits, last, first), _mm512_set1_epi32(63), 0x1p23f, 0x1p23f);
    __m128 factors = _mm_xor_ps(load_factors(in), _mm_setr_ps(0, -0.0f, 0, 0));
    const __m512i which = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
    numbers = _mm512_mul_ps(numbers, _mm512_permutexvar_ps(which, _mm512_castps128_ps512(factors)));
    out->scale[0] = _mm512_castps512_ps256(numbers);
    out->minimum[0] = _mm512_extractf32x8_ps(numbers, 1);
}

/* ---- values ---- */

/* What 64 codes stand for, which are the last 4 bits of each byte. */
static inline __m512i look_up_low4(__m128i table, __m512i codes)
{
    return _mm512_permutexvar_epi8(codes, _mm512_broadcast_i32x4(table));
}

/* The same of the last 2 bits. */
static inline __m512i look_up_low2(const uint8_t table[4], __m512i codes)
{
    int all;
    memcpy(&all, table, sizeof all);
    return _mm512_permutexvar_epi8(codes, _mm512_set1_epi32(all));
}

/* As nibbles_of_units, but the upper bits of each byte are anything. */
static inline __m512i low4_of_units(const unsigned char *first, const unsigned char *second)
{
    __m512i both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(load16(first)), 0xff00, load16(second));
    return _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
}

/* 32 bytes of 4 values of 2 bits, each column a byte: units 2 k and 2 k + 1 of 4; the upper bits are anything. */
static inline __m512i low2_of_pair(__m512i both, int k)
{
    return _mm512_srlv_epi64(both, k == 0 ? _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2)
                                          : _mm512_setr_epi64(4, 4, 4, 4, 6, 6, 6, 6));
}

/* The codes of E2M1, doubled, plus 128. */
static inline __m128i fp4_table(void)
{
    return _mm_setr_epi8(-128, -127, -126, -125, -124, -122, -120, -116, -128, 127, 126, 125, 124, 122, 120, 116);
}

/* A bit for each of 64 columns, in two parts. */
static inline __mmask64 bits_of_units(const unsigned char *first, const unsigned char *second)
{
    uint32_t low, high;
    memcpy(&low, first, sizeof low);
    memcpy(&high, second, sizeof high);
    return low | (uint64_t)high << 32;
}

/* Bit first of each byte of the low half, bit first + 1 of the high half. */
static inline __mmask64 bits_of_pair(__m512i both, int first)
{
    long long low = 0x0101010101010101 << first, high = (long long)(0x0202020202020202u << first);
    return _mm512_test_epi8_mask(both, _mm512_setr_epi64(low, low, low, low, high, high, high, high));
}

#endif
