// SPDX-License-Identifier: MIT
// linear_q8 on i8mm: panels whose bytes stand by 8 columns, 8 rows, the 8 columns of a row; and their products.
#ifndef MOE_Q8_I8MM_H
#define MOE_Q8_I8MM_H

#include "cpu/arm/q8_panel_neon.h"

/* By kind, Q8_*. */
extern q8_multiply_fn *const moe_q8_multiply_i8mm[4];

#endif
