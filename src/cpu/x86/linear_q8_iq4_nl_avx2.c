// SPDX-License-Identifier: MIT
// linear_q8 of iq4_nl weights on AVX2: an f16 scale, 32 codes of a book of 16 values.
#include "cpu/x86/columns_avx2.h"
#include "format/iq4.h"

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++)
        out.q[u] = look_up(iq4_values, nibbles_of_unit(in + u * 18 + 2));
    out.scale[0] = block_scales(in, 18);
    return out;
}

static inline void pack_columns(const struct q8_columns *out)
{
    for (size_t u = 0; u < out->num_units; u++) {
        __m256i quads[Q8_QUADS];
        load_nibbles_of_unit(quads, out, u * 18 + 2);
        for (size_t i = 0; i < Q8_QUADS; i++)
            quads[i] = look_up(iq4_values, quads[i]);
        put_quads(out, u, quads);
        put_scale(out, u, 0, load_halves(out->rows, u * 18));
    }
}

#define LINEAR_Q8_FN moe_linear_q8_iq4_nl_avx2
#define GROUP_BYTES 144
#define UNIT_BYTES 18
#define KIND s8
#define PACK_GROUP pack_columns
#define OFFSET 0
#include "cpu/x86/linear_q8_tmpl_avx2.h"
