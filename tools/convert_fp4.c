// SPDX-License-Identifier: MIT
// FP4 with scales in blocks, from safetensors to GGUF without rounding: the same E2M1 values and the same scales, in
// another order of nibbles.
#include <string.h>

#include "convert.h"

/* safetensors: byte j of a row holds values 2j (low nibble) and 2j + 1, scales lie in a matrix of their own.
 * GGUF's MXFP4 block: the scale, then 16 bytes; byte j holds values j (low) and j + 16. NVFP4: the scales of 4 runs of
 * 16 values, then 8 bytes for each run; byte j holds values j (low) and j + 8. */
enum { MX_VALUES = 32, MX_BYTES = 17, NV_VALUES = 64, NV_BYTES = 36, NV_RUN = 16 };

enum moe_format fp4_format(const struct moe_matrix *matrix, size_t cols)
{
    const struct moe_scales *s = matrix->scales;
    if (matrix->data.format != MOE_FORMAT_E2M1 || matrix->packing != MOE_PACKING_NONE || matrix->transposed || !s ||
        !s->scale || s->zero || s->column_block || s->zero_offset != 0 || s->block_rows != 1 || s->scale->transposed)
        return MOE_FORMAT_PRIVATE;
    if (s->scale->data.format == MOE_FORMAT_E8M0 && s->block_cols == MX_VALUES && cols % MX_VALUES == 0 && !s->factor)
        return MOE_FORMAT_MXFP4;
    if (s->scale->data.format == MOE_FORMAT_E4M3 && s->block_cols == NV_RUN && cols % NV_VALUES == 0)
        return MOE_FORMAT_NVFP4;
    return MOE_FORMAT_PRIVATE;
}

static const unsigned char *row_of(const struct moe_matrix *matrix, size_t rows, size_t cols, size_t e, size_t row)
{
    size_t row_bytes = moe_format_row_bytes(matrix->data.format, cols);
    size_t stride = matrix->data.stride ? matrix->data.stride : row_bytes;
    size_t expert_stride = matrix->expert_stride ? matrix->expert_stride : rows * stride;
    const unsigned char *base = matrix->bases ? matrix->bases[e]
                                              : (const unsigned char *)matrix->data.base + e * expert_stride;
    return base + matrix->data.offset + row * stride;
}

/* count values from `first` on, low nibbles the first half of them. */
static void halves(unsigned char *out, const unsigned char *nibbles, size_t first, size_t count)
{
    for (size_t j = 0; j < count / 2; j++) {
        size_t low = first + j, high = low + count / 2;
        unsigned a = nibbles[low / 2] >> (low % 2 * 4) & 15u, b = nibbles[high / 2] >> (high % 2 * 4) & 15u;
        out[j] = (unsigned char)(a | b << 4);
    }
}

void fp4_rows(const struct moe_matrix *matrix, enum moe_format format, size_t rows, size_t cols, size_t e, size_t row,
              size_t num_rows, void *out)
{
    const struct moe_scales *s = matrix->scales;
    size_t scale_cols = cols / s->block_cols;
    unsigned char *block = out;
    for (size_t r = row; r < row + num_rows; r++) {
        const unsigned char *nibbles = row_of(matrix, rows, cols, e, r);
        const unsigned char *scales = row_of(s->scale, s->first_row + rows, scale_cols, e, s->first_row + r);
        if (format == MOE_FORMAT_MXFP4) {
            for (size_t c = 0; c < cols; c += MX_VALUES, block += MX_BYTES) {
                block[0] = scales[c / MX_VALUES];
                halves(block + 1, nibbles, c, MX_VALUES);
            }
            continue;
        }
        for (size_t c = 0; c < cols; c += NV_VALUES, block += NV_BYTES) {
            memcpy(block, scales + c / NV_RUN, NV_VALUES / NV_RUN);
            for (size_t run = 0; run < NV_VALUES / NV_RUN; run++)
                halves(block + NV_VALUES / NV_RUN + run * NV_RUN / 2, nibbles, c + run * NV_RUN, NV_RUN);
        }
    }
}
