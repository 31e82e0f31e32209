// SPDX-License-Identifier: MIT
// linear_q8 of iq3_xxs weights on AVX2: a super-block, an f16 factor, 64 rows of a code book, for 32 columns
// signs and a scale in 4 bytes.
#include "cpu/x86/unpack_iq_avx2.h"

static const int8_t magnitudes[16] = {4, 12, 20, 28, 36, 44, 52, 62};

static inline struct q8_group unpack_group(const unsigned char *in)
{
    struct q8_group out;
    uint64_t scales = 0;
    for (size_t u = 0; u < 8; u++) {
        const unsigned char *bytes = in + 2 + 8 * u;
        uint64_t rows[2] = {0};
        uint32_t word;
        for (size_t k = 0; k < 8; k++)
            rows[k / 4] |= (uint64_t)moe_iq_grids_iq3_xxs[bytes[k]] << 16 * (k % 4);
        memcpy(&word, in + 66 + 4 * u, sizeof word);
        __m256i values = spread_nibbles(_mm_set_epi64x((long long)rows[1], (long long)rows[0]), magnitudes);
        out.q[u] = signed_codes(values, even_signs_of(word), 62);
        scales |= (uint64_t)(word >> 28) << 8 * u;
    }
    out.scale[0] = scales_of_iq(load_scale(in), _mm_cvtsi64_si128((long long)scales), 0.5f);
    return out;
}

#define LINEAR_Q8_FN moe_linear_q8_iq3_xxs_avx2
#define GROUP_BYTES 98
#define UNIT_BYTES 98
#define KIND u7
#define OFFSET 62
#include "cpu/x86/linear_q8_tmpl_avx2.h"
