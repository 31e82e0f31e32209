// SPDX-License-Identifier: MIT
// What only sm_90a has: products of a warpgroup (wgmma), barriers in shared memory that asynchronous copies arrive at,
// registers that move from one warpgroup to another. Include it in code for sm_90a only.
//
// A warpgroup is four warps, the first a multiple of four. d += a b: a 64 x 16 in registers, of warp w the rows 16 w ..
// 16 w + 15 as mma.m16n8k16 has them; b 16 x n in shared memory, n rows of 16 columns; d 64 x n, of warp w the same
// rows, as n / 8 results of m16n8k16. A product runs on its own: until moe_wgmma_wait says that it is done, d and a
// are not to be touched, nor b to be overwritten.
#ifndef MOE_CUDA_WGMMA_CUH
#define MOE_CUDA_WGMMA_CUH

#include "cuda/ptx.cuh"

/* ---- products ---- */

/* What registers and shared memory hold is ready for the products that follow. */
MOE_DEVICE void moe_wgmma_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/* The products since the last commit become a group; then wait until at most `pending` groups are under way. */
MOE_DEVICE void moe_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int pending> MOE_DEVICE void moe_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/* Nothing that reads or writes d moves past this. */
template <int count> MOE_DEVICE void moe_wgmma_hold(float *d)
{
#pragma unroll
    for (int i = 0; i < count; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* Operands are in registers of their own in front of this, and until this: said before their products and behind the
 * wait for them, since ptxas gives a's registers to others as soon as a is not used any more. */
template <int count> MOE_DEVICE void moe_wgmma_hold_operands(uint32_t *a)
{
#pragma unroll
    for (int i = 0; i < count; i++)
        asm volatile("" : "+r"(a[i])::"memory");
}

/* b for moe_wgmma: rows of 128 bytes, 64 columns, whose chunks of 16 bytes are exchanged: chunk c of row r is at c ^ r
 * % 8; row 0 at a multiple of 1024 bytes. Of the 64 columns, 16 s .. 16 s + 15 are the descriptor + 2 s. */
MOE_DEVICE uint64_t moe_wgmma_rows(uint32_t shared)
{
    const uint64_t rows_of_8 = 1024 >> 4, exchanged_128 = 1;
    return exchanged_128 << 62 | rows_of_8 << 32 | 1 << 16 | (shared & 0x3ffff) >> 4;
}

/* d = a b + (add ? d : 0) */
template <int n> __device__ __forceinline__ void moe_wgmma(float *d, const uint32_t *a, uint64_t b, int add);

#define MOE_WGMMA_R0 "%0,%1,%2,%3,%4,%5,%6,%7"
#define MOE_WGMMA_R1 "%8,%9,%10,%11,%12,%13,%14,%15"
#define MOE_WGMMA_R2 "%16,%17,%18,%19,%20,%21,%22,%23"
#define MOE_WGMMA_R3 "%24,%25,%26,%27,%28,%29,%30,%31"
#define MOE_WGMMA_R4 "%32,%33,%34,%35,%36,%37,%38,%39"
#define MOE_WGMMA_R5 "%40,%41,%42,%43,%44,%45,%46,%47"
#define MOE_WGMMA_R6 "%48,%49,%50,%51,%52,%53,%54,%55"
#define MOE_WGMMA_R7 "%56,%57,%58,%59,%60,%61,%62,%63"
#define MOE_WGMMA_R8 "%64,%65,%66,%67,%68,%69,%70,%71"
#define MOE_WGMMA_R9 "%72,%73,%74,%75,%76,%77,%78,%79"
#define MOE_WGMMA_R10 "%80,%81,%82,%83,%84,%85,%86,%87"
#define MOE_WGMMA_R11 "%88,%89,%90,%91,%92,%93,%94,%95"
#define MOE_WGMMA_D(i)                                                                                                 \
    "+f"(d[8 * i]), "+f"(d[8 * i + 1]), "+f"(d[8 * i + 2]), "+f"(d[8 * i + 3]), "+f"(d[8 * i + 4]),                    \
        "+f"(d[8 * i + 5]), "+f"(d[8 * i + 6]), "+f"(d[8 * i + 7])

/* registers: of d; a, b, add: the operands behind them. */
#define MOE_WGMMA(n, registers, a, b, add, ...)                                                                        \
    template <>                                                                                                        \
    __device__ __forceinline__ void moe_wgmma<n>(float *d, const uint32_t *a_, uint64_t b_, int add_)                  \
    {                                                                                                                  \
        asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, " add ", 0;\n\t"                                            \
                     "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" registers "}, {" a "}, " b           \
                     ", p, 1, 1, 0;\n\t}"                                                                              \
                     : __VA_ARGS__                                                                                     \
                     : "r"(a_[0]), "r"(a_[1]), "r"(a_[2]), "r"(a_[3]), "l"(b_), "r"(add_));                            \
    }
#define MOE_WGMMA_TO0 MOE_WGMMA_R0
#define MOE_WGMMA_DS0 MOE_WGMMA_D(0)
#define MOE_WGMMA_TO1 MOE_WGMMA_TO0 "," MOE_WGMMA_R1
#define MOE_WGMMA_DS1 MOE_WGMMA_DS0, MOE_WGMMA_D(1)
#define MOE_WGMMA_TO2 MOE_WGMMA_TO1 "," MOE_WGMMA_R2
#define MOE_WGMMA_DS2 MOE_WGMMA_DS1, MOE_WGMMA_D(2)
#define MOE_WGMMA_TO3 MOE_WGMMA_TO2 "," MOE_WGMMA_R3
#define MOE_WGMMA_DS3 MOE_WGMMA_DS2, MOE_WGMMA_D(3)
#define MOE_WGMMA_TO4 MOE_WGMMA_TO3 "," MOE_WGMMA_R4
#define MOE_WGMMA_DS4 MOE_WGMMA_DS3, MOE_WGMMA_D(4)
#define MOE_WGMMA_TO5 MOE_WGMMA_TO4 "," MOE_WGMMA_R5
#define MOE_WGMMA_DS5 MOE_WGMMA_DS4, MOE_WGMMA_D(5)
#define MOE_WGMMA_TO6 MOE_WGMMA_TO5 "," MOE_WGMMA_R6
#define MOE_WGMMA_DS6 MOE_WGMMA_DS5, MOE_WGMMA_D(6)
#define MOE_WGMMA_TO7 MOE_WGMMA_TO6 "," MOE_WGMMA_R7
#define MOE_WGMMA_DS7 MOE_WGMMA_DS6, MOE_WGMMA_D(7)
#define MOE_WGMMA_TO8 MOE_WGMMA_TO7 "," MOE_WGMMA_R8
#define MOE_WGMMA_DS8 MOE_WGMMA_DS7, MOE_WGMMA_D(8)
#define MOE_WGMMA_TO9 MOE_WGMMA_TO8 "," MOE_WGMMA_R9
#define MOE_WGMMA_DS9 MOE_WGMMA_DS8, MOE_WGMMA_D(9)
#define MOE_WGMMA_TO10 MOE_WGMMA_TO9 "," MOE_WGMMA_R10
#define MOE_WGMMA_DS10 MOE_WGMMA_DS9, MOE_WGMMA_D(10)
#define MOE_WGMMA_TO11 MOE_WGMMA_TO10 "," MOE_WGMMA_R11
#define MOE_WGMMA_DS11 MOE_WGMMA_DS10, MOE_WGMMA_D(11)

MOE_WGMMA(16, MOE_WGMMA_TO0, "%8,%9,%10,%11", "%12", "%13", MOE_WGMMA_DS0)
MOE_WGMMA(32, MOE_WGMMA_TO1, "%16,%17,%18,%19", "%20", "%21", MOE_WGMMA_DS1)
MOE_WGMMA(48, MOE_WGMMA_TO2, "%24,%25,%26,%27", "%28", "%29", MOE_WGMMA_DS2)
MOE_WGMMA(64, MOE_WGMMA_TO3, "%32,%33,%34,%35", "%36", "%37", MOE_WGMMA_DS3)
MOE_WGMMA(80, MOE_WGMMA_TO4, "%40,%41,%42,%43", "%44", "%45", MOE_WGMMA_DS4)
MOE_WGMMA(96, MOE_WGMMA_TO5, "%48,%49,%50,%51", "%52", "%53", MOE_WGMMA_DS5)
MOE_WGMMA(112, MOE_WGMMA_TO6, "%56,%57,%58,%59", "%60", "%61", MOE_WGMMA_DS6)
MOE_WGMMA(128, MOE_WGMMA_TO7, "%64,%65,%66,%67", "%68", "%69", MOE_WGMMA_DS7)
MOE_WGMMA(144, MOE_WGMMA_TO8, "%72,%73,%74,%75", "%76", "%77", MOE_WGMMA_DS8)
MOE_WGMMA(160, MOE_WGMMA_TO9, "%80,%81,%82,%83", "%84", "%85", MOE_WGMMA_DS9)
MOE_WGMMA(176, MOE_WGMMA_TO10, "%88,%89,%90,%91", "%92", "%93", MOE_WGMMA_DS10)
MOE_WGMMA(192, MOE_WGMMA_TO11, "%96,%97,%98,%99", "%100", "%101", MOE_WGMMA_DS11)

/* ---- barriers in shared memory. Phase 0 ends when `count` arrivals have been made, then phase 1 begins, and so on; a
 * wait is for the end of a phase, of which it names the parity ---- */

MOE_DEVICE void moe_phase_init(uint32_t barrier, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

MOE_DEVICE void moe_phase_arrive(uint32_t barrier)
{
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared::cta.b64 state, [%0];\n\t}" ::"r"(barrier)
                 : "memory");
}

/* An arrival that is made when all of this thread's asynchronous copies so far are done. */
MOE_DEVICE void moe_phase_arrive_after_copies(uint32_t barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

MOE_DEVICE void moe_phase_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    do {
        asm volatile("{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
                     "selp.u32 %0, 1, 0, p;\n\t}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (done == 0);
}

/* What this thread has seen written to shared memory, products see too. */
MOE_DEVICE void moe_shared_to_products(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- registers: all warps of a warpgroup give some back, or take some and wait until there are any ---- */

template <int count> MOE_DEVICE void moe_registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

template <int count> MOE_DEVICE void moe_registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

#endif
