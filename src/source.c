// SPDX-License-Identifier: MIT
// Matrices as a caller describes them. A packed one is a matrix of 32-bit words, [rows, cols / n] or [rows / n, cols]:
// its strides, offset and transposition are those of words.
#include "source.h"

#include <string.h>

enum { TILE_ROWS = 32, WORD_BYTES = 4 };

size_t moe_source_word_values(const struct moe_matrix *matrix)
{
    if (matrix->packing == MOE_PACKING_NONE)
        return 0;
    return matrix->data.format == MOE_FORMAT_U4 ? 8 : 4;
}

static size_t blocks_of(size_t n, size_t block)
{
    return n / block + (n % block != 0);
}

/* ---- checks ---- */

/* What is stored: of values, of words, or, transposed, of bytes that hold neighbours of a row. */
struct stored {
    size_t rows, cols;
    size_t value_bytes;   /* 0 for formats in blocks */
};

static struct stored stored_transposed(const struct moe_source *source)
{
    const struct moe_format_info *format = moe_format_info(source->matrix.data.format);
    return (struct stored){source->rows, source->cols / format->block_values, format->block_bytes};
}

static struct stored stored_matrix(const struct moe_source *source)
{
    const struct moe_matrix *m = &source->matrix;
    size_t n = moe_source_word_values(m);
    struct stored stored = {source->rows, source->cols, moe_format_row_bytes(m->data.format, 1)};
    if (n > 0 && m->packing == MOE_PACKING_COLS)
        stored = (struct stored){source->rows, blocks_of(source->cols, n), WORD_BYTES};
    else if (n > 0)
        stored = (struct stored){blocks_of(source->rows, n), source->cols, WORD_BYTES};
    else if (m->transposed)
        stored = stored_transposed(source);
    return stored;
}

/* Fill in the strides of a matrix and its expert_bytes. */
static bool fill_strides(struct moe_source *source)
{
    struct moe_matrix *m = &source->matrix;
    struct stored s = stored_matrix(source);
    size_t lines = m->transposed ? s.cols : s.rows, line_bytes, last;
    if (m->transposed) {
        if (m->element_stride == 0)
            m->element_stride = s.value_bytes;
        if (m->element_stride < s.value_bytes || !moe_mul(&last, s.rows - 1, m->element_stride) ||
            !moe_add(&line_bytes, last, s.value_bytes))
            return false;
    } else if (m->packing != MOE_PACKING_NONE) {
        if (!moe_mul(&line_bytes, s.cols, WORD_BYTES))
            return false;
    } else {
        line_bytes = moe_format_row_bytes(m->data.format, s.cols);
    }
    if (m->data.stride == 0)
        m->data.stride = line_bytes;
    if (m->data.stride < line_bytes || !moe_mul(&last, lines - 1, m->data.stride) ||
        !moe_add(&source->expert_bytes, last, line_bytes))
        return false;
    return m->expert_stride != 0 || moe_mul(&m->expert_stride, lines, m->data.stride);
}

static enum moe_status check_layout(const struct moe_source *source, const char *name, moe_source_allow_fn *allow,
                                    struct moe_error *error)
{
    const struct moe_matrix *m = &source->matrix;
    const struct moe_format_info *format = moe_format_info(m->data.format);
    if (format == NULL || !allow(format->format))
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s has format %d, %s, which it may not have", name,
                        (int)m->data.format, format != NULL ? format->name : "unknown");
    if ((unsigned)m->packing > MOE_PACKING_ROWS_AWQ)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s has packing %d, which is unknown", name, (int)m->packing);
    if (m->packing != MOE_PACKING_NONE) {
        bool fits = format->format == MOE_FORMAT_U4 ||
                    (format->format == MOE_FORMAT_U8 && m->packing != MOE_PACKING_ROWS_AWQ);
        return fits ? MOE_OK : moe_fail(error, MOE_ERR_UNSUPPORTED, "%s has packing %d, which is none of format %s",
                                        name, (int)m->packing, format->name);
    }
    if (m->transposed && format->block_values != 1 && format->block_bytes != 1)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s is transposed in format %s, which comes in blocks", name,
                        format->name);
    if (moe_format_row_bytes(format->format, source->cols) == 0)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s has %zu columns, which are no whole number of %s blocks of %u",
                        name, source->cols, format->name, (unsigned)format->block_values);
    return MOE_OK;
}

static enum moe_status check_extent(const struct moe_source *source, const char *name, struct moe_error *error)
{
    const struct moe_matrix *m = &source->matrix;
    size_t num_experts = source->num_experts, extent = source->expert_bytes, last;
    if (m->bases == NULL) {
        if (m->data.base == NULL)
            return moe_fail(error, MOE_ERR_ARGUMENT, "%s has neither a base nor bases", name);
        if (!moe_mul(&last, num_experts - 1, m->expert_stride) || !moe_add(&extent, last, extent))
            return moe_fail(error, MOE_ERR_ARGUMENT, "%s: %zu experts are too large for memory", name, num_experts);
    }
    if (!moe_add(&last, m->data.offset, m->data.size))
        return moe_fail(error, MOE_ERR_ARGUMENT, "the view of %s ends beyond the last address", name);
    if (extent > m->data.size)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s needs %zu bytes, its view has %zu", name, extent, m->data.size);
    for (size_t e = 0; m->bases != NULL && e < num_experts; e++)
        if (m->bases[e] == NULL)
            return moe_fail(error, MOE_ERR_ARGUMENT, "%s has no base for expert %zu", name, e);
    return MOE_OK;
}

enum moe_status moe_source_check(struct moe_source *source, const struct moe_matrix *given, const char *name,
                                 moe_source_allow_fn *allow, size_t num_experts, size_t rows, size_t cols,
                                 struct moe_error *error)
{
    if (MOE_READ_PARAMS(&source->matrix, given) != MOE_OK)
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s: its moe_matrix is without struct_size, or has unknown fields",
                        name);
    source->num_experts = num_experts;
    source->rows = rows;
    source->cols = cols;
    MOE_TRY(check_layout(source, name, allow, error));
    if (!fill_strides(source))
        return moe_fail(error, MOE_ERR_ARGUMENT, "%s [%zu, %zu] has a stride below its row, or is too large", name,
                        rows, cols);
    return check_extent(source, name, error);
}

/* ---- bases ---- */

enum moe_status moe_source_keep(struct moe_source *source, const struct moe_env *env)
{
    if (source->matrix.bases == NULL)
        return MOE_OK;
    source->bases = moe_alloc_array(env, source->num_experts, sizeof *source->bases);
    if (source->bases == NULL)
        return MOE_ERR_MEMORY;
    memcpy(source->bases, source->matrix.bases, source->num_experts * sizeof *source->bases);
    source->matrix.bases = source->bases;
    return MOE_OK;
}

void moe_source_free(struct moe_source *source, const struct moe_env *env)
{
    moe_free(env, source->bases, source->num_experts * sizeof *source->bases);
    source->bases = NULL;
}

/* ---- reading ---- */

static const unsigned char *expert_start(const struct moe_source *source, size_t e)
{
    const struct moe_matrix *m = &source->matrix;
    if (m->bases != NULL)
        return (const unsigned char *)m->bases[e] + m->data.offset;
    return (const unsigned char *)m->data.base + m->data.offset + e * m->expert_stride;
}

/* Where value, or word, (i, j) of what is stored lies. */
static const unsigned char *element(const struct moe_matrix *m, const unsigned char *start, size_t i, size_t j,
                                    size_t bytes)
{
    return m->transposed ? start + j * m->data.stride + i * m->element_stride : start + i * m->data.stride + j * bytes;
}

static uint32_t load_word(const unsigned char *at)
{
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Place of a column's k-th value in its word. */
static size_t place_of(const struct moe_matrix *m, size_t k)
{
    return m->packing == MOE_PACKING_ROWS_AWQ ? k / 2 + k % 2 * 4 : k;
}

static void read_transposed(const struct moe_source *source, const unsigned char *in, unsigned char *out)
{
    const struct moe_matrix *m = &source->matrix;
    struct stored stored = stored_transposed(source);
    size_t value = stored.value_bytes, row_bytes = stored.cols * value;
    for (size_t r0 = 0; r0 < source->rows; r0 += TILE_ROWS) {
        size_t r1 = r0 + TILE_ROWS < source->rows ? r0 + TILE_ROWS : source->rows;
        for (size_t c = 0; c < stored.cols; c++)
            for (size_t r = r0; r < r1; r++)
                memcpy(out + r * row_bytes + c * value, element(m, in, r, c, value), value);
    }
}

/* Words along the columns: their bytes are those of U4 and U8, the last word's as far as there are columns. */
static void read_words_of_rows(const struct moe_source *source, const unsigned char *in, unsigned char *out)
{
    const struct moe_matrix *m = &source->matrix;
    size_t row_bytes = moe_format_row_bytes(m->data.format, source->cols);
    size_t words = blocks_of(source->cols, moe_source_word_values(m));
    for (size_t r0 = 0; r0 < source->rows; r0 += TILE_ROWS) {
        size_t r1 = r0 + TILE_ROWS < source->rows ? r0 + TILE_ROWS : source->rows;
        for (size_t j = 0; j < words; j++) {
            size_t bytes = row_bytes - j * WORD_BYTES < WORD_BYTES ? row_bytes - j * WORD_BYTES : WORD_BYTES;
            for (size_t r = r0; r < r1; r++)
                memcpy(out + r * row_bytes + j * WORD_BYTES, element(m, in, r, j, WORD_BYTES), bytes);
        }
    }
}

/* Words along the rows: byte b of n rows comes out of the word, or two words, of its columns. */
static void read_words_of_cols(const struct moe_source *source, const unsigned char *in, unsigned char *out)
{
    const struct moe_matrix *m = &source->matrix;
    size_t n = moe_source_word_values(m), bits = 32 / n, row_bytes = moe_format_row_bytes(m->data.format, source->cols);
    size_t words = blocks_of(source->rows, n), tile = TILE_ROWS / n, per_byte = source->cols / row_bytes;
    uint32_t mask = n == 8 ? 15 : 255;
    for (size_t i0 = 0; i0 < words; i0 += tile) {
        size_t i1 = i0 + tile < words ? i0 + tile : words;
        for (size_t b = 0; b < row_bytes; b++)
            for (size_t i = i0; i < i1; i++) {
                uint32_t low = load_word(element(m, in, i, b * per_byte, WORD_BYTES));
                uint32_t high = per_byte == 2 ? load_word(element(m, in, i, b * 2 + 1, WORD_BYTES)) : 0;
                for (size_t k = 0; k < n && i * n + k < source->rows; k++) {
                    size_t shift = place_of(m, k) * bits;
                    uint32_t values = (low >> shift & mask) | (high >> shift & mask) << 4;
                    out[(i * n + k) * row_bytes + b] = (unsigned char)values;
                }
            }
    }
}

void moe_source_read(const struct moe_source *source, size_t e, unsigned char *out)
{
    const struct moe_matrix *m = &source->matrix;
    const unsigned char *in = expert_start(source, e);
    if (m->packing == MOE_PACKING_COLS) {
        read_words_of_rows(source, in, out);
    } else if (m->packing != MOE_PACKING_NONE) {
        read_words_of_cols(source, in, out);
    } else if (m->transposed) {
        read_transposed(source, in, out);
    } else {
        size_t row_bytes = moe_format_row_bytes(m->data.format, source->cols);
        for (size_t r = 0; r < source->rows; r++)
            memcpy(out + r * row_bytes, in + r * m->data.stride, row_bytes);
    }
}

void moe_source_read_bytes(const struct moe_source *source, size_t e, uint8_t *out)
{
    const struct moe_matrix *m = &source->matrix;
    const unsigned char *in = expert_start(source, e);
    size_t n = moe_source_word_values(m), bits = n > 0 ? 32 / n : 0;
    bool nibbles = m->data.format == MOE_FORMAT_U4;
    uint8_t flip = m->data.format == MOE_FORMAT_I8 ? 0x80 : 0;   /* 128 added to two's complement */
    for (size_t r = 0; r < source->rows; r++)
        for (size_t c = 0; c < source->cols; c++) {
            uint8_t *value = &out[r * source->cols + c];
            if (n > 0) {
                bool of_rows = m->packing == MOE_PACKING_COLS;
                size_t i = of_rows ? r : r / n, j = of_rows ? c / n : c;
                uint32_t word = load_word(element(m, in, i, j, WORD_BYTES));
                *value = (uint8_t)(word >> place_of(m, of_rows ? c % n : r % n) * bits & (nibbles ? 15u : 255u));
            } else if (nibbles) {
                *value = (uint8_t)(*element(m, in, r, c / 2, 1) >> (c % 2 * 4) & 15);
            } else {
                *value = *element(m, in, r, c, 1) ^ flip;
            }
        }
}
