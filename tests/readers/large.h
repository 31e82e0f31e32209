// SPDX-License-Identifier: MIT
// Models of the size that people ship, without their bytes: headers are written, the weights are holes of the files.
// qwen3_moe, 60 blocks of 256 experts, 60 GB in bf16, as a Hugging Face folder and as a GGUF set of 100 files.
#ifndef MOE_TEST_LARGE_H
#define MOE_TEST_LARGE_H

#include "files.h"

enum {
    LARGE_FILES = 100,
    LARGE_BLOCKS = 60,
    LARGE_EXPERTS = 256,
    LARGE_HIDDEN = 2048,
    LARGE_INTERMEDIATE = 320,
    LARGE_MATRIX = LARGE_HIDDEN * LARGE_INTERMEDIATE * 2,             /* bytes of one expert's matrix */
    LARGE_MATRICES = LARGE_BLOCKS * LARGE_EXPERTS * 3                 /* 60.4 GB */
};

static inline void put_text(struct bytes *bytes, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    assert_true(length >= 0 && (size_t)length < sizeof text);
    put(bytes, text, (size_t)length);
}

/* The bytes, and behind them a hole up to size; they are dropped. Skips the test where the file system has no such
 * files, or none so large. */
static inline const char *write_sparse(const char *name, struct bytes *bytes, uint64_t size)
{
    const char *path = in_folder(name);
    struct stat status;
    int file = open(path, O_WRONLY | O_CREAT, 0666);
    assert_true(file >= 0);
    assert_int_equal(write(file, bytes->data, bytes->size), bytes->size);
    int sized = ftruncate(file, (off_t)size);
    /* Out of memory: what is there afterwards was read. */
    assert_int_equal(fdatasync(file), 0);
    (void)posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    assert_int_equal(fstat(file, &status), 0);
    assert_int_equal(close(file), 0);
    size_t written = bytes->size;
    drop(bytes);
    if (sized != 0 || (uint64_t)status.st_blocks * 512 > written + (1u << 20)) {
        print_message("%s: no sparse file of %llu bytes can be made here\n", path, (unsigned long long)size);
        skip();
    }
    return path;
}

/* ---- safetensors ---------------------------------------------------------------------------------------- */

static inline void put_entry(struct bytes *header, struct bytes *map, const char *name, size_t rows, size_t cols,
                             uint64_t *offset, unsigned shard)
{
    uint64_t end = *offset + rows * cols * 2;
    put_text(header, "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%zu,%zu],\"data_offsets\":[%llu,%llu]}",
             header->size > 9 ? "," : "", name, rows, cols, (unsigned long long)*offset, (unsigned long long)end);
    put_text(map, "%s\"%s\":\"model-%05u-of-%05u.safetensors\"", map->data[map->size - 1] != '{' ? "," : "", name,
             shard, (unsigned)LARGE_FILES);
    *offset = end;
}

/* The last brace, spaces up to a multiple of 8 bytes, as writers have it, so that values are aligned; the length. */
static inline void finish_header(struct bytes *header)
{
    put_text(header, "}");
    while (header->size % 8 != 0)
        put_text(header, " ");
    for (size_t i = 0; i < 8; i++)
        header->data[i] = (unsigned char)((header->size - 8) >> (8 * i));
}

static inline const char *matrix_name(size_t i, char name[96])
{
    static const char *const kinds[] = {"gate_proj", "up_proj", "down_proj"};
    snprintf(name, 96, "model.layers.%zu.mlp.experts.%zu.%s.weight", i / (3 * LARGE_EXPERTS),
             i / 3 % LARGE_EXPERTS, kinds[i % 3]);
    return name;
}

static inline void write_shard(unsigned shard, struct bytes *map)
{
    char name[96], file[64];
    struct bytes header = {0};
    uint64_t offset = 0;
    size_t first = (size_t)LARGE_MATRICES * (shard - 1) / LARGE_FILES;
    size_t end = (size_t)LARGE_MATRICES * shard / LARGE_FILES;
    put_number(&header, 0, 8);
    put_text(&header, "{");
    for (size_t i = first; i < end; i++) {
        bool down = i % 3 == 2;
        put_entry(&header, map, matrix_name(i, name), down ? LARGE_HIDDEN : LARGE_INTERMEDIATE,
                  down ? LARGE_INTERMEDIATE : LARGE_HIDDEN, &offset, shard);
        if (i % (3 * LARGE_EXPERTS) != 0)
            continue;
        snprintf(name, sizeof name, "model.layers.%zu.mlp.gate.weight", i / (3 * LARGE_EXPERTS));
        put_entry(&header, map, name, LARGE_EXPERTS, LARGE_HIDDEN, &offset, shard);
    }
    finish_header(&header);
    snprintf(file, sizeof file, "folder/model-%05u-of-%05u.safetensors", shard, (unsigned)LARGE_FILES);
    uint64_t size = header.size + offset;
    write_sparse(file, &header, size);
}

/* The folder's path. */
static inline const char *write_large_folder(void)
{
    struct bytes map = {0};
    assert_int_equal(mkdir(in_folder("folder"), 0777), 0);
    put_text(&map, "{\"metadata\":{},\"weight_map\":{");
    for (unsigned shard = 1; shard <= LARGE_FILES; shard++)
        write_shard(shard, &map);
    put_text(&map, "}}");
    write_bytes("folder/model.safetensors.index.json", map.data, map.size);
    drop(&map);
    write_text("folder/config.json",
               "{\"model_type\":\"qwen3_moe\",\"hidden_size\":2048,\"moe_intermediate_size\":320,"
               "\"num_experts\":256,\"num_experts_per_tok\":8,\"num_hidden_layers\":60,\"norm_topk_prob\":true,"
               "\"decoder_sparse_step\":1,\"mlp_only_layers\":[],\"hidden_act\":\"silu\",\"vocab_size\":151936}");
    return in_folder("folder");
}

/* ---- GGUF ----------------------------------------------------------------------------------------------- */

static inline void gguf_large_keys(struct gguf *file)
{
    gguf_text(file, "general.architecture", "qwen3moe");
    gguf_number(file, "qwen3moe.block_count", 4, LARGE_BLOCKS, 4);
    gguf_number(file, "qwen3moe.embedding_length", 4, LARGE_HIDDEN, 4);
    gguf_number(file, "qwen3moe.expert_count", 4, LARGE_EXPERTS, 4);
    gguf_number(file, "qwen3moe.expert_used_count", 4, 8, 4);
    gguf_number(file, "qwen3moe.expert_feed_forward_length", 4, LARGE_INTERMEDIATE, 4);
    gguf_number(file, "qwen3moe.feed_forward_length", 4, LARGE_INTERMEDIATE, 4);
}

/* Tensor i of a set of 4 a block: router, gate, up, down. Returns its bytes. */
static inline uint64_t gguf_large_tensor(struct gguf *file, size_t i, uint64_t offset)
{
    static const char *const kinds[] = {"gate_inp", "gate_exps", "up_exps", "down_exps"};
    static const uint64_t dims[][3] = {{LARGE_HIDDEN, LARGE_EXPERTS, 1},
                                       {LARGE_HIDDEN, LARGE_INTERMEDIATE, LARGE_EXPERTS},
                                       {LARGE_HIDDEN, LARGE_INTERMEDIATE, LARGE_EXPERTS},
                                       {LARGE_INTERMEDIATE, LARGE_HIDDEN, LARGE_EXPERTS}};
    char name[64];
    bool router = i % 4 == 0;
    snprintf(name, sizeof name, "blk.%zu.ffn_%s.weight", i / 4, kinds[i % 4]);
    gguf_entry(file, name, router ? 2 : 3, dims[i % 4], router ? 0 : 30, offset);
    return router ? (uint64_t)LARGE_HIDDEN * LARGE_EXPERTS * 4 : (uint64_t)LARGE_MATRIX * LARGE_EXPERTS;
}

/* The first file's path. */
static inline const char *write_large_gguf(void)
{
    enum { TENSORS = 4 * LARGE_BLOCKS };
    char name[64];
    for (size_t part = 0; part < LARGE_FILES; part++) {
        struct gguf file = gguf_new();
        uint64_t offset = 0;
        if (part == 0)
            gguf_large_keys(&file);
        gguf_number(&file, "split.no", 2, part, 2);
        gguf_number(&file, "split.count", 2, LARGE_FILES, 2);
        gguf_number(&file, "split.tensors.count", 5, TENSORS, 4);
        for (size_t i = TENSORS * part / LARGE_FILES; i < TENSORS * (part + 1) / LARGE_FILES; i++)
            offset += gguf_large_tensor(&file, i, offset);
        struct bytes all = gguf_finish(&file, NULL);
        snprintf(name, sizeof name, "set-%05zu-of-%05u.gguf", part + 1, (unsigned)LARGE_FILES);
        uint64_t size = all.size + offset;
        write_sparse(name, &all, size);
    }
    snprintf(name, sizeof name, "set-00001-of-%05u.gguf", (unsigned)LARGE_FILES);
    return in_folder(name);
}

/* ---- many entries --------------------------------------------------------------------------------------- */

/* One GGUF file with so many tensors of 256 bytes and so many pairs besides. */
static inline const char *write_many_gguf(size_t num_tensors, size_t num_pairs)
{
    static const uint64_t dims[] = {64};
    char name[64];
    struct gguf file = gguf_new();
    for (size_t i = 0; i < num_pairs; i++) {
        snprintf(name, sizeof name, "some.group.of.settings.%zu", i);
        if (i % 4 == 0)
            gguf_text(&file, name, "a value that is a string");
        else
            gguf_number(&file, name, 4, i, 4);
    }
    for (size_t i = 0; i < num_tensors; i++) {
        snprintf(name, sizeof name, "blk.%zu.ffn_gate.%zu.weight", i / 1000, i % 1000);
        gguf_entry(&file, name, 1, dims, 0, 256 * i);
    }
    struct bytes all = gguf_finish(&file, NULL);
    uint64_t size = all.size + 256 * num_tensors;
    return write_sparse("many.gguf", &all, size);
}

/* One safetensors file with so many tensors of 256 bytes and so many strings in __metadata__. */
static inline const char *write_many_safetensors(size_t num_tensors, size_t num_pairs)
{
    struct bytes header = {0};
    put_number(&header, 0, 8);
    put_text(&header, "{\"__metadata__\":{");
    for (size_t i = 0; i < num_pairs; i++)
        put_text(&header, "%s\"some.group.of.settings.%zu\":\"a value that is a string\"", i > 0 ? "," : "", i);
    put_text(&header, "}");
    for (size_t i = 0; i < num_tensors; i++)
        put_text(&header, ",\"model.layers.%zu.mlp.experts.%zu.weight\":{\"dtype\":\"F32\",\"shape\":[8,8],"
                 "\"data_offsets\":[%zu,%zu]}", i / 1000, i % 1000, 256 * i, 256 * i + 256);
    finish_header(&header);
    uint64_t size = header.size + 256 * num_tensors;
    return write_sparse("many.safetensors", &header, size);
}

#endif
