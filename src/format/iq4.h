// SPDX-License-Identifier: MIT
// What IQ4_NL and IQ4_XS share: their code book of 16 values.
#ifndef MOE_FORMAT_IQ4_H
#define MOE_FORMAT_IQ4_H

#include <stdint.h>

#include "inline.h"

/* What the codes 0 .. 15 stand for, in units of the scale. Finer about 0, and not symmetric: there is no 0. */
#define IQ4_VALUES -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113
static const int8_t iq4_values[16] = {IQ4_VALUES};

/* The value of the book nearest to each x * inverse: each middle that is passed adds a step. */
static inline void iq4_round(int8_t *q, const float *x, float inverse, int n)
{
    for (int i = 0; i < n; i++) {
        float scaled = x[i] * inverse;
        int value = iq4_values[0];
        for (int j = 0; j < 15; j++)
            value += scaled > 0.5f * (float)(iq4_values[j] + iq4_values[j + 1]) ? iq4_values[j + 1] - iq4_values[j] : 0;
        q[i] = (int8_t)value;
    }
}

static inline uint8_t iq4_code(int8_t value)
{
    uint8_t code = 0;
    while (code < 15 && iq4_values[code] < value)
        code++;
    return code;
}

/* 32 values, whose codes are in low nibbles (0 .. 15) and high nibbles (16 .. 31): looked up as bytes, so that
 * compilers vectorise the rest. (Sums of steps in place of the look-up are slower: there are too many.) */
static inline void iq4_dequantise(float *MOE_RESTRICT out, const uint8_t *MOE_RESTRICT q, float d)
{
    int8_t values[32];
    for (int i = 0; i < 16; i++) {
        values[i] = iq4_values[q[i] & 15];
        values[i + 16] = iq4_values[q[i] >> 4];
    }
    for (int i = 0; i < 32; i++)
        out[i] = d * (float)values[i];
}

#endif
