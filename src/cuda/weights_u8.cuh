// SPDX-License-Identifier: MIT
// U8 and I8 with scales apart that hold for 128 columns or more (GPTQ of 8 bits, channels), and zeros; I8 with scales
// of 32 columns, without zeros (Q8_0 as planes).
//
// The lower 7 bits of a byte as the last bits of a bf16 of 0x43.. are 128 + those, bit 7 alone likewise 128 or 256. For
// I8 the difference is the value: 7 bits - 128 * bit 7, exactly. U8 is the same with bit 7 the other way round, and
// gives q - 128, which the term makes up. Of 4 bytes of a row, 0 and 2 are one pair and 1 and 3 the other.
// Pitch: a load is 8 bytes by 4 lanes of 4 rows at a time; 32 modulo 128 bytes puts these on different banks.
//
// Bytes: 4096 of a unit. Thread instructions for 16 weights: 2 loads, 20 to place bits, 8 to subtract, 4 products.
#ifndef MOE_CUDA_WEIGHTS_U8_CUH
#define MOE_CUDA_WEIGHTS_U8_CUH

#include "cuda/planes.cuh"

/* Bytes 0 and 2 of w. flip: 0, or what turns 128 into 256 and back. */
template <uint32_t flip> MOE_DEVICE uint32_t moe_u8_unpack(uint32_t w)
{
    constexpr uint32_t magic = 0x43004300u, minus_one = 0xbf80bf80u;
    uint32_t low = moe_mask_or(w, 0x007f007fu, magic);
    uint32_t high = moe_lop3<(0xf0 & 0xcc) ^ 0xaa>(w, 0x00800080u, magic ^ flip);
    return moe_bf16x2_fma(high, minus_one, low);
}

template <bool is_signed> struct moe_bytes_codes {
    static constexpr uint32_t segment_bytes = 256, pitch = 288;
    static constexpr bool aligned = true;
    static constexpr int order = MOE_ORDER_BYTES;

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        constexpr uint32_t flip = is_signed ? 0 : 0x00800080u;
        const uint2 l = *(const uint2 *)(low + 32 * q + 8 * t), h = *(const uint2 *)(high + 32 * q + 8 * t);
        a[0] = moe_u8_unpack<flip>(l.x), a[2] = moe_u8_unpack<flip>(l.x >> 8);
        a[4] = moe_u8_unpack<flip>(l.y), a[6] = moe_u8_unpack<flip>(l.y >> 8);
        a[1] = moe_u8_unpack<flip>(h.x), a[3] = moe_u8_unpack<flip>(h.x >> 8);
        a[5] = moe_u8_unpack<flip>(h.y), a[7] = moe_u8_unpack<flip>(h.y >> 8);
    }
};

template <bool is_signed>
struct moe_weights_bytes : moe_bytes_codes<is_signed>, moe_planes<128, true, is_signed ? 0 : -128> {
    static constexpr bool offset = true;
    static constexpr int group = 128;
};

struct moe_weights_i8_32 : moe_bytes_codes<true>, moe_planes<32, false, 0> {
    static constexpr bool offset = false;
    static constexpr int group = 32;
};

typedef moe_weights_bytes<false> moe_weights_u8_128;
typedef moe_weights_bytes<true> moe_weights_i8_128;

#endif
