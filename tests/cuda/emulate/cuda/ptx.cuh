// SPDX-License-Identifier: MIT
// Stands in for src/cuda/ptx.cuh: the same names with the same meaning, on the CPU.
#ifndef MOE_CUDA_PTX_CUH
#define MOE_CUDA_PTX_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "half.h"

#define MOE_DEVICE static inline

MOE_DEVICE uint32_t moe_own_register(uint32_t value)
{
    return value;
}

/* ---- tensor cores. Sums are in double, rounded once: inside an mma the hardware has an order of its own ---- */

MOE_DEVICE void moe_mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1, MOE_EMULATE_SITE)
{
    moe_emulate_mma_bf16(d, a, b0, b1, MOE_EMULATE_HERE);
}

/* ---- asynchronous copies from global to shared memory: done by the wait ---- */

MOE_DEVICE uint32_t moe_shared_address(const void *shared)
{
    return moe_emulate_shared_address(shared);
}

MOE_DEVICE void moe_copy_async_16(void *shared, const void *global, uint32_t bytes, MOE_EMULATE_SITE)
{
    moe_emulate_copy_async(shared, global, bytes, MOE_EMULATE_HERE);
}

struct moe_copy_place {
    unsigned char *address;
};

MOE_DEVICE struct moe_copy_place moe_copy_to(void *shared)
{
    struct moe_copy_place place = {(unsigned char *)shared};
    return place;
}

MOE_DEVICE void moe_copy_async_16_once(const struct moe_copy_place &place, uint32_t offset, const void *global,
                                       uint32_t bytes, MOE_EMULATE_SITE)
{
    moe_emulate_copy_async(place.address + offset, global, bytes, MOE_EMULATE_HERE);
}

MOE_DEVICE void moe_copy_async_commit(void)
{
    moe_emulate_copy_commit();
}

template <int pending> MOE_DEVICE void moe_copy_async_wait(void)
{
    moe_emulate_copy_wait(pending);
}

/* ---- bits ---- */

template <int table> MOE_DEVICE uint32_t moe_lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d = 0;
    for (int i = 0; i < 8; i++)
        if (table >> i & 1)
            d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return d;
}

MOE_DEVICE uint32_t moe_mask_or(uint32_t a, uint32_t mask, uint32_t constant)
{
    return (a & mask) | constant;
}

MOE_DEVICE uint32_t moe_permute(uint32_t a, uint32_t b, uint32_t selector)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    uint32_t d = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t nibble = selector >> 4 * i & 15, byte = (uint32_t)(bytes >> 8 * (nibble & 7)) & 0xff;
        d |= (nibble < 8 ? byte : byte >> 7 != 0 ? 0xff : 0) << 8 * i;
    }
    return d;
}

/* ---- pairs of bf16, the first in the low half ---- */

MOE_DEVICE uint32_t moe_bf16x2(float low, float high)
{
    return moe_emulate_round_bf16((double)low) | moe_emulate_round_bf16((double)high) << 16;
}

MOE_DEVICE uint32_t moe_bf16x2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return moe_emulate_fma_bf16(a & 0xffffu, b & 0xffffu, c & 0xffffu) | moe_emulate_fma_bf16(a >> 16, b >> 16, c >> 16)
                                                                             << 16;
}

MOE_DEVICE uint32_t moe_bf16x2_add(uint32_t a, uint32_t b)
{
    return moe_bf16x2_fma(a, 0x3f803f80u, b);
}

MOE_DEVICE uint32_t moe_bf16x2_mul(uint32_t a, uint32_t b)
{
    return moe_bf16x2_fma(a, b, 0x80008000u);
}

MOE_DEVICE float moe_reciprocal_near(float x)
{
    return 1.0f / x;
}

MOE_DEVICE void moe_keep(int32_t value)
{
    (void)value;
}

/* ---- f16, in the low half of a word; pairs with the first in the low half. A NaN becomes 0x7fff ---- */

MOE_DEVICE float moe_f16_value(uint32_t bits)
{
    return moe_f16_to_f32((uint16_t)bits);
}

MOE_DEVICE uint32_t moe_f16x2(float low, float high)
{
    return (low == low ? moe_f32_to_f16(low) : 0x7fffu) | (high == high ? moe_f32_to_f16(high) : 0x7fffu) << 16;
}

/* Two E4M3 codes, in the low half, as a pair of f16. */
MOE_DEVICE uint32_t moe_e4m3_pair(uint32_t codes)
{
    return moe_f16x2(moe_e4m3_to_f32((uint8_t)codes), moe_e4m3_to_f32((uint8_t)(codes >> 8)));
}

/* ---- barriers of a part of a block; 0 is __syncthreads' ---- */

MOE_DEVICE void moe_barrier(int id, int threads, MOE_EMULATE_SITE)
{
    moe_emulate_barrier(id, threads, false, "moe_barrier", MOE_EMULATE_HERE);
}

/* ---- dependent launches: before the wait, what kernels under way have written is hidden ---- */

MOE_DEVICE void moe_wait_for_previous(MOE_EMULATE_SITE)
{
    moe_emulate_wait_for_previous(MOE_EMULATE_HERE);
}

MOE_DEVICE void moe_let_next_start(void)
{
    moe_emulate_let_next_start();
}

#endif
