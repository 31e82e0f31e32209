// SPDX-License-Identifier: MIT
// linear_q8 of iq2_s weights on AVX2: a super-block, an f16 factor, 32 rows of a code book in 10 bits, 256 signs,
// 16 scales of 4 bits.
#include "cpu/x86/unpack_iq_avx2.h"

static const int8_t magnitudes[16] = {8, 25, 43, 0, 25, 0, 0, 0, 43};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    for (size_t u = 0; u < 8; u++) {
        uint64_t rows = 0;
        for (size_t k = 0; k < 4; k++) {
            unsigned row = in[2 + 4 * u + k] | (in[66 + u] >> 2 * k & 3u) << 8;
            rows |= (uint64_t)moe_iq_grids_iq2_s[row] << 16 * k;
        }
        out.q[u] = signed_codes(spread_pairs(rows, magnitudes), in + 34 + 4 * u, 43);
    }
    scales_of_iq_halves(&out, in, in + 74);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq2_s_avx2
#define GROUP_BYTES 82
#define UNIT_BYTES 82
#define KIND u7_halves
#define OFFSET 43
#include "cpu/x86/linear_q8_tmpl_avx2.h"
