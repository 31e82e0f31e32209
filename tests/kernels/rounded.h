// SPDX-License-Identifier: MIT
// Rows of int8 activations and blocks of weights taken apart, in plain C from q8.h and the formats' definitions: what
// the checks of quantise and linear_q8 compare kernels with.
#ifndef MOE_TEST_ROUNDED_H
#define MOE_TEST_ROUNDED_H

#include "check.h"
#include "cpu/q8.h"

/* ---- q8_rows.c: one unit of a row of cols columns ---- */

struct q8_unit {
    const int8_t *q;
    float scale, sum;
    int32_t start, half_start[2];
};
struct q8_unit q8_unit_at(const unsigned char *row, size_t cols, size_t unit);
void q8_unit_put(unsigned char *row, size_t cols, size_t unit, const struct q8_unit *from);

/* Largest magnitude of a unit's values; NaN where one of them is not finite. */
float q8_largest(const float *x);
/* A whole row by the definition. What is behind the last unit becomes random bytes and NaN. */
void q8_row_fill(unsigned char *row, size_t cols, const float *x, struct test_rng *rng);

/* ---- taken_apart.c: value = scale * q + minimum ---- */

/* 32 columns: one scale for each 16. */
struct weight_unit {
    float q[MOE_Q8_UNIT];
    float scale[2], minimum[2];
};

/* How a format is taken apart; NULL: not at all, for its codes are no numbers. */
struct weight_kind {
    enum moe_format format;
    size_t codes_at, codes_bytes;    /* the part of a block that holds q */
    unsigned char filled;            /* all bytes of codes this: q is filled_q everywhere */
    float filled_q;
    size_t minimum_at;               /* an f16; 0: no minima */
    bool halves;                     /* scales of 16 columns */
};
const struct weight_kind *weight_kind_of(enum moe_format format);
/* A row of cols columns to cols / 32 units. */
void weights_take_apart(struct weight_unit *out, const struct weight_kind *kind, const unsigned char *w, size_t cols);

#endif
