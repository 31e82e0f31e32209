// SPDX-License-Identifier: MIT
// The table of formats, and the functions of moe/format.h over it. A new format is a row of MOE_FORMAT_MAP and a file
// of its own; nothing changes here.
#include <stdbool.h>

#include "format/format_def.h"
#include "moe/moe.h"

struct format_row {
    struct moe_format_info info;
    const struct moe_format_def *def;   /* NULL: indices */
};

static const struct format_row format_rows[] = {
#define WEIGHT_ROW(id, NAME, name, values, bytes) {{MOE_FORMAT_##NAME, #name, values, bytes}, &moe_format_def_##NAME},
#define INDEX_ROW(id, NAME, name, values, bytes) {{MOE_FORMAT_##NAME, #name, values, bytes}, NULL},
    MOE_FORMAT_MAP(WEIGHT_ROW) MOE_INDEX_FORMAT_MAP(INDEX_ROW)
#undef WEIGHT_ROW
#undef INDEX_ROW
};

enum { NUM_FORMATS = sizeof format_rows / sizeof format_rows[0] };

static const struct format_row *find_row(enum moe_format format)
{
    for (size_t i = 0; i < NUM_FORMATS; i++) {
        if (format_rows[i].info.format == format)
            return &format_rows[i];
    }
    return NULL;
}

/* Whether two names are equal but for the case of ASCII letters, whatever the locale; names are lower case. */
static bool is_name(const char *name, const char *text)
{
    for (; *name != '\0'; name++, text++) {
        char c = *text >= 'A' && *text <= 'Z' ? (char)(*text - 'A' + 'a') : *text;
        if (c != *name)
            return false;
    }
    return *text == '\0';
}

const struct moe_format_info *moe_format_at(size_t i)
{
    return i < NUM_FORMATS && format_rows[i].def ? &format_rows[i].info : NULL;
}

const struct moe_format_info *moe_format_info(enum moe_format format)
{
    const struct format_row *row = find_row(format);
    return row ? &row->info : NULL;
}

const struct moe_format_info *moe_format_find(const char *name)
{
    for (size_t i = 0; name && i < NUM_FORMATS; i++) {
        if (is_name(format_rows[i].info.name, name))
            return &format_rows[i].info;
    }
    return NULL;
}

size_t moe_format_row_bytes(enum moe_format format, size_t cols)
{
    const struct format_row *row = find_row(format);
    if (!row || cols % row->info.block_values != 0 || cols / row->info.block_values > SIZE_MAX / row->info.block_bytes)
        return 0;
    return cols / row->info.block_values * row->info.block_bytes;
}

/* What the conversions check: *out is the row of the format, *num_blocks the blocks of the whole matrix, whose bytes
 * fit in size_t on both sides. */
static enum moe_status check_matrix(const struct format_row **out, size_t *num_blocks, enum moe_format format,
                                    const void *a, const void *b, size_t rows, size_t cols)
{
    const struct format_row *row = find_row(format);
    size_t row_blocks;
    if (!row || !row->def)
        return MOE_ERR_UNSUPPORTED;
    if (!a || !b || cols % row->info.block_values != 0)
        return MOE_ERR_ARGUMENT;
    row_blocks = cols / row->info.block_values;
    if (row_blocks != 0 && rows > SIZE_MAX / row_blocks)
        return MOE_ERR_ARGUMENT;
    *out = row;
    *num_blocks = rows * row_blocks;
    if (*num_blocks > SIZE_MAX / row->info.block_bytes ||
        *num_blocks > SIZE_MAX / sizeof(float) / row->info.block_values)
        return MOE_ERR_ARGUMENT;
    return MOE_OK;
}

int moe_format_can_quantise(enum moe_format format)
{
    const struct format_row *row = find_row(format);
    return row && row->def && row->def->quantise;
}

int moe_format_quantise(enum moe_format format, void *out, const float *in, size_t rows, size_t cols)
{
    const struct format_row *row;
    size_t num_blocks;
    enum moe_status status = check_matrix(&row, &num_blocks, format, out, in, rows, cols);
    if (status != MOE_OK)
        return status;
    if (!row->def->quantise)
        return MOE_ERR_UNSUPPORTED;
    row->def->quantise(out, in, num_blocks);
    return MOE_OK;
}

int moe_format_dequantise(enum moe_format format, float *out, const void *in, size_t rows, size_t cols)
{
    const struct format_row *row;
    size_t num_blocks;
    enum moe_status status = check_matrix(&row, &num_blocks, format, out, in, rows, cols);
    if (status == MOE_OK)
        row->def->dequantise(out, in, num_blocks);
    return status;
}

int moe_format_validate(enum moe_format format, const void *in, size_t rows, size_t cols, size_t *bad_block)
{
    const struct format_row *row;
    size_t num_blocks, bad;
    enum moe_status status = check_matrix(&row, &num_blocks, format, in, in, rows, cols);
    if (status != MOE_OK)
        return status;
    bad = row->def->find_nonfinite(in, num_blocks);
    if (bad == num_blocks)
        return MOE_OK;
    if (bad_block)
        *bad_block = bad;
    return MOE_ERR_NONFINITE;
}
