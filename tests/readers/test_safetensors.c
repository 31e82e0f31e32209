// SPDX-License-Identifier: MIT
// Well-formed safetensors: folders with one file or with shards, single files, every dtype, config.json as metadata.
#include "files.h"

#include "check.h"

static const char *const config =
    "{\"model_type\": \"qwen3_moe\", \"hidden_size\": 256, \"eps\": 1e-06, \"tie\": true, \"off\": false,\n"
    " \"pad\": null,\n"
    " \"rope_parameters\": {\"rope_theta\": 10000.5, \"deep\": {\"er\": -1}}, \"empty\": {}, \"no_items\": [],\n"
    " \"layer_types\": [\"full\", \"sliding\"], \"mixed\": [1, 2.5, null, true], \"nested\": [[1, 2], [3]],\n"
    " \"objects\": [{\"a\": 1}], \"largest\": 9223372036854775807, \"limit\": [0.0, Infinity, -Infinity, NaN],\n"
    " \"text\": \"Infinity \\\" NaN\", \"text_config\": {\"hidden_size\": 64}}";

static struct moe_value find(const struct moe_archive *archive, const char *key)
{
    struct moe_value value;
    if (moe_archive_metadata_find(archive, key, &value) != MOE_OK)
        fail_msg("no key %s", key);
    return value;
}

static struct moe_value item(const struct moe_archive *archive, const char *key, size_t i)
{
    struct moe_value array = find(archive, key), value;
    assert_int_equal(array.kind, MOE_VALUE_ARRAY);
    assert_int_equal(moe_archive_metadata_item(archive, &array, i, &value), MOE_OK);
    return value;
}

static const char *folder(const char *name)
{
    const char *path = in_folder(name);
    assert_int_equal(mkdir(path, 0777), 0);
    return path;
}

static void test_config(void **state)
{
    (void)state;
    const char *path = folder("config");
    write_text("config/config.json", config);
    safetensors_write("config/model.safetensors",
                      "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8);
    struct moe_archive *archive = open_good(path, 0);
    assert_string_equal(moe_archive_container(archive), "safetensors");
    assert_string_equal(find(archive, "model_type").string, "qwen3_moe");
    assert_int_equal(find(archive, "model_type").length, 9);
    assert_int_equal(find(archive, "hidden_size").integer, 256);
    assert_true(find(archive, "hidden_size").number == 256.0);
    assert_int_equal(find(archive, "eps").kind, MOE_VALUE_FLOAT);
    assert_true(find(archive, "eps").number == 1e-6);
    assert_true(find(archive, "tie").boolean);
    assert_int_equal(find(archive, "off").kind, MOE_VALUE_BOOL);
    assert_int_equal(find(archive, "pad").kind, MOE_VALUE_NULL);
    assert_true(find(archive, "rope_parameters.rope_theta").number == 10000.5);
    assert_int_equal(find(archive, "rope_parameters.deep.er").integer, -1);
    assert_int_equal(find(archive, "text_config.hidden_size").integer, 64);
    assert_int_equal(find(archive, "no_items").length, 0);
    assert_string_equal(item(archive, "layer_types", 1).string, "sliding");
    assert_int_equal(find(archive, "mixed").length, 4);
    assert_int_equal(item(archive, "mixed", 0).kind, MOE_VALUE_INT);
    assert_true(item(archive, "mixed", 1).number == 2.5);
    assert_int_equal(item(archive, "mixed", 2).kind, MOE_VALUE_NULL);
    assert_int_equal(find(archive, "largest").integer, INT64_MAX);
    assert_int_equal(find(archive, "limit").length, 4);
    assert_true(item(archive, "limit", 0).number == 0.0);
    for (size_t i = 1; i < 4; i++)
        assert_int_equal(item(archive, "limit", i).kind, MOE_VALUE_NULL);
    assert_string_equal(find(archive, "text").string, "Infinity \" NaN");
    struct moe_value value;
    static const char *const absent[] = {"nested", "objects", "empty", "rope_parameters", "hidden_siz", ""};
    for (size_t i = 0; i < MOE_ARRAY_SIZE(absent); i++)
        assert_int_equal(moe_archive_metadata_find(archive, absent[i], &value), MOE_ERR_ARGUMENT);
    assert_int_equal(moe_archive_num_metadata(archive), 15);
    touch_all(archive);
    moe_archive_close(archive);
}

struct dtype_case {
    const char *name;
    uint32_t type, bits;
};

static void test_dtypes(void **state)
{
    static const struct dtype_case cases[] = {
        {"F32", MOE_FORMAT_F32, 32}, {"F16", MOE_FORMAT_F16, 16}, {"BF16", MOE_FORMAT_BF16, 16},
        {"I32", MOE_FORMAT_I32, 32}, {"I64", MOE_FORMAT_I64, 64}, {"F64", MOE_FORMAT_F64, 64},
        {"BOOL", MOE_SAFETENSORS_BOOL, 8}, {"U8", MOE_FORMAT_U8, 8}, {"I8", MOE_FORMAT_I8, 8}, {"U16", 0x10003, 16},
        {"I16", MOE_FORMAT_I16, 16}, {"U32", 0x10005, 32}, {"U64", 0x10006, 64}, {"C64", 0x10008, 64},
        {"F8_E4M3", MOE_FORMAT_E4M3, 8}, {"F8_E5M2", 0x1000a, 8}, {"F8_E8M0", MOE_FORMAT_E8M0, 8},
        {"F4", MOE_FORMAT_E2M1, 4},
        {"F6_E2M3", 0x1000d, 6}, {"F6_E3M2", 0x1000e, 6},
    };
    (void)state;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(cases); i++) {
        const struct dtype_case *expected = &cases[i];
        char header[256];
        unsigned size = 2 * 4 * expected->bits / 8;
        snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[2,4],\"data_offsets\":[0,%u]}}  ",
                 expected->name, size);
        const char *path = safetensors_write("dtype.safetensors", header, size);
        struct moe_archive *archive = open_good(path, (uint32_t)i & MOE_MODEL_READ);
        const struct moe_archive_tensor *tensor = moe_archive_find(archive, "t");
        assert_int_equal(tensor->info.type, expected->type);
        assert_ptr_equal(tensor->info.format, moe_format_info((enum moe_format)expected->type));
        assert_int_equal(tensor->info.size, size);
        touch_all(archive);
        moe_archive_close(archive);
        safetensors_write("dtype.safetensors", header, size + 1);
        expect_failure(path, MOE_ERR_FORMAT, "dtype.safetensors", "tensors cover");
    }
}

/* Plain values that a file does not align are copied to where they are; bytes in front of them stay in place. */
static void test_single(void **state)
{
    (void)state;
    const char *path = safetensors_write(
        "single.safetensors",
        "{\"__metadata__\":{\"format\":\"pt\",\"a.b\":\"c\"},"
        "\"odd\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
        "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[3,3]},"
        "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[3,7]},"
        "\"rows\":{\"dtype\":\"F16\",\"shape\":[1,2,1,2],\"data_offsets\":[7,15]}}", 15);
    for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
        struct moe_archive *archive = open_good(path, flags);
        assert_int_equal(moe_archive_num_tensors(archive), 4);
        assert_int_equal(moe_archive_num_metadata(archive), 2);
        assert_string_equal(find(archive, "format").string, "pt");
        assert_string_equal(find(archive, "a.b").string, "c");
        assert_int_equal(moe_archive_find(archive, "none")->info.size, 0);
        assert_int_equal(moe_archive_find(archive, "scalar")->info.num_dims, 0);
        static const char *const names[] = {"scalar", "rows", "odd"};
        static const unsigned char first[] = {3, 7, 0};
        static const uintptr_t align[] = {4, 2, 1};
        for (size_t i = 0; i < 3; i++) {
            const void *data;
            const struct moe_archive_tensor *tensor = moe_archive_find(archive, names[i]);
            assert_int_equal(moe_archive_data(archive, tensor, &data, NULL), MOE_OK);
            assert_int_equal((uintptr_t)data % align[i], 0);
            for (uint64_t b = 0; b < tensor->info.size; b++)
                assert_int_equal(((const unsigned char *)data)[b], first[i] + b);
        }
        touch_all(archive);
        moe_archive_close(archive);
    }
    moe_archive_close(open_good(safetensors_write("nothing.safetensors", "{}", 0), 0));
    safetensors_write("other_name.bin", "{}", 0);
    moe_archive_close(open_good(in_folder("other_name.bin"), 0));
}

static void write_shard(const char *name, const char *first, const char *second)
{
    char header[512];
    snprintf(header, sizeof header,
             "{\"__metadata__\":{\"format\":\"pt\"},\"%s\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,32]},"
             "\"%s\":{\"dtype\":\"BF16\",\"shape\":[2,4],\"data_offsets\":[0,16]}}", first, second);
    safetensors_write(name, header, 32);
}

static void test_shards(void **state)
{
    (void)state;
    const char *path = folder("shards");
    write_text("shards/config.json", "{\"model_type\":\"x\"}");
    write_text("shards/generation_config.json", "not looked at");
    write_text("shards/model.safetensors.index.json",
               "{\"metadata\":{\"total_size\":64},"
               "\"weight_map\":{\"b1\":\"m-2.safetensors\",\"a1\":\"m-1.safetensors\","
               "\"a2\":\"m-1.safetensors\",\"b2\":\"m-2.safetensors\"}}");
    write_shard("shards/m-1.safetensors", "a1", "a2");
    write_shard("shards/blob", "b1", "b2");
    assert_int_equal(symlink("blob", in_folder("shards/m-2.safetensors")), 0);   /* as download caches have it */
    for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
        struct moe_archive *archive = open_good(path, flags);
        assert_int_equal(moe_archive_num_tensors(archive), 4);
        assert_int_equal(moe_archive_num_metadata(archive), 1);
        const struct moe_archive_tensor *tensor = moe_archive_find(archive, "b1");
        assert_non_null(strstr(moe_archive_part_path(archive, tensor->part), "m-2.safetensors"));
        const void *data;
        assert_int_equal(moe_archive_data(archive, tensor, &data, NULL), MOE_OK);
        assert_int_equal(((const unsigned char *)data)[0], 16);
        touch_all(archive);
        moe_archive_close(archive);
    }
}

/* Models of the repository, as transformers wrote them. */
static void test_real(void **state)
{
    static const char *const folders[] = {MOE_SOURCE_DIR "/models/bard", MOE_TEST_MODELS "/zoo/qwen3_moe",
                                          MOE_TEST_MODELS "/zoo/gpt_oss", MOE_TEST_MODELS "/zoo/llama4_text",
                                          MOE_TEST_MODELS "/zoo/deepseek_v3"};
    (void)state;
    for (size_t i = 0; i < MOE_ARRAY_SIZE(folders); i++) {
        char path[1024];
        uint64_t sums[2];
        snprintf(path, sizeof path, "%s", folders[i]);
        for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
            struct moe_archive *archive = open_good(path, flags);
            assert_int_equal(find(archive, "model_type").kind, MOE_VALUE_STRING);
            assert_true(moe_archive_num_tensors(archive) > 10);
            sums[flags] = touch_all(archive);
            moe_archive_close(archive);
        }
        assert_true(sums[0] == sums[1]);
    }
}

/* A tensor of more dimensions than are handed out: its bytes count, it is not there; also where an index has it. */
static void test_many_dimensions(void **state)
{
    static const char header[] =
        "{\"conv\":{\"dtype\":\"F32\",\"shape\":[1,1,2,1,2],\"data_offsets\":[0,16]},"
        "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[16,24]}}";
    (void)state;
    struct moe_archive *archive = open_good(safetensors_write("five.safetensors", header, 24), 0);
    assert_int_equal(moe_archive_num_tensors(archive), 1);
    assert_null(moe_archive_find(archive, "conv"));
    assert_non_null(moe_archive_find(archive, "b"));
    moe_archive_close(archive);
    const char *path = folder("five");
    write_text("five/config.json", "{\"model_type\":\"x\"}");
    write_text("five/model.safetensors.index.json",
               "{\"weight_map\":{\"conv\":\"a.safetensors\",\"b\":\"a.safetensors\"}}");
    safetensors_write("five/a.safetensors", header, 24);
    archive = open_good(path, 0);
    assert_int_equal(moe_archive_num_tensors(archive), 1);
    moe_archive_close(archive);
    write_text("five/model.safetensors.index.json",
               "{\"weight_map\":{\"conv2\":\"a.safetensors\",\"b\":\"a.safetensors\"}}");
    expect_failure(path, MOE_ERR_FORMAT, "index.json", "'conv2'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config), cmocka_unit_test(test_dtypes), cmocka_unit_test(test_single),
        cmocka_unit_test(test_shards), cmocka_unit_test(test_many_dimensions), cmocka_unit_test(test_real),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
