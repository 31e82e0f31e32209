// SPDX-License-Identifier: MIT
// Q4_K: 144 bytes for 256 columns, layout in format/q4_k.c. A lane's 8 bytes of a row hold its columns of two steps of
// 32: low nibbles of the first, high nibbles of the second. Codes are 128 + q, which the term makes up for.
//
// Bytes: 2304 of a unit. Thread instructions for 16 weights: 1 load, 14 to unpack, 2 products, 2 for the sums of x
// (once for all units of the tokens), 2 loads and 8 to scale; with the scales of the unit 2.4 a weight, in SASS.
#ifndef MOE_CUDA_WEIGHTS_Q4_K_CUH
#define MOE_CUDA_WEIGHTS_Q4_K_CUH

#include "cuda/lines.cuh"

/* Half a warp reads 8 bytes of each lane at a time, 32 of four rows: a pitch of 32 modulo 128 bytes keeps these on
 * different banks. */
struct moe_weights_q4_k : moe_no_planes {
    static constexpr uint32_t segment_bytes = 144, pitch = 160;
    static constexpr bool aligned = true, offset = true;
    static constexpr int order = MOE_ORDER_BYTES, group = 32;

    template <int tiles>
    static __device__ __forceinline__ void scales(float2 *table, const unsigned char *unit, const struct side &,
                                                  const struct moe_unit_rows &rows, uint32_t segment, int lane)
    {
        moe_lines_table<moe_weights_q4_k, tiles>(table, unit, rows, segment, lane);
    }

    static __device__ __forceinline__ void row(uint32_t *a, const unsigned char *from, uint32_t q, int t)
    {
        uint2 w = *(const uint2 *)(from + 16 + 32 * (q / 2) + 8 * t);
        uint32_t shift = q % 2 * 4;
        a[0] = moe_codes_even(w.x >> shift, 0x000f000fu), a[2] = moe_codes_even(w.x >> (8 + shift), 0x000f000fu);
        a[4] = moe_codes_even(w.y >> shift, 0x000f000fu), a[6] = moe_codes_even(w.y >> (8 + shift), 0x000f000fu);
    }

    static __device__ __forceinline__ void load(uint32_t a[8], const unsigned char *low, const unsigned char *high,
                                                uint32_t q, int t)
    {
        row(a, low, q, t);
        row(a + 1, high, q, t);
    }
};

#endif
