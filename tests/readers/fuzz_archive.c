// SPDX-License-Identifier: MIT
// libFuzzer: any bytes as a model file, opened mapped or read by the last byte's lowest bit, and looked at in full.
// Bytes that begin with "JSON" are the config.json of a folder whose tensors are well.
#define _GNU_SOURCE   /* memfd_create */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "readers/archive.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

static volatile unsigned char touched;   /* keeps the compiler from leaving out the reads */

static void look(struct moe_archive *archive)
{
    for (size_t i = 0; i < moe_archive_num_tensors(archive); i++) {
        const struct moe_archive_tensor *tensor = moe_archive_tensor_at(archive, i);
        const void *bytes;
        if (moe_archive_find(archive, tensor->info.name) != tensor)
            abort();
        if (moe_archive_data(archive, tensor, &bytes, NULL) != MOE_OK)
            abort();
        for (uint64_t b = 0; b < tensor->info.size; b++)
            touched ^= ((const unsigned char *)bytes)[b];
    }
    for (size_t i = 0; i < moe_archive_num_metadata(archive); i++) {
        const char *key;
        struct moe_value value, item;
        if (moe_archive_metadata_at(archive, i, &key, &value) != MOE_OK ||
            moe_archive_metadata_find(archive, key, &item) != MOE_OK || item.kind != value.kind)
            abort();
        for (size_t k = 0; value.kind == MOE_VALUE_ARRAY && k < value.length; k++)
            if (moe_archive_metadata_item(archive, &value, k, &item) != MOE_OK ||
                (item.kind == MOE_VALUE_STRING && item.string[item.length] != '\0'))
                abort();
    }
}

static void write_all(int file, const void *data, size_t size)
{
    if (ftruncate(file, 0) != 0 || pwrite(file, data, size, 0) != (ssize_t)size)
        abort();
}

/* A folder in memory is not to be had: one of temporary files, config.json rewritten each time. */
static const char *folder_of(const void *config, size_t size)
{
    static const char tensors[] = "\x36\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"
                                  "1234";
    static char folder[] = "/tmp/fuzz_archive-XXXXXX", path[64];
    static int file = -1;
    if (file < 0) {
        if (mkdtemp(folder) == NULL)
            abort();
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        int whole = open(path, O_RDWR | O_CREAT, 0600);
        write_all(whole, tensors, sizeof tensors - 1);
        close(whole);
        snprintf(path, sizeof path, "%s/config.json", folder);
        file = open(path, O_RDWR | O_CREAT, 0600);
    }
    write_all(file, config, size);
    return folder;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static int file = -1;
    static char path[64];
    if (file < 0) {
        file = memfd_create("model", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    const char *opened = path;
    if (size >= 4 && memcmp(data, "JSON", 4) == 0)
        opened = folder_of(data + 4, size - 4);
    else
        write_all(file, data, size);
    struct moe_model_params params;
    struct moe_archive *archive;
    struct moe_error error = {MOE_OK, ""};
    MOE_INIT(&params);
    params.flags = size > 0 ? data[size - 1] & MOE_MODEL_READ : 0;
    if (moe_archive_open(opened, &params, &archive, &error) == MOE_OK)
        look(archive);
    else if (archive != NULL || error.text[0] == '\0')
        abort();
    moe_archive_close(archive);
    return 0;
}
