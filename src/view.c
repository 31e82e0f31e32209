// SPDX-License-Identifier: MIT
// Checks on views.
#include "view.h"

#include "check.h"

static bool format_allowed(enum moe_format format, unsigned allow)
{
    if (moe_view_is_float(format))
        return (allow & MOE_ALLOW_FLOAT) != 0 || (format == MOE_FORMAT_F32 && (allow & MOE_ALLOW_F32) != 0);
    if (format == MOE_FORMAT_I32)
        return (allow & (MOE_ALLOW_INDEX | MOE_ALLOW_I32)) != 0;
    return format == MOE_FORMAT_I64 && (allow & (MOE_ALLOW_INDEX | MOE_ALLOW_I64)) != 0;
}

bool moe_view_check(struct moe_view *view, size_t rows, size_t cols, unsigned allow, bool addresses)
{
    if (view->base == NULL || !format_allowed(view->format, allow))
        return false;
    size_t row_bytes = moe_format_row_bytes(view->format, cols), end, bytes = 0;
    if (row_bytes == 0 && cols > 0)
        return false;
    if (view->stride == 0)
        view->stride = row_bytes;
    if (rows > 0 && (!moe_mul(&bytes, rows - 1, view->stride) || !moe_add(&bytes, bytes, row_bytes)))
        return false;
    if ((rows > 1 && view->stride < row_bytes) || bytes > view->size || !moe_add(&end, view->offset, view->size))
        return false;
    if (!addresses)
        return true;
    size_t align = moe_format_info(view->format)->block_bytes;
    return end <= UINTPTR_MAX - (uintptr_t)view->base && ((uintptr_t)view->base + view->offset) % align == 0 &&
           view->stride % align == 0;
}

struct moe_range moe_view_range(const struct moe_view *view, size_t rows, size_t cols, bool written)
{
    struct moe_range range = {NULL, NULL, written};
    if (view->base == NULL || rows == 0)
        return range;
    range.begin = (const unsigned char *)view->base + view->offset;
    range.end = range.begin + (rows - 1) * view->stride + moe_format_row_bytes(view->format, cols);
    return range;
}

bool moe_ranges_apart(const struct moe_range *ranges, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!ranges[i].written || ranges[i].begin == ranges[i].end)
            continue;
        for (size_t j = 0; j < count; j++)
            if (j != i && ranges[j].begin != ranges[j].end && (uintptr_t)ranges[i].begin < (uintptr_t)ranges[j].end &&
                (uintptr_t)ranges[j].begin < (uintptr_t)ranges[i].end)
                return false;
    }
    return true;
}
