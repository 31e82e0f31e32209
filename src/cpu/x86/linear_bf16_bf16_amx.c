// SPDX-License-Identifier: MIT
// linear_bf16 of bf16 weights on AMX: tiles are loaded from where the weights lie.
#include "cpu/x86/linear_bf16_amx.h"

moe_linear_bf16_fn moe_linear_bf16_bf16_amx;
void moe_linear_bf16_bf16_amx(const struct moe_linear_rounded_args *args)
{
    moe_linear_bf16_run_amx(args, NULL, 0);
}
