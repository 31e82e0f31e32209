// SPDX-License-Identifier: MIT
// The table of kernels: the rows of all levels, and the cascade that picks the best of them for a machine.
#include "cpu/kernels.h"

#include <string.h>

#include "check.h"
#include "cpu/cpuid.h"

typedef void any_fn(void);

#define LEVEL_PASTE(a, b) a##_##b
#define LEVEL_JOIN(a, b) LEVEL_PASTE(a, b)

#define LEVEL c
#define LEVEL_NAME C
#define LEVEL_DEF "cpu/c.def"
#include "cpu/level_tmpl.h"

#if defined(__x86_64__)
#define LEVEL avx2
#define LEVEL_NAME AVX2
#define LEVEL_DEF "cpu/x86/avx2.def"
#include "cpu/level_tmpl.h"

#define LEVEL avx512
#define LEVEL_NAME AVX512
#define LEVEL_DEF "cpu/x86/avx512.def"
#include "cpu/level_tmpl.h"

#define LEVEL avx512vnni
#define LEVEL_NAME AVX512VNNI
#define LEVEL_DEF "cpu/x86/avx512vnni.def"
#include "cpu/level_tmpl.h"

#define LEVEL avx512bf16
#define LEVEL_NAME AVX512BF16
#define LEVEL_DEF "cpu/x86/avx512bf16.def"
#include "cpu/level_tmpl.h"

#define LEVEL amx
#define LEVEL_NAME AMX
#define LEVEL_DEF "cpu/x86/amx.def"
#include "cpu/level_tmpl.h"
#endif

#if defined(__aarch64__)
#define LEVEL neon
#define LEVEL_NAME NEON
#define LEVEL_DEF "cpu/arm/neon.def"
#include "cpu/level_tmpl.h"

#define LEVEL dotprod
#define LEVEL_NAME DOTPROD
#define LEVEL_DEF "cpu/arm/dotprod.def"
#include "cpu/level_tmpl.h"

#define LEVEL i8mm
#define LEVEL_NAME I8MM
#define LEVEL_DEF "cpu/arm/i8mm.def"
#include "cpu/level_tmpl.h"
#endif

static const struct {
    const struct moe_kernel_row *rows;
    size_t count;
} levels[MOE_NUM_LEVELS] = {
    [MOE_LEVEL_C] = {rows_c, MOE_ARRAY_SIZE(rows_c)},
#if defined(__x86_64__)
    [MOE_LEVEL_AVX2] = {rows_avx2, MOE_ARRAY_SIZE(rows_avx2)},
    [MOE_LEVEL_AVX512] = {rows_avx512, MOE_ARRAY_SIZE(rows_avx512)},
    [MOE_LEVEL_AVX512VNNI] = {rows_avx512vnni, MOE_ARRAY_SIZE(rows_avx512vnni)},
    [MOE_LEVEL_AVX512BF16] = {rows_avx512bf16, MOE_ARRAY_SIZE(rows_avx512bf16)},
    [MOE_LEVEL_AMX] = {rows_amx, MOE_ARRAY_SIZE(rows_amx)},
#endif
#if defined(__aarch64__)
    [MOE_LEVEL_NEON] = {rows_neon, MOE_ARRAY_SIZE(rows_neon)},
    [MOE_LEVEL_DOTPROD] = {rows_dotprod, MOE_ARRAY_SIZE(rows_dotprod)},
    [MOE_LEVEL_I8MM] = {rows_i8mm, MOE_ARRAY_SIZE(rows_i8mm)},
#endif
};

const struct moe_kernel_row *moe_kernels_row(size_t i)
{
    for (size_t level = 0; level < MOE_NUM_LEVELS; level++) {
        if (i < levels[level].count)
            return &levels[level].rows[i];
        i -= levels[level].count;
    }
    return NULL;
}

static const char *const op_names[MOE_NUM_OPS] = {
#define OP_NAME(op) #op,
    MOE_FORMAT_OP_MAP(OP_NAME) MOE_PLAIN_OP_MAP(OP_NAME)
#undef OP_NAME
};

static const char *const level_names[MOE_NUM_LEVELS] = {
#define LEVEL_STRING(NAME, name) #name,
    MOE_LEVEL_MAP(LEVEL_STRING)
#undef LEVEL_STRING
};

const char *moe_kernels_op_name(enum moe_op op)
{
    return op_names[op];
}

const char *moe_kernels_level_name(enum moe_level level)
{
    return level_names[level];
}

bool moe_kernels_level_find(const char *name, enum moe_level *out)
{
    for (size_t level = 0; level < MOE_NUM_LEVELS; level++) {
        if (strcmp(name, level_names[level]) == 0) {
            *out = (enum moe_level)level;
            return true;
        }
    }
    return false;
}

enum moe_format_index moe_kernels_index(enum moe_format format)
{
    switch ((unsigned)format) {    /* not a search: calls ask for every block of rows */
#define FORMAT_CASE(id, NAME, name, values, bytes) \
    case MOE_FORMAT_##NAME:                        \
        return MOE_INDEX_##NAME;
        MOE_FORMAT_MAP(FORMAT_CASE)
#undef FORMAT_CASE
    default:
        return MOE_INDEX_NONE;
    }
}

static void set_slot(struct moe_kernels *kernels, const struct moe_kernel_row *row)
{
    switch (row->op) {
#define SET_FORMAT_SLOT(op_)                                       \
    case MOE_OP_##op_:                                             \
        kernels->op_[row->index] = (moe_##op_##_fn *)row->fn;      \
        kernels->rows[row->op][row->index] = row;                  \
        break;
#define SET_PLAIN_SLOT(op_)                                        \
    case MOE_OP_##op_:                                             \
        kernels->op_ = (moe_##op_##_fn *)row->fn;                  \
        kernels->rows[row->op][0] = row;                           \
        break;
        MOE_FORMAT_OP_MAP(SET_FORMAT_SLOT) MOE_PLAIN_OP_MAP(SET_PLAIN_SLOT)
#undef SET_FORMAT_SLOT
#undef SET_PLAIN_SLOT
    case MOE_NUM_OPS:
        break;
    }
}

void moe_kernels_init(struct moe_kernels *kernels, enum moe_level cap)
{
    memset(kernels, 0, sizeof *kernels);
    for (size_t level = 0; level <= (size_t)cap; level++) {
        bool has = levels[level].count > 0 && moe_cpuid_has((enum moe_level)level);
        for (size_t i = 0; has && i < levels[level].count; i++)
            set_slot(kernels, &levels[level].rows[i]);
    }
}
