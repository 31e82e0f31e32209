// SPDX-License-Identifier: MIT
// linear of iq4_xs weights on AVX-512, activations in f32: 8 groups of 32 codes of a book of 16 values, each
// with a scale of 6 bits.
#include "cpu/x86/unpack_avx512.h"

static const int8_t book[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static inline void unpack(__m512 out[16], const unsigned char *in)
{
    uint16_t high;
    memcpy(&high, in + 2, sizeof high);
    __m512 d = load_scale(in), values = count_to_f32(book);
    for (int g = 0; g < 8; g++) {
        int scale = (in[4 + g / 2] >> g % 2 * 4 & 15) | (high >> 2 * g & 3) << 4;
        __m512 table = _mm512_mul_ps(_mm512_mul_ps(d, _mm512_set1_ps((float)(scale - 32))), values);
        look_up32(out + 2 * g, table, in + 8 + 16 * g);
    }
}

#define LINEAR_FN moe_linear_iq4_xs_avx512
#define GROUP 256
#define GROUP_BYTES 136
#define BLOCK_VALUES 256
#include "cpu/x86/linear_tmpl_avx512.h"
