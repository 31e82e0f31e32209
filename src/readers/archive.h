// SPDX-License-Identifier: MIT
// An open set of model files: tensors by name, metadata by key, whatever the container. Readers fill it in, the model
// and the public API read it. Nothing here knows what an expert is.
#ifndef MOE_ARCHIVE_H
#define MOE_ARCHIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"

/* Where a tensor lies. Checked when it was added: within its file; size fits shape and format where that is known. */
struct moe_archive_tensor {
    struct moe_tensor info;    /* name is owned by the archive; format follows from type */
    size_t part;               /* index of its file */
    uint64_t offset;           /* from the start of that file */
};

/* For add_tensor: the container does not say the size. Computed for a known format; otherwise all bytes up to the next
 * tensor of the file, padding included, or to its end. */
#define MOE_ARCHIVE_SIZE_UNKNOWN UINT64_MAX

/* moe_tensor.type of safetensors dtypes that have no number in moe/format.h: out of reach of GGUF's and of ours. Bits
 * of a value follow the name. A number is given once. */
#define MOE_SAFETENSORS_TYPE_MAP(X) \
    X(0x10000, BOOL, 8)             \
    X(0x10003, U16, 16)             \
    X(0x10005, U32, 32)             \
    X(0x10006, U64, 64)             \
    X(0x10008, C64, 64)             \
    X(0x1000a, F8_E5M2, 8)          \
    X(0x1000d, F6_E2M3, 6)          \
    X(0x1000e, F6_E3M2, 6)          \
    X(0x1000f, F8_E4M3FNUZ, 8)      \
    X(0x10010, F8_E5M2FNUZ, 8)
enum moe_safetensors_type {
#define MOE_SAFETENSORS_ENUM(number, NAME, bits) MOE_SAFETENSORS_##NAME = number,
    MOE_SAFETENSORS_TYPE_MAP(MOE_SAFETENSORS_ENUM)
#undef MOE_SAFETENSORS_ENUM
    MOE_SAFETENSORS_TYPE_FIRST = 0x10000
};

struct moe_archive;

/* A kind of container. Its open has checked all that a file says before it is used. */
struct moe_reader {
    const char *name;                                  /* "gguf": moe_model_info.container */
    bool (*probe)(const char *path);                   /* is it one of mine, by its first bytes, or by being a folder */
    enum moe_status (*open)(struct moe_archive *archive, const char *path, struct moe_error *error);
    /* Metadata, in the terms of moe.h; state is what open left in the archive. */
    size_t (*num_metadata)(const void *state);
    enum moe_status (*metadata_at)(const void *state, size_t i, const char **key, struct moe_value *out);
    enum moe_status (*metadata_find)(const void *state, const char *key, struct moe_value *out);
    enum moe_status (*metadata_item)(const struct moe_value *array, size_t i, struct moe_value *out);
    void (*close)(struct moe_archive *archive, void *state);   /* state is not NULL */
};
extern const struct moe_reader moe_gguf_reader, moe_safetensors_reader;

/* Readers, NULL-terminated, in the order of probing. A new container is a row here and a file beside gguf.c. */
extern const struct moe_reader *const moe_readers[];

enum moe_status moe_archive_open(const char *path, const struct moe_model_params *params, struct moe_archive **out,
                                 struct moe_error *error);
void moe_archive_close(struct moe_archive *archive);

const char *moe_archive_container(const struct moe_archive *archive);
const char *moe_archive_path(const struct moe_archive *archive);                 /* as given to open */
const char *moe_archive_part_path(const struct moe_archive *archive, size_t part);
size_t moe_archive_num_tensors(const struct moe_archive *archive);
const struct moe_archive_tensor *moe_archive_tensor_at(const struct moe_archive *archive, size_t i);
const struct moe_archive_tensor *moe_archive_find(const struct moe_archive *archive, const char *name);
/* Values of a tensor in host memory until close, never NULL; from any thread. An address in the mapping; or memory read
 * now, with MOE_MODEL_READ and where a file does not align plain values to their size. ERR_IO, ERR_MEMORY. */
enum moe_status moe_archive_data(struct moe_archive *archive, const struct moe_archive_tensor *tensor,
                                 const void **data, struct moe_error *error);
size_t moe_archive_num_metadata(const struct moe_archive *archive);
enum moe_status moe_archive_metadata_at(const struct moe_archive *archive, size_t i, const char **key,
                                        struct moe_value *out);
enum moe_status moe_archive_metadata_find(const struct moe_archive *archive, const char *key, struct moe_value *out);
enum moe_status moe_archive_metadata_item(const struct moe_archive *archive, const struct moe_value *array, size_t i,
                                          struct moe_value *out);

/* For readers, during open only. Part: a file, opened read-only and mapped (always mapped while open runs, so that
 * headers are parsed in place; header parsing must check every access against *size, and read a value once: another
 * process may change the file meanwhile). Strings are copied. */
const struct moe_env *moe_archive_env(const struct moe_archive *archive);
void moe_archive_set_state(struct moe_archive *archive, void *state);
enum moe_status moe_archive_add_part(struct moe_archive *archive, const char *path, size_t *part,
                                     const unsigned char **data, uint64_t *size, struct moe_error *error);
/* Checks: a name as moe_table_is_name wants it, not taken; num_dims <= MOE_MAX_DIMS; the product of shape, and for a
 * known format the bytes, do not overflow, zeros left out; last dimension a whole number of blocks; offset + size
 * inside the part; info.size, if not SIZE_UNKNOWN, is what shape and format need. info.format follows from info.type.
 * ERR_FORMAT names file, tensor and reason; ERR_UNSUPPORTED: too many dimensions. When the reader returns, tensors that
 * overlap are refused. */
enum moe_status moe_archive_add_tensor(struct moe_archive *archive, const struct moe_archive_tensor *tensor,
                                       struct moe_error *error);

/* folder/name, in the archive's memory; NULL: no memory. */
const char *moe_archive_join(struct moe_archive *archive, const char *folder, const char *name);

#endif
