// SPDX-License-Identifier: MIT
// What IQ4_NL and IQ4_XS share: the code book of format/iq4.h. Its lower half is negative, its upper half positive.
#ifndef MOE_CUDA_IQ4_CUH
#define MOE_CUDA_IQ4_CUH

#include "cuda/words.cuh"

/* The values of 8 nibbles. swapped: bytes 0, 2, 1, 3 of a word, so that nibbles 0, 2 (low ones) and 1, 3 (high ones) of
 * each half are pairs. A permutation looks up four: nibbles of 8 or more give 0 there, and with the bit flipped the
 * others do; the value is the difference of the two. */
MOE_DEVICE void moe_iq4_codes(uint32_t *a, uint32_t swapped)
{
    uint32_t flipped = swapped ^ 0x88888888u;
#pragma unroll
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t negative = moe_permute(0x4153687fu, 0x0a162331u, swapped >> 16 * i);
        uint32_t positive = moe_permute(0x26190d01u, 0x71594535u, flipped >> 16 * i);
        a[2 * i] = moe_bf16x2_add(moe_codes_even(positive, 0x007f007fu),
                                  moe_mask_or(negative, 0x007f007fu, 0xc300c300u));
        a[4 + 2 * i] = moe_bf16x2_add(moe_permute(positive, 0x43434343u, MOE_CODES_ODD),
                                      moe_permute(negative, 0xc3c3c3c3u, MOE_CODES_ODD));
    }
}

#endif
