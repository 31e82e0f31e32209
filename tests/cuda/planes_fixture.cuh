// SPDX-License-Identifier: MIT
// Random matrices on the emulated device, with scales of any shape beside them, and their exact values.
#ifndef MOE_TESTS_PLANES_FIXTURE_CUH
#define MOE_TESTS_PLANES_FIXTURE_CUH

#include "cuda/kernels.h"
#include "cuda/order.cuh"
#include "emulated.cuh"
#include "half.h"

extern "C" {
#include "support.h"
}
#include <math.h>

enum { NUM_MATRICES = 4, MOST_TOKENS = 70, PAD = 3 };

/* Tokens of each matrix, at most; the third has none. */
static const uint32_t most_of[NUM_MATRICES] = {MOST_TOKENS, 33, 0, 9};

/* ---- what is tested ---- */

/* How a matrix is described beside its values; format of scales -1: none. */
struct scaling {
    bool scaled;
    int format;
    uint32_t first_row, block_rows, block_cols;    /* 0: all */
    bool zeros, factors, columns;
    float zero_offset;
};

struct subject {
    const struct moe_cuda_weights *weights;
    enum moe_format format;
    struct scaling scaling;
    uint32_t rows, cols;
    bool gated, unaligned;
};

static const struct scaling plain = {};

/* ---- device memory ---- */

static std::vector<void *> allocated;

template <class T> static T *on_device(const std::vector<T> &values)
{
    T *memory = device_array(values);
    allocated.push_back(memory);
    return memory;
}

static inline void free_all(void)
{
    for (void *memory : allocated)
        OK(cudaFree(memory));
    allocated.clear();
}

/* What a failed test has left is gone with the machine. */
static inline int begin(void **state)
{
    allocated.clear();
    return set_up(state);
}

/* ---- a stack of matrices, and its exact values ---- */

struct matrix {
    struct moe_cuda_stack stack;
    std::vector<double> values[NUM_MATRICES];    /* [rows, cols] */
    std::vector<double> sizes[NUM_MATRICES];     /* what sums are bounded by: |scale| (|code| + |term|), [rows, cols] */
};

static inline float random_factor(struct test_rng *rng)
{
    return (float)(0.25 + test_uniform(rng));
}

static inline void random_codes(struct test_rng *rng, enum moe_format format, std::vector<unsigned char> &out,
                                size_t cols)
{
    switch ((int)format) {
    case MOE_FORMAT_U4:
    case MOE_FORMAT_U8:
    case MOE_FORMAT_I8:
    case MOE_FORMAT_E2M1:
    case MOE_FORMAT_E4M3:
        for (unsigned char &code : out) {
            code = (unsigned char)test_random(rng);
            code = format == MOE_FORMAT_E4M3 && (code & 0x7f) == 0x7f ? 0x81 : code;
        }
        break;
    case MOE_FORMAT_E8M0:
        for (unsigned char &code : out)
            code = (unsigned char)(120 + test_below(rng, 10));
        break;
    default:
        test_fill_weights(rng, format, out.data(), cols, 1);
    }
}

/* A plane of one row after another, for each matrix; odd: at an odd address, with a base for each matrix. */
static inline struct moe_cuda_plane make_plane(const std::vector<std::vector<unsigned char>> &rows, size_t num_rows,
                                               enum moe_format format, size_t stride, bool odd)
{
    std::vector<unsigned char> bytes(rows.size() * stride + 1, 0xee);
    struct moe_cuda_plane plane = {};
    for (size_t i = 0; i < rows.size(); i++)
        memcpy(&bytes[i * stride + odd], rows[i].data(), rows[i].size());
    unsigned char *memory = on_device(bytes);
    plane.format = format;
    plane.stride = stride;
    if (odd) {
        std::vector<const unsigned char *> bases;
        for (int e = 0; e < NUM_MATRICES; e++)
            bases.push_back(memory + 1 + e * num_rows * stride);
        plane.bases = on_device(bases);
    } else {
        plane.data = memory;
        plane.expert_stride = num_rows * stride;
    }
    return plane;
}

/* Values of a plane of scales, zeros or blocks of columns, and the plane. */
static inline std::vector<double> make_part(struct test_rng *rng, struct moe_cuda_plane *plane, int format,
                                            size_t rows, size_t cols, bool odd)
{
    std::vector<std::vector<unsigned char>> bytes;
    std::vector<double> values;
    size_t size = moe_format_row_bytes((enum moe_format)format, cols);
    for (size_t r = 0; r < NUM_MATRICES * rows; r++) {
        std::vector<unsigned char> row(size);
        std::vector<float> floats(cols);
        if (format == MOE_FORMAT_E4M3 || format == MOE_FORMAT_U8)
            for (unsigned char &code : row)
                code = (unsigned char)test_below(rng, format == MOE_FORMAT_U8 ? 16 : 0x7f);
        else if (format == MOE_FORMAT_E8M0)
            random_codes(rng, MOE_FORMAT_E8M0, row, cols);
        else {
            for (float &value : floats)
                value = (float)(test_gaussian(rng) * 0.1);
            test_assert_ok(moe_format_quantise((enum moe_format)format, row.data(), floats.data(), 1, cols));
        }
        test_assert_ok(moe_format_dequantise((enum moe_format)format, floats.data(), row.data(), 1, cols));
        values.insert(values.end(), floats.begin(), floats.end());
        bytes.push_back(row);
    }
    *plane = make_plane(bytes, rows, (enum moe_format)format, size, odd);
    return values;
}

static inline std::vector<int32_t> make_columns(struct test_rng *rng, struct moe_cuda_plane *plane, uint32_t cols,
                                                uint32_t num_blocks)
{
    std::vector<int32_t> blocks(NUM_MATRICES * cols);
    for (int32_t &block : blocks)
        block = (int32_t)test_below(rng, num_blocks);
    plane->data = (unsigned char *)on_device(blocks);
    plane->stride = cols * sizeof(int32_t);
    plane->expert_stride = plane->stride;
    plane->format = MOE_FORMAT_I32;
    return blocks;
}

static inline void make_values(struct test_rng *rng, struct matrix *out, const struct subject &s)
{
    const struct moe_format_info *info = moe_format_info(s.format);
    std::vector<std::vector<unsigned char>> rows;
    size_t size = moe_format_row_bytes(s.format, s.cols);
    assert_true(size > 0 && info != NULL);
    for (uint32_t r = 0; r < NUM_MATRICES * s.rows; r++) {
        std::vector<unsigned char> row(size);
        std::vector<float> floats(s.cols);
        random_codes(rng, s.format, row, s.cols);
        test_assert_ok(moe_format_dequantise(s.format, floats.data(), row.data(), 1, s.cols));
        std::vector<double> &values = out->values[r / s.rows];
        values.insert(values.end(), floats.begin(), floats.end());
        rows.push_back(row);
    }
    size_t stride = s.unaligned ? size + 3 : (size + 15) / 16 * 16;
    out->stack.values = make_plane(rows, s.rows, s.format, stride, s.unaligned);
}

static inline void make_matrix(struct test_rng *rng, struct matrix *out, const struct subject &s)
{
    const struct scaling &how = s.scaling;
    struct moe_cuda_stack *stack = &out->stack;
    make_values(rng, out, s);
    stack->rows = s.rows;
    stack->cols = s.cols;
    for (int e = 0; e < NUM_MATRICES; e++)
        for (double value : out->values[e])
            out->sizes[e].push_back(fabs(value) + (how.scaled && s.weights->zeros ? 256 + fabs(how.zero_offset) : 0.0));
    if (!how.scaled)
        return;
    stack->scaled = true;
    stack->first_row = how.first_row;
    stack->block_rows = how.block_rows > 0 ? how.block_rows : s.rows;
    stack->block_cols = how.block_cols > 0 && how.block_cols < s.cols ? how.block_cols : s.cols;
    stack->zero_offset = how.zero_offset;
    size_t num_rows = (how.first_row + s.rows - 1) / stack->block_rows + 1;
    size_t num_cols = (s.cols - 1) / stack->block_cols + 1;
    std::vector<double> scales, zeros;
    std::vector<float> factors;
    std::vector<int32_t> columns;
    if (how.format >= 0)
        scales = make_part(rng, &stack->scale, how.format, num_rows, num_cols,
                           s.unaligned && (how.format == MOE_FORMAT_E8M0 || how.format == MOE_FORMAT_E4M3));
    if (how.zeros)
        zeros = make_part(rng, &stack->zero, MOE_FORMAT_U8, num_rows, num_cols, s.unaligned);
    if (how.columns)
        columns = make_columns(rng, &stack->column_block, s.cols, (uint32_t)num_cols);
    if (how.factors) {
        for (int e = 0; e < NUM_MATRICES; e++)
            factors.push_back(random_factor(rng));
        stack->factors = on_device(factors);
    }
    moe_cuda_stack_measure(stack);
    for (size_t e = 0; e < NUM_MATRICES; e++)
        for (size_t r = 0; r < s.rows; r++)
            for (size_t c = 0; c < s.cols; c++) {
                size_t j = how.columns ? (size_t)columns[e * s.cols + c] : c / stack->block_cols;
                size_t at = (e * num_rows + (how.first_row + r) / stack->block_rows) * num_cols + j;
                double scale = (how.format >= 0 ? scales[at] : 1) * (how.factors ? factors[e] : 1);
                double *value = &out->values[e][r * s.cols + c];
                *value = (*value - (how.zeros ? zeros[at] : 0) - (double)how.zero_offset) * scale;
                out->sizes[e][r * s.cols + c] *= fabs(scale);
            }
}

#endif
