// SPDX-License-Identifier: MIT
// What formats of blocks have in common: words at any address of shared memory, codes as pairs of bf16, whole numbers
// as f32.
#ifndef MOE_CUDA_WORDS_CUH
#define MOE_CUDA_WORDS_CUH

#include "cuda/ptx.cuh"

/* Words of four bytes at any address: two aligned ones, shifted. `at` is the aligned word that has the first byte. */
struct moe_words {
    const unsigned char *at;
    uint32_t skew;    /* bytes, modulo 4 */
};

MOE_DEVICE struct moe_words moe_words_from(const unsigned char *p)
{
    struct moe_words words;
    words.skew = (uint32_t)(uintptr_t)p & 3;
    words.at = p - words.skew;
    return words;
}

MOE_DEVICE uint32_t moe_words_get(const struct moe_words &words, uint32_t offset)
{
    const uint32_t *w = (const uint32_t *)(words.at + offset);
    return __funnelshift_r(w[0], w[1], 8 * words.skew);
}

/* The same with bytes 0, 2, 1, 3 of it. */
MOE_DEVICE uint32_t moe_words_get_swapped(const struct moe_words &words, uint32_t offset)
{
    const uint32_t *w = (const uint32_t *)(words.at + offset);
    return moe_permute(w[0], w[1], 0x3120 + 0x1111 * words.skew);
}

/* mask ? a : b, bit by bit */
MOE_DEVICE uint32_t moe_select_bits(uint32_t mask, uint32_t a, uint32_t b)
{
    return moe_lop3<(0xf0 & 0xcc) | (~0xf0 & 0xaa & 0xff)>(mask, a, b);
}

/* 128 + the lower bits of bytes 0 and 2, as bf16: a code of up to 7 bits is the fraction of 1 * 2^7. */
MOE_DEVICE uint32_t moe_codes_even(uint32_t bytes, uint32_t mask)
{
    return moe_mask_or(bytes, mask, 0x43004300u);
}

/* A selector of moe_permute for the same of bytes 1 and 3, whose other bits are 0, with 0x43434343. */
enum { MOE_CODES_ODD = 0x4341 };

/* factor * byte i of a word: exact, where the product has at most 24 bits, since it is rounded once. shift is
 * -2^23 * factor. */
MOE_DEVICE float moe_scaled_byte(uint32_t word, uint32_t i, float factor, float shift)
{
    return fmaf(__uint_as_float(moe_permute(word, 0x4b000000u, 0x7440 + i)), factor, shift);
}

#endif
