// SPDX-License-Identifier: MIT
// Every instruction that CUDA C has no name for, once. Registers of matrices are as in the PTX manual's section on
// mma.m16n8k16: lane = 4 * g + t holds rows g and g + 8 of A and D, column g of B, columns 2 t and 2 t + 1 of D.
#ifndef MOE_CUDA_PTX_CUH
#define MOE_CUDA_PTX_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#define MOE_DEVICE static __device__ __forceinline__

/* A value that is the same for all threads, in a register of each: ptxas would keep it in one of the warp, which not
 * every instruction reads. The lane's bit is none of those below it: ptxas does not know. */
MOE_DEVICE uint32_t moe_own_register(uint32_t value)
{
    uint32_t d;
    asm("{\n\t.reg .u32 a, b;\n\tmov.u32 a, %%lanemask_lt;\n\tmov.u32 b, %%lanemask_eq;\n\tand.b32 a, a, b;\n\t"
        "or.b32 %0, a, %1;\n\t}"
        : "=r"(d)
        : "r"(value));
    return d;
}

/* ---- tensor cores ---- */

/* d += a b: a 16 x 16 (a0: row g, k 2 t, +1; a1: row g + 8; a2, a3: likewise, k 2 t + 8, +9), b 16 x 8 (b0: k 2 t, +1;
 * b1: k 2 t + 8, +9), both bf16, d f32. */
MOE_DEVICE void moe_mma_bf16(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* ---- asynchronous copies from global to shared memory ---- */

MOE_DEVICE uint32_t moe_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* 16 bytes, both addresses multiples of 16; of the source only `bytes` (0..16) are read, the rest becomes 0. */
MOE_DEVICE void moe_copy_async_16(void *shared, const void *global, uint32_t bytes)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(moe_shared_address(shared)), "l"(global),
                 "r"(bytes)
                 : "memory");
}

/* A place in shared memory for the copies below, its address in a register of the thread. */
struct moe_copy_place {
    uint32_t address;
};

/* ptxas (13.0 at least) makes an illegal instruction of a copy with a policy if it can give a part of the address to a
 * register of the warp. */
MOE_DEVICE struct moe_copy_place moe_copy_to(void *shared)
{
    struct moe_copy_place place = {moe_own_register(moe_shared_address(shared))};
    return place;
}

/* As moe_copy_async_16, to so many bytes behind the place, of memory that nobody reads again soon: since sm_90 it is
 * the first to leave the second cache, which keeps code, lists and activations while weights pass through it. The
 * policy is what createpolicy.fractional.L2::evict_first gives. */
MOE_DEVICE void moe_copy_async_16_once(const struct moe_copy_place &place, uint32_t offset, const void *global,
                                       uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(place.address + offset),
                 "l"(global), "r"(bytes), "l"(0x12f0000000000000ull)
                 : "memory");
#else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place.address + offset), "l"(global), "r"(bytes)
                 : "memory");
#endif
}

/* The copies since the last commit become a group; then wait until at most `pending` groups of this thread are under
 * way. Other threads see the data after a barrier. */
MOE_DEVICE void moe_copy_async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int pending> MOE_DEVICE void moe_copy_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* ---- bits ---- */

/* Each bit by the table of three inputs: table = f(0xf0, 0xcc, 0xaa). */
template <int table> MOE_DEVICE uint32_t moe_lop3(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(table));
    return d;
}

/* (a & mask) | constant */
MOE_DEVICE uint32_t moe_mask_or(uint32_t a, uint32_t mask, uint32_t constant)
{
    return moe_lop3<(0xf0 & 0xcc) | 0xaa>(a, mask, constant);
}

/* Byte i of the result is the byte of a (0 .. 3) or b (4 .. 7) that nibble i of selector names by its lower 3 bits; if
 * bit 3 is set it is 0xff or 0, as that byte's highest bit says. The upper half of selector does not matter. */
MOE_DEVICE uint32_t moe_permute(uint32_t a, uint32_t b, uint32_t selector)
{
    uint32_t d;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(selector));
    return d;
}

/* ---- pairs of bf16, the first in the low half ---- */

MOE_DEVICE uint32_t moe_bf16x2(float low, float high)
{
    uint32_t d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

/* a * b + c, rounded once */
MOE_DEVICE uint32_t moe_bf16x2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
}

MOE_DEVICE uint32_t moe_bf16x2_add(uint32_t a, uint32_t b)
{
    return moe_bf16x2_fma(a, 0x3f803f80u, b);
}

MOE_DEVICE uint32_t moe_bf16x2_mul(uint32_t a, uint32_t b)
{
    return moe_bf16x2_fma(a, b, 0x80008000u);
}

/* 1 / x, off by one unit in the last place at most, for x in 2^-126 .. 2^126. */
MOE_DEVICE float moe_reciprocal_near(float x)
{
    float d;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
    return d;
}

/* The value counts as used: a load for the sake of the cache stays. */
MOE_DEVICE void moe_keep(int32_t value)
{
    asm volatile("" ::"r"(value));
}

/* ---- f16, in the low half of a word; pairs with the first in the low half ---- */

MOE_DEVICE float moe_f16_value(uint32_t bits)
{
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((uint16_t)bits));
    return f;
}

MOE_DEVICE uint32_t moe_f16x2(float low, float high)
{
    uint32_t d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
}

/* Two E4M3 codes, in the low half, as a pair of f16: exactly, NaN stays. Before sm_89 their bits are put into
 * place, 2^8 too small, denormal where the code is, and multiplied; NaN would become 480. */
MOE_DEVICE uint32_t moe_e4m3_pair(uint32_t codes)
{
    uint32_t d;
#if __CUDA_ARCH__ >= 890
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(d) : "h"((uint16_t)codes));
#else
    const uint32_t apart = __byte_perm(codes, 0, 0x1404), magnitude = apart >> 1 & 0x3f803f80u;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"((apart & 0x80008000u) | magnitude), "r"(0x5c005c00u));
    d |= (magnitude + 0x00800080u >> 14 & 0x00010001u) * 0x7fffu;
#endif
    return d;
}

/* ---- barriers of a part of a block; 0 is __syncthreads' ---- */

MOE_DEVICE void moe_barrier(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ---- dependent launches: before sm_90 kernels in a stream do not overlap, and both are nothing ---- */

/* Wait until the kernels before this one are done and what they wrote can be seen. */
MOE_DEVICE void moe_wait_for_previous(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel may start, as far as this block is concerned; it sees nothing of this one before its own wait. */
MOE_DEVICE void moe_let_next_start(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

#endif
