// SPDX-License-Identifier: MIT
// What the K formats with minima share: blocks of 256 values, value = (d * scale) * q - (dmin * minimum), in groups
// that have a whole scale and minimum each. The search for all of these, and the 6-bit scales of Q4_K and Q5_K.
#ifndef MOE_FORMAT_LINES_H
#define MOE_FORMAT_LINES_H

#include <stddef.h>
#include <stdint.h>

enum { MOE_LINES_VALUES = 256, MOE_LINES_MOST_GROUPS = 16, MOE_LINES_MOST_GROUP = 32, MOE_LINES_SIX_BITS = 12 };

struct moe_lines_solution {
    double error;      /* the sum of squares */
    uint16_t d;        /* f16 */
    uint16_t dmin;
    uint8_t scales[MOE_LINES_MOST_GROUPS];
    uint8_t minima[MOE_LINES_MOST_GROUPS];
    uint8_t q[MOE_LINES_VALUES];
};

struct moe_lines_shape {
    int num_groups;
    int most_q;        /* q is 0 .. most_q */
    int most_scale;    /* of scales and minima alike */
    int reach;         /* how far from the nearest scale and minimum others are tried */
    size_t block_bytes;
    size_t d_offset;   /* where a block has d */
    void (*pack)(void *block, const struct moe_lines_solution *solution);   /* into zeros */
};

/* Values that are NaN, infinite or too large for the format get a block of zeros with d = NaN. */
void moe_lines_quantise(void *out, const float *in, size_t num_blocks, const struct moe_lines_shape *shape);

/* Scales and minima of 8 groups in 12 bytes: the lower 6 bits of bytes 0 .. 3 are scales 0 .. 3, those of bytes 4 .. 7
 * minima 0 .. 3; byte 8 + j has the lower 4 bits of scale 4 + j (low nibble) and of minimum 4 + j (high nibble), and
 * their upper 2 bits are bits 6 and 7 of bytes j and 4 + j. */
static inline void moe_lines_pack(uint8_t packed[MOE_LINES_SIX_BITS], const uint8_t *scales, const uint8_t *minima)
{
    for (int j = 0; j < 4; j++) {
        packed[j] = (uint8_t)(scales[j] | (scales[4 + j] >> 4) << 6);
        packed[4 + j] = (uint8_t)(minima[j] | (minima[4 + j] >> 4) << 6);
        packed[8 + j] = (uint8_t)((scales[4 + j] & 15) | (minima[4 + j] & 15) << 4);
    }
}

static inline void moe_lines_unpack(uint8_t scales[8], uint8_t minima[8], const uint8_t packed[MOE_LINES_SIX_BITS])
{
    for (int j = 0; j < 4; j++) {
        scales[j] = packed[j] & 63;
        minima[j] = packed[4 + j] & 63;
        scales[4 + j] = (uint8_t)((packed[8 + j] & 15) | (packed[j] >> 6) << 4);
        minima[4 + j] = (uint8_t)(packed[8 + j] >> 4 | (packed[4 + j] >> 6) << 4);
    }
}

#endif
