// SPDX-License-Identifier: MIT
// linear_q8 of q4_k weights on AVX2: a super-block, two f16 factors, 8 scales and minima of 6 bits, 256
// nibbles.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t i = 0; i < 4; i++) {
        __m256i bytes = load32(in + 16 + 32 * i);
        out.q[2 * i] = low_nibbles(bytes);
        out.q[2 * i + 1] = high_nibbles(bytes);
    }
    scales_of_k(&out, in);
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    put_scales_of_k(out);
    for (size_t i = 0; i < 8; i++) {    /* half of two units */
        __m256i bytes[4];
        load_columns(bytes, out->rows, 16 + 16 * i);
        for (size_t j = 0; j < 4; j++) {
            put_quad(out, i / 2 * 2, i % 2 * 4 + j, low_nibbles(bytes[j]));
            put_quad(out, i / 2 * 2 + 1, i % 2 * 4 + j, high_nibbles(bytes[j]));
        }
    }
}

#define LINEAR_Q8_FN moe_linear_q8_q4_k_avx2
#define GROUP_BYTES 144
#define UNIT_BYTES 144
#define KIND u4_minima
#define PACK_GROUP pack_columns
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
