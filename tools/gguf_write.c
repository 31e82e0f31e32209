// SPDX-License-Identifier: MIT
// The header of a GGUF file: "GGUF", version, number of tensors and of metadata entries (u64), the entries, the tensor
// entries (name, dimensions innermost first, type, offset from the data), padding. All little-endian.
#include "gguf_write.h"

#include <stdlib.h>
#include <string.h>

#include "tool.h"

static void put(struct gguf_header *header, struct gguf_buffer *buffer, const void *data, size_t size)
{
    if (header->failed)
        return;
    if (size > buffer->capacity - buffer->size) {
        size_t capacity = buffer->capacity ? buffer->capacity : 4096;
        while (capacity - buffer->size < size && capacity <= SIZE_MAX / 2)
            capacity *= 2;
        unsigned char *grown = capacity - buffer->size < size ? NULL : realloc(buffer->data, capacity);
        if (!grown) {
            header->failed = true;
            return;
        }
        buffer->data = grown;
        buffer->capacity = capacity;
    }
    memcpy(buffer->data + buffer->size, data, size);
    buffer->size += size;
}

static void put_integer(struct gguf_header *header, struct gguf_buffer *buffer, uint64_t value, size_t bytes)
{
    unsigned char little[8];
    for (size_t i = 0; i < bytes; i++)
        little[i] = (unsigned char)(value >> 8 * i);
    put(header, buffer, little, bytes);
}

static void put_text(struct gguf_header *header, struct gguf_buffer *buffer, const char *text, size_t length)
{
    put_integer(header, buffer, length, 8);
    put(header, buffer, text, length);
}

void gguf_free(struct gguf_header *header)
{
    free(header->metadata.data);
    free(header->tensors.data);
    *header = (struct gguf_header){0};
}

void gguf_begin(struct gguf_header *header, const char *key, enum gguf_type type)
{
    put_text(header, &header->metadata, key, strlen(key));
    put_integer(header, &header->metadata, (uint64_t)type, 4);
    header->num_metadata++;
}

void gguf_begin_array(struct gguf_header *header, const char *key, enum gguf_type item, uint64_t count)
{
    gguf_begin(header, key, GGUF_ARRAY);
    put_integer(header, &header->metadata, (uint64_t)item, 4);
    put_integer(header, &header->metadata, count, 8);
}

void gguf_put_number(struct gguf_header *header, enum gguf_type type, int64_t integer, double number)
{
    static const unsigned char sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    float f = (float)number;
    uint32_t f_bits;
    uint64_t d_bits;
    memcpy(&f_bits, &f, sizeof f_bits);
    memcpy(&d_bits, &number, sizeof d_bits);
    uint64_t bits = type == GGUF_F32 ? f_bits : type == GGUF_F64 ? d_bits : (uint64_t)integer;
    put_integer(header, &header->metadata, bits, sizes[type]);
}

void gguf_put_string(struct gguf_header *header, const char *value, size_t length)
{
    put_text(header, &header->metadata, value, length);
}

void gguf_add_u32(struct gguf_header *header, const char *key, uint32_t value)
{
    gguf_begin(header, key, GGUF_U32);
    gguf_put_number(header, GGUF_U32, value, 0);
}

void gguf_add_f32(struct gguf_header *header, const char *key, float value)
{
    gguf_begin(header, key, GGUF_F32);
    gguf_put_number(header, GGUF_F32, 0, value);
}

void gguf_add_bool(struct gguf_header *header, const char *key, bool value)
{
    gguf_begin(header, key, GGUF_BOOL);
    gguf_put_number(header, GGUF_BOOL, value, 0);
}

void gguf_add_string(struct gguf_header *header, const char *key, const char *value)
{
    gguf_begin(header, key, GGUF_STRING);
    gguf_put_string(header, value, strlen(value));
}

static uint64_t padded(uint64_t size)
{
    return (size + GGUF_ALIGNMENT - 1) / GGUF_ALIGNMENT * GGUF_ALIGNMENT;
}

void gguf_add_tensor(struct gguf_header *header, const char *name, uint32_t type, const size_t *shape, size_t num_dims,
                     uint64_t bytes)
{
    struct gguf_buffer *buffer = &header->tensors;
    put_text(header, buffer, name, strlen(name));
    put_integer(header, buffer, num_dims, 4);
    for (size_t d = num_dims; d-- > 0;)
        put_integer(header, buffer, shape[d], 8);
    put_integer(header, buffer, type, 4);
    put_integer(header, buffer, header->data_size, 8);
    header->data_size += padded(bytes);
    header->num_tensors++;
}

uint64_t gguf_file_size(const struct gguf_header *header)
{
    return padded(24 + header->metadata.size + header->tensors.size) + header->data_size;
}

bool gguf_write(const struct gguf_header *header, struct outfile *out)
{
    if (header->failed) {
        tool_fail(TOOL_INPUT, "%s: out of memory while its header was made", out->path);
        return false;
    }
    unsigned char start[24] = {'G', 'G', 'U', 'F', 3};
    for (size_t i = 0; i < 8; i++) {
        start[8 + i] = (unsigned char)(header->num_tensors >> 8 * i);
        start[16 + i] = (unsigned char)(header->num_metadata >> 8 * i);
    }
    return outfile_write(out, start, sizeof start) &&
           outfile_write(out, header->metadata.data, header->metadata.size) &&
           outfile_write(out, header->tensors.data, header->tensors.size) && outfile_pad(out, GGUF_ALIGNMENT);
}
