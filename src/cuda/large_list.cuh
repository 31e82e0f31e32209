// SPDX-License-Identifier: MIT
// The work of a product for many tokens: a list of tiles, which every block derives from the sorted pairs by itself and
// of which it takes each gridDim-th one.
#ifndef MOE_CUDA_LARGE_LIST_CUH
#define MOE_CUDA_LARGE_LIST_CUH

#include "cuda/result.cuh"
#include "cuda/ptx.cuh"

/* Tokens of a matrix that are multiplied with all of its rows before the next ones are: few enough that they stay in
 * the second cache (2048 columns: 4 MB), enough that rows are rarely read again. Within them tiles of the same rows are
 * neighbours, so that blocks that run together share rows, and tokens with the next ones. */
enum { MOE_LARGE_BAND = 1024 };

/* Rows first_row .. of a matrix for the tokens at places place .. place + tokens - 1. */
struct moe_large_tile {
    uint32_t expert, place, tokens, first_row;
};

/* In shared memory: how many matrices are active; of each its first tile, and its first place; then those behind the
 * last one. */
struct moe_large_list {
    uint32_t *num_active, *first, *starts;
};

static inline size_t moe_large_list_bytes(uint32_t num_matrices)
{
    return (((size_t)num_matrices + 1) * 2 + 1) * sizeof(uint32_t);
}

MOE_DEVICE struct moe_large_list moe_large_list_at(unsigned char *shared, uint32_t num_matrices)
{
    uint32_t *at = (uint32_t *)shared;
    struct moe_large_list list = {at, at + 1, at + 2 + num_matrices};
    return list;
}

/* Fill a list; of_warps: 32 values in shared memory. All threads of a block together. Returns how many tiles it has. */
template <int tile_tokens>
MOE_DEVICE uint32_t moe_large_list_fill(const struct moe_large_list &list, const struct moe_cuda_pairs &pairs,
                                        uint32_t row_tiles, uint32_t *of_warps)
{
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, n = moe_pairs_active(pairs);
    const uint32_t each = (n + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * each < n ? threadIdx.x * each : n;
    const uint32_t end = begin + each < n ? begin + each : n;
    uint32_t sum = 0;
    for (uint32_t a = begin; a < end; a++) {
        uint32_t start = moe_pairs_start(pairs, a), tokens = moe_pairs_start(pairs, a + 1) - start;
        list.starts[a] = start;
        list.first[a] = sum;
        sum += (tokens + tile_tokens - 1) / tile_tokens * row_tiles;
    }
    uint32_t before = sum;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
        uint32_t other = __shfl_up_sync(0xffffffffu, before, step);
        before += lane >= step ? other : 0;
    }
    if (lane == 31)
        of_warps[warp] = before;
    __syncthreads();
    before -= sum;
    for (uint32_t w = 0; w < warp; w++)
        before += of_warps[w];
    for (uint32_t a = begin; a < end; a++)
        list.first[a] += before;
    if (threadIdx.x == blockDim.x - 1) {
        *list.num_active = n;
        list.first[n] = before + sum;
        list.starts[n] = moe_pairs_start(pairs, n);
    }
    __syncthreads();
    return list.first[n];
}

/* Tokens of a tile of a matrix that has so many: as many as there may be; or about the same number in all its tiles,
 * for kernels whose time depends on it; rounded up, which leaves some to the last one, since no tile has more than
 * there may be. */
template <int tile_tokens, bool even> MOE_DEVICE uint32_t moe_large_list_width(uint32_t tokens)
{
    static_assert(tile_tokens % 8 == 0, "rounded up to 8");
    const uint32_t tiles = (tokens + tile_tokens - 1) / tile_tokens;
    if (!even || tiles <= 1)
        return tile_tokens;
    return ((tokens + tiles - 1) / tiles + 7) / 8 * 8;
}

/* Tile `item`, for all lanes of a warp. */
template <int tile_tokens, bool even = false>
MOE_DEVICE struct moe_large_tile moe_large_list_find(const struct moe_large_list &list,
                                                     const struct moe_cuda_pairs &pairs, uint32_t item,
                                                     uint32_t row_tiles, uint32_t tile_rows, int lane)
{
    constexpr uint32_t band = MOE_LARGE_BAND / tile_tokens;
    uint32_t a = 0;
    for (uint32_t passed = 32; passed == 32; a += passed) {
        uint32_t next = a + 1 + lane;
        passed = (uint32_t)__popc(__ballot_sync(0xffffffffu, next <= *list.num_active && list.first[next] <= item));
    }
    const uint32_t start = list.starts[a], tokens = list.starts[a + 1] - start, of_matrix = item - list.first[a];
    const uint32_t bands = of_matrix / (band * row_tiles), of_band = of_matrix - bands * band * row_tiles;
    const uint32_t left = (tokens + tile_tokens - 1) / tile_tokens - bands * band, width = left < band ? left : band;
    const uint32_t row_tile = of_band / width, most = moe_large_list_width<tile_tokens, even>(tokens);
    const uint32_t first_token = (bands * band + of_band - row_tile * width) * most;
    struct moe_large_tile found;
    found.expert = moe_pairs_matrix(pairs, a);
    found.place = start + first_token;
    found.tokens = tokens - first_token < most ? tokens - first_token : most;
    found.first_row = row_tile * tile_rows;
    return found;
}

#endif
