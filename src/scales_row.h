// SPDX-License-Identifier: MIT
// The arithmetic of scales, one for the kernels and for copies: (q - (zero + zero_offset)) * (scale * factor) in f32,
// each step rounded.
#ifndef MOE_SCALES_ROW_H
#define MOE_SCALES_ROW_H

#include "half.h"
#include "moe/backend.h"

/* Value j of a row of scales, in a format that scales may have. */
MOE_INLINE float moe_scales_value(enum moe_format format, const unsigned char *row, size_t j)
{
    uint16_t half;
    float value;
    switch ((int)format) {
    case MOE_FORMAT_F16:
        memcpy(&half, row + 2 * j, sizeof half);
        return moe_f16_to_f32(half);
    case MOE_FORMAT_BF16:
        memcpy(&half, row + 2 * j, sizeof half);
        return moe_bf16_to_f32(half);
    case MOE_FORMAT_E4M3:
        return moe_e4m3_to_f32(row[j]);
    case MOE_FORMAT_E8M0:
        return moe_e8m0_to_f32(row[j]);
    default:
        memcpy(&value, row + 4 * j, sizeof value);
        return value;
    }
}

/* w[i], i < n, are the codes of row r from column c on, and become its values. */
MOE_INLINE void moe_scales_apply(float *w, const struct moe_slice_scales *s, size_t r, size_t c, size_t n)
{
    size_t i = (s->first_row + r) / s->block_rows;
    const unsigned char *scale = (const unsigned char *)s->scale.base;
    const unsigned char *zero = (const unsigned char *)s->zero.base;
    const unsigned char *column_block = (const unsigned char *)s->column_block.base;
    scale = scale != NULL ? scale + s->scale.offset + i * s->scale.stride : NULL;
    zero = zero != NULL ? zero + s->zero.offset + i * s->zero.stride : NULL;
    column_block = column_block != NULL ? column_block + s->column_block.offset : NULL;
    size_t next = c / s->block_cols;
    for (size_t end = c + n; c < end;) {
        size_t j = next++, run = next * s->block_cols;
        if (column_block != NULL) {
            int32_t block;
            memcpy(&block, column_block + c * sizeof block, sizeof block);
            j = (size_t)block;
            run = c + 1;
        }
        run = (run < end ? run : end) - c;
        float d = scale != NULL ? moe_scales_value(s->scale.format, scale, j) * s->factor : s->factor;
        float z = zero != NULL ? (float)zero[j] + s->zero_offset : s->zero_offset;
        if (z != 0.0f) {
            for (size_t k = 0; k < run; k++)
                w[k] = (w[k] - z) * d;
        } else {
            for (size_t k = 0; k < run; k++)
                w[k] *= d;
        }
        w += run;
        c += run;
    }
}

#endif
