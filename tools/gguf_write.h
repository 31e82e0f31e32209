// SPDX-License-Identifier: MIT
// The header of a GGUF file, version 3: metadata and tensor entries are gathered, then written in one piece. The values
// of the tensors follow, in the order of their entries, each padded to GGUF_ALIGNMENT.
#ifndef GGUF_WRITE_H
#define GGUF_WRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "outfile.h"

#define GGUF_ALIGNMENT 32   /* the default, so that general.alignment need not be there */

enum gguf_type {
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64,
    GGUF_I64, GGUF_F64
};

struct gguf_buffer {
    unsigned char *data;
    size_t size, capacity;
};

/* Zero-initialised to begin. failed: memory ran out; everything later does nothing, gguf_write tells. */
struct gguf_header {
    struct gguf_buffer metadata, tensors;
    uint64_t num_metadata, num_tensors;
    uint64_t data_size;         /* bytes of the tensors so far, padding included */
    bool failed;
};

void gguf_free(struct gguf_header *header);

/* Metadata. A key is added once. */
void gguf_add_u32(struct gguf_header *header, const char *key, uint32_t value);
void gguf_add_f32(struct gguf_header *header, const char *key, float value);
void gguf_add_bool(struct gguf_header *header, const char *key, bool value);
void gguf_add_string(struct gguf_header *header, const char *key, const char *value);
/* Any value piece by piece: the key with its type, then the values; for an array, its item type and length first. */
void gguf_begin(struct gguf_header *header, const char *key, enum gguf_type type);
void gguf_begin_array(struct gguf_header *header, const char *key, enum gguf_type item, uint64_t count);
void gguf_put_number(struct gguf_header *header, enum gguf_type type, int64_t integer, double number);
void gguf_put_string(struct gguf_header *header, const char *value, size_t length);

/* Shape outermost first, as everywhere in libmoe; GGUF stores it the other way round. */
void gguf_add_tensor(struct gguf_header *header, const char *name, uint32_t type, const size_t *shape, size_t num_dims,
                     uint64_t bytes);

/* Bytes of the whole file. */
uint64_t gguf_file_size(const struct gguf_header *header);

/* Write it all; false with the error printed. */
bool gguf_write(const struct gguf_header *header, struct outfile *out);

#endif
