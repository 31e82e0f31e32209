// SPDX-License-Identifier: MIT
// linear_q8 of q8_0 weights on AVX2: an f16 scale, 32 int8.
#include "cpu/x86/columns_avx2.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = load32(in + u * 34 + 2);
    out.scale[0] = block_scales(in, 34);
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    for (size_t u = 0; u < out->num_units; u++) {
        __m256i quads[Q8_QUADS];
        load_columns(quads, out->rows, u * 34 + 2);
        load_columns(quads + 4, out->rows, u * 34 + 18);
        put_quads(out, u, quads);
        put_scale(out, u, 0, load_halves(out->rows, u * 34));
    }
}

#define LINEAR_Q8_FN moe_linear_q8_q8_0_avx2
#define GROUP_BYTES 272
#define UNIT_BYTES 34
#define KIND s8
#define PACK_GROUP pack_columns
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
