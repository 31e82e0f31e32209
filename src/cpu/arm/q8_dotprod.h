// SPDX-License-Identifier: MIT
// linear_q8 on dotprod: panels whose bytes stand by 4 columns, 8 rows, the 4 columns of a row; and their products.
#ifndef MOE_Q8_DOTPROD_H
#define MOE_Q8_DOTPROD_H

#include "cpu/arm/q8_panel_neon.h"

/* By kind, Q8_*. */
extern q8_multiply_fn *const moe_q8_multiply_dotprod[4];

#endif
