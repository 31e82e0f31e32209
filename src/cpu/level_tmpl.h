// SPDX-License-Identifier: MIT
// Body of kernels.c for one level: declares the kernels of a .def and lists them in rows_<level>[].
// Parameters: LEVEL c, LEVEL_NAME C, LEVEL_DEF "cpu/c.def".
#if !defined(LEVEL) || !defined(LEVEL_NAME) || !defined(LEVEL_DEF)
#error "level_tmpl.h needs LEVEL, LEVEL_NAME and LEVEL_DEF"
#endif

#define KERNEL_FMT(op, NAME, name) moe_##op##_fn LEVEL_JOIN(moe_##op##_##name, LEVEL);
#define KERNEL(op) moe_##op##_fn LEVEL_JOIN(moe_##op, LEVEL);
#include LEVEL_DEF
#undef KERNEL_FMT
#undef KERNEL

static const struct moe_kernel_row LEVEL_JOIN(rows, LEVEL)[] = {
#define KERNEL_FMT(op, NAME, name) \
    {MOE_OP_##op, MOE_INDEX_##NAME, LEVEL_JOIN(MOE_LEVEL, LEVEL_NAME), (any_fn *)LEVEL_JOIN(moe_##op##_##name, LEVEL)},
#define KERNEL(op) \
    {MOE_OP_##op, MOE_INDEX_NONE, LEVEL_JOIN(MOE_LEVEL, LEVEL_NAME), (any_fn *)LEVEL_JOIN(moe_##op, LEVEL)},
#include LEVEL_DEF
#undef KERNEL_FMT
#undef KERNEL
};

#undef LEVEL
#undef LEVEL_NAME
#undef LEVEL_DEF
