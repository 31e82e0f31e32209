// SPDX-License-Identifier: MIT
// linear_bf16 on AMX, of weights in any format that can be unpacked to bf16 (linear_bf16_run_amx.c).
#ifndef MOE_LINEAR_BF16_AMX_H
#define MOE_LINEAR_BF16_AMX_H

#include "cpu/kernels.h"

/* Tiles that weights are unpacked to, next to each other: 32 columns of 32 rows, of 64 bytes each. */
enum { MOE_BF16_PANEL_ROWS = 32, MOE_BF16_PANEL_BYTES = MOE_BF16_PANEL_ROWS * 64 };

/* num_units units of 32 columns, at most a group's 8, of num_rows rows at w, each value rounded to bf16 once. Unit u of
 * row r goes to out + u * MOE_BF16_PANEL_BYTES + r * 64. */
typedef void moe_bf16_unpack_fn(unsigned char *out, const unsigned char *w, size_t w_stride, size_t num_rows,
                                size_t num_units);

/* unpack NULL: the weights are bf16. group_bytes: of MOE_Q8_GROUP columns of a row. */
void moe_linear_bf16_run_amx(const struct moe_linear_rounded_args *args, moe_bf16_unpack_fn *unpack,
                             size_t group_bytes);

#endif
