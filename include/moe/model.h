// SPDX-License-Identifier: MIT
// Model files: open one, get its layers ready to run, or as params to change first; its tensors and its metadata.
#ifndef MOE_MODEL_FILES_H
#define MOE_MODEL_FILES_H

#include "moe/moe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A .gguf file (any part of a split set) or a Hugging Face directory (config.json with safetensors). A single
 * .safetensors file opens too, as tensors without a model: no architecture, no blocks. Opening reads headers, never
 * weights. Files are taken for hostile: every size is checked before it is used. */
struct moe_model;

enum moe_model_flags {
    MOE_MODEL_READ = 1    /* read tensors into memory when they are first asked for, map files only to open them: one
                             that shrinks later then gives ERR_IO, where a mapped one raises SIGBUS */
};
struct moe_model_params {
    size_t struct_size;
    uint32_t flags;
    const struct moe_env *env;
    const char *description;   /* JSON text in place of the family's preset, as moe_model_describe writes it and
                                  docs/describe.md explains it; NULL: none */
};

/* params NULL: defaults. ERR_IO, ERR_FORMAT (names file, tensor or key, and reason), ERR_UNSUPPORTED (a family or type
 * that this library does not know), ERR_MEMORY. */
MOE_API enum moe_status moe_model_open(const char *path, const struct moe_model_params *params,
                                       struct moe_model **out, struct moe_error *error);
MOE_API void moe_model_close(struct moe_model *model);

struct moe_model_info {
    size_t struct_size;
    const char *architecture;      /* as the file says: "qwen3_moe", "qwen3moe"; NULL: not a model */
    const char *family;            /* the preset's name: "qwen3_moe"; NULL: not a model */
    const char *container;         /* "gguf", "safetensors" */
    size_t num_blocks;             /* decoder layers, dense ones included */
    size_t num_tensors;
    size_t num_metadata;           /* entries for moe_model_metadata_at */
    uint64_t tensor_bytes;         /* of all tensors whose format is known */
};
/* out->struct_size set by the caller; strings last until close. */
MOE_API enum moe_status moe_model_info(const struct moe_model *model, struct moe_model_info *out);

/* Block b as params that point into the file's memory: change what you like in a copy, then create. *out is NULL, with
 * MOE_OK, for a block without experts. Valid until close. experts, shared->experts and latent inside *layer are NULL:
 * create them from the params, then set the pointers in your copy. ERR_FORMAT, ERR_UNSUPPORTED name the tensor. */
struct moe_model_block {
    const struct moe_experts_params *experts;  /* has hidden_size, intermediate_size, num_experts */
    const struct moe_experts_params *shared;   /* NULL: none */
    const struct moe_layer_params *layer;
    const struct moe_experts_params *latent;   /* NULL: none */
};
MOE_API enum moe_status moe_model_block(struct moe_model *model, size_t block, const struct moe_model_block **out,
                                        struct moe_error *error);

/* All of it in one step: a layer that owns its experts; flags of enum moe_layer_flags. The model must outlive it.
 * ERR_ARGUMENT for a block without experts. */
MOE_API enum moe_status moe_model_layer(struct moe_model *model, size_t block, struct moe_backend *backend,
                                        uint32_t flags, struct moe_layer **out, struct moe_error *error);

/* The model's axes and tensor names as JSON text: what the preset and the file's metadata come to, in the terms of
 * docs/describe.md. Writes at most size bytes with the NUL to out, and the bytes that all of it needs to *needed. */
MOE_API enum moe_status moe_model_describe(struct moe_model *model, char *out, size_t size, size_t *needed,
                                           struct moe_error *error);

/* A tensor as the file holds it. Names are the file's own. */
#define MOE_MAX_DIMS 4
struct moe_tensor {
    const char *name;
    const struct moe_format_info *format;   /* NULL: a type that this library does not know */
    uint32_t type;                          /* its number: enum moe_format, or the file's where format is NULL */
    size_t num_dims;
    size_t shape[MOE_MAX_DIMS];             /* outermost first */
    uint64_t size;                          /* bytes */
};
/* Tensors in the order of the file; names last until close. ERR_ARGUMENT past the last, or if there is none. */
MOE_API enum moe_status moe_model_tensor_at(const struct moe_model *model, size_t i, struct moe_tensor *out);
MOE_API enum moe_status moe_model_tensor_find(const struct moe_model *model, const char *name, struct moe_tensor *out);
/* Its values, host memory, until close. Reads them if the model was opened with MOE_MODEL_READ. */
MOE_API enum moe_status moe_model_tensor_data(struct moe_model *model, const char *name, const void **data,
                                              struct moe_error *error);

/* The file's metadata: GGUF keys as they are; config.json with its nesting written by dots
 * ("rope_parameters.rope_theta") and, of its lists, only lists of plain values; its Infinity and NaN read as null. */
enum moe_value_kind {
    MOE_VALUE_NULL,
    MOE_VALUE_BOOL,
    MOE_VALUE_INT,       /* also GGUF's unsigned; above 2^63 - 1 they are FLOAT */
    MOE_VALUE_FLOAT,
    MOE_VALUE_STRING,
    MOE_VALUE_ARRAY
};
struct moe_value {
    enum moe_value_kind kind;
    bool boolean;
    int64_t integer;
    double number;          /* set for INT as well */
    const char *string;     /* NUL-terminated, UTF-8 as in the file; lasts until close */
    size_t length;          /* bytes of string, or items of an array */
    uint32_t gguf_type;     /* GGUF's number for the type of the value, or of an array's items; otherwise 0 */
    const void *array;      /* for moe_model_metadata_item */
};
MOE_API enum moe_status moe_model_metadata_at(const struct moe_model *model, size_t i, const char **key,
                                              struct moe_value *out);
/* ERR_ARGUMENT if there is no such key. */
MOE_API enum moe_status moe_model_metadata_find(const struct moe_model *model, const char *key, struct moe_value *out);
MOE_API enum moe_status moe_model_metadata_item(const struct moe_model *model, const struct moe_value *array, size_t i,
                                                struct moe_value *out);

/* Routing and activation of a model family, by its name in config.json or in GGUF ("gpt_oss", "gpt-oss"), as
 * transformers computes it; where config.json decides, the family's default. Pointers and views are left absent.
 * Structs come with struct_size set by the caller. ERR_UNSUPPORTED: unknown family. */
MOE_API enum moe_status moe_preset(const char *family, struct moe_routing *routing, struct moe_act *act);

#ifdef __cplusplus
}
#endif
#endif
