// SPDX-License-Identifier: MIT
// The loops of bench_peak.h for x86-64, in assembly: registers stay where they are, whatever the compiler and its
// options. 12 sums hide the latency of the slowest instruction on two ports (5 cycles); 4 tiles that of a tile's (52
// cycles, one begins every 16).
#include "bench_peak.h"

#if defined(__x86_64__)
#include <stdint.h>

/* step(0) .. step(11), then the next turn while %0 lasts. */
#define TWELVE(step) step(0) step(1) step(2) step(3) step(4) step(5) step(6) step(7) step(8) step(9) step(10) step(11)
#define TURNS(body) "1:\n" body "dec %0\n jnz 1b\n"
#define LOW_CLOBBERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                     "xmm12", "xmm13", "xmm14", "xmm15", "cc"

/* Numbers that are neither zeros nor denormals, in every kind. */
static const _Alignas(64) float ones[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* Additions and multiplications in turn: what plain C makes of a multiply-add without FMA. */
#define SSE_ADD(i) "addps %%xmm12, %%xmm" #i "\n"
#define SSE_MUL(i) "mulps %%xmm12, %%xmm" #i "\n"
#define SSE_CLEAR(i) "movaps %%xmm12, %%xmm" #i "\n"
static void f32_sse(size_t rounds)
{
    __asm__ volatile("movaps (%1), %%xmm12\n" TWELVE(SSE_CLEAR)
                     TURNS(SSE_ADD(0) SSE_MUL(1) SSE_ADD(2) SSE_MUL(3) SSE_ADD(4) SSE_MUL(5) SSE_ADD(6) SSE_MUL(7)
                           SSE_ADD(8) SSE_MUL(9) SSE_ADD(10) SSE_MUL(11))
                     : "+r"(rounds) : "r"(ones) : LOW_CLOBBERS);
}

#define AVX2_CLEAR(i) "vmovaps %%ymm12, %%ymm" #i "\n"
#define AVX2_FMA(i) "vfmadd231ps %%ymm12, %%ymm12, %%ymm" #i "\n"
__attribute__((target("avx2,fma"))) static void f32_avx2(size_t rounds)
{
    __asm__ volatile("vmovaps (%1), %%ymm12\n" TWELVE(AVX2_CLEAR) TURNS(TWELVE(AVX2_FMA)) "vzeroupper\n"
                     : "+r"(rounds) : "r"(ones) : LOW_CLOBBERS);
}

/* 32 products: pairs to 16 bits, fours to 32 bits, the sum. */
#define AVX2_DOT(i) "vpmaddubsw %%ymm12, %%ymm12, %%ymm13\n vpmaddwd %%ymm12, %%ymm13, %%ymm13\n" \
                    "vpaddd %%ymm13, %%ymm" #i ", %%ymm" #i "\n"
__attribute__((target("avx2"))) static void int8_avx2(size_t rounds)
{
    __asm__ volatile("vmovaps (%1), %%ymm12\n" TWELVE(AVX2_CLEAR) TURNS(TWELVE(AVX2_DOT)) "vzeroupper\n"
                     : "+r"(rounds) : "r"(ones) : LOW_CLOBBERS);
}

#define AVX512_CLEAR(i) "vmovaps %%zmm12, %%zmm" #i "\n"
#define AVX512_FMA(i) "vfmadd231ps %%zmm12, %%zmm12, %%zmm" #i "\n"
__attribute__((target("avx512f"))) static void f32_avx512(size_t rounds)
{
    __asm__ volatile("vmovaps (%1), %%zmm12\n" TWELVE(AVX512_CLEAR) TURNS(TWELVE(AVX512_FMA)) "vzeroupper\n"
                     : "+r"(rounds) : "r"(ones) : LOW_CLOBBERS);
}

#define AVX512_DOT(i) "vpmaddubsw %%zmm12, %%zmm12, %%zmm13\n vpmaddwd %%zmm12, %%zmm13, %%zmm13\n" \
                      "vpaddd %%zmm13, %%zmm" #i ", %%zmm" #i "\n"
__attribute__((target("avx512f,avx512bw"))) static void int8_avx512(size_t rounds)
{
    __asm__ volatile("vmovaps (%1), %%zmm12\n" TWELVE(AVX512_CLEAR) TURNS(TWELVE(AVX512_DOT)) "vzeroupper\n"
                     : "+r"(rounds) : "r"(ones) : LOW_CLOBBERS);
}

#define VNNI_DOT(i) "vpdpbusd %%zmm12, %%zmm12, %%zmm" #i "\n"
__attribute__((target("avx512f,avx512vnni"))) static void int8_avx512vnni(size_t rounds)
{
    __asm__ volatile("vmovaps (%1), %%zmm12\n" TWELVE(AVX512_CLEAR) TURNS(TWELVE(VNNI_DOT)) "vzeroupper\n"
                     : "+r"(rounds) : "r"(ones) : LOW_CLOBBERS);
}

#define BF16_DOT(i) "vdpbf16ps %%zmm12, %%zmm12, %%zmm" #i "\n"
__attribute__((target("avx512f,avx512bf16"))) static void bf16_avx512bf16(size_t rounds)
{
    __asm__ volatile("vmovaps (%1), %%zmm12\n" TWELVE(AVX512_CLEAR) TURNS(TWELVE(BF16_DOT)) "vzeroupper\n"
                     : "+r"(rounds) : "r"(ones) : LOW_CLOBBERS);
}

/* Palette 1; eight tiles of 16 rows of 64 bytes. */
struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};
static const _Alignas(64) struct tile_config config = {
    .palette = 1,
    .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* Every row of the tiles that are multiplied is the same 64 bytes: a stride of 0. */
#define TILES(step)                                                                                          \
    "ldtilecfg (%1)\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n"               \
    "tileloadd (%2,%3,1), %%tmm4\n tileloadd (%2,%3,1), %%tmm5\n"                                            \
    TURNS(step " %%tmm5, %%tmm4, %%tmm0\n" step " %%tmm5, %%tmm4, %%tmm1\n" step " %%tmm5, %%tmm4, %%tmm2\n" \
          step " %%tmm5, %%tmm4, %%tmm3\n")                                                                  \
    "tilerelease\n"

__attribute__((target("amx-tile,amx-int8"))) static void int8_amx(size_t rounds)
{
    __asm__ volatile(TILES("tdpbusd") : "+r"(rounds) : "r"(&config), "r"(ones), "r"((size_t)0) : "cc", "memory");
}

__attribute__((target("amx-tile,amx-bf16"))) static void bf16_amx(size_t rounds)
{
    __asm__ volatile(TILES("tdpbf16ps") : "+r"(rounds) : "r"(&config), "r"(ones), "r"((size_t)0) : "cc", "memory");
}

const struct peak_row peak_rows[] = {
    {PEAK_F32, "c", 12 * 4, f32_sse},
    {PEAK_F32, "avx2", 12 * 16, f32_avx2},
    {PEAK_INT8, "avx2", 12 * 64, int8_avx2},
    {PEAK_F32, "avx512", 12 * 32, f32_avx512},
    {PEAK_INT8, "avx512", 12 * 128, int8_avx512},
    {PEAK_INT8, "avx512vnni", 12 * 128, int8_avx512vnni},
    {PEAK_BF16, "avx512bf16", 12 * 64, bf16_avx512bf16},
    {PEAK_AMX_INT8, "amx", 4 * 2 * 16 * 16 * 64, int8_amx},
    {PEAK_AMX_BF16, "amx", 4 * 2 * 16 * 16 * 32, bf16_amx},
    {0},
};
#else
typedef int bench_peak_x86_is_empty;    /* ISO C has no empty translation unit */
#endif
