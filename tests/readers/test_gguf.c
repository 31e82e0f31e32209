// SPDX-License-Identifier: MIT
// Well-formed GGUF files: every kind of value, shapes, formats known and not, alignment, split sets; mapped and read.
#include "files.h"

#include <pthread.h>

static const uint64_t dims_2[] = {64, 3}, dims_1[] = {5}, dims_4[] = {32, 2, 3, 4};

static struct moe_value find(const struct moe_archive *archive, const char *key)
{
    struct moe_value value;
    if (moe_archive_metadata_find(archive, key, &value) != MOE_OK)
        fail_msg("no key %s", key);
    return value;
}

static void expect_integer(const struct moe_archive *archive, const char *key, int64_t integer, uint32_t type)
{
    struct moe_value value = find(archive, key);
    assert_int_equal(value.kind, MOE_VALUE_INT);
    assert_true(value.integer == integer);
    assert_true(value.number == (double)integer);
    assert_int_equal(value.gguf_type, type);
}

static void expect_float(const struct moe_archive *archive, const char *key, double number, uint32_t type)
{
    struct moe_value value = find(archive, key);
    assert_int_equal(value.kind, MOE_VALUE_FLOAT);
    assert_true(value.number == number);
    assert_int_equal(value.gguf_type, type);
}

static void put_all_scalars(struct gguf *file)
{
    gguf_number(file, "u8", 0, 255, 1);
    gguf_number(file, "i8", 1, 0x80, 1);
    gguf_number(file, "u16", 2, 65535, 2);
    gguf_number(file, "i16", 3, 0xfffe, 2);
    gguf_number(file, "u32", 4, UINT32_MAX, 4);
    gguf_number(file, "i32", 5, UINT32_MAX, 4);
    gguf_number(file, "f32", 6, 0x3fc00000, 4);
    gguf_number(file, "true", 7, 1, 1);
    gguf_number(file, "false", 7, 0, 1);
    gguf_text(file, "text", "gr\xc3\xbc\xc3\x9f");
    gguf_text(file, "empty", "");
    gguf_number(file, "u64", 10, INT64_MAX, 8);
    gguf_number(file, "u64_large", 10, UINT64_MAX, 8);
    gguf_number(file, "i64", 11, (uint64_t)1 << 63, 8);
    gguf_number(file, "f64", 12, 0xbfd0000000000000, 8);
}

static void test_scalars(void **state)
{
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct gguf file = gguf_new();
        file.version = version;
        put_all_scalars(&file);
        const char *path = gguf_write(&file, "scalars.gguf");
        struct moe_archive *archive = open_good(path, version == 2 ? MOE_MODEL_READ : 0);
        expect_integer(archive, "u8", 255, 0);
        expect_integer(archive, "i8", -128, 1);
        expect_integer(archive, "u16", 65535, 2);
        expect_integer(archive, "i16", -2, 3);
        expect_integer(archive, "u32", UINT32_MAX, 4);
        expect_integer(archive, "i32", -1, 5);
        expect_float(archive, "f32", 1.5, 6);
        assert_true(find(archive, "true").boolean);
        assert_false(find(archive, "false").boolean);
        assert_int_equal(find(archive, "false").kind, MOE_VALUE_BOOL);
        assert_string_equal(find(archive, "text").string, "gr\xc3\xbc\xc3\x9f");
        assert_int_equal(find(archive, "text").length, 6);
        assert_int_equal(find(archive, "text").gguf_type, 8);
        assert_string_equal(find(archive, "empty").string, "");
        expect_integer(archive, "u64", INT64_MAX, 10);
        expect_float(archive, "u64_large", 18446744073709551615.0, 10);
        expect_integer(archive, "i64", INT64_MIN, 11);
        expect_float(archive, "f64", -0.25, 12);
        struct moe_value value;
        const char *key;
        assert_int_equal(moe_archive_num_metadata(archive), 15);
        assert_int_equal(moe_archive_metadata_at(archive, 9, &key, &value), MOE_OK);
        assert_string_equal(key, "text");
        assert_int_equal(moe_archive_metadata_at(archive, 15, &key, &value), MOE_ERR_ARGUMENT);
        assert_int_equal(moe_archive_metadata_find(archive, "tex", &value), MOE_ERR_ARGUMENT);
        assert_int_equal(moe_archive_metadata_find(archive, "", &value), MOE_ERR_ARGUMENT);
        assert_string_equal(moe_archive_container(archive), "gguf");
        assert_string_equal(moe_archive_path(archive), path);
        assert_int_equal(moe_archive_num_tensors(archive), 0);
        touch_all(archive);
        moe_archive_close(archive);
    }
}

static void test_arrays(void **state)
{
    static const size_t sizes[13] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    (void)state;
    struct gguf file = gguf_new();
    char key[16];
    for (uint32_t type = 0; type < 13; type++) {
        if (sizes[type] == 0)
            continue;
        snprintf(key, sizeof key, "array%u", (unsigned)type);
        struct bytes *pairs = gguf_array(&file, key, type, 3);
        for (uint64_t i = 0; i < 3; i++)
            put_number(pairs, i & 1, sizes[type]);
    }
    struct bytes *pairs = gguf_array(&file, "strings", 8, 4);
    put_string(pairs, "one");
    put_string(pairs, "");
    put_number(pairs, 3, 8);
    put(pairs, "a\0b", 3);
    put_string(pairs, "last");
    gguf_array(&file, "none", 8, 0);
    gguf_array(&file, "no_numbers", 4, 0);
    struct moe_archive *archive = open_good(gguf_write(&file, "arrays.gguf"), 0);
    struct moe_value item, array;
    for (uint32_t type = 0; type < 13; type++) {
        if (sizes[type] == 0)
            continue;
        snprintf(key, sizeof key, "array%u", (unsigned)type);
        array = find(archive, key);
        assert_int_equal(array.kind, MOE_VALUE_ARRAY);
        assert_int_equal(array.length, 3);
        assert_int_equal(array.gguf_type, type);
        assert_int_equal(moe_archive_metadata_item(archive, &array, 1, &item), MOE_OK);
        bool is_float = type == 6 || type == 12;
        assert_true(type == 7 ? item.boolean : is_float ? item.number > 0.0 && item.number < 1e-40 : item.integer == 1);
        assert_int_equal(moe_archive_metadata_item(archive, &array, 3, &item), MOE_ERR_ARGUMENT);
    }
    array = find(archive, "strings");
    assert_int_equal(array.length, 4);
    static const char *const expected[] = {"one", "", "a\0b", "last"};
    static const size_t lengths[] = {3, 0, 3, 4};
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(moe_archive_metadata_item(archive, &array, i, &item), MOE_OK);
        assert_int_equal(item.length, lengths[i]);
        assert_memory_equal(item.string, expected[i], lengths[i] + 1);
    }
    assert_int_equal(find(archive, "none").length, 0);
    struct moe_value text = find(archive, "array4");
    text.kind = MOE_VALUE_INT;
    assert_int_equal(moe_archive_metadata_item(archive, &text, 0, &item), MOE_ERR_ARGUMENT);
    touch_all(archive);
    moe_archive_close(archive);
}

static void expect_tensor(struct moe_archive *archive, const char *name, uint32_t type, size_t num_dims,
                          const size_t *shape, uint64_t size, unsigned char first)
{
    const struct moe_archive_tensor *tensor = moe_archive_find(archive, name);
    const void *data;
    assert_non_null(tensor);
    assert_string_equal(tensor->info.name, name);
    assert_int_equal(tensor->info.type, type);
    assert_ptr_equal(tensor->info.format, moe_format_info((enum moe_format)type));
    assert_int_equal(tensor->info.num_dims, num_dims);
    for (size_t d = 0; d < num_dims; d++)
        assert_int_equal(tensor->info.shape[d], shape[d]);
    assert_int_equal(tensor->info.size, size);
    assert_int_equal(moe_archive_data(archive, tensor, &data, NULL), MOE_OK);
    for (uint64_t i = 0; i < size; i++)
        assert_int_equal(((const unsigned char *)data)[i], (unsigned char)(first + i));
    const void *again;
    assert_int_equal(moe_archive_data(archive, tensor, &again, NULL), MOE_OK);
    assert_ptr_equal(data, again);
}

static void test_tensors(void **state)
{
    static const uint64_t none[] = {8, 0, 3};
    (void)state;
    for (uint64_t align = 8; align <= 4096; align *= 8) {
        struct gguf file = gguf_new();
        file.align = align;
        gguf_number(&file, "general.alignment", 4, align, 4);
        gguf_tensor(&file, "blk.0.ffn_up_exps.weight", 4, dims_4, 8, 24 * 34, 1);
        gguf_tensor(&file, "plain", 2, dims_2, 0, 768, 2);
        gguf_tensor(&file, "half", 1, dims_1, 30, 10, 3);
        gguf_tensor(&file, "empty", 3, none, 0, 0, 4);
        gguf_tensor(&file, "scalar", 0, NULL, 0, 4, 5);
        gguf_tensor(&file, "unknown", 2, dims_2, 777, 256, 6);
        const char *path = gguf_write(&file, "tensors.gguf");
        for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
            struct moe_archive *archive = open_good(path, flags);
            assert_int_equal(moe_archive_num_tensors(archive), 6);
            expect_tensor(archive, "blk.0.ffn_up_exps.weight", 8, 4, (size_t[]){4, 3, 2, 32}, 24 * 34, 1);
            expect_tensor(archive, "plain", 0, 2, (size_t[]){3, 64}, 768, 2);
            expect_tensor(archive, "half", 30, 1, (size_t[]){5}, 10, 3);
            expect_tensor(archive, "empty", 0, 3, (size_t[]){3, 0, 8}, 0, 4);
            expect_tensor(archive, "scalar", 0, 0, NULL, 4, 5);
            expect_tensor(archive, "unknown", 777, 2, (size_t[]){3, 64}, 256, 6);
            assert_string_equal(moe_archive_tensor_at(archive, 2)->info.name, "half");
            assert_null(moe_archive_tensor_at(archive, 6));
            assert_null(moe_archive_find(archive, "plai"));
            assert_null(moe_archive_find(archive, ""));
            assert_string_equal(moe_archive_part_path(archive, 0), path);
            assert_null(moe_archive_part_path(archive, 1));
            touch_all(archive);
            moe_archive_close(archive);
        }
    }
}

/* Order and gaps are free; a type that is not known takes what lies before the next tensor. */
static void test_order(void **state)
{
    (void)state;
    struct gguf file = gguf_new();
    gguf_entry(&file, "last", 1, dims_1, 0, 128);
    gguf_entry(&file, "odd", 1, dims_1, 555, 64);
    gguf_entry(&file, "first", 1, dims_1, 0, 0);
    for (unsigned i = 0; i < 148; i++)
        put_number(&file.data, i, 1);
    struct moe_archive *archive = open_good(gguf_write(&file, "order.gguf"), 0);
    expect_tensor(archive, "last", 0, 1, (size_t[]){5}, 20, 128);
    expect_tensor(archive, "odd", 555, 1, (size_t[]){5}, 64, 64);
    expect_tensor(archive, "first", 0, 1, (size_t[]){5}, 20, 0);
    assert_string_equal(moe_archive_tensor_at(archive, 0)->info.name, "last");
    moe_archive_close(archive);
}

static void *touch_in_thread(void *archive)
{
    touch_all(archive);
    return NULL;
}

/* Tensors are read when they are first asked for, by several threads at once. */
static void test_threads(void **state)
{
    enum { NUM_THREADS = 4 };
    char name[32];
    pthread_t threads[NUM_THREADS];
    (void)state;
    struct gguf file = gguf_new();
    put_all_scalars(&file);
    for (unsigned i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "t%u", i);
        gguf_tensor(&file, name, 2, dims_2, 0, 768, (unsigned char)i);
    }
    struct moe_archive *archive = open_good(gguf_write(&file, "threads.gguf"), MOE_MODEL_READ);
    for (size_t i = 0; i < NUM_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, touch_in_thread, archive), 0);
    for (size_t i = 0; i < NUM_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    expect_tensor(archive, "t99", 0, 2, (size_t[]){3, 64}, 768, 99);
    moe_archive_close(archive);
}

static const char *write_part(unsigned number, unsigned count, unsigned tensors)
{
    struct gguf file = gguf_new();
    char name[64], tensor[32];
    gguf_number(&file, "split.no", 2, number, 2);
    gguf_number(&file, "split.count", 2, count, 2);
    gguf_number(&file, "split.tensors.count", 5, tensors, 4);
    gguf_number(&file, number == 0 ? "only.in.first" : "only.in.later", 4, number, 4);
    for (unsigned i = 0; i < 2; i++) {
        snprintf(tensor, sizeof tensor, "t%u", 2 * number + i);
        gguf_tensor(&file, tensor, 1, dims_1, 0, 20, (unsigned char)(10 * number + i));
    }
    snprintf(name, sizeof name, "set-%05u-of-%05u.gguf", number + 1, count);
    return gguf_write(&file, name);
}

static void test_split(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        write_part(i, 3, 6);
    for (unsigned given = 0; given < 3; given++)
        for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
            char name[64], tensor[32];
            snprintf(name, sizeof name, "set-%05u-of-00003.gguf", given + 1);
            struct moe_archive *archive = open_good(in_folder(name), flags);
            assert_int_equal(moe_archive_num_tensors(archive), 6);
            for (unsigned i = 0; i < 6; i++) {
                snprintf(tensor, sizeof tensor, "t%u", i);
                snprintf(name, sizeof name, "set-%05u-of-00003.gguf", i / 2 + 1);
                const struct moe_archive_tensor *found = moe_archive_tensor_at(archive, i);
                assert_string_equal(found->info.name, tensor);
                assert_non_null(strstr(moe_archive_part_path(archive, found->part), name));
                expect_tensor(archive, tensor, 0, 1, (size_t[]){5}, 20, (unsigned char)(10 * (i / 2) + i % 2));
            }
            expect_integer(archive, "only.in.first", 0, 4);
            struct moe_value value;
            assert_int_equal(moe_archive_metadata_find(archive, "only.in.later", &value), MOE_ERR_ARGUMENT);
            touch_all(archive);
            moe_archive_close(archive);
        }
}

static void test_bad_splits(void **state)
{
    (void)state;
    const char *first = write_part(0, 4, 8), *third = write_part(2, 4, 8);
    expect_failure(first, MOE_ERR_IO, "set-00002-of-00004.gguf", "part 2 of 4 cannot be opened");
    expect_failure(third, MOE_ERR_IO, "set-00002-of-00004.gguf", "part 2 of 4 cannot be opened");
    write_part(1, 4, 8);
    write_part(3, 4, 9);
    expect_failure(first, MOE_ERR_FORMAT, "set-00004-of-00004.gguf", "says otherwise");
    /* A part under another part's name: its number is wrong, and its tensors would be there twice. */
    assert_int_equal(rename(third, in_folder("set-00004-of-00004.gguf")), 0);
    write_part(2, 4, 8);
    expect_failure(first, MOE_ERR_FORMAT, "set-00004-of-00004.gguf", "part 3 of 4");
    assert_int_equal(rename(first, in_folder("other.gguf")), 0);
    expect_failure(in_folder("other.gguf"), MOE_ERR_FORMAT, "other.gguf", "-00001-of-00004.gguf");
    expect_failure(write_part(0, 2, 3), MOE_ERR_IO, "set-00002-of-00002.gguf", "part 2 of 2");
    write_part(1, 2, 3);
    expect_failure(in_folder("set-00001-of-00002.gguf"), MOE_ERR_FORMAT, "set-00001-of-00002.gguf",
                   "split.tensors.count is 3");
    struct gguf file = gguf_new();
    gguf_number(&file, "split.no", 2, 5, 2);
    gguf_number(&file, "split.count", 2, 5, 2);
    expect_failure(gguf_write(&file, "no.gguf"), MOE_ERR_FORMAT, "no.gguf", "split.no is 5");
    file = gguf_new();
    gguf_number(&file, "split.count", 4, 65536, 4);
    expect_failure(gguf_write(&file, "count.gguf"), MOE_ERR_FORMAT, "count.gguf", "split.count is 65536");
    file = gguf_new();
    gguf_text(&file, "split.count", "2");
    expect_failure(gguf_write(&file, "text.gguf"), MOE_ERR_FORMAT, "text.gguf", "'split.count' is not an integer");
    /* A set of one is a file like any other, whatever its name. */
    file = gguf_new();
    gguf_number(&file, "split.count", 2, 1, 2);
    moe_archive_close(open_good(gguf_write(&file, "one.gguf"), 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars), cmocka_unit_test(test_arrays), cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_order),   cmocka_unit_test(test_split),  cmocka_unit_test(test_bad_splits),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
