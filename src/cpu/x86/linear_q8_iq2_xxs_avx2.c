// SPDX-License-Identifier: MIT
// linear_q8 of iq2_xxs weights on AVX2: a super-block, an f16 factor; for 32 columns 4 rows of a code book, their
// signs and a scale in 8 bytes.
#include "cpu/x86/unpack_iq_avx2.h"

static const int8_t magnitudes[16] = {8, 25, 43, 0, 25, 0, 0, 0, 43};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    uint64_t scales = 0;
    for (size_t u = 0; u < 8; u++) {
        const unsigned char *bytes = in + 2 + 8 * u;
        uint64_t rows = 0;
        uint32_t word;
        for (size_t k = 0; k < 4; k++)
            rows |= (uint64_t)moe_iq_grids_iq2_xxs[bytes[k]] << 16 * k;
        memcpy(&word, bytes + 4, sizeof word);
        out.q[u] = signed_codes(spread_pairs(rows, magnitudes), even_signs_of(word), 43);
        scales |= (uint64_t)(word >> 28) << 8 * u;
    }
    out.scale[0] = scales_of_iq(load_scale(in), _mm_cvtsi64_si128((long long)scales), 0.25f);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq2_xxs_avx2
#define GROUP_BYTES 66
#define UNIT_BYTES 66
#define KIND u7
#define OFFSET 43
#include "cpu/x86/linear_q8_tmpl_avx2.h"
