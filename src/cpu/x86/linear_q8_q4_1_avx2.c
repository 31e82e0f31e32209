// SPDX-License-Identifier: MIT
// linear_q8 of q4_1 weights on AVX2: an f16 scale and an f16 offset, 32 nibbles.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = nibbles_of_unit(in + u * 20 + 4);
    out.scale[0] = block_scales(in, 20);
    out.minimum[0] = block_scales(in + 2, 20);
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    for (size_t u = 0; u < out->num_units; u++) {
        __m256i quads[Q8_QUADS];
        load_nibbles_of_unit(quads, out, u * 20 + 4);
        put_quads(out, u, quads);
        put_scale(out, u, 0, load_halves(out->rows, u * 20));
        put_minimum(out, u, 0, load_halves(out->rows, u * 20 + 2));
    }
}

#define LINEAR_Q8_FN moe_linear_q8_q4_1_avx2
#define GROUP_BYTES 160
#define UNIT_BYTES 20
#define KIND u4_minima
#define PACK_GROUP pack_columns
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
