// SPDX-License-Identifier: MIT
// How weights, activations and indices are stored: the formats, their sizes, and plain conversions to and from f32.
#ifndef MOE_FORMAT_H
#define MOE_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef MOE_API
#if defined(__GNUC__)
#define MOE_API __attribute__((visibility("default")))
#else
#define MOE_API
#endif
#endif

/* Formats of weights, one row each: X(id, NAME, name, values per block, bytes per block).
 *
 * A matrix row is a whole number of blocks, without padding inside. Ids below 1024 are the type numbers of the GGUF
 * file format, which are frozen: a reader or a ggml host passes its number unchanged. Ids from 1024 are ours, ids from
 * 4096 are private layouts of a backend. An id is given once and never reused. Bit layouts: src/format/<name>.c.
 * The enumerators are API; the macro may gain rows and columns. */
#define MOE_FORMAT_MAP(X)          \
    X(0, F32, f32, 1, 4)           \
    X(1, F16, f16, 1, 2)           \
    X(2, Q4_0, q4_0, 32, 18)       \
    X(3, Q4_1, q4_1, 32, 20)       \
    X(6, Q5_0, q5_0, 32, 22)       \
    X(7, Q5_1, q5_1, 32, 24)       \
    X(8, Q8_0, q8_0, 32, 34)       \
    X(10, Q2_K, q2_k, 256, 84)     \
    X(11, Q3_K, q3_k, 256, 110)    \
    X(12, Q4_K, q4_k, 256, 144)    \
    X(13, Q5_K, q5_k, 256, 176)    \
    X(14, Q6_K, q6_k, 256, 210)    \
    X(16, IQ2_XXS, iq2_xxs, 256, 66) \
    X(17, IQ2_XS, iq2_xs, 256, 74) \
    X(18, IQ3_XXS, iq3_xxs, 256, 98) \
    X(19, IQ1_S, iq1_s, 256, 50)   \
    X(20, IQ4_NL, iq4_nl, 32, 18)  \
    X(21, IQ3_S, iq3_s, 256, 110)  \
    X(22, IQ2_S, iq2_s, 256, 82)   \
    X(23, IQ4_XS, iq4_xs, 256, 136) \
    X(24, I8, i8, 1, 1)            \
    X(29, IQ1_M, iq1_m, 256, 56)   \
    X(30, BF16, bf16, 1, 2)        \
    X(34, TQ1_0, tq1_0, 256, 54)   \
    X(35, TQ2_0, tq2_0, 256, 66)   \
    X(39, MXFP4, mxfp4, 32, 17)    \
    X(40, NVFP4, nvfp4, 64, 36)    \
    X(1024, E4M3, e4m3, 1, 1)      \
    X(1025, E2M1, e2m1, 2, 1)      \
    X(1026, U4, u4, 2, 1)          \
    X(1027, U8, u8, 1, 1)          \
    X(1028, E8M0, e8m0, 1, 1)

/* Formats of indices, counts and other tensors; never of weights. */
#define MOE_INDEX_FORMAT_MAP(X)    \
    X(25, I16, i16, 1, 2)          \
    X(26, I32, i32, 1, 4)          \
    X(27, I64, i64, 1, 8)          \
    X(28, F64, f64, 1, 8)

enum moe_format {
#define MOE_FORMAT_ENUM(id, NAME, name, values, bytes) MOE_FORMAT_##NAME = id,
    MOE_FORMAT_MAP(MOE_FORMAT_ENUM) MOE_INDEX_FORMAT_MAP(MOE_FORMAT_ENUM)
#undef MOE_FORMAT_ENUM
    MOE_FORMAT_PRIVATE = 4096
};

struct moe_format_info {
    enum moe_format format;
    const char *name;         /* "q4_k": as in this header, lower case */
    uint32_t block_values;    /* values in a block */
    uint32_t block_bytes;     /* bytes of a block */
};

/* The i-th format of weights, i = 0, 1, ... in the order of MOE_FORMAT_MAP; NULL past the last. Static storage. */
MOE_API const struct moe_format_info *moe_format_at(size_t i);

/* What a format is, weights or indices; NULL for an id that this library does not know. Static storage. */
MOE_API const struct moe_format_info *moe_format_info(enum moe_format format);

/* The format of that name, case ignored ("Q4_K", "bf16"); NULL if there is none. Static storage. */
MOE_API const struct moe_format_info *moe_format_find(const char *name);

/* Bytes of a row of cols values; 0 if the format is unknown, cols is no whole number of blocks, or the product
 * does not fit in size_t. */
MOE_API size_t moe_format_row_bytes(enum moe_format format, size_t cols);

/* Whether moe_format_quantise can make the format (1); the others (0) can only be read. */
MOE_API int moe_format_can_quantise(enum moe_format format);

/* Convert rows x cols values between the format and f32, both sides dense, row by row; blocks may lie at any address.
 * Plain C, made for tools and tests, not for speed. F32, F16 and BF16 are in the host's byte order. Quantising is
 * deterministic; NaN and infinities in the input give a block that moe_format_validate finds.
 * Return an enum moe_status (moe.h): MOE_OK; MOE_ERR_ARGUMENT for NULL, or for cols that are no whole number of blocks;
 * MOE_ERR_UNSUPPORTED for a format that is not in MOE_FORMAT_MAP, or that cannot be made. */
MOE_API int moe_format_quantise(enum moe_format format, void *out, const float *in, size_t rows, size_t cols);
MOE_API int moe_format_dequantise(enum moe_format format, float *out, const void *in, size_t rows, size_t cols);

/* Look for blocks whose scale is NaN or infinite, or plain values that are: weights that would poison every token.
 * MOE_OK if there are none; MOE_ERR_NONFINITE and the index of the first such block in *bad_block (may be NULL)
 * if there are; otherwise as above. Reads all the bytes. */
MOE_API int moe_format_validate(enum moe_format format, const void *in, size_t rows, size_t cols, size_t *bad_block);

#ifdef __cplusplus
}
#endif
#endif
