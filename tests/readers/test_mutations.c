// SPDX-License-Identifier: MIT
// Damage in bulk: files cut at every byte, with bits flipped, with every allocation failing once, shrunk while open;
// and files with so many keys and tensors that a quadratic reader would never end.
#include "files.h"

#include "check.h"

enum { FIXED_MEMORY = 128 << 10, MEMORY_FACTOR = 64 };

/* A small file of each kind, with something of everything in it. */
static struct bytes sample_gguf(size_t *header_size)
{
    struct gguf file = gguf_new();
    gguf_text(&file, "general.architecture", "qwen3moe");
    gguf_number(&file, "general.alignment", 4, 32, 4);
    gguf_number(&file, "split.count", 2, 1, 2);
    gguf_number(&file, "f", 6, 0x3f800000, 4);
    gguf_number(&file, "b", 7, 1, 1);
    gguf_number(&file, "d", 12, 0, 8);
    struct bytes *pairs = gguf_array(&file, "tokens", 8, 3);
    put_string(pairs, "a");
    put_string(pairs, "");
    put_string(pairs, "bcd");
    put_number(gguf_array(&file, "scores", 6, 2), 0, 8);
    gguf_tensor(&file, "blk.0.up", 3, (uint64_t[]){32, 2, 2}, 8, 136, 0);
    gguf_tensor(&file, "odd", 1, (uint64_t[]){7}, 500, 32, 0);
    gguf_tensor(&file, "blk.0.gate", 2, (uint64_t[]){4, 2}, 0, 32, 0);
    return gguf_finish(&file, header_size);
}

static struct bytes sample_safetensors(size_t *header_size)
{
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"a\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[0,16]},"
                         "\"b\":{\"dtype\":\"BF16\",\"shape\":[8],\"data_offsets\":[16,32]},"
                         "\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[32,33]}}";
    *header_size = 8 + strlen(header);
    return safetensors_new(header, 33);
}

/* Whatever the file is: it opens and can be looked at, or it fails with a sentence. Memory stays in proportion. */
static bool survive(const char *path, uint32_t flags)
{
    struct meter meter;
    struct moe_archive *archive;
    struct moe_error error = {MOE_OK, ""};
    struct stat status;
    meter_init(&meter, 0);
    enum moe_status opened = open_metered(path, flags, &meter, &archive, &error);
    if (opened == MOE_OK)
        touch_all(archive);
    else
        assert_true(error.status == opened && error.text[0] != '\0' && archive == NULL);
    moe_archive_close(archive);
    assert_int_equal(meter.live, 0);
    assert_int_equal(stat(path, &status), 0);
    assert_true(meter.peak <= FIXED_MEMORY + MEMORY_FACTOR * (size_t)status.st_size);
    return opened == MOE_OK;
}

static void cut_everywhere(struct bytes sample, const char *name)
{
    for (size_t size = 0; size < sample.size; size++)
        expect_failure(write_bytes(name, sample.data, size), MOE_ERR_FORMAT, name, "");
    assert_true(survive(write_bytes(name, sample.data, sample.size), 0));
    drop(&sample);
}

static void test_cut(void **state)
{
    size_t header_size;
    (void)state;
    struct bytes sample = sample_gguf(&header_size);
    cut_everywhere(sample, "cut.gguf");
    sample = sample_safetensors(&header_size);
    cut_everywhere(sample, "cut.safetensors");
}

static uint64_t next_random(uint64_t *random)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

/* One to four changes to a header: a bit, a byte, a number of interest, bytes from elsewhere. */
static void damage(unsigned char *data, size_t size, uint64_t *random)
{
    static const uint64_t numbers[] = {0, 1, 255, 65535, INT32_MAX, UINT32_MAX, INT64_MAX, UINT64_MAX, 13, 9, 8};
    for (uint64_t changes = 1 + next_random(random) % 4; changes > 0; changes--) {
        size_t at = next_random(random) % size, width = (size_t)1 << next_random(random) % 4;
        uint64_t number = numbers[next_random(random) % MOE_ARRAY_SIZE(numbers)];
        switch (next_random(random) % 4) {
        case 0:
            data[at] ^= (unsigned char)(1u << next_random(random) % 8);
            break;
        case 1:
            data[at] = (unsigned char)next_random(random);
            break;
        case 2:
            for (size_t i = 0; i < width && at + i < size; i++)
                data[at + i] = (unsigned char)(number >> (8 * i));
            break;
        default:
            for (size_t i = 0, from = next_random(random) % size; i < width && at + i < size && from + i < size; i++)
                data[at + i] = data[from + i];
        }
    }
}

static void mutate(struct bytes sample, size_t header_size, const char *name, size_t rounds)
{
    unsigned char *copy = malloc(sample.size);
    uint64_t random = 1;
    size_t opened = 0;
    assert_non_null(copy);
    for (size_t i = 0; i < rounds; i++) {
        memcpy(copy, sample.data, sample.size);
        damage(copy, header_size, &random);
        opened += survive(write_bytes(name, copy, sample.size), (uint32_t)i & MOE_MODEL_READ);
    }
    /* Some must get through, or the damage is too coarse to reach the later checks; most must not. */
    assert_true(opened > rounds / 200 && opened < rounds / 2);
    free(copy);
    drop(&sample);
}

static void test_mutations(void **state)
{
    size_t header_size;
    (void)state;
    struct bytes sample = sample_gguf(&header_size);
    mutate(sample, header_size, "mutated.gguf", 12000);
    sample = sample_safetensors(&header_size);
    mutate(sample, header_size, "mutated.safetensors", 8000);
}

/* config.json and index.json are damaged, their shard is not. */
static void test_mutated_folder(void **state)
{
    static const char *const names[] = {"model/config.json", "model/model.safetensors.index.json"};
    static const char *const texts[] = {
        "{\"model_type\":\"a\",\"r\":{\"t\":1e4,\"l\":[1,2.5,\"x\",null]},\"i\":[0.0,Infinity]}",
        "{\"metadata\":{},\"weight_map\":{\"a\":\"m.safetensors\",\"b\":\"m.safetensors\",\"c\":\"m.safetensors\"}}"};
    size_t header_size;
    uint64_t random = 2;
    unsigned char copy[256];
    (void)state;
    assert_int_equal(mkdir(in_folder("model"), 0777), 0);
    struct bytes sample = sample_safetensors(&header_size);
    write_bytes("model/m.safetensors", sample.data, sample.size);
    drop(&sample);
    for (size_t i = 0; i < 2; i++)
        write_text(names[i], texts[i]);
    assert_true(survive(in_folder("model"), 0));
    for (size_t round = 0; round < 4000; round++) {
        size_t which = round % 2, size = strlen(texts[which]);
        memcpy(copy, texts[which], size);
        damage(copy, size, &random);
        write_bytes(names[which], copy, size);
        survive(in_folder("model"), (uint32_t)(round / 2) & MOE_MODEL_READ);
        write_text(names[which], texts[which]);
    }
}

/* Values too large for the memory that is taken at first. */
static const char *write_large(void)
{
    struct gguf file = gguf_new();
    char text[3001] = "";
    memset(text, 'x', sizeof text - 1);
    gguf_text(&file, "before", "b");
    gguf_text(&file, "text", text);
    struct bytes *pairs = gguf_array(&file, "texts", 8, 8);
    for (size_t i = 0; i < 8; i++)
        put_string(pairs, text + 300 * i);
    pairs = gguf_array(&file, "numbers", 0, sizeof text);
    put(pairs, text, sizeof text);
    gguf_text(&file, "after", "a");
    return gguf_write(&file, "large.gguf");
}

/* Allocation n fails, for every n that there is: opening, then reading all tensors. */
static void fail_everywhere(const char *path, uint32_t flags)
{
    size_t failures = 0;
    for (size_t n = 1;; n++) {
        struct meter meter;
        struct moe_archive *archive;
        struct moe_error error = {MOE_OK, ""};
        meter_init(&meter, n);
        enum moe_status status = open_metered(path, flags, &meter, &archive, &error);
        assert_true(status == MOE_OK || (archive == NULL && strstr(error.text, "memory") != NULL));
        for (size_t i = 0; status == MOE_OK && i < moe_archive_num_tensors(archive); i++) {
            const void *data;
            status = moe_archive_data(archive, moe_archive_tensor_at(archive, i), &data, &error);
            if (status != MOE_OK) {   /* and the next time it is there */
                assert_null(data);
                assert_int_equal(moe_archive_data(archive, moe_archive_tensor_at(archive, i), &data, NULL), MOE_OK);
            }
        }
        moe_archive_close(archive);
        assert_int_equal(meter.live, 0);
        if (status == MOE_OK)
            break;
        assert_int_equal(status, MOE_ERR_MEMORY);
        failures++;
    }
    assert_true(failures >= 10);
}

static void test_no_memory(void **state)
{
    size_t header_size;
    (void)state;
    for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
        struct bytes sample = sample_gguf(&header_size);
        fail_everywhere(write_bytes("memory.gguf", sample.data, sample.size), flags);
        drop(&sample);
        sample = sample_safetensors(&header_size);
        fail_everywhere(write_bytes("memory.safetensors", sample.data, sample.size), flags);
        drop(&sample);
        fail_everywhere(MOE_TEST_MODELS "/zoo/qwen3_moe", flags);
        fail_everywhere(in_folder("model"), flags);
        fail_everywhere(write_large(), flags);
    }
    for (unsigned number = 0; number < 2; number++) {
        struct gguf file = gguf_new();
        gguf_number(&file, "split.no", 2, number, 2);
        gguf_number(&file, "split.count", 2, 2, 2);
        gguf_number(&file, "split.tensors.count", 5, 2, 4);
        gguf_tensor(&file, number == 0 ? "a" : "b", 1, (uint64_t[]){8}, 0, 32, 0);
        gguf_write(&file, number == 0 ? "s-00001-of-00002.gguf" : "s-00002-of-00002.gguf");
    }
    fail_everywhere(in_folder("s-00002-of-00002.gguf"), 0);
}

/* What was read before stays, what was not is an error; then the file grows back, and can be read. */
static void test_shrunk(void **state)
{
    size_t header_size;
    struct moe_error error = {MOE_OK, ""};
    const void *data, *kept;
    (void)state;
    struct bytes sample = sample_gguf(&header_size);
    const char *path = write_bytes("shrunk.gguf", sample.data, sample.size);
    struct moe_archive *archive = open_good(path, MOE_MODEL_READ);
    const struct moe_archive_tensor *up = moe_archive_find(archive, "blk.0.up");
    const struct moe_archive_tensor *gate = moe_archive_find(archive, "blk.0.gate");
    assert_int_equal(moe_archive_data(archive, up, &kept, NULL), MOE_OK);
    for (off_t size = (off_t)gate->offset + 31; size >= 0; size -= 29) {
        assert_int_equal(truncate(path, size), 0);
        assert_int_equal(moe_archive_data(archive, gate, &data, &error), MOE_ERR_IO);
        assert_null(data);
        assert_non_null(strstr(error.text, "shrunk.gguf"));
        assert_non_null(strstr(error.text, "blk.0.gate"));
        assert_int_equal(moe_archive_data(archive, up, &data, NULL), MOE_OK);
        assert_ptr_equal(data, kept);
    }
    for (size_t i = 0; i < 136; i++)
        assert_int_equal(((const unsigned char *)kept)[i], i);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fwrite(sample.data, 1, sample.size, file), sample.size);
    fclose(file);
    assert_int_equal(moe_archive_data(archive, gate, &data, &error), MOE_OK);
    assert_int_equal(((const unsigned char *)data)[31], 31);
    moe_archive_close(archive);
    drop(&sample);
}

/* 10^6 keys and 10^5 tensors: what is quadratic would take 10^12 steps here, and run into the test's time limit. */
static void test_many(void **state)
{
    enum { NUM_KEYS = 1000000, NUM_TENSORS = 100000 };
    char name[64];
    (void)state;
    struct gguf file = gguf_new();
    for (size_t i = 0; i < NUM_KEYS; i++) {
        snprintf(name, sizeof name, "key.%zu", i);
        gguf_number(&file, name, 4, i, 4);
    }
    for (size_t i = 0; i < NUM_TENSORS; i++) {
        snprintf(name, sizeof name, "blk.%zu.weight", i);
        /* From the end to the start: the sort by offset has work to do. */
        gguf_entry(&file, name, 1, (uint64_t[]){8}, 0, 32 * (NUM_TENSORS - 1 - i));
    }
    file.data.data = calloc(NUM_TENSORS, 32);
    assert_non_null(file.data.data);
    file.data.size = file.data.capacity = (size_t)NUM_TENSORS * 32;
    const char *path = gguf_write(&file, "many.gguf");
    assert_true(survive(path, 0));
    struct moe_archive *archive = open_good(path, MOE_MODEL_READ);
    assert_int_equal(moe_archive_num_metadata(archive), NUM_KEYS);
    assert_int_equal(moe_archive_num_tensors(archive), NUM_TENSORS);
    struct moe_value value;
    assert_int_equal(moe_archive_metadata_find(archive, "key.999999", &value), MOE_OK);
    assert_int_equal(value.integer, 999999);
    moe_archive_close(archive);
}

static void test_many_in_json(void **state)
{
    enum { NUM_TENSORS = 100000 };
    char entry[128];
    (void)state;
    struct bytes all = {0};
    put_number(&all, 0, 8);
    for (size_t i = 0; i < NUM_TENSORS; i++) {
        size_t begin = 4 * (NUM_TENSORS - 1 - i);
        int size = snprintf(entry, sizeof entry,
                            "%c\"t%zu\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}",
                            i == 0 ? '{' : ',', i, begin, begin + 4);
        put(&all, entry, (size_t)size);
    }
    put(&all, "}", 1);
    for (size_t i = 0; i < 4; i++)
        all.data[i] = (unsigned char)((all.size - 8) >> (8 * i));
    for (size_t i = 0; i < NUM_TENSORS; i++)
        put_number(&all, i, 4);
    assert_true(survive(write_bytes("many.safetensors", all.data, all.size), 0));
    drop(&all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),       cmocka_unit_test(test_mutations), cmocka_unit_test(test_mutated_folder),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_shrunk),    cmocka_unit_test(test_many),
        cmocka_unit_test(test_many_in_json),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
