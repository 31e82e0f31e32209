// SPDX-License-Identifier: MIT
// What the shell test of the command needs beside the command: JSON validity, arrays out of reference files, files with
// a value changed, comparison of arrays.
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/moe.h"

static int usage(void)
{
    fputs(
        "fixture json FILE [KEY...]           FILE holds JSON values, one a line or one in all, each with these keys\n"
        "fixture npy SAFETENSORS TENSOR OUT   a tensor as .npy; of one dimension: as a column\n"
        "fixture zeros OUT ROWS COLS DESCR    an array of zeros\n"
        "fixture doctor IN OUT TENSOR         the file with one value of the tensor negated and doubled\n"
        "fixture floats OUT COLS [NAME ROWS]  a .safetensors file of f32 zeros\n"
        "fixture u64 IN OUT                   the GGUF file with two large numbers more in its metadata\n"
        "fixture has-u64 FILE                 FILE has these numbers\n"
        "fixture error A B                    print ||a - b|| / ||b|| of two .npy files of f32\n",
        stderr);
    return 2;
}

/* ---- json ---- */

static int check_value(const json_t *value, int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (!json_object_get(value, argv[i])) {
            fprintf(stderr, "no key %s\n", argv[i]);
            return 1;
        }
    return 0;
}

static int check_json(const char *path, int argc, char **argv)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return 1;
    int failed = 0, values = 0;
    json_error_t error;
    json_t *value;
    while (!failed && (value = json_loadf(file, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &error)) != NULL) {
        failed = check_value(value, argc, argv);
        values++;
        json_decref(value);
    }
    if (!failed && fgetc(file) != EOF) {
        fprintf(stderr, "%s: %s\n", path, error.text);
        failed = 1;
    }
    fclose(file);
    return failed || !values;
}

/* ---- .npy ---- */

static int write_npy(const char *path, const char *descr, size_t rows, size_t cols, const void *data, size_t size)
{
    char header[128];
    memset(header, ' ', sizeof header);
    memcpy(header, "\x93NUMPY\x01", 8);
    header[8] = (char)(sizeof header - 10);
    header[9] = 0;
    int length = snprintf(header + 10, sizeof header - 10,
                          "{'descr': '%s', 'fortran_order': False, 'shape': (%zu, %zu), }", descr, rows, cols);
    header[10 + length] = ' ';
    header[sizeof header - 1] = '\n';
    FILE *file = fopen(path, "wb");
    if (!file)
        return 1;
    int failed = fwrite(header, 1, sizeof header, file) != sizeof header || fwrite(data, 1, size, file) != size;
    return fclose(file) != 0 || failed;
}

static int extract(const char *path, const char *name, const char *out)
{
    struct moe_model *model;
    struct moe_tensor tensor;
    const void *data;
    int failed = 1;
    if (moe_model_open(path, NULL, &model, NULL) != MOE_OK)
        return 1;
    if (moe_model_tensor_find(model, name, &tensor) == MOE_OK && tensor.num_dims >= 1 && tensor.num_dims <= 2 &&
        tensor.format && moe_model_tensor_data(model, name, &data, NULL) == MOE_OK)
        failed = write_npy(out, tensor.format->format == MOE_FORMAT_I32 ? "<i4" : "<f4", tensor.shape[0],
                           tensor.num_dims == 2 ? tensor.shape[1] : 1, data, (size_t)tensor.size);
    moe_model_close(model);
    return failed;
}

static int zeros(const char *out, const char *rows, const char *cols, const char *descr)
{
    size_t r = strtoul(rows, NULL, 10), c = strtoul(cols, NULL, 10), size = r * c * (size_t)(descr[2] - '0');
    void *data = calloc(size ? size : 1, 1);
    int failed = !data || write_npy(out, descr, r, c, data, size);
    free(data);
    return failed;
}

static float *read_values(const char *path, size_t *count)
{
    unsigned char start[10];
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    float *values = NULL;
    if (fread(start, 1, 10, file) == 10 && fseek(file, 0, SEEK_END) == 0) {
        long skip = 10 + start[8] + 256 * start[9], end = ftell(file);
        *count = (size_t)(end - skip) / sizeof(float);
        values = malloc(*count * sizeof(float) + 1);
        if (values && (fseek(file, skip, SEEK_SET) != 0 || fread(values, sizeof(float), *count, file) != *count)) {
            free(values);
            values = NULL;
        }
    }
    fclose(file);
    return values;
}

static int print_error(const char *a, const char *b)
{
    size_t na = 0, nb = 0;
    float *x = read_values(a, &na), *y = read_values(b, &nb);
    double difference = 0, norm = 0;
    for (size_t i = 0; x && y && na == nb && i < na; i++) {
        difference += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        norm += (double)y[i] * y[i];
    }
    int failed = !x || !y || na != nb || !(norm > 0) || isnan(difference);
    if (!failed)
        printf("%.3e\n", sqrt(difference / norm));
    free(x);
    free(y);
    return failed;
}

/* ---- a reference that is wrong ---- */

static char *read_all(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *data = malloc(*size + 1);
    if (data && fread(data, 1, *size, file) != *size) {
        free(data);
        data = NULL;
    }
    fclose(file);
    return data;
}

static int doctor(const char *in, const char *out, const char *name)
{
    size_t size, header;
    char *data = read_all(in, &size);
    if (!data || size < 8)
        return 1;
    memcpy(&header, data, 8);
    json_t *json = json_loadb(data + 8, header, 0, NULL);
    json_t *offsets = json_object_get(json_object_get(json, name), "data_offsets");
    size_t at = 8 + header + (size_t)json_integer_value(json_array_get(offsets, 0));
    int failed = !offsets || at + sizeof(float) > size;
    if (!failed) {
        float value;
        memcpy(&value, data + at, sizeof value);
        value = -2 * value - 0.01f;
        memcpy(data + at, &value, sizeof value);
        FILE *file = fopen(out, "wb");
        failed = !file || fwrite(data, 1, size, file) != size;
        if (file)
            failed = fclose(file) != 0 || failed;
    }
    json_decref(json);
    free(data);
    return failed;
}

/* ---- files made by hand ---- */

static int floats(const char *out, const char *cols, int argc, char **argv)
{
    char header[2048] = "{";
    size_t at = 0, length = 1;
    for (int i = 0; i + 1 < argc; i += 2) {
        size_t size = strtoul(argv[i + 1], NULL, 10) * strtoul(cols, NULL, 10) * sizeof(float);
        length += (size_t)snprintf(header + length, sizeof header - length,
                                   "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%s,%s],\"data_offsets\":[%zu,%zu]}",
                                   i ? "," : "", argv[i], argv[i + 1], cols, at, at + size);
        at += size;
        if (length + 16 > sizeof header)
            return 1;
    }
    header[length++] = '}';
    while (length % 8)
        header[length++] = ' ';
    uint64_t size = length;
    void *data = calloc(at ? at : 1, 1);
    FILE *file = fopen(out, "wb");
    int failed = !data || !file || fwrite(&size, 1, sizeof size, file) != sizeof size ||
                 fwrite(header, 1, length, file) != length || fwrite(data, 1, at, file) != at;
    if (file)
        failed = fclose(file) != 0 || failed;
    free(data);
    return failed;
}

/* A metadata entry of 64 bytes, so that the padding behind the header stays as it is: an array (9) of u64 (10). */
static const unsigned char large[64] = {
    24, 0, 0, 0, 0, 0, 0, 0, 't', 'e', 's', 't', '.', 'l', 'a', 'r', 'g', 'e', '.', 'n', 'u', 'm', 'b', 'e', 'r', 's',
    '.', 'o', 'f', '.', '6', '4', 9, 0, 0, 0, 10, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
};

static int add_large(const char *in, const char *out)
{
    size_t size;
    uint64_t entries;
    char *data = read_all(in, &size);
    FILE *file = data && size > 24 ? fopen(out, "wb") : NULL;
    if (!file) {
        free(data);
        return 1;
    }
    memcpy(&entries, data + 16, sizeof entries);
    entries++;
    memcpy(data + 16, &entries, sizeof entries);
    int failed = fwrite(data, 1, 24, file) != 24 || fwrite(large, 1, sizeof large, file) != sizeof large ||
                 fwrite(data + 24, 1, size - 24, file) != size - 24;
    failed = fclose(file) != 0 || failed;
    free(data);
    return failed;
}

static int has_large(const char *path)
{
    size_t size;
    char *data = read_all(path, &size);
    int found = 0;
    for (size_t at = 0; data && !found && at + sizeof large <= size; at++)
        found = memcmp(data + at, large, sizeof large) == 0;
    free(data);
    return !found;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "json") == 0)
        return check_json(argv[2], argc - 3, argv + 3);
    if (argc == 5 && strcmp(argv[1], "npy") == 0)
        return extract(argv[2], argv[3], argv[4]);
    if (argc == 6 && strcmp(argv[1], "zeros") == 0)
        return zeros(argv[2], argv[3], argv[4], argv[5]);
    if (argc == 5 && strcmp(argv[1], "doctor") == 0)
        return doctor(argv[2], argv[3], argv[4]);
    if (argc >= 4 && strcmp(argv[1], "floats") == 0)
        return floats(argv[2], argv[3], argc - 4, argv + 4);
    if (argc == 4 && strcmp(argv[1], "u64") == 0)
        return add_large(argv[2], argv[3]);
    if (argc == 3 && strcmp(argv[1], "has-u64") == 0)
        return has_large(argv[2]);
    if (argc == 4 && strcmp(argv[1], "error") == 0)
        return print_error(argv[2], argv[3]);
    return usage();
}
