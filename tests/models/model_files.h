// SPDX-License-Identifier: MIT
// Small model files made on the spot: checkpoints of the zoo with something changed, and GGUF files written from
// nothing. All of them go into one temporary folder below the build folder.
#ifndef MOE_TEST_MODEL_FILES_H
#define MOE_TEST_MODEL_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "moe/moe.h"

#define ZOO MOE_TEST_MODELS "/zoo/"

/* ---- the temporary folder ------------------------------------------------------------------------------------ */

static char temp_dir[512];

static inline int temp_setup(void **state)
{
    (void)state;
    snprintf(temp_dir, sizeof temp_dir, "%s/test_model_XXXXXX", MOE_BINARY_DIR);
    return mkdtemp(temp_dir) == NULL ? -1 : 0;
}

static inline const char *temp_path(const char *name)
{
    static char path[640];
    snprintf(path, sizeof path, "%s/%s", temp_dir, name);
    return path;
}

static inline int temp_teardown(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "model.safetensors", "model.gguf"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(temp_path(names[i]));
    return rmdir(temp_dir);
}

/* ---- bytes --------------------------------------------------------------------------------------------------- */

struct bytes {
    unsigned char *data;
    size_t size;
};

static inline void append(struct bytes *b, const void *data, size_t size)
{
    b->data = realloc(b->data, b->size + size + 1);
    assert_non_null(b->data);
    if (size > 0)
        memcpy(b->data + b->size, data, size);
    b->size += size;
}

static inline void append_u32(struct bytes *b, uint32_t value)
{
    append(b, &value, sizeof value);
}

static inline void append_u64(struct bytes *b, uint64_t value)
{
    append(b, &value, sizeof value);
}

static inline void append_padding(struct bytes *b, size_t align)
{
    while (b->size % align != 0)
        append(b, "", 1);
}

static inline void write_file(const char *path, const struct bytes *b)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(b->data, 1, b->size, file), b->size);
    assert_int_equal(fclose(file), 0);
}

static inline struct bytes read_file(const char *path)
{
    struct bytes b = {NULL, 0};
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char chunk[65536];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, file)) > 0;)
        append(&b, chunk, n);
    fclose(file);
    return b;
}

/* ---- a checkpoint of the zoo, changed ------------------------------------------------------------------------ */

struct checkpoint {
    json_t *config, *header;   /* header: the tensors of model.safetensors */
    struct bytes file;
};

static inline struct checkpoint checkpoint_load(const char *family)
{
    struct checkpoint c;
    char path[640];
    snprintf(path, sizeof path, ZOO "%s/config.json", family);
    c.config = json_load_file(path, 0, NULL);
    assert_non_null(c.config);
    snprintf(path, sizeof path, ZOO "%s/model.safetensors", family);
    c.file = read_file(path);
    uint64_t header_size;
    memcpy(&header_size, c.file.data, sizeof header_size);
    c.header = json_loadb((const char *)c.file.data + 8, (size_t)header_size, 0, NULL);
    assert_non_null(c.header);
    json_object_del(c.header, "__metadata__");
    return c;
}

static inline void set_int(json_t *object, const char *key, long long value)
{
    json_object_set_new(object, key, json_integer(value));
}

static inline void set_shape(struct checkpoint *c, const char *tensor, size_t count, const size_t *shape)
{
    json_t *list = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_integer((json_int_t)shape[i]));
    assert_int_equal(json_object_set_new(json_object_get(c->header, tensor), "shape", list), 0);
}

/* Call a tensor otherwise. */
static inline void rename_tensor(struct checkpoint *c, const char *from, const char *to)
{
    json_t *entry = json_object_get(c->header, from);
    assert_non_null(entry);
    json_object_set(c->header, to, entry);
    json_object_del(c->header, from);
}

/* Write both files into the temporary folder, the remaining tensors one after the other. */
static inline void checkpoint_save(const struct checkpoint *c)
{
    assert_int_equal(json_dump_file(c->config, temp_path("config.json"), 0), 0);
    uint64_t old_header;
    memcpy(&old_header, c->file.data, sizeof old_header);
    json_t *header = json_object();
    struct bytes data = {NULL, 0}, out = {NULL, 0};
    const char *name;
    json_t *entry;
    json_object_foreach(c->header, name, entry) {
        json_t *offsets = json_object_get(entry, "data_offsets");
        size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        size_t size = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
        json_t *copy = json_copy(entry);
        json_object_set_new(copy, "data_offsets",
                            json_pack("[I, I]", (json_int_t)data.size, (json_int_t)(data.size + size)));
        json_object_set_new(header, name, copy);
        append(&data, c->file.data + 8 + old_header + begin, size);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    append_u64(&out, padded);
    append(&out, text, length);
    while (out.size < 8 + padded)
        append(&out, " ", 1);
    append(&out, data.data, data.size);
    write_file(temp_path("model.safetensors"), &out);
    free(text);
    free(data.data);
    free(out.data);
    json_decref(header);
}

static inline void checkpoint_free(struct checkpoint *c)
{
    json_decref(c->config);
    json_decref(c->header);
    free(c->file.data);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------------- */

enum { GGUF_U32 = 4, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

struct gguf {
    struct bytes metadata, infos, data;
    uint64_t num_metadata, num_tensors;
    const char *architecture;
};

static inline void gguf_string(struct bytes *b, const char *text)
{
    append_u64(b, strlen(text));
    append(b, text, strlen(text));
}

static inline void gguf_key(struct gguf *g, const char *key, uint32_t type)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", g->architecture, key);
    gguf_string(&g->metadata, strchr(key, '.') != NULL ? key : full);
    append_u32(&g->metadata, type);
    g->num_metadata++;
}

/* Keys without a dot get the architecture in front. */
static inline void gguf_u32(struct gguf *g, const char *key, uint32_t value)
{
    gguf_key(g, key, GGUF_U32);
    append_u32(&g->metadata, value);
}

static inline void gguf_f32(struct gguf *g, const char *key, float value)
{
    gguf_key(g, key, GGUF_F32);
    append(&g->metadata, &value, sizeof value);
}

static inline void gguf_bool(struct gguf *g, const char *key, bool value)
{
    unsigned char byte = value;
    gguf_key(g, key, GGUF_BOOL);
    append(&g->metadata, &byte, 1);
}

static inline void gguf_u32_list(struct gguf *g, const char *key, size_t count, const uint32_t *values)
{
    gguf_key(g, key, GGUF_ARRAY);
    append_u32(&g->metadata, GGUF_U32);
    append_u64(&g->metadata, count);
    append(&g->metadata, values, count * sizeof *values);
}

static inline struct gguf gguf_begin(const char *architecture)
{
    struct gguf g = {.architecture = architecture};
    gguf_key(&g, "general.architecture", GGUF_STRING);
    gguf_string(&g.metadata, architecture);
    return g;
}

/* A value that tells tensors and places apart: 24 bits of their hash, in -1..1. */
static inline float gguf_value(const char *tensor, size_t i)
{
    uint32_t h = 2166136261u;
    for (const char *c = tensor; *c != '\0'; c++)
        h = (h ^ (unsigned char)*c) * 16777619u;
    h = (h ^ (uint32_t)i) * 2654435761u;
    h ^= h >> 15;
    return (float)((int32_t)(h >> 8) - (1 << 23)) / (float)(1 << 23);
}

/* An f32 tensor; shape outermost first, as everywhere but in the file. */
static inline void gguf_tensor(struct gguf *g, const char *name, size_t num_dims, const size_t *shape)
{
    size_t count = 1;
    gguf_string(&g->infos, name);
    append_u32(&g->infos, (uint32_t)num_dims);
    for (size_t i = num_dims; i-- > 0;) {
        append_u64(&g->infos, shape[i]);
        count *= shape[i];
    }
    append_u32(&g->infos, MOE_FORMAT_F32);
    append_u64(&g->infos, g->data.size);
    for (size_t i = 0; i < count; i++) {
        float value = gguf_value(name, i);
        append(&g->data, &value, sizeof value);
    }
    append_padding(&g->data, 32);
    g->num_tensors++;
}

static inline void gguf_tensor3(struct gguf *g, const char *name, size_t a, size_t b, size_t c)
{
    gguf_tensor(g, name, 3, (const size_t[]){a, b, c});
}

static inline void gguf_tensor2(struct gguf *g, const char *name, size_t a, size_t b)
{
    gguf_tensor(g, name, 2, (const size_t[]){a, b});
}

static inline void gguf_tensor1(struct gguf *g, const char *name, size_t a)
{
    gguf_tensor(g, name, 1, &a);
}

/* Write it to model.gguf and forget it. */
static inline void gguf_save(struct gguf *g)
{
    struct bytes out = {NULL, 0};
    append(&out, "GGUF", 4);
    append_u32(&out, 3);
    append_u64(&out, g->num_tensors);
    append_u64(&out, g->num_metadata);
    append(&out, g->metadata.data, g->metadata.size);
    append(&out, g->infos.data, g->infos.size);
    append_padding(&out, 32);
    append(&out, g->data.data, g->data.size);
    write_file(temp_path("model.gguf"), &out);
    free(out.data);
    free(g->metadata.data);
    free(g->infos.data);
    free(g->data.data);
    memset(g, 0, sizeof *g);
}

/* ---- what a matrix says -------------------------------------------------------------------------------------- */

static inline float load_value(const unsigned char *p, enum moe_format format)
{
    float value = 0.0f;
    if (format == MOE_FORMAT_F32) {
        memcpy(&value, p, 4);
    } else {
        assert_int_equal(format, MOE_FORMAT_BF16);
        uint16_t half;
        memcpy(&half, p, 2);
        uint32_t bits = (uint32_t)half << 16;
        memcpy(&value, &bits, 4);
    }
    return value;
}

/* Value [e, r, c] of a matrix, from the words of struct moe_matrix alone. */
static inline float matrix_value(const struct moe_matrix *m, size_t e, size_t r, size_t c)
{
    size_t value = m->data.format == MOE_FORMAT_F32 ? 4 : 2;
    size_t step = m->element_stride != 0 ? m->element_stride : value;
    size_t at = m->transposed ? c * m->data.stride + r * step : r * m->data.stride + c * value;
    if (m->bases == NULL)
        at += e * m->expert_stride;
    assert_true(at + value <= m->data.size);
    const unsigned char *base = m->bases != NULL ? m->bases[e] : m->data.base;
    return load_value(base + m->data.offset + at, m->data.format);
}

static inline float bias_value(const struct moe_matrix *m, size_t e, size_t r)
{
    size_t value = m->bias.format == MOE_FORMAT_F32 ? 4 : 2;
    size_t step = m->bias_element_stride != 0 ? m->bias_element_stride : value;
    size_t at = e * m->bias.stride + r * step;
    assert_non_null(m->bias.base);
    assert_true(at + value <= m->bias.size);
    return load_value((const unsigned char *)m->bias.base + m->bias.offset + at, m->bias.format);
}

/* Value i of a tensor by name. */
static inline float tensor_value(struct moe_model *model, const char *name, size_t i)
{
    struct moe_tensor info;
    const void *data;
    assert_int_equal(moe_model_tensor_find(model, name, &info), MOE_OK);
    assert_int_equal(moe_model_tensor_data(model, name, &data, NULL), MOE_OK);
    size_t value = info.format->block_bytes;
    assert_true((i + 1) * value <= info.size);
    return load_value((const unsigned char *)data + i * value, info.format->format);
}

static inline const struct moe_model_block *open_block(struct moe_model *model, size_t b)
{
    const struct moe_model_block *block = NULL;
    struct moe_error error = {.text = ""};
    if (moe_model_block(model, b, &block, &error) != MOE_OK)
        fail_msg("block %zu: %s", b, error.text);
    return block;
}

static inline struct moe_model *open_model_at(const char *path, uint32_t flags)
{
    struct moe_model *model = NULL;
    struct moe_error error = {.text = ""};
    struct moe_model_params params;
    MOE_INIT(&params);
    params.flags = flags;
    if (moe_model_open(path, &params, &model, &error) != MOE_OK)
        fail_msg("%s: %s", path, error.text);
    return model;
}

#endif
