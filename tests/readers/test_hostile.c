// SPDX-License-Identifier: MIT
// Malformed files, one defect at a time: each must give its own status and sentence, and no memory left over.
#include "files.h"

#include "check.h"

/* ---- GGUF ----------------------------------------------------------------------------------------------- */

static void expect_gguf(struct gguf *file, enum moe_status status, const char *text)
{
    expect_failure(gguf_write(file, "bad.gguf"), status, "bad.gguf", text);
}

static void test_beginning(void **state)
{
    (void)state;
    expect_failure(in_folder("absent.gguf"), MOE_ERR_IO, "absent.gguf", "No such file");
    expect_failure(write_text("empty.gguf", ""), MOE_ERR_FORMAT, "empty.gguf", "neither GGUF nor safetensors");
    expect_failure(write_text("text.gguf", "GGML and so on"), MOE_ERR_FORMAT, "text.gguf", "neither");
    expect_failure(write_text("FUGG", "FUGG and so on"), MOE_ERR_FORMAT, "FUGG", "neither");
    assert_int_equal(mkfifo(in_folder("fifo.gguf"), 0666), 0);
    expect_failure(in_folder("fifo.gguf"), MOE_ERR_IO, "fifo.gguf", "not a regular file");
    expect_failure("/dev/null", MOE_ERR_IO, "/dev/null", "not a regular file");
    assert_int_equal(symlink("nowhere", in_folder("link.gguf")), 0);
    expect_failure(in_folder("link.gguf"), MOE_ERR_IO, "link.gguf", "No such file");
    static const uint32_t versions[] = {0, 1, 4, UINT32_MAX, 0x02000000, 0x03000000};
    static const char *const sentences[] = {"version 0", "version 1,", "version 4", "version 4294967295",
                                            "big-endian", "big-endian"};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(versions); i++) {
        struct gguf file = gguf_new();
        file.version = versions[i];
        expect_gguf(&file, MOE_ERR_UNSUPPORTED, sentences[i]);
    }
    static const uint64_t counts[] = {1, 2, 1000, INT32_MAX, UINT32_MAX, (uint64_t)1 << 32, INT64_MAX,
                                      (uint64_t)1 << 63, UINT64_MAX / 2, UINT64_MAX};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(counts); i++) {
        struct gguf file = gguf_new();
        file.num_pairs = counts[i];
        expect_gguf(&file, MOE_ERR_FORMAT, "do not fit into a header");
        file = gguf_new();
        file.num_tensors = counts[i];
        expect_gguf(&file, MOE_ERR_FORMAT, "do not fit into a header");
    }
}

/* One pair whose key has this length and these bytes. */
static struct gguf with_key(uint64_t length, const char *bytes, size_t size)
{
    struct gguf file = gguf_new();
    put_number(&file.pairs, length, 8);
    put(&file.pairs, bytes, size);
    put_number(&file.pairs, 0, 4);
    put_number(&file.pairs, 7, 1);
    put_number(&file.pairs, 0, 8);   /* so that a count of one pair always fits */
    file.num_pairs = 1;
    return file;
}

static const char *const bad_names[] = {"a\x1b[2J", "\x7f", "tab\t", "\x80", "\xc0\x80", "\xc3", "\xed\xa0\x80",
                                        "\xe2\x82", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80", "\xc2\x9b[", "\xff"};

static void test_keys(void **state)
{
    static const uint64_t lengths[] = {1 << 20, UINT32_MAX, (uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX,
                                       UINT64_MAX - 7};
    (void)state;
    struct gguf file;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(lengths); i++) {
        file = with_key(lengths[i], "key", 3);
        expect_gguf(&file, MOE_ERR_FORMAT, "ends inside key 0");
    }
    for (size_t i = 0; i < MOE_ARRAY_SIZE(bad_names); i++) {
        file = with_key(strlen(bad_names[i]), bad_names[i], strlen(bad_names[i]));
        expect_gguf(&file, MOE_ERR_FORMAT, "key 0 is empty, too long or no plain UTF-8");
    }
    file = with_key(0, "", 0);
    expect_gguf(&file, MOE_ERR_FORMAT, "key 0 is empty");
    file = with_key(5, "a\0bcd", 5);
    expect_gguf(&file, MOE_ERR_FORMAT, "key 0 is empty, too long or no plain UTF-8");
    char *name = calloc(1, 65537);
    memset(name, 'k', 65536);
    file = gguf_new();
    gguf_number(&file, name, 0, 1, 1);
    expect_gguf(&file, MOE_ERR_FORMAT, "key 0 is empty, too long");
    name[65535] = '\0';
    file = gguf_new();
    gguf_number(&file, name, 0, 1, 1);
    moe_archive_close(open_good(gguf_write(&file, "long.gguf"), 0));
    file = gguf_new();
    gguf_number(&file, name, 13, 1, 1);   /* a key may be longer than a sentence: the reason still comes out */
    expect_gguf(&file, MOE_ERR_FORMAT, "is of type 13");
    free(name);
    file = gguf_new();
    gguf_number(&file, "twice", 0, 1, 1);
    gguf_text(&file, "other", "");
    gguf_text(&file, "twice", "2");
    expect_gguf(&file, MOE_ERR_FORMAT, "key 'twice' is there twice");
}

static void test_values(void **state)
{
    static const uint64_t lengths[] = {100, UINT32_MAX, (uint64_t)1 << 32, (uint64_t)1 << 60, (uint64_t)1 << 61,
                                       (uint64_t)1 << 62, (uint64_t)1 << 63, UINT64_MAX};
    static const uint32_t types[] = {13, 14, 255, INT32_MAX, 0x80000000, UINT32_MAX};
    (void)state;
    struct gguf file;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(lengths); i++) {
        file = gguf_new();
        put_number(gguf_key(&file, "value", 8), lengths[i], 8);
        expect_gguf(&file, MOE_ERR_FORMAT, "'value' does not fit");
        for (uint32_t type = 0; type < 13; type++) {
            file = gguf_new();
            struct bytes *pairs = gguf_array(&file, "value", type, lengths[i]);
            for (int b = 0; b < 10; b++)
                put_number(pairs, 0, 1);
            bool nested = type == 9;
            expect_gguf(&file, nested ? MOE_ERR_UNSUPPORTED : MOE_ERR_FORMAT,
                        nested ? "'value' is an array of arrays" : "'value' does not fit");
        }
    }
    for (size_t i = 0; i < MOE_ARRAY_SIZE(types); i++) {
        file = gguf_new();
        gguf_number(&file, "value", types[i], 0, 8);
        expect_gguf(&file, MOE_ERR_FORMAT, "which GGUF does not have");
        file = gguf_new();
        gguf_array(&file, "value", types[i], 0);
        expect_gguf(&file, MOE_ERR_FORMAT, "'value' is an array of type");
    }
    file = gguf_new();
    gguf_number(&file, "value", 7, 2, 1);
    expect_gguf(&file, MOE_ERR_FORMAT, "neither 0 nor 1");
    file = gguf_new();
    put_number(gguf_array(&file, "value", 7, 4), 0x01ff0001, 4);
    expect_gguf(&file, MOE_ERR_FORMAT, "neither 0 nor 1");
    for (uint64_t length = 0; length < 40; length++) {   /* the last string of an array reaches beyond the file */
        file = gguf_new();
        struct bytes *pairs = gguf_array(&file, "value", 8, 2);
        put_string(pairs, "fits");
        put_number(pairs, UINT64_MAX - length, 8);
        expect_gguf(&file, MOE_ERR_FORMAT, "'value' does not fit");
    }
}

static void test_alignment(void **state)
{
    static const uint64_t bad[] = {0, 1, 2, 3, 4, 24, 31, 33, 1u << 25, 1u << 31, UINT32_MAX};
    (void)state;
    struct gguf file;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(bad); i++) {
        file = gguf_new();
        gguf_number(&file, "general.alignment", 4, bad[i], 4);
        expect_gguf(&file, MOE_ERR_FORMAT, "general.alignment");
    }
    file = gguf_new();
    gguf_text(&file, "general.alignment", "32");
    expect_gguf(&file, MOE_ERR_FORMAT, "'general.alignment' is not an integer");
    file = gguf_new();
    gguf_number(&file, "general.alignment", 5, UINT32_MAX, 4);
    expect_gguf(&file, MOE_ERR_FORMAT, "'general.alignment' is not an integer");
    file = gguf_new();
    gguf_number(&file, "general.alignment", 10, UINT64_MAX, 8);
    expect_gguf(&file, MOE_ERR_FORMAT, "'general.alignment' is not an integer");
    /* The data section would begin beyond the end of the file. */
    file = gguf_new();
    gguf_number(&file, "general.alignment", 4, 1 << 20, 4);
    gguf_entry(&file, "t", 1, (uint64_t[]){0}, 0, 0);
    expect_gguf(&file, MOE_ERR_FORMAT, "beyond the end of file");
}

static void expect_entry(const char *name, uint32_t num_dims, const uint64_t *dims, uint32_t type, uint64_t offset,
                         const char *text)
{
    struct gguf file = gguf_new();
    gguf_entry(&file, name, num_dims, dims, type, offset);
    for (int i = 0; i < 256; i++)
        put_number(&file.data, 0, 1);
    expect_gguf(&file, MOE_ERR_FORMAT, text);
}

static void test_shapes(void **state)
{
    const uint64_t huge = (uint64_t)1 << 32, half = (uint64_t)1 << 31, top = (uint64_t)1 << 62;
    (void)state;
    expect_entry("t", 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0, "tensor 't' has 5 dimensions");
    expect_entry("t", UINT32_MAX, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0, "4294967295 dimensions");
    expect_entry("t", 2, (uint64_t[]){huge, huge}, 0, 0, "shape of tensor 't' overflows");
    expect_entry("t", 2, (uint64_t[]){huge, half}, 0, 0, "overflows");
    expect_entry("t", 3, (uint64_t[]){huge, huge, 0}, 0, 0, "overflows");
    expect_entry("t", 3, (uint64_t[]){0, huge, huge}, 0, 0, "overflows");
    expect_entry("t", 4, (uint64_t[]){huge, 1 << 16, 1 << 16, 3}, 0, 0, "overflows");
    expect_entry("t", 1, (uint64_t[]){top - 1}, 0, 0, "size of tensor 't' overflows");
    expect_entry("t", 1, (uint64_t[]){top}, 0, 0, "overflows");
    expect_entry("t", 1, (uint64_t[]){(uint64_t)1 << 63}, 0, 0, "overflows");
    expect_entry("t", 1, (uint64_t[]){UINT64_MAX}, 0, 0, "overflows");
    expect_entry("t", 2, (uint64_t[]){UINT64_MAX, UINT64_MAX}, 0, 0, "overflows");
    expect_entry("t", 2, (uint64_t[]){huge, huge}, 777, 0, "overflows");
    expect_entry("t", 1, (uint64_t[]){top + 16}, 0, 0, "overflows");   /* 64 bytes, if it wrapped */
    for (size_t i = 0; moe_format_at(i) != NULL; i++) {
        const struct moe_format_info *info = moe_format_at(i);
        if (info->format >= MOE_FORMAT_E4M3) {
            expect_entry("t", 1, (uint64_t[]){64}, (uint32_t)info->format, 0, "which is none of GGUF's");
            continue;
        }
        if (info->block_values > 1) {
            const uint64_t rests[] = {1, info->block_values / 2};
            for (size_t k = 0; k < 2; k++)
                expect_entry("t", 1, (uint64_t[]){info->block_values * 2 - rests[k]}, (uint32_t)info->format, 0,
                             "needs multiples of");
            expect_entry("t", 0, NULL, (uint32_t)info->format, 0, "needs multiples of");
            expect_entry("t", 2, (uint64_t[]){info->block_values / 2, 2}, (uint32_t)info->format, 0,
                         "needs multiples of");
        }
        uint64_t block = info->block_values;
        expect_entry("t", 3, (uint64_t[]){block, top, 2}, (uint32_t)info->format, 0, "overflows");
        expect_entry("t", 2, (uint64_t[]){block << 32, huge / block}, (uint32_t)info->format, 0, "overflows");
        expect_entry("t", 2, (uint64_t[]){block, 1000}, (uint32_t)info->format, 0, "the file has");
    }
}

static void test_offsets(void **state)
{
    static const uint64_t unaligned[] = {1, 4, 16, 31, 33, UINT64_MAX};
    static const uint64_t beyond[] = {288, 1 << 20, (uint64_t)1 << 32, (uint64_t)1 << 63, UINT64_MAX - 31};
    (void)state;
    const uint64_t dims[] = {8};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(unaligned); i++)
        expect_entry("t", 1, dims, 0, unaligned[i], "is not a multiple of 32");
    for (size_t i = 0; i < MOE_ARRAY_SIZE(beyond); i++)
        expect_entry("t", 1, dims, 0, beyond[i], "beyond the end of file");
    expect_entry("t", 1, dims, 0, 256, "needs 32 bytes");
    expect_entry("t", 1, (uint64_t[]){9}, 0, 224, "needs 36 bytes");
    expect_entry("t", 1, dims, 777, 256, "begins where the file ends");
    static const uint64_t pairs[][2] = {{0, 0}, {0, 32}, {32, 0}, {64, 32}};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(pairs); i++) {
        struct gguf file = gguf_new();
        gguf_entry(&file, "x", 1, (uint64_t[]){16}, 0, pairs[i][0]);
        gguf_entry(&file, "far", 1, dims, 0, 192);
        gguf_entry(&file, "y", 1, (uint64_t[]){16}, 0, pairs[i][1]);
        for (int b = 0; b < 256; b++)
            put_number(&file.data, 0, 1);
        expect_gguf(&file, MOE_ERR_FORMAT, "overlap");
    }
    struct gguf file = gguf_new();
    gguf_entry(&file, "x", 1, dims, 777, 0);
    gguf_entry(&file, "y", 1, dims, 778, 0);
    put_number(&file.data, 0, 8);
    expect_gguf(&file, MOE_ERR_FORMAT, "overlap");
}

static void test_names(void **state)
{
    const uint64_t dims[] = {8};
    char name[66];
    (void)state;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(bad_names); i++)
        expect_entry(bad_names[i], 1, dims, 0, 0, "the name of tensor 0 is empty");
    expect_entry("", 1, dims, 0, 0, "the name of tensor 0 is empty");
    memset(name, 'n', 65);
    name[65] = '\0';
    expect_entry(name, 1, dims, 0, 0, "over 64 bytes");
    struct gguf file = gguf_new();
    gguf_tensor(&file, "same", 1, dims, 0, 32, 0);
    gguf_tensor(&file, "Same", 1, dims, 0, 32, 0);
    gguf_tensor(&file, "same", 1, dims, 0, 32, 0);
    expect_gguf(&file, MOE_ERR_FORMAT, "tensor 'same' is there twice");
    file = gguf_new();
    put_number(&file.infos, 4, 8);
    put(&file.infos, "a\0bc", 4);
    put_number(&file.infos, 0, 8);
    put_number(&file.infos, 0, 8);
    file.num_tensors = 1;
    expect_gguf(&file, MOE_ERR_FORMAT, "the name of tensor 0 is empty");
}

/* ---- safetensors ---------------------------------------------------------------------------------------- */

static void expect_header(const char *header, size_t size, enum moe_status status, const char *text)
{
    expect_failure(safetensors_write("bad.safetensors", header, size), status, "bad.safetensors", text);
}

#define TENSOR(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_lengths(void **state)
{
    static const uint64_t lengths[] = {0, 3, 1000, 100000001, (uint64_t)1 << 32, INT64_MAX, (uint64_t)1 << 63,
                                       UINT64_MAX - 7, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(lengths); i++) {
        struct bytes all = {0};
        put_number(&all, lengths[i], 8);
        put(&all, "{}", 2);
        const char *path = write_bytes("length.safetensors", all.data, all.size);
        expect_failure(path, MOE_ERR_FORMAT, "length.safetensors", "header");
        drop(&all);
    }
    /* A header of 100,000,001 bytes that are there: a hole in the file. */
    struct bytes all = {0};
    put_number(&all, 100000001, 8);
    put(&all, "{", 1);
    const char *path = write_bytes("sparse.safetensors", all.data, all.size);
    drop(&all);
    assert_int_equal(truncate(path, 100000009), 0);
    expect_failure(path, MOE_ERR_FORMAT, "sparse.safetensors", "at most 100000000");
}

static void test_json(void **state)
{
    static const char *const bad[] = {"[]", " {}", "{", "{}}", "{}x", "{\"a\":}", "{\"a\":1,\"a\":2}", "null",
                                      "{\"a\":{\"dtype\":\"F32\"},\"\\u0061\":{}}", "{\"a\\u0000\":1}", "{\"\xff\":1}",
                                      "{\"a\":1e400}", "{\"a\":18446744073709551616}", "{'a':1}", "{\"a\":NaN}"};
    (void)state;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(bad); i++)
        expect_header(bad[i], 0, MOE_ERR_FORMAT, "");
    char *deep = malloc(600001);
    for (size_t i = 0; i < 100000; i++)
        memcpy(deep + 5 * i, "{\"a\":", 5);
    deep[500000] = '\0';
    expect_header(deep, 0, MOE_ERR_FORMAT, "depth");
    deep[0] = '{';
    memcpy(deep + 1, "\"a\":", 4);
    memset(deep + 5, '[', 400000);
    deep[400005] = '\0';
    expect_header(deep, 0, MOE_ERR_FORMAT, "depth");
    free(deep);
    expect_header("{\"__metadata__\":{\"a\":1}}", 0, MOE_ERR_FORMAT, "'a' is not a string");
    expect_header("{\"__metadata__\":\"a\"}", 0, MOE_ERR_FORMAT, "__metadata__ is not an object");
    expect_header("{\"__metadata__\":{\"a\\n\":\"b\"}}", 0, MOE_ERR_FORMAT, "control characters");
}

static void test_entries(void **state)
{
    (void)state;
    const enum moe_status format = MOE_ERR_FORMAT;
    expect_header("{\"a\":1}", 0, format, "is not an object with a dtype");
    expect_header("{\"a\":{}}", 0, format, "is not an object with a dtype");
    expect_header("{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, format, "with a dtype");
    expect_header("{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, format, "shape is not a list");
    expect_header("{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, format, "data_offsets");
    expect_header("{" TENSOR("a", "Q9\\u001b[", "[1]", "[0,4]") "}", 4, MOE_ERR_UNSUPPORTED, "dtype 'Q9?['");
    expect_header("{" TENSOR("a", "f32", "[1]", "[0,4]") "}", 4, MOE_ERR_UNSUPPORTED, "dtype 'f32'");
    expect_header("{" TENSOR("a", "F32", "{}", "[0,4]") "}", 4, format, "shape is not a list");
    expect_header("{" TENSOR("a", "F32", "[-1]", "[0,4]") "}", 4, format, "integers from 0");
    expect_header("{" TENSOR("a", "F32", "[1.0]", "[0,4]") "}", 4, format, "integers from 0");
    expect_header("{" TENSOR("a", "F32", "[\\\"1\\\"]", "[0,4]") "}", 4, format, "");
    expect_header("{" TENSOR("a", "F32", "[null]", "[0,4]") "}", 4, format, "integers from 0");
    expect_header("{" TENSOR("a", "F32", "[1,1,1,1,2]", "[0,4]") "}", 4, format, "its shape in F32 needs 8");
    expect_header("{" TENSOR("a", "F32", "[1,1,1,1,2]", "[0,8]") "}", 9, format, "tensors cover 8 of the 9 bytes");
    expect_header("{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, format, "overflows");
    expect_header("{" TENSOR("a", "F32", "[4611686018427387904]", "[0,0]") "}", 0, format, "overflows");
    expect_header("{" TENSOR("a", "F32", "[0,4294967296,4294967296]", "[0,0]") "}", 0, format, "overflows");
    expect_header("{" TENSOR("a", "F32", "[9223372036854775807]", "[0,4]") "}", 4, format, "overflows");
    expect_header("{" TENSOR("a", "F64", "[2305843009213693952,8]", "[0,0]") "}", 0, format, "overflows");
    expect_header("{" TENSOR("a", "F4", "[3]", "[0,2]") "}", 2, format, "whole number of bytes");
    expect_header("{" TENSOR("a", "F6_E2M3", "[2]", "[0,2]") "}", 2, format, "whole number of bytes");
    expect_header("{" TENSOR("a", "F32", "[1]", "[0,5]") "}", 5, format, "needs 4");
    expect_header("{" TENSOR("a", "F32", "[2]", "[0,4]") "}", 4, format, "needs 8");
    expect_header("{" TENSOR("a", "U8", "[0]", "[0,1]") "}", 1, format, "needs 0");
    expect_header("{" TENSOR("a", "F32", "[1]", "[0]") "}", 4, format, "list of two");
    expect_header("{" TENSOR("a", "F32", "[1]", "[0,4,8]") "}", 4, format, "list of two");
    expect_header("{" TENSOR("a", "F32", "[1]", "[4,0]") "}", 4, format, "lies from 4 to 0");
    expect_header("{" TENSOR("a", "F32", "[1]", "[-4,0]") "}", 4, format, "integers from 0");
    expect_header("{" TENSOR("a", "F32", "[1]", "[0,8]") "}", 4, format, "the data has 4");
    expect_header("{" TENSOR("a", "F32", "[1]", "[0,9223372036854775807]") "}", 4, format, "the data has 4");
    expect_header("{" TENSOR("a\\u001b", "F32", "[1]", "[0,4]") "}", 4, format, "no plain UTF-8");
    expect_header("{" TENSOR("", "F32", "[1]", "[0,4]") "}", 4, format, "name that is empty");
}

static void test_coverage(void **state)
{
    (void)state;
    const enum moe_status format = MOE_ERR_FORMAT;
    expect_header("{}", 1, format, "cover 0 of the 1");
    expect_header("{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 8, format, "cover 4 of the 8");
    expect_header("{" TENSOR("a", "F32", "[1]", "[4,8]") "}", 8, format, "cover 4 of the 8");
    expect_header("{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[8,12]") "}", 12, format,
                  "cover 8 of the 12");
    expect_header("{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[4,12]") "}", 12, format,
                  "overlap");
    expect_header("{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[0,8]") "}", 16, format,
                  "overlap");   /* with a hole of the same size */
    expect_header("{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[1]", "[4,8]") "}", 8, format,
                  "overlaps another");
    expect_header("{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[0]", "[4,4]") "}", 8, format,
                  "overlap");
}

/* ---- folders -------------------------------------------------------------------------------------------- */

static const char *const one_tensor = "{" TENSOR("a", "F32", "[1]", "[0,4]") "}";

static void expect_index(const char *index, enum moe_status status, const char *file, const char *text)
{
    write_text("model/model.safetensors.index.json", index);
    expect_failure(in_folder("model"), status, file, text);
}

static void test_index(void **state)
{
    static const char *const escapes[] = {
        "../outside.safetensors", "/etc/outside.safetensors", "sub/in.safetensors", "..", ".", "",
        "./m.safetensors", ".hidden.safetensors", "a\\\\m.safetensors", "m.bin", "m.safetensors\\n",
        "\\u001b.safetensors", "..safetensors/../m.safetensors"};
    const char *const index = "model.safetensors.index.json";
    char text[512];
    (void)state;
    assert_int_equal(mkdir(in_folder("model"), 0777), 0);
    expect_failure(in_folder("model"), MOE_ERR_IO, "config.json", "No such file");
    write_text("model/config.json", "{}");
    expect_failure(in_folder("model"), MOE_ERR_IO, "model", "neither model.safetensors nor");
    safetensors_write("model/m.safetensors", one_tensor, 4);
    safetensors_write("outside.safetensors", one_tensor, 4);
    for (size_t i = 0; i < MOE_ARRAY_SIZE(escapes); i++) {
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", escapes[i]);
        expect_index(text, MOE_ERR_FORMAT, index, "'a' is not in a .safetensors file of this folder");
    }
    expect_index("{\"weight_map\":{\"a\":1}}", MOE_ERR_FORMAT, index, "is not in a .safetensors file");
    expect_index("{\"weight_map\":{}}", MOE_ERR_FORMAT, index, "weight_map");
    expect_index("{\"weight_map\":[]}", MOE_ERR_FORMAT, index, "weight_map");
    expect_index("{}", MOE_ERR_FORMAT, index, "weight_map");
    expect_index("[]", MOE_ERR_FORMAT, index, "not a JSON object");
    expect_index("{\n\n\"weight_map\":{\"a\":\"m.safetensors\",}}", MOE_ERR_FORMAT, index, "line 3");
    expect_index("{\"weight_map\":{\"a\":\"m.safetensors\",\"a\":\"m.safetensors\"}}", MOE_ERR_FORMAT, index,
                 "duplicate");
    expect_index("{\"weight_map\":{\"a\":\"n.safetensors\"}}", MOE_ERR_IO, "n.safetensors", "No such file");
    expect_index("{\"weight_map\":{\"a\":\"m.safetensors\",\"b\":\"m.safetensors\"}}", MOE_ERR_FORMAT, index,
                 "'b' should be in 'm.safetensors'");
    safetensors_write("model/n.safetensors", "{" TENSOR("b", "F32", "[1]", "[0,4]") "}", 4);
    expect_index("{\"weight_map\":{\"b\":\"m.safetensors\",\"a\":\"n.safetensors\"}}", MOE_ERR_FORMAT, index,
                 "'b' should be in 'm.safetensors'");
    safetensors_write("model/n.safetensors", one_tensor, 4);
    expect_index("{\"weight_map\":{\"a\":\"m.safetensors\",\"b\":\"n.safetensors\"}}", MOE_ERR_FORMAT, "n.safetensors",
                 "'a' is there twice");
    assert_int_equal(mkdir(in_folder("model/d.safetensors"), 0777), 0);
    expect_index("{\"weight_map\":{\"a\":\"d.safetensors\"}}", MOE_ERR_IO, "d.safetensors", "not a regular file");
    assert_int_equal(symlink("m.safetensors", in_folder("model/model.safetensors")), 0);
    moe_archive_close(open_good(in_folder("model"), 0));   /* the whole model, if it is there, goes first */
}

static void expect_config(const char *config, const char *text)
{
    write_text("config/config.json", config);
    expect_failure(in_folder("config"), MOE_ERR_FORMAT, "config.json", text);
}

static void test_config(void **state)
{
    (void)state;
    assert_int_equal(mkdir(in_folder("config"), 0777), 0);
    safetensors_write("config/model.safetensors", one_tensor, 4);
    expect_config("", "line 1");
    expect_config("[1]", "is not a JSON object");
    expect_config("{\"a\":1,\n\"a\":2}", "line 2: duplicate");
    expect_config("{\"a\":{\"b\":1},\"a.b\":2}", "key 'a.b' is there twice");
    expect_config("{\"a\\u0007\":1}", "control characters");
    expect_config("{\"\":1}", "empty");
    expect_config("{\"a\":99999999999999999999}", "line 1: too big integer");
    expect_config("{\"a\":1e999}", "line 1: real number overflow");
    expect_config("{\"a\":Infinityx}", "line 1");
    expect_config("{\"a\":\"\x01\"}", "line 1");
    /* Deep nesting, and names that multiply: 200 levels of 1000 bytes over 1000 members would be 200 MB of keys. */
    char *text = calloc(1, 8 << 20), *end = text;
    for (int i = 0; i < 40; i++)
        end += sprintf(end, "{\"a\":");
    end += sprintf(end, "1");
    for (int i = 0; i < 40; i++)
        end += sprintf(end, "}");
    expect_config(text, "nested deeper than 32");
    end = text + sprintf(text, "{\"%01000d\":{", 0);
    for (int i = 0; i < 100000; i++)
        end += sprintf(end, "\"%d\":1,", i);
    sprintf(end, "\"z\":1}}");
    expect_config(text, "its keys, with those around them");
    sprintf(text, "{\"%01025d\":1}", 0);
    expect_config(text, "longer than 1024");
    free(text);
    write_text("config/config.json", "{}");
    assert_int_equal(truncate(in_folder("config/config.json"), (1 << 24) + 1), 0);
    expect_failure(in_folder("config"), MOE_ERR_FORMAT, "config.json", "at most 16777216");
}

static void test_arguments(void **state)
{
    struct moe_archive *archive = NULL;
    struct moe_model_params params;
    struct moe_env env;
    (void)state;
    struct gguf file = gguf_new();
    const char *path = gguf_write(&file, "good.gguf");
    assert_int_equal(moe_archive_open(NULL, NULL, &archive, NULL), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_archive_open("", NULL, &archive, NULL), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_archive_open(path, NULL, NULL, NULL), MOE_ERR_ARGUMENT);
    MOE_INIT(&params);
    params.flags = 2;
    assert_int_equal(moe_archive_open(path, &params, &archive, NULL), MOE_ERR_ARGUMENT);
    MOE_INIT(&params);
    params.struct_size = 0;
    assert_int_equal(moe_archive_open(path, &params, &archive, NULL), MOE_ERR_ARGUMENT);
    MOE_INIT(&params);
    MOE_INIT(&env);
    env.alloc = meter_alloc;
    params.env = &env;
    assert_int_equal(moe_archive_open(path, &params, &archive, NULL), MOE_ERR_ARGUMENT);
    assert_null(archive);
    assert_int_equal(moe_archive_open(path, NULL, &archive, NULL), MOE_OK);
    moe_archive_close(archive);
    moe_archive_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_beginning), cmocka_unit_test(test_keys),     cmocka_unit_test(test_values),
        cmocka_unit_test(test_alignment), cmocka_unit_test(test_shapes),   cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_names),     cmocka_unit_test(test_lengths),  cmocka_unit_test(test_json),
        cmocka_unit_test(test_entries),   cmocka_unit_test(test_coverage), cmocka_unit_test(test_index),
        cmocka_unit_test(test_config),    cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
