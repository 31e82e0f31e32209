// SPDX-License-Identifier: MIT
// struct moe_scales and enum moe_packing of experts: random matrices of every packing, transposition, block and format
// against src/ref, on backends that take scales and that do not, with host memory and without; updates, sizes, errors.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "objects.h"
#include "support.h"

extern const struct moe_backend_ops moe_cpu_ops;

/* Of a value: scale times factor (and 1 / factor), the difference, the product. */
enum { SCALE_ROUNDINGS = 4, MAX_MEMORY = 64 };

/* A matrix with all that belongs to it. */
struct scaled {
    struct moe_matrix matrix, scale, zero, factor, column_block;
    struct moe_scales scales;
    size_t rows, cols;
};

struct fixture {
    struct test_rng rng;
    struct scaled gate, up, down;
    struct moe_experts_params params;
    void *memory[MAX_MEMORY];
    size_t num_memory;
};

/* ---- random matrices ---- */

static unsigned char *keep(struct fixture *f, size_t size)
{
    assert_true(f->num_memory < MAX_MEMORY);
    return f->memory[f->num_memory++] = test_alloc(size);
}

static size_t below(struct fixture *f, size_t n)
{
    return test_below(&f->rng, n);
}

static float random_scale(struct fixture *f)
{
    return (float)ldexp(1 + test_uniform(&f->rng), (int)below(f, 8) - 8);
}

static void store(struct fixture *f, enum moe_format format, unsigned char *at)
{
    if (format == MOE_FORMAT_E4M3)
        *at = (unsigned char)(1 + below(f, 100));
    else if (format == MOE_FORMAT_E8M0)
        *at = (unsigned char)(120 + below(f, 8));
    else
        moe_format_quantise(format, at, &(float){random_scale(f)}, 1, 1);
}

/* A stack, or a block of memory for each expert, of lines of so many bytes with gaps; returns the first byte of each
 * expert in starts. */
static void place(struct fixture *f, struct moe_matrix *m, size_t num_experts, size_t lines, size_t line_bytes,
                  unsigned char **starts)
{
    size_t stride = line_bytes + 4 * below(f, 3), expert = (lines - 1) * stride + line_bytes, offset = 4 * below(f, 4);
    bool bases = below(f, 2) == 0;
    m->data.stride = stride;
    m->data.offset = offset;
    m->data.size = bases ? expert : (num_experts - 1) * lines * stride + expert;
    m->expert_stride = lines * stride;
    void **list = bases ? (void **)keep(f, num_experts * sizeof *list) : NULL;
    unsigned char *all = bases ? NULL : keep(f, offset + m->data.size);
    for (size_t e = 0; e < num_experts; e++) {
        if (bases)
            list[e] = keep(f, offset + expert);
        starts[e] = bases ? (unsigned char *)list[e] + offset : all + offset + e * m->expert_stride;
    }
    m->bases = list;
    m->data.base = all;
}

/* Any bytes as integers of so many rows and columns, packed, transposed or neither. */
static void make_integers(struct fixture *f, struct moe_matrix *m, enum moe_format format, enum moe_packing packing,
                          bool transposed, size_t rows, size_t cols)
{
    size_t n = format == MOE_FORMAT_U4 ? 8 : 4, experts = f->params.num_experts;
    size_t lines = rows, line = moe_format_row_bytes(format, cols), step = 1;
    unsigned char *starts[8];
    MOE_INIT(m);
    m->data.format = format;
    m->packing = packing;
    m->transposed = transposed;
    if (packing != MOE_PACKING_NONE) {
        size_t word_rows = packing == MOE_PACKING_COLS ? rows : (rows + n - 1) / n;
        size_t word_cols = packing == MOE_PACKING_COLS ? (cols + n - 1) / n : cols;
        step = transposed ? 4 + 4 * below(f, 2) : 4;
        lines = transposed ? word_cols : word_rows;
        line = ((transposed ? word_rows : word_cols) - 1) * step + 4;
        m->element_stride = transposed ? step : 0;
    } else if (transposed) {   /* bytes, of a value or of two columns */
        lines = cols / moe_format_info(format)->block_values;
        step = 1 + below(f, 2);
        line = (rows - 1) * step + 1;
        m->element_stride = step;
    }
    place(f, m, experts, lines, line, starts);
    for (size_t e = 0; e < experts; e++)
        for (size_t i = 0; i < lines * m->data.stride - (m->data.stride - line); i++)
            starts[e][i] = (unsigned char)test_random(&f->rng);
}

static void make_plane(struct fixture *f, struct moe_matrix *m, enum moe_format format, bool transposed, size_t rows,
                       size_t cols)
{
    size_t value = moe_format_row_bytes(format, 1), lines = transposed ? cols : rows;
    size_t values = transposed ? rows : cols;
    unsigned char *starts[8];
    MOE_INIT(m);
    m->data.format = format;
    m->transposed = transposed;
    place(f, m, f->params.num_experts, lines, values * value, starts);
    for (size_t e = 0; e < f->params.num_experts; e++)
        for (size_t i = 0; i < lines; i++)
            for (size_t j = 0; j < values; j++)
                store(f, format, starts[e] + i * m->data.stride + j * value);
}

static void make_columns(struct fixture *f, struct scaled *s, size_t num_blocks)
{
    unsigned char *starts[8];
    MOE_INIT(&s->column_block);
    s->column_block.data.format = MOE_FORMAT_I32;
    place(f, &s->column_block, f->params.num_experts, 1, s->cols * sizeof(int32_t), starts);
    for (size_t e = 0; e < f->params.num_experts; e++)
        for (size_t c = 0; c < s->cols; c++)
            memcpy(starts[e] + c * sizeof(int32_t), &(int32_t){(int32_t)below(f, num_blocks)}, sizeof(int32_t));
    s->scales.column_block = &s->column_block;
}

/* Values in blocks of a format that has scales of its own, too. */
static void make_weights(struct fixture *f, struct scaled *s)
{
    static const enum moe_format formats[] = {MOE_FORMAT_E4M3, MOE_FORMAT_E2M1, MOE_FORMAT_BF16, MOE_FORMAT_Q8_0};
    enum moe_format format = formats[below(f, 4)];
    size_t line = moe_format_row_bytes(format, s->cols);
    unsigned char *starts[8];
    MOE_INIT(&s->matrix);
    s->matrix.data.format = format;
    place(f, &s->matrix, f->params.num_experts, s->rows, line, starts);
    for (size_t e = 0; e < f->params.num_experts; e++)
        for (size_t r = 0; r < s->rows; r++)
            test_fill_weights(&f->rng, format, starts[e] + r * s->matrix.data.stride, s->cols, 0.1);
}

static void make_values(struct fixture *f, struct scaled *s)
{
    size_t kind = below(f, 11);
    if (kind < 4)
        make_integers(f, &s->matrix, kind % 2 ? MOE_FORMAT_U4 : MOE_FORMAT_U8,
                      kind < 2 ? MOE_PACKING_COLS : MOE_PACKING_ROWS, below(f, 2) == 0, s->rows, s->cols);
    else if (kind == 4)
        make_integers(f, &s->matrix, MOE_FORMAT_U4, MOE_PACKING_ROWS_AWQ, below(f, 2) == 0, s->rows, s->cols);
    else if (kind < 7)
        make_integers(f, &s->matrix, kind == 5 ? MOE_FORMAT_U8 : MOE_FORMAT_I8, MOE_PACKING_NONE, below(f, 2) == 0,
                      s->rows, s->cols);
    else if (kind < 9)
        make_integers(f, &s->matrix, kind == 7 ? MOE_FORMAT_E2M1 : MOE_FORMAT_U4, MOE_PACKING_NONE, true, s->rows,
                      s->cols);
    else
        make_weights(f, s);
}

static void make_zero(struct fixture *f, struct scaled *s, size_t rows, size_t cols)
{
    size_t kind = below(f, 6);
    bool transposed = below(f, 2) == 0;
    if (kind < 3)
        make_integers(f, &s->zero, kind == 1 ? MOE_FORMAT_U8 : MOE_FORMAT_U4,
                      kind == 2 ? MOE_PACKING_ROWS_AWQ : MOE_PACKING_ROWS, transposed, rows, cols);
    else if (kind == 3 && cols % 2 == 0)
        make_integers(f, &s->zero, MOE_FORMAT_U4, MOE_PACKING_NONE, transposed, rows, cols);
    else
        make_integers(f, &s->zero, kind == 4 ? MOE_FORMAT_I8 : MOE_FORMAT_U8, MOE_PACKING_NONE, transposed, rows, cols);
    s->scales.zero = &s->zero;
}

static void make_scaled(struct fixture *f, struct scaled *s, size_t rows, size_t cols)
{
    static const enum moe_format formats[] = {MOE_FORMAT_F32, MOE_FORMAT_F16, MOE_FORMAT_BF16, MOE_FORMAT_E4M3,
                                              MOE_FORMAT_E8M0};
    static const size_t blocks[] = {0, 1, 7, 16, 32, 128};
    struct moe_scales *scales = &s->scales;
    s->rows = rows;
    s->cols = cols;
    make_values(f, s);
    MOE_INIT(scales);
    scales->block_rows = blocks[below(f, 6)];
    scales->block_cols = blocks[below(f, 6)];
    scales->first_row = scales->block_rows > 0 ? below(f, scales->block_rows) : 0;
    scales->zero_offset = (float)below(f, 3) * 4;
    size_t num_rows = scales->block_rows > 0 ? (scales->first_row + rows - 1) / scales->block_rows + 1 : 1;
    size_t num_cols = scales->block_cols > 0 ? (cols - 1) / scales->block_cols + 1 : 1;
    if (below(f, 6) > 0) {
        make_plane(f, &s->scale, formats[below(f, 5)], below(f, 2) == 0, num_rows, num_cols);
        scales->scale = &s->scale;
    }
    if (below(f, 2) == 0)
        make_zero(f, s, num_rows, num_cols);
    if (below(f, 2) == 0) {
        make_plane(f, &s->factor, formats[below(f, 3)], false, 1, 1);
        scales->factor = &s->factor;
        scales->factor_divides = below(f, 2) == 0;
    }
    if (below(f, 3) == 0)
        make_columns(f, s, num_cols);
    s->matrix.scales = scales;
}

static void fixture_init(struct fixture *f, uint64_t seed)
{
    memset(f, 0, sizeof *f);
    f->rng.state = seed;
    MOE_INIT(&f->params);
    f->params.num_experts = 1 + below(f, 3);
    f->params.hidden_size = 32 * (1 + below(f, 3));
    f->params.intermediate_size = 32 * (1 + below(f, 3));
    make_scaled(f, &f->gate, f->params.intermediate_size, f->params.hidden_size);
    make_scaled(f, &f->up, f->params.intermediate_size, f->params.hidden_size);
    make_scaled(f, &f->down, f->params.hidden_size, f->params.intermediate_size);
    f->params.gate = &f->gate.matrix;
    f->params.up = &f->up.matrix;
    f->params.down = &f->down.matrix;
}

static void fixture_free(struct fixture *f)
{
    for (size_t i = 0; i < f->num_memory; i++)
        test_release(f->memory[i]);
}

/* ---- backends: the CPU, as if it could do less ---- */

static struct moe_backend *open_with(struct moe_backend_ops *ops, uint32_t flags)
{
    struct moe_backend *backend = NULL;
    *ops = moe_cpu_ops;
    ops->flags = flags;
    test_assert_ok(moe_backend_open_ops(ops, NULL, NULL, &backend, NULL));
    return backend;
}

static const uint32_t all_flags[] = {MOE_BACKEND_HOST_MEMORY | MOE_BACKEND_SCALES, MOE_BACKEND_HOST_MEMORY,
                                     MOE_BACKEND_SCALES, 0};

static void compare_matrix(struct test_rng *rng, const struct moe_backend *backend, struct moe_context *ctx,
                           const struct moe_stack *stack, const struct moe_matrix *matrix)
{
    size_t rows = stack->rows, cols = stack->cols;
    double *w = moe_ref_alloc(rows * cols, sizeof *w), *dx = moe_ref_alloc(cols, sizeof *dx);
    double *y = moe_ref_alloc(2 * rows, sizeof *y);
    float *x = moe_ref_alloc(cols, sizeof *x), *out = moe_ref_alloc(rows, sizeof *out);
    for (size_t e = 0; e < stack->num_experts; e++) {
        struct moe_slice slice = moe_stack_slice(stack, e);
        struct moe_view xv = test_view(x, cols * sizeof *x, 0, MOE_FORMAT_F32);
        struct moe_view yv = test_view(out, rows * sizeof *out, 0, MOE_FORMAT_F32);
        assert_int_equal(slice.scaled, (backend->ops->flags & MOE_BACKEND_SCALES) != 0);
        test_fill(rng, x, cols, 1);
        for (size_t c = 0; c < cols; c++)
            dx[c] = x[c];
        moe_ref_matrix(w, matrix, rows, cols, e);
        moe_ref_linear(y, y + rows, w, NULL, dx, rows, cols);
        test_assert_ok(backend->ops->linear(ctx->ctx, &yv, &slice, &xv));
        for (size_t r = 0; r < rows; r++)
            test_assert_most(fabs(out[r] - y[r]), moe_ref_gamma(cols + SCALE_ROUNDINGS) * y[rows + r], "a product");
    }
    free(w);
    free(dx);
    free(y);
    free(x);
    free(out);
}

static void compare(struct fixture *f, struct moe_backend *backend, struct moe_context *ctx,
                    const struct moe_experts *experts)
{
    compare_matrix(&f->rng, backend, ctx, &experts->set.gate, &f->gate.matrix);
    compare_matrix(&f->rng, backend, ctx, &experts->set.up, &f->up.matrix);
    compare_matrix(&f->rng, backend, ctx, &experts->set.down, &f->down.matrix);
}

/* All that the caller has is inside its memory, which ends where its last value does; results are those of the
 * definition, also after the memory of the caller's structs is gone, and after its values have changed. */
static void random_experts(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct moe_backend_ops ops;
        struct moe_backend *backend = open_with(&ops, all_flags[seed % 4]);
        struct moe_context *ctx = test_context(backend, 1);
        struct moe_experts *experts = NULL;
        struct moe_error error = {0};
        struct fixture f;
        size_t bytes;
        fixture_init(&f, seed);
        test_assert_ok(moe_experts_packed_size(backend, &f.params, &bytes, &error));
        if (moe_experts_create(backend, &f.params, &experts, &error) != MOE_OK)
            fail_msg("seed %llu: %s", (unsigned long long)seed, error.text);
        compare(&f, backend, ctx, experts);
        for (size_t k = 0; k < 4; k++) {
            const struct scaled *s = k % 2 ? &f.up : &f.down;
            unsigned char *at = s->matrix.bases != NULL ? s->matrix.bases[0] : s->matrix.data.base;
            if (s->matrix.data.format == MOE_FORMAT_U4 || s->matrix.data.format == MOE_FORMAT_U8)
                at[s->matrix.data.offset + k] ^= 0x55;
        }
        test_assert_ok(moe_experts_update(ctx, experts));
        compare(&f, backend, ctx, experts);
        moe_experts_destroy(experts);
        moe_context_destroy(ctx);
        moe_backend_close(backend);
        fixture_free(&f);
    }
}

/* ---- sizes ---- */

/* What is read in place needs nothing; a packed matrix its own size, zeros a byte each. */
static void packed_sizes(void **state)
{
    (void)state;
    struct moe_backend *backend = test_backend("cpu");
    struct fixture f;
    memset(&f, 0, sizeof f);
    MOE_INIT(&f.params);
    f.params.num_experts = 2;
    f.params.hidden_size = 256;
    f.params.intermediate_size = 512;
    struct scaled *all[] = {&f.gate, &f.up, &f.down};
    for (size_t i = 0; i < 3; i++) {
        struct scaled *s = all[i];
        s->rows = i == 2 ? 256 : 512;
        s->cols = i == 2 ? 512 : 256;
        make_integers(&f, &s->matrix, MOE_FORMAT_U4, MOE_PACKING_NONE, false, s->rows, s->cols);
        make_plane(&f, &s->scale, MOE_FORMAT_F16, false, s->rows, s->cols / 32);
        MOE_INIT(&s->scales);
        s->scales.block_rows = 1;
        s->scales.block_cols = 32;
        s->scales.scale = &s->scale;
        s->scales.zero_offset = 8;
        s->matrix.scales = &s->scales;
    }
    f.params.gate = &f.gate.matrix;
    f.params.up = &f.up.matrix;
    f.params.down = &f.down.matrix;
    size_t bytes, values = 256 * 512 / 2 * 2, zeros = 512 * 256 / 32 * 2;
    test_assert_ok(moe_experts_packed_size(backend, &f.params, &bytes, NULL));
    assert_int_equal(bytes, 0);
    make_integers(&f, &f.gate.matrix, MOE_FORMAT_U4, MOE_PACKING_COLS, true, 512, 256);
    make_integers(&f, &f.gate.zero, MOE_FORMAT_U4, MOE_PACKING_ROWS, true, 512, 8);
    f.gate.scales.zero = &f.gate.zero;
    f.gate.matrix.scales = &f.gate.scales;
    test_assert_ok(moe_experts_packed_size(backend, &f.params, &bytes, NULL));
    assert_true(bytes >= values + zeros && bytes <= (size_t)(1.02 * (double)values) + zeros);
    fixture_free(&f);
    moe_backend_close(backend);
}

/* ---- errors ---- */

static void expect_error(struct moe_backend *backend, const struct fixture *f, enum moe_status expected,
                         const char *word)
{
    struct moe_experts *experts = NULL;
    struct moe_error error = {0};
    test_assert_status(moe_experts_create(backend, &f->params, &experts, &error), expected);
    assert_null(experts);
    if (strstr(error.text, word) == NULL)
        fail_msg("no '%s' in: %s", word, error.text);
}

/* GPTQ-like experts in which everything can go wrong. */
static void make_whole(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    MOE_INIT(&f->params);
    f->params.num_experts = 2;
    f->params.hidden_size = 64;
    f->params.intermediate_size = 32;
    struct scaled *all[] = {&f->gate, &f->up, &f->down};
    const struct moe_matrix **places[] = {&f->params.gate, &f->params.up, &f->params.down};
    for (size_t i = 0; i < 3; i++) {
        struct scaled *s = all[i];
        s->rows = i == 2 ? 64 : 32;
        s->cols = i == 2 ? 32 : 64;
        make_integers(f, &s->matrix, MOE_FORMAT_U4, MOE_PACKING_COLS, true, s->rows, s->cols);
        MOE_INIT(&s->scales);
        s->scales.block_rows = 1;
        s->scales.block_cols = 16;
        make_plane(f, &s->scale, MOE_FORMAT_F16, true, s->rows, s->cols / 16);
        make_integers(f, &s->zero, MOE_FORMAT_U4, MOE_PACKING_ROWS, true, s->rows, s->cols / 16);
        make_plane(f, &s->factor, MOE_FORMAT_F32, false, 1, 1);
        make_columns(f, s, s->cols / 16);
        s->scales.scale = &s->scale;
        s->scales.zero = &s->zero;
        s->scales.factor = &s->factor;
        s->matrix.scales = &s->scales;
        *places[i] = &s->matrix;
    }
}

static void bad_planes(void **state)
{
    (void)state;
    struct moe_backend *backend = test_backend("cpu");
    struct fixture f;
    make_whole(&f);
    struct scaled *s = &f.up, good = f.up;
    struct moe_matrix *parts[] = {&s->scale, &s->zero, &s->factor, &s->column_block};
    const struct moe_matrix goods[] = {s->scale, s->zero, s->factor, s->column_block};
    static const char *const names[] = {"the scale of up", "the zero of up", "the factor of up",
                                        "the column_block of up"};
    for (size_t i = 0; i < 4; i++) {
        struct moe_matrix *m = parts[i];
        m->struct_size = 0;
        expect_error(backend, &f, MOE_ERR_ARGUMENT, names[i]);
        *m = goods[i];
        m->data.size--;
        expect_error(backend, &f, MOE_ERR_ARGUMENT, names[i]);
        *m = goods[i];
        m->data.offset = SIZE_MAX;
        expect_error(backend, &f, MOE_ERR_ARGUMENT, names[i]);
        *m = goods[i];
        m->data.format = MOE_FORMAT_Q4_0;
        expect_error(backend, &f, MOE_ERR_UNSUPPORTED, names[i]);
        *m = goods[i];
        m->data.base = NULL;
        m->bases = NULL;
        expect_error(backend, &f, MOE_ERR_ARGUMENT, names[i]);
        *m = goods[i];
        m->scales = &s->scales;
        expect_error(backend, &f, MOE_ERR_ARGUMENT, names[i]);
        *m = goods[i];
    }
    s->scale.data.stride = 1;
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "the scale of up");
    s->scale = goods[0];
    s->scale.element_stride = SIZE_MAX / 2;
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "the scale of up");
    s->scale = goods[0];
    s->zero.packing = (enum moe_packing)9;
    expect_error(backend, &f, MOE_ERR_UNSUPPORTED, "the zero of up");
    f.up = good;
    fixture_free(&f);
    moe_backend_close(backend);
}

static void bad_scales(void **state)
{
    (void)state;
    struct moe_backend *backend = test_backend("cpu");
    struct fixture f;
    make_whole(&f);
    struct scaled *s = &f.up, good = f.up;
    s->scales.struct_size = 0;
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "up");
    s->scales = good.scales;
    s->scales.zero_offset = NAN;
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "zero_offset");
    s->scales = good.scales;
    s->scales.first_row = 1;
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "first_row 1");
    s->scales.block_rows = SIZE_MAX;
    s->scales.first_row = SIZE_MAX - 1;
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "first_row");
    s->scales = good.scales;
    s->scales.block_cols = 8;   /* more blocks than the planes have */
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "the scale of up");
    s->scales = good.scales;
    s->matrix.packing = MOE_PACKING_ROWS_AWQ;
    s->matrix.data.format = MOE_FORMAT_U8;
    expect_error(backend, &f, MOE_ERR_UNSUPPORTED, "packing");
    s->matrix.packing = MOE_PACKING_COLS;
    s->matrix.data.format = MOE_FORMAT_E2M1;
    expect_error(backend, &f, MOE_ERR_UNSUPPORTED, "packing");
    s->matrix = good.matrix;
    s->matrix.packing = MOE_PACKING_NONE;
    s->matrix.data.format = MOE_FORMAT_Q8_0;
    expect_error(backend, &f, MOE_ERR_UNSUPPORTED, "transposed");
    s->matrix = good.matrix;
    s->matrix.data.size--;
    expect_error(backend, &f, MOE_ERR_ARGUMENT, "up needs");
    fixture_free(&f);
    moe_backend_close(backend);
}

/* A column that names a block that is none, at creation and in an update, on every kind of backend. */
static void bad_columns(void **state)
{
    (void)state;
    const int32_t bad[] = {-1, 4, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        struct moe_backend_ops ops;
        struct moe_backend *backend = open_with(&ops, all_flags[i]);
        struct moe_context *ctx = test_context(backend, 1);
        struct moe_experts *experts = NULL;
        struct fixture f;
        make_whole(&f);
        test_assert_ok(moe_experts_create(backend, &f.params, &experts, NULL));
        struct moe_matrix *m = &f.up.column_block;
        unsigned char *at = m->bases != NULL ? m->bases[1] : (unsigned char *)m->data.base + m->expert_stride;
        memcpy(at + m->data.offset + 63 * sizeof(int32_t), &bad[i], sizeof(int32_t));
        test_assert_status(moe_experts_update(ctx, experts), MOE_ERR_ARGUMENT);
        expect_error(backend, &f, MOE_ERR_ARGUMENT, "column 63 of expert 1");
        moe_experts_destroy(experts);
        moe_context_destroy(ctx);
        moe_backend_close(backend);
        fixture_free(&f);
    }
}

/* Memory that the host cannot read: what is in place there may be, what must be copied may not. */
static void backend_memory(void **state)
{
    (void)state;
    struct moe_backend_ops ops;
    struct moe_backend *backend = open_with(&ops, MOE_BACKEND_SCALES);
    struct moe_experts *experts = NULL;
    struct fixture f;
    make_whole(&f);
    f.params.location = MOE_LOCATION_BACKEND;
    expect_error(backend, &f, MOE_ERR_UNSUPPORTED, "gate is transposed");
    struct scaled *all[] = {&f.gate, &f.up, &f.down};
    for (size_t i = 0; i < 3; i++) {
        struct scaled *s = all[i];
        make_integers(&f, &s->matrix, MOE_FORMAT_U4, MOE_PACKING_NONE, false, s->rows, s->cols);
        s->matrix.scales = &s->scales;
    }
    expect_error(backend, &f, MOE_ERR_UNSUPPORTED, "gate is packed, or has scales");
    for (size_t i = 0; i < 3; i++) {
        struct scaled *s = all[i];
        s->scales.zero = s->scales.factor = s->scales.column_block = NULL;
        make_plane(&f, &s->scale, MOE_FORMAT_F16, false, s->rows, s->cols / 16);
    }
    test_assert_ok(moe_experts_create(backend, &f.params, &experts, NULL));
    moe_experts_destroy(experts);
    moe_backend_close(backend);
    backend = open_with(&ops, 0);
    expect_error(backend, &f, MOE_ERR_UNSUPPORTED, "gate is");
    moe_backend_close(backend);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_experts), cmocka_unit_test(packed_sizes), cmocka_unit_test(bad_planes),
        cmocka_unit_test(bad_scales),     cmocka_unit_test(bad_columns),  cmocka_unit_test(backend_memory),
    };
    return cmocka_run_group_tests_name("quantised/scales", tests, NULL, NULL);
}
