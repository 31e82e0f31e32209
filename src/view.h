// SPDX-License-Identifier: MIT
// Checks on views: is all that a call will touch inside, aligned, and apart from the rest.
#ifndef MOE_VIEW_H
#define MOE_VIEW_H

#include <stdbool.h>
#include <stddef.h>

#include "moe/backend.h"

/* Formats of activations, router, biases: one float a value. */
static inline bool moe_view_is_float(enum moe_format format)
{
    return format == MOE_FORMAT_F32 || format == MOE_FORMAT_F16 || format == MOE_FORMAT_BF16;
}

/* Formats of MOE_INDEX_FORMAT_MAP: never of weights. */
static inline bool moe_view_is_index(enum moe_format format)
{
    return format == MOE_FORMAT_I16 || format == MOE_FORMAT_I32 || format == MOE_FORMAT_I64 || format == MOE_FORMAT_F64;
}

/* Sets of formats that a view may have. */
enum {
    MOE_ALLOW_F32 = 1,
    MOE_ALLOW_FLOAT = 2, /* f32, f16, bf16 */
    MOE_ALLOW_INDEX = 4, /* i32, i64 */
    MOE_ALLOW_I32 = 8,
    MOE_ALLOW_I64 = 16
};

/* A view holds rows x cols values of an allowed format: its stride is at least a row, everything lies inside size, and
 * where bases are addresses values are aligned. Fills in a stride of 0. rows 0 needs no memory. */
bool moe_view_check(struct moe_view *view, size_t rows, size_t cols, unsigned allow, bool addresses);

/* Row r of a checked view. */
static inline struct moe_view moe_view_row(const struct moe_view *view, size_t r)
{
    struct moe_view row = *view;
    row.offset += r * view->stride;
    row.size -= r * view->stride;
    return row;
}

/* From value first on, of a checked dense f32 view. */
static inline struct moe_view moe_view_from(const struct moe_view *view, size_t first)
{
    struct moe_view rest = *view;
    rest.offset += first * sizeof(float);
    rest.size -= first * sizeof(float);
    return rest;
}

/* Addresses that a call touches. */
struct moe_range {
    const unsigned char *begin, *end;
    bool written;
};

/* Of rows x cols values of a checked view; an empty range for an absent view. */
struct moe_range moe_view_range(const struct moe_view *view, size_t rows, size_t cols, bool written);

/* No written range shares a byte with another range. */
bool moe_ranges_apart(const struct moe_range *ranges, size_t count);

#endif
