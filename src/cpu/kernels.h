// SPDX-License-Identifier: MIT
// The CPU backend's kernels: what each operation computes, the levels of instruction sets, and the table of the best
// kernel for each. A row in c.def or x86/avx2.def registers a kernel for everything: dispatch, tests, bench, listing.
#ifndef MOE_CPU_KERNELS_H
#define MOE_CPU_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/backend.h"

/* ---- what kernels compute ------------------------------------------------------------------------------- */

/* y[t * y_stride + r] = sum over c < cols of w[r,c] * x[row(t) * x_stride + c],   row(t) = x_rows ? x_rows[t] : t
 *
 * cols is a whole number of the format's blocks. w may lie at any address, x and y are aligned to 4. y overlaps
 * nothing. The sum of one (r, t) has one order, whatever rows, num_tokens, r and t are: segments of
 * MOE_LINEAR_SEGMENT columns, the last may be shorter; within a segment a fixed set of lanes (column modulo the lanes),
 * which a fixed tree adds up; segments ascending; all in f32. How many lanes, and whether products are fused, is the
 * level's; one with 16 lanes may take segments of twice the columns: no lane sums more than 32 products. Each row of w
 * is unpacked once for all tokens. */
enum { MOE_LINEAR_SEGMENT = 256 };
struct moe_linear_args {
    float *y;
    size_t y_stride;          /* floats, token to token */
    const unsigned char *w;
    size_t w_stride;          /* bytes, row to row */
    const float *x;
    size_t x_stride;          /* floats, row to row */
    const int32_t *x_rows;    /* [num_tokens]; NULL: 0, 1, 2, ... */
    size_t rows, cols, num_tokens;
    const unsigned char *next;    /* where the weights begin that the caller reads after these; NULL: not known */
};
typedef void moe_linear_fn(const struct moe_linear_args *args);

/* The same of a matrix whose scales lie apart; first_row is the row of the matrix that w begins with. A value is
 * (q - (zero + zero_offset)) * (scale * factor), each step rounded to f32; sums as above. */
struct moe_linear_scaled_args {
    struct moe_linear_args linear;
    const struct moe_slice_scales *scales;
    size_t first_row;
};
typedef void moe_linear_scaled_fn(const struct moe_linear_scaled_args *args);

/* The same with activations that are rounded below f32, rows of bytes: int8 (q8.h) for linear_q8, bf16 for linear_bf16.
 * y, x and x_rows as above; x is aligned to 64. scratch: MOE_ROUNDED_SCRATCH bytes, aligned to 64, of the caller's
 * own. next: where the weights begin that the caller will read after these, fetched meanwhile; NULL: not known.
 *
 * linear_q8: the sum of one (r, t) is over units of 32 columns. A unit's sum of int8 products is exact; its scale is
 * s = scale of w * scale of x, rounded to f32. Segments of MOE_Q8_SEGMENT columns; in each, lane l = 0..7 sums the
 * units u of the segment with u mod 8 = l, ascending: acc = fma(unit's sum, s, acc), from 0; where the format has
 * minima then acc = fma(minimum, x's scaled sum of the unit, acc); a format with scales for 16 columns does this for
 * each half in turn. y = 0, then y = y + lane 0, y = y + lane 1, ... of each segment in turn.
 *
 * linear_bf16: products of two bf16 values; the order is the level's own, the same for any rows and num_tokens. Weights
 * of other formats become bf16, each value rounded once. A level may have both for a format: round_cpu.c chooses. */
enum { MOE_Q8_UNIT = 32, MOE_Q8_LANES = 8, MOE_Q8_GROUP = 256, MOE_Q8_SEGMENT = 2048, MOE_ROUNDED_SCRATCH = 448 << 10 };
struct moe_linear_rounded_args {
    float *y;
    size_t y_stride;          /* floats, token to token */
    const unsigned char *w;
    size_t w_stride;          /* bytes, row to row */
    const unsigned char *x;
    size_t x_stride;          /* bytes, row to row */
    const int32_t *x_rows;    /* [num_tokens]; NULL: 0, 1, 2, ... */
    size_t rows, cols, num_tokens;
    void *scratch;
    const unsigned char *next;
};
typedef void moe_linear_q8_fn(const struct moe_linear_rounded_args *args);
typedef void moe_linear_bf16_fn(const struct moe_linear_rounded_args *args);

/* Columns first.. first + n of a row of cols columns, all whole units, to int8: q8.h says what of. */
typedef void moe_quantise_fn(unsigned char *row, size_t cols, size_t first, const float *x, size_t n);

/* y[i] = act(g[i]) * (u[i] + up_offset), clamped as act says; not gated: y[i] = act(g[i]), u is not read. y may be g.
 * act has alpha filled in. */
typedef void moe_glu_fn(float *y, const float *g, const float *u, size_t n, const struct moe_act *act, bool gated);

/* F32, F16, BF16: y[i] = x[i], to f32 and from f32, rounded to nearest even. Aligned to their values. */
typedef void moe_load_fn(float *y, const void *x, size_t n);
typedef void moe_store_fn(void *y, const float *x, size_t n);

/* F32, F16, BF16 (y): y[i] = a * x[i], or y[i] = y[i] + a * x[i] in f32, rounded to y's format once. */
typedef void moe_scaled_add_fn(void *y, const float *x, float a, size_t n, bool accumulate);

/* logits[t * logits_stride + r] = sum over c of w[r,c] * x[t,c], plus bias[r], in double: products are exact, sums have
 * one order whatever rows and num_tokens are. */
struct moe_router_args {
    double *logits;
    size_t logits_stride;     /* doubles, token to token */
    const float *w;           /* [rows, cols], dense */
    const float *bias;        /* [rows]; NULL: none */
    const float *x;
    size_t x_stride;          /* floats, row to row */
    size_t rows, cols, num_tokens;
};
typedef void moe_router_fn(const struct moe_router_args *args);

/* ---- operations and levels -------------------------------------------------------------------------------- */

/* Operations with a slot for each format of weights, and with one slot. moe_<op>_fn is the type of the kernel. */
#define MOE_FORMAT_OP_MAP(X) X(linear) X(linear_scaled) X(linear_q8) X(linear_bf16) X(load) X(store) X(scaled_add)
#define MOE_PLAIN_OP_MAP(X)  X(glu) X(router) X(quantise)

enum moe_op {
#define MOE_OP_ENUM(op) MOE_OP_##op,
    MOE_FORMAT_OP_MAP(MOE_OP_ENUM) MOE_PLAIN_OP_MAP(MOE_OP_ENUM)
#undef MOE_OP_ENUM
    MOE_NUM_OPS
};

/* X(NAME, name), ascending: a later level overwrites an earlier one. x86-64 has those from avx2 on, AArch64 those from
 * neon on. */
#define MOE_LEVEL_MAP(X)                                                                                   \
    X(C, c)                                                                                                \
    X(AVX2, avx2) X(AVX512, avx512) X(AVX512VNNI, avx512vnni) X(AVX512BF16, avx512bf16) X(AMX, amx)        \
    X(NEON, neon) X(DOTPROD, dotprod) X(I8MM, i8mm)

enum moe_level {
#define MOE_LEVEL_ENUM(NAME, name) MOE_LEVEL_##NAME,
    MOE_LEVEL_MAP(MOE_LEVEL_ENUM)
#undef MOE_LEVEL_ENUM
    MOE_NUM_LEVELS
};

/* Formats of weights, counted without holes in the order of MOE_FORMAT_MAP, as moe_format_at() does. */
enum moe_format_index {
#define MOE_INDEX_ENUM(id, NAME, name, values, bytes) MOE_INDEX_##NAME,
    MOE_FORMAT_MAP(MOE_INDEX_ENUM)
#undef MOE_INDEX_ENUM
    MOE_NUM_FORMATS,
    MOE_INDEX_NONE = MOE_NUM_FORMATS
};

const char *moe_kernels_op_name(enum moe_op op);
const char *moe_kernels_level_name(enum moe_level level);
/* false: no level of that name. */
bool moe_kernels_level_find(const char *name, enum moe_level *out);
/* MOE_INDEX_NONE: no format of weights. */
enum moe_format_index moe_kernels_index(enum moe_format format);

/* ---- every kernel of this build ----------------------------------------------------------------------------- */

/* One row of a .def. fn is of the type of op: cast it back before the call. */
struct moe_kernel_row {
    enum moe_op op;
    enum moe_format_index index;    /* MOE_INDEX_NONE: an operation without formats */
    enum moe_level level;
    void (*fn)(void);
};

/* Row i = 0, 1, ... of all levels, ascending, whether this machine can run it (moe_cpuid_has) or not; NULL past the
 * last. Static storage. */
const struct moe_kernel_row *moe_kernels_row(size_t i);

/* ---- the table ---------------------------------------------------------------------------------------------- */

/* The best kernel for each operation. Where the level c has none for a format, the slot is NULL. */
struct moe_kernels {
#define MOE_KERNELS_FORMAT_SLOT(op) moe_##op##_fn *op[MOE_NUM_FORMATS];
#define MOE_KERNELS_PLAIN_SLOT(op) moe_##op##_fn *op;
    MOE_FORMAT_OP_MAP(MOE_KERNELS_FORMAT_SLOT) MOE_PLAIN_OP_MAP(MOE_KERNELS_PLAIN_SLOT)
#undef MOE_KERNELS_FORMAT_SLOT
#undef MOE_KERNELS_PLAIN_SLOT
    /* The row that filled each slot; plain operations at index 0. */
    const struct moe_kernel_row *rows[MOE_NUM_OPS][MOE_NUM_FORMATS];
};

/* Fill the table with the kernels of the levels up to cap that this machine has. */
void moe_kernels_init(struct moe_kernels *kernels, enum moe_level cap);

#endif
