// SPDX-License-Identifier: MIT
// linear of iq4_nl weights on AVX-512, activations in f32: an f16 scale, 32 codes of a book of 16 values.
#include "cpu/x86/unpack_avx512.h"

static const int8_t book[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static inline void unpack(__m512 out[2], const unsigned char *in)
{
    look_up32(out, _mm512_mul_ps(load_scale(in), count_to_f32(book)), in + 2);
}

#define LINEAR_FN moe_linear_iq4_nl_avx512
#define GROUP 32
#define GROUP_BYTES 18
#define BLOCK_VALUES 32
#include "cpu/x86/linear_tmpl_avx512.h"
