// SPDX-License-Identifier: MIT
// What the unpack_group of several formats share on AVX-512 with VBMI: nibbles, scales.
#ifndef MOE_UNPACK_AVX512VNNI_H
#define MOE_UNPACK_AVX512VNNI_H

#include <string.h>

#include "cpu/x86/q8_avx512vnni.h"

static inline __m128i load16(const unsigned char *in)
{
    return _mm_loadu_si128((const __m128i *)(const void *)in);
}

static inline __m256i load32(const unsigned char *in)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)in);
}

/* Two units of 16 bytes with 32 nibbles each: the low nibbles are a unit's first 16 columns, the high ones its
 * others. */
static inline __m512i nibbles_of_units(__m128i first, __m128i second)
{
    __m512i both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(first), 0xff00, second);
    __m512i shifted = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    return _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f));
}

/* 32 bytes with 64 nibbles: the low ones are one unit, the high ones the next. */
static inline __m512i nibbles_of_pair(const unsigned char *in)
{
    __m512i both = _mm512_broadcast_i64x4(load32(in));
    __m512i shifted = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    return _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f));
}

/* Byte b of the heads that follow each other, of blocks whose heads have size bytes, in a load of 64 bytes from
 * first on. */
#define HEAD_BYTE(b) ((char)((b) / size * block_bytes + (b) % size - first))

static inline __m128i some_heads(__m128i heads, const unsigned char *in, size_t block_bytes, size_t size, size_t first,
                                 __mmask64 bytes)
{
    const __m512i order = _mm512_castsi128_si512(
        _mm_setr_epi8(HEAD_BYTE(0), HEAD_BYTE(1), HEAD_BYTE(2), HEAD_BYTE(3), HEAD_BYTE(4), HEAD_BYTE(5), HEAD_BYTE(6),
                      HEAD_BYTE(7), HEAD_BYTE(8), HEAD_BYTE(9), HEAD_BYTE(10), HEAD_BYTE(11), HEAD_BYTE(12),
                      HEAD_BYTE(13), HEAD_BYTE(14), HEAD_BYTE(15)));
    __m512i old = _mm512_castsi128_si512(heads), found = _mm512_loadu_si512(in + first);
    return _mm512_castsi512_si128(_mm512_mask_permutexvar_epi8(old, bytes, order, found));
}

/* The first size bytes, 1 or 2, of 8 blocks: from as few loads of 64 bytes as reach them. Called with constants. */
static inline __attribute__((always_inline)) __m128i block_heads(const unsigned char *in, size_t block_bytes,
                                                                 size_t size)
{
    __m128i heads = _mm_setzero_si128();
    size_t each = (64 - size) / block_bytes + 1, last = 8 * block_bytes - 64;
    for (size_t i = 0; i < 8; i += each) {
        size_t first = i * block_bytes < last ? i * block_bytes : last, end = i + each < 8 ? i + each : 8;
        heads = some_heads(heads, in, block_bytes, size, first, ((1ull << end * size) - 1) & ~((1ull << i * size) - 1));
    }
    return heads;
}

/* f16 at the beginning of 8 blocks. */
static inline __attribute__((always_inline)) __m256 block_scales(const unsigned char *in, size_t block_bytes)
{
    return _mm256_cvtph_ps(block_heads(in, block_bytes, 2));
}

/* 16 bytes from each of four places. */
static inline __m512i load_quarters(const unsigned char *in, size_t stride)
{
    __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(in)), load16(in + stride), 1);
    __m512i all = _mm512_inserti32x4(_mm512_castsi256_si512(low), load16(in + 2 * stride), 2);
    return _mm512_inserti32x4(all, load16(in + 3 * stride), 3);
}

static inline __m512i low_nibbles(__m512i in)
{
    return _mm512_and_si512(in, _mm512_set1_epi8(0x0f));
}

static inline __m512i high_nibbles(__m512i in)
{
    return _mm512_and_si512(_mm512_srli_epi16(in, 4), _mm512_set1_epi8(0x0f));
}

/* The 8 scales and 8 minima of Q4_K and Q5_K, 6 bits each in 12 bytes, times d and dmin, which lie before them. */
static inline void scales_of_k(struct q8_group *out, const unsigned char *in)
{
    uint32_t d, low, mid, high;
    memcpy(&d, in, 4);
    memcpy(&low, in + 4, 4);
    memcpy(&mid, in + 8, 4);
    memcpy(&high, in + 12, 4);
    uint32_t top_scales = (high & 0x0f0f0f0fu) | (low >> 2 & 0x30303030u);
    uint32_t top_minima = (high >> 4 & 0x0f0f0f0fu) | (mid >> 2 & 0x30303030u);
    uint64_t scales = (low & 0x3f3f3f3fu) | (uint64_t)top_scales << 32;
    uint64_t minima = (mid & 0x3f3f3f3fu) | (uint64_t)top_minima << 32;
    __m128 factors = _mm_cvtph_ps(_mm_cvtsi32_si128((int)d));
    __m256 scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)scales)));
    __m256 minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)minima)));
    out->scale[0] = _mm256_mul_ps(_mm256_broadcastss_ps(factors), scale);
    out->minimum[0] = _mm256_mul_ps(_mm256_broadcastss_ps(_mm_movehdup_ps(factors)), minimum);
    out->minimum[0] = _mm256_xor_ps(out->minimum[0], _mm256_set1_ps(-0.0f));
}

#endif
