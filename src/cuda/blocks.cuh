// SPDX-License-Identifier: MIT
// What formats share whose blocks of 32 values begin with an f16 scale, in rows that begin at multiples of 16 bytes.
#ifndef MOE_CUDA_BLOCKS_CUH
#define MOE_CUDA_BLOCKS_CUH

#include "cuda/planes.cuh"
#include "cuda/words.cuh"

/* Two lanes a row, four blocks each. */
template <class Weights, int tiles, uint32_t block_bytes>
MOE_DEVICE void moe_blocks_scales(float2 *table, const unsigned char *unit, const struct moe_unit_rows &rows,
                                  uint32_t segment, int lane)
{
    const uint32_t half = (uint32_t)lane / 16;
#pragma unroll
    for (int m = 0; m < tiles; m++) {
        const uint32_t row = 16 * m + lane % 16;
        const unsigned char *from = moe_unit_begin<Weights, tiles>(unit, rows, segment, row) + 4 * block_bytes * half;
        float2 *to = table + 4 * half * tiles * MOE_TILE_ROWS + row;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++)
            to[i * tiles * MOE_TILE_ROWS] =
                make_float2(moe_f16_value(*(const uint16_t *)(from + block_bytes * i)), 0.0f);
    }
}

/* The word at an even offset of a row, known when compiled. */
MOE_DEVICE uint32_t moe_blocks_word(const unsigned char *row, uint32_t offset)
{
    const uint32_t *w = (const uint32_t *)(row + offset / 4 * 4);
    return offset % 4 == 0 ? w[0] : moe_permute(w[0], w[1], 0x5432);
}

/* The same with bytes 0, 2, 1, 3 of it. */
MOE_DEVICE uint32_t moe_blocks_word_swapped(const unsigned char *row, uint32_t offset)
{
    const uint32_t *w = (const uint32_t *)(row + offset / 4 * 4);
    return offset % 4 == 0 ? moe_permute(w[0], w[0], 0x3120) : moe_permute(w[0], w[1], 0x5342);
}

#endif
