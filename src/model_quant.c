// SPDX-License-Identifier: MIT
// Quantised tensors of safetensors files. A row of the table is what one kind of values looks like: their suffix, their
// type, the methods of quantization_config that have them, and the rule for the rest. What is there decides, tensor by
// tensor: any matrix of a quantised file may be plain.
#include "model_quant.h"

#include <stdio.h>
#include <string.h>

#include "model_quant_parts.h"

struct scheme {
    const char *values;       /* suffix of their tensor; ".weight": the tensor itself */
    enum moe_format stored;   /* its type in the file */
    const char *methods;      /* of quantization_config.quant_method */
    enum moe_status (*load)(const struct moe_quant *q, struct moe_matrix *out, void **bases);
};

static enum moe_status load_fp8(const struct moe_quant *q, struct moe_matrix *out, void **bases);
static enum moe_status load_i8(const struct moe_quant *q, struct moe_matrix *out, void **bases);
static enum moe_status load_fp4(const struct moe_quant *q, struct moe_matrix *out, void **bases);
static enum moe_status load_blocks(const struct moe_quant *q, struct moe_matrix *out, void **bases);
static enum moe_status load_packed_int(const struct moe_quant *q, struct moe_matrix *out, void **bases);
static enum moe_status load_packed_fp4(const struct moe_quant *q, struct moe_matrix *out, void **bases);
static enum moe_status load_qweight(const struct moe_quant *q, struct moe_matrix *out, void **bases);

#define MODELOPT "modelopt|modelopt_fp4|modelopt_mixed"
#define AUTO_ROUND "auto-round|intel/auto-round"

static const struct scheme schemes[] = {
    {".weight", MOE_FORMAT_E4M3, "fp8|compressed-tensors|" MODELOPT "|fbgemm_fp8|w8a8_fp8|mxfp8|quark|" AUTO_ROUND,
     load_fp8},
    {".weight", MOE_FORMAT_I8, "fp8|compressed-tensors|blockwise_int8|w8a8_int8", load_i8},
    {".weight", MOE_FORMAT_U8, "fp8|" MODELOPT "|nvfp4|mxfp4|quark", load_fp4},
    {".weight", MOE_FORMAT_E2M1, "fp8|" MODELOPT "|nvfp4|mxfp4|quark", load_fp4},
    {".weight_packed", MOE_FORMAT_I32, "compressed-tensors", load_packed_int},
    {".weight_packed", MOE_FORMAT_U8, "compressed-tensors|" AUTO_ROUND, load_packed_fp4},
    {".qweight", MOE_FORMAT_I32, "gptq|awq|" AUTO_ROUND, load_qweight},
    {".blocks", MOE_FORMAT_U8, "mxfp4", load_blocks},
};

static const char known_methods[] = "fp8|compressed-tensors|" MODELOPT "|nvfp4|fbgemm_fp8|mxfp8|mxfp4|gptq|awq|quark|"
                                    AUTO_ROUND "|blockwise_int8|w8a8_int8|w8a8_fp8";

/* ---- which scheme ------------------------------------------------------------------------------------------- */

static bool is_config(const struct moe_build *b)
{
    return b->model->vocabulary == MOE_VOCABULARY_CONFIG;
}

const struct moe_archive_tensor *moe_quant_find(const struct moe_build *b, const char *plain,
                                                char full[MOE_TENSOR_NAME_SIZE])
{
    snprintf(full, MOE_TENSOR_NAME_SIZE, "%s", plain);
    const struct moe_archive_tensor *tensor = moe_archive_find(b->model->archive, plain);
    for (size_t i = 0; tensor == NULL && is_config(b) && i < MOE_ARRAY_SIZE(schemes); i++)
        if (strcmp(schemes[i].values, ".weight") != 0)
            tensor = moe_quant_find_part(b->model->archive, plain, schemes[i].values, full);
    return tensor;
}

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* plain: the name that the tensor would have if it were. */
static const struct scheme *find_scheme(const struct moe_archive_tensor *tensor, const char *plain)
{
    static const char weight[] = ".weight";
    size_t skip = sizeof weight - 1;
    bool itself = strcmp(tensor->info.name, plain) == 0;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(schemes); i++) {
        const char *suffix = schemes[i].values;
        bool values = strcmp(suffix, weight) == 0;
        const char *end = strncmp(suffix, weight, skip) == 0 ? suffix + skip : suffix + 1;
        if (values == itself && ends_with(tensor->info.name, values ? "" : end) && tensor->info.format != NULL &&
            tensor->info.format->format == schemes[i].stored)
            return &schemes[i];
    }
    return NULL;
}

bool moe_quant_is_quantised(const struct moe_build *b, const struct moe_archive_tensor *tensor, const char *plain)
{
    return is_config(b) && (strcmp(tensor->info.name, plain) != 0 || find_scheme(tensor, plain) != NULL);
}

static bool is_listed(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *item = list; *item != '\0';) {
        size_t item_length = strcspn(item, "|");
        if (item_length == length && memcmp(item, name, length) == 0)
            return true;
        item += item_length + (item[item_length] == '|');
    }
    return false;
}

static enum moe_status check_method(const struct moe_build *b, const char *methods, const char *tensor)
{
    struct moe_quant_key method;
    if (!moe_quant_find_key(b->model, "quant_method", &method))
        return MOE_OK;
    const char *name = method.value.kind == MOE_VALUE_STRING ? method.value.string : "no text";
    if (is_listed(methods, name))
        return MOE_OK;
    return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': tensor '%.100s' needs %.160s, found '%.32s'",
                    moe_archive_path(b->model->archive), method.name, tensor, methods, name);
}

enum moe_status moe_quant_check_method(const struct moe_build *b, const char *full)
{
    return is_config(b) ? check_method(b, known_methods, full) : MOE_OK;
}

/* What goes into a matrix may be changed first, which its weights do not show: by a scale of each column (ModelOpt's
 * AWQ), by a rotation (compressed-tensors). */
static enum moe_status check_inputs(const struct moe_build *b, const char *plain)
{
    char full[MOE_TENSOR_NAME_SIZE];
    const char *key;
    if (moe_quant_find_transform(b->model, &key))
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: key '%.160s': inputs of matrices that are transformed are "
                        "not supported", moe_archive_path(b->model->archive), key);
    const struct moe_archive_tensor *tensor = moe_quant_find_part(b->model->archive, plain, ".pre_quant_scale", full);
    if (tensor == NULL)
        return MOE_OK;
    return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s': inputs with a scale for each column are not "
                    "supported", moe_archive_part_path(b->model->archive, tensor->part), full);
}

enum moe_status moe_quant_load(const struct moe_build *b, const struct moe_request *request,
                               const struct moe_matrix_name *name, struct moe_matrix *out, void **bases)
{
    const struct scheme *scheme = find_scheme(name->tensor, name->plain);
    if (scheme == NULL) {
        char type[32];
        moe_matrix_describe_type(type, &name->tensor->info);
        return moe_fail(b->error, MOE_ERR_UNSUPPORTED, "%s: tensor '%.100s': %s, which no known method stores there",
                        moe_archive_part_path(b->model->archive, name->tensor->part), name->full, type);
    }
    MOE_TRY(check_method(b, scheme->methods, name->full));
    MOE_TRY(check_inputs(b, name->plain));
    struct moe_quant q = {.b = b, .request = request, .each = moe_matrix_is_each(request->name)};
    q.memory = moe_model_block_alloc(b->model, b->entry, 1, sizeof *q.memory);
    if (q.memory == NULL)
        return moe_quant_fail_memory(&q);
    MOE_INIT(out);
    MOE_INIT(&q.memory->scales);
    out->scales = &q.memory->scales;
    return scheme->load(&q, out, bases);
}

/* ---- values as they are: fp8, int8 -------------------------------------------------------------------------- */

static enum moe_status add_zero_i8(const struct moe_quant *q, const struct moe_quant_grid *grid)
{
    struct moe_quant_part zero;
    MOE_TRY(moe_quant_load_part(q, &zero, ".weight_zero_point", false, NULL));
    if (zero.tensor == NULL)
        return MOE_OK;
    MOE_TRY(moe_quant_check_type(q, &zero, "i8", MOE_FORMAT_I8, MOE_FORMAT_I8));
    if (!moe_quant_part_has(q, &zero, grid->rows, grid->cols, 1))
        return moe_quant_fail_shape(q, &zero, grid->rows, grid->cols, 1);
    return moe_quant_add_plane(q, &zero, grid, MOE_FORMAT_I8, &q->memory->zero, &q->memory->scales.zero);
}

static enum moe_status load_fp8(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    const struct moe_request *r = q->request;
    bool transposed = (r->layout & MOE_MLP_TRANSPOSED) != 0;
    struct moe_quant_part values, scale;
    struct moe_quant_grid grid;
    MOE_TRY(moe_quant_load_part(q, &values, ".weight", true, bases));
    MOE_TRY(moe_quant_rows(q, &values, MOE_FORMAT_E4M3, r->cols, transposed, out));
    MOE_TRY(moe_quant_load_part(q, &scale, ".weight_scale_inv|.weight_scale|.scale|.qscale_weight", true, NULL));
    MOE_TRY(moe_quant_find_grid(q, &scale, transposed, &grid));
    return moe_quant_add_plane(q, &scale, &grid, moe_quant_scale_format(&scale), &q->memory->scale,
                               &q->memory->scales.scale);
}

/* Int8 as it is, or E2M1 in bytes that are called so: half as many columns. */
static enum moe_status load_i8(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    const struct moe_request *r = q->request;
    bool transposed = (r->layout & MOE_MLP_TRANSPOSED) != 0;
    struct moe_quant_part values, scale;
    struct moe_quant_grid grid;
    MOE_TRY(moe_quant_load_part(q, &values, ".weight", true, bases));
    if (r->cols % 2 == 0 && moe_quant_part_has(q, &values, r->rows * r->num_parts, r->cols / 2, 1))
        return load_fp4(q, out, bases);
    MOE_TRY(moe_quant_rows(q, &values, MOE_FORMAT_I8, r->cols, transposed, out));
    MOE_TRY(moe_quant_load_part(q, &scale, ".weight_scale|.weight_scale_inv", true, NULL));
    MOE_TRY(moe_quant_find_grid(q, &scale, transposed, &grid));
    MOE_TRY(moe_quant_add_plane(q, &scale, &grid, moe_quant_scale_format(&scale), &q->memory->scale,
                                &q->memory->scales.scale));
    return add_zero_i8(q, &grid);
}

/* Rows of values of 4 bits end with a whole byte. */
static enum moe_status check_even(const struct moe_quant *q, const struct moe_quant_part *values)
{
    bool even = q->request->cols % 2 == 0;
    return even ? MOE_OK : moe_quant_fail_layout(q, values, "rows of an odd number of 4-bit values");
}

/* ---- E2M1: NVFP4 and MXFP4 ---------------------------------------------------------------------------------- */

enum { NVFP4_GROUP = 16, MX_GROUP = 32 };

/* e4m3 scales are NVFP4's, with a factor that is called factor; e8m0 ones, which may be called u8, MXFP4's. */
static enum moe_status add_fp4_scales(const struct moe_quant *q, const char *scales, const char *factor, bool divides,
                                      bool transposed)
{
    struct moe_quant_part scale, second;
    struct moe_quant_grid grid = {
        .block_rows = 1, .rows = q->request->rows * q->request->num_parts, .transposed = transposed};
    MOE_TRY(moe_quant_load_part(q, &scale, scales, true, NULL));
    bool nvfp4 = scale.tensor->info.format != NULL && scale.tensor->info.format->format == MOE_FORMAT_E4M3;
    if (!nvfp4)
        MOE_TRY(moe_quant_check_type(q, &scale, "e4m3, e8m0 or u8", MOE_FORMAT_E8M0, MOE_FORMAT_U8));
    grid.block_cols = nvfp4 ? NVFP4_GROUP : MX_GROUP;
    grid.cols = moe_quant_blocks(q->request->cols, grid.block_cols);
    size_t lines = transposed ? grid.cols : grid.rows, line = transposed ? grid.rows : grid.cols;
    if (!moe_quant_part_has(q, &scale, lines, line, 1))
        return moe_quant_fail_shape(q, &scale, lines, line, 1);
    if (q->request->cols % grid.block_cols != 0)
        return moe_quant_fail_groups(q, &scale, grid.block_cols);
    MOE_TRY(moe_quant_settle_grid(q, &scale, &grid));
    MOE_TRY(moe_quant_add_plane(q, &scale, &grid, moe_quant_scale_format(&scale), &q->memory->scale,
                                &q->memory->scales.scale));
    if (!nvfp4)
        return MOE_OK;
    MOE_TRY(moe_quant_load_part(q, &second, factor, true, NULL));
    MOE_TRY(moe_quant_add_factor(q, &second));
    q->memory->scales.factor_divides = divides;
    return MOE_OK;
}

/* Stacks whose plain matrices are transposed have bytes of two columns, transposed likewise; a file need not. */
static bool is_turned(const struct moe_quant *q, const struct moe_quant_part *values)
{
    size_t rows = q->request->rows * q->request->num_parts, bytes = q->request->cols / 2;
    bool layout = (q->request->layout & MOE_MLP_TRANSPOSED) != 0;
    return moe_quant_part_has(q, values, bytes, rows, 1) && (layout || !moe_quant_part_has(q, values, rows, bytes, 1));
}

static enum moe_status load_fp4(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    struct moe_quant_part values;
    MOE_TRY(moe_quant_load_part(q, &values, ".weight", true, bases));
    bool halves = values.tensor->info.format->format != MOE_FORMAT_E2M1;   /* bytes are counted, not values */
    MOE_TRY(check_even(q, &values));
    bool turned = halves && is_turned(q, &values);
    MOE_TRY(moe_quant_rows(q, &values, MOE_FORMAT_E2M1, halves ? q->request->cols / 2 : q->request->cols, turned, out));
    return add_fp4_scales(q, ".weight_scale|.scale|.weight_scale_inv", ".weight_scale_2", false, turned);
}

static enum moe_status load_packed_fp4(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    struct moe_quant_part values;
    MOE_TRY(moe_quant_load_part(q, &values, ".weight_packed", true, bases));
    MOE_TRY(check_even(q, &values));
    MOE_TRY(moe_quant_rows(q, &values, MOE_FORMAT_E2M1, q->request->cols / 2, false, out));
    return add_fp4_scales(q, ".weight_scale", ".weight_global_scale", true, false);
}

/* [experts, rows, groups, 16 bytes] is [experts, rows, cols / 2], never transposed. */
static enum moe_status load_blocks(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    const struct moe_request *r = q->request;
    struct moe_quant_part values;
    MOE_TRY(moe_quant_load_part(q, &values, ".blocks", true, bases));
    if (!moe_quant_part_has(q, &values, r->rows * r->num_parts, r->cols / MX_GROUP, MX_GROUP / 2) ||
        r->cols % MX_GROUP != 0)
        return moe_quant_fail_shape(q, &values, r->rows * r->num_parts, moe_quant_blocks(r->cols, MX_GROUP),
                                    MX_GROUP / 2);
    MOE_TRY(moe_quant_place_rows(q, &values, MOE_FORMAT_E2M1, r->cols / 2, out));
    return add_fp4_scales(q, ".scales", "", false, false);
}

/* ---- integers in words -------------------------------------------------------------------------------------- */

/* 4 or 8 bits, whichever makes words of so many values: [rows, cols / n], or [rows / n, cols]. The key of
 * quantization_config that gives bits must have them too, unless it has rules for some tensors. */
static enum moe_status find_bits(const struct moe_quant *q, const struct moe_quant_part *part, const char *name,
                                 const size_t shape[2], bool words_of_rows, size_t *bits)
{
    struct moe_quant_key key, last = {.name = ""};
    size_t expected = 0, words[2];
    bool given = false, found = false;
    MOE_TRY(moe_quant_check_type(q, part, "i32", MOE_FORMAT_I32, MOE_FORMAT_I32));
    for (*bits = 4; *bits <= 8; *bits += 4) {
        size_t n = 32 / *bits;
        words[0] = words_of_rows ? moe_quant_blocks(shape[0], n) : shape[0];
        words[1] = words_of_rows ? shape[1] : moe_quant_blocks(shape[1], n);
        if (moe_quant_part_has(q, part, words[0], words[1], 1))
            break;
    }
    for (size_t i = 0; moe_quant_find_weights_key(q->b->model, name, i, &key); i++) {
        bool known = key.value.kind == MOE_VALUE_INT && (key.value.integer == 4 || key.value.integer == 8);
        given = true;
        last = key;
        expected = expected == 0 && known ? (size_t)key.value.integer : expected;
        found = found || (known && (size_t)key.value.integer == *bits);
    }
    if (*bits <= 8 && (!given || found || moe_quant_has_rules(q->b->model)))
        return MOE_OK;
    if (given && expected == 0)
        return moe_fail(q->b->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': expected 4 or 8 bits, found %lld",
                        moe_archive_path(q->b->model->archive), last.name,
                        last.value.kind == MOE_VALUE_INT ? (long long)last.value.integer : 0LL);
    size_t n = 32 / (expected > 0 ? expected : 4);
    return moe_quant_fail_shape(q, part, words_of_rows ? moe_quant_blocks(shape[0], n) : shape[0],
                                words_of_rows ? shape[1] : moe_quant_blocks(shape[1], n), 1);
}

/* Zeros in words along the rows, [rows / n, cols] or transposed; of a fused tensor those of the part. */
static enum moe_status add_packed_zero(const struct moe_quant *q, struct moe_quant_part *zero, size_t bits,
                                       const struct moe_quant_grid *grid, enum moe_packing packing)
{
    size_t n = 32 / bits, words = moe_quant_blocks(grid->rows, n), first = grid->start;
    struct moe_matrix *m = &q->memory->zero;
    MOE_TRY(moe_quant_check_type(q, zero, "i32", MOE_FORMAT_I32, MOE_FORMAT_I32));
    if (!moe_quant_part_has(q, zero, grid->transposed ? grid->cols : words, grid->transposed ? words : grid->cols, 1))
        return moe_quant_fail_shape(q, zero, grid->transposed ? grid->cols : words,
                                    grid->transposed ? words : grid->cols, 1);
    if (first % n != 0 || grid->step != 1)
        return moe_quant_fail_layout(q, zero, "rows of gate and up that share words");
    moe_quant_describe(zero, bits == 4 ? MOE_FORMAT_U4 : MOE_FORMAT_U8,
                       first / n * (grid->transposed ? 4 : grid->cols * 4),
                       (grid->transposed ? words : grid->cols) * 4, m);
    m->transposed = grid->transposed;
    m->packing = packing;
    q->memory->scales.zero = m;
    return MOE_OK;
}

/* compressed-tensors stores integers with half their range added, and zeros likewise, or as they are in i8. */
static enum moe_status load_packed_int(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    const struct moe_request *r = q->request;
    struct moe_quant_part values, scale, zero, index;
    struct moe_quant_grid grid;
    const size_t shape[] = {r->rows * r->num_parts, r->cols};
    size_t bits;
    MOE_TRY(moe_quant_load_part(q, &values, ".weight_packed", true, bases));
    MOE_TRY(find_bits(q, &values, "num_bits", shape, false, &bits));
    if (bits == 4)
        MOE_TRY(check_even(q, &values));
    MOE_TRY(moe_quant_place_rows(q, &values, bits == 4 ? MOE_FORMAT_U4 : MOE_FORMAT_U8,
                                 moe_quant_blocks(r->cols, 32 / bits) * 4, out));
    MOE_TRY(moe_quant_load_part(q, &scale, ".weight_scale", true, NULL));
    MOE_TRY(moe_quant_find_grid(q, &scale, false, &grid));
    MOE_TRY(moe_quant_add_plane(q, &scale, &grid, moe_quant_scale_format(&scale), &q->memory->scale,
                                &q->memory->scales.scale));
    q->memory->scales.zero_offset = bits == 4 ? 8 : 128;
    MOE_TRY(moe_quant_load_part(q, &index, ".weight_g_idx", false, NULL));
    if (index.tensor != NULL)
        MOE_TRY(moe_quant_add_columns(q, &index));
    MOE_TRY(moe_quant_load_part(q, &zero, ".weight_zero_point", false, NULL));
    if (zero.tensor == NULL)
        return MOE_OK;
    if (zero.tensor->info.format != NULL && zero.tensor->info.format->format == MOE_FORMAT_I8)
        return add_zero_i8(q, &grid);
    q->memory->scales.zero_offset = 0;
    return add_packed_zero(q, &zero, bits, &grid, MOE_PACKING_ROWS);
}

/* ---- GPTQ and AWQ: [in, out], words along in, or along out -------------------------------------------------- */

static enum moe_status group_grid(const struct moe_quant *q, struct moe_quant_part *scale, struct moe_quant_grid *grid)
{
    const struct moe_request *r = q->request;
    MOE_TRY(moe_quant_load_part(q, scale, ".scales", true, NULL));
    MOE_TRY(moe_quant_find_groups(q, scale, grid));
    MOE_TRY(moe_quant_add_plane(q, scale, grid, moe_quant_scale_format(scale), &q->memory->scale,
                                &q->memory->scales.scale));
    return r->layout & MOE_MLP_INTERLEAVED && r->num_parts > 1
               ? moe_quant_fail_layout(q, scale, "rows of gate and up that alternate")
               : MOE_OK;
}

static bool is_text(const struct moe_quant *q, const char *name, struct moe_quant_key *key)
{
    return moe_quant_find_key(q->b->model, name, key) && key->value.kind == MOE_VALUE_STRING;
}

/* Are zeros stored as they are? The key that says so is GPTQModel's, or auto-round's. */
static enum moe_status find_version(const struct moe_quant *q, bool *v2)
{
    static const struct {
        const char *name;
        bool v2;
    } forms[] = {{"gptq", false}, {"auto_round:auto_gptq", false}, {"gptq_v2", true}, {"auto_round", true},
                 {"auto_round:gptqmodel", true}};
    struct moe_quant_key key;
    *v2 = false;
    if (!is_text(q, "packing_format", &key) && !is_text(q, "checkpoint_format", &key) && !is_text(q, "format", &key))
        return MOE_OK;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(forms); i++)
        if (strcmp(key.value.string, forms[i].name) == 0) {
            *v2 = forms[i].v2;
            return MOE_OK;
        }
    return moe_fail(q->b->error, MOE_ERR_UNSUPPORTED,
                    "%s: key '%s': expected gptq, gptq_v2, auto_round or auto_round:auto_gptq, found '%.32s'",
                    moe_archive_path(q->b->model->archive), key.name, key.value.string);
}

static enum moe_status load_gptq(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    const struct moe_request *r = q->request;
    struct moe_quant_part values, scale, zero, index;
    struct moe_quant_grid grid;
    struct moe_quant_key key;
    size_t rows = r->rows * r->num_parts, bits;
    const size_t shape[] = {r->cols, rows};
    bool v2;
    MOE_TRY(find_version(q, &v2));
    MOE_TRY(moe_quant_load_part(q, &values, ".qweight", true, bases));
    MOE_TRY(find_bits(q, &values, "bits", shape, true, &bits));
    moe_quant_describe(&values, bits == 4 ? MOE_FORMAT_U4 : MOE_FORMAT_U8, r->part * r->rows * 4, rows * 4, out);
    out->transposed = true;
    out->packing = MOE_PACKING_COLS;
    MOE_TRY(group_grid(q, &scale, &grid));
    MOE_TRY(moe_quant_load_part(q, &zero, ".qzeros", true, NULL));
    MOE_TRY(add_packed_zero(q, &zero, bits, &grid, MOE_PACKING_ROWS));
    if (!v2)
        MOE_TRY(moe_quant_add_one(q, &zero, bits));
    bool ordered = moe_quant_find_key(q->b->model, "desc_act", &key) && key.value.kind == MOE_VALUE_BOOL &&
                   key.value.boolean;
    MOE_TRY(moe_quant_load_part(q, &index, ".g_idx", ordered, NULL));
    return index.tensor != NULL ? moe_quant_add_columns(q, &index) : MOE_OK;
}

static enum moe_status load_awq(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    enum { N = 8, N_BITS = 4 };
    const struct moe_request *r = q->request;
    struct moe_quant_part values, scale, zero;
    struct moe_quant_grid grid;
    struct moe_quant_key key;
    size_t rows = r->rows * r->num_parts;
    if (moe_quant_find_key(q->b->model, "bits", &key) &&
        (key.value.kind != MOE_VALUE_INT || key.value.integer != N_BITS))
        return moe_fail(q->b->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': expected 4, found %lld",
                        moe_archive_path(q->b->model->archive), key.name, (long long)key.value.integer);
    if (moe_quant_find_key(q->b->model, "version", &key) && key.value.kind == MOE_VALUE_STRING &&
        strcmp(key.value.string, "gemm") != 0 && strcmp(key.value.string, "GEMM") != 0)
        return moe_fail(q->b->error, MOE_ERR_UNSUPPORTED, "%s: key '%s': expected gemm, found '%.32s'",
                        moe_archive_path(q->b->model->archive), key.name, key.value.string);
    MOE_TRY(moe_quant_load_part(q, &values, ".qweight", true, bases));
    if (rows % N != 0 || !moe_quant_part_has(q, &values, r->cols, rows / N, 1))
        return moe_quant_fail_shape(q, &values, r->cols, moe_quant_blocks(rows, N), 1);
    if (r->rows % N != 0)
        return moe_quant_fail_layout(q, &values, "rows of gate and up that share words");
    moe_quant_describe(&values, MOE_FORMAT_U4, r->part * r->rows / N * 4, rows / N * 4, out);
    out->transposed = true;
    out->packing = MOE_PACKING_ROWS_AWQ;
    MOE_TRY(group_grid(q, &scale, &grid));
    MOE_TRY(moe_quant_load_part(q, &zero, ".qzeros", true, NULL));
    return add_packed_zero(q, &zero, 4, &grid, MOE_PACKING_ROWS_AWQ);
}

static enum moe_status load_qweight(const struct moe_quant *q, struct moe_matrix *out, void **bases)
{
    struct moe_quant_key method, packing;
    if (!is_text(q, "quant_method", &method))
        return moe_fail(q->b->error, MOE_ERR_FORMAT,
                        "%s: key 'quantization_config.quant_method' is missing, expected gptq or awq",
                        moe_archive_path(q->b->model->archive));
    bool awq = strcmp(method.value.string, "awq") == 0 ||
               (is_text(q, "packing_format", &packing) && strcmp(packing.value.string, "auto_round:auto_awq") == 0);
    return awq ? load_awq(q, out, bases) : load_gptq(q, out, bases);
}
