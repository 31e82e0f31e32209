// SPDX-License-Identifier: MIT
// Models of 60 GB in 100 files, and files of 10^5 tensors and 10^6 keys, all but the headers being holes: opening, and
// describing all blocks, reads headers alone, and takes no time to speak of. What is asserted are counts; times, which
// are those of the processor, are printed, and must stay within ten times what they should be: machines may be slow.
#include "large.h"

#include <inttypes.h>
#include <sys/mman.h>
#include <time.h>

#include "moe/moe.h"
#include "support.h"

enum {
    READ_AHEAD = 128 << 10    /* bytes behind a header that opening may have read; by its promise 64 KiB */
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* limit: what it should take, in seconds. */
static void check_time(const char *what, double start, double limit)
{
    double seconds = now() - start;
    print_message("%s: %.4f s, which should be below %.1f s\n", what, seconds, limit);
    test_assert_most(seconds, 10 * limit, what);
}

/* Bytes that this process has asked read() and its like for; 0 where the system does not say. */
static uint64_t bytes_read(void)
{
    uint64_t count = 0;
    FILE *file = fopen("/proc/self/io", "r");
    if (file != NULL && fscanf(file, "rchar: %" SCNu64, &count) != 1)
        count = 0;
    if (file != NULL)
        fclose(file);
    return count;
}

static uint64_t file_size(const char *path)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_size;
}

/* Pages of the file that are in memory: those that were written or read, by whomever. */
static uint64_t resident_bytes(const char *path)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), size = (size_t)file_size(path);
    size_t pages = (size + page - 1) / page, count = 0;
    int file = open(path, O_RDONLY);
    void *map = mmap(NULL, size, PROT_READ, MAP_SHARED, file, 0);
    unsigned char *state = malloc(pages);
    assert_true(file >= 0 && map != MAP_FAILED && state != NULL);
    assert_int_equal(mincore(map, size, state), 0);
    for (size_t i = 0; i < pages; i++)
        count += state[i] & 1;
    free(state);
    munmap(map, size);
    close(file);
    return count * page;
}

/* Of what lies behind the headers, next to nothing was read, though the headers were not in memory at first.
 * pattern: of a printf that takes the number of the file, from 1. */
static void check_untouched(const char *pattern, uint64_t largest_header)
{
    uint64_t total = 0, resident = 0;
    for (unsigned i = 1; i <= LARGE_FILES; i++) {
        char name[64];
        snprintf(name, sizeof name, pattern, i, (unsigned)LARGE_FILES);
        uint64_t here = resident_bytes(in_folder(name));
        assert_true(here <= largest_header + READ_AHEAD);
        total += file_size(in_folder(name));
        resident += here;
    }
    print_message("%.1f GB in %d files, %.1f MB of them in memory\n", 1e-9 * (double)total, LARGE_FILES,
                  1e-6 * (double)resident);
    assert_true(total > 60000000000u);
}

static struct moe_model *open_model(const char *path, uint32_t flags)
{
    struct moe_model_params params;
    struct moe_model *model;
    struct moe_error error = {MOE_OK, ""};
    MOE_INIT(&params);
    params.flags = flags;
    if (moe_model_open(path, &params, &model, &error) != MOE_OK)
        fail_msg("%s", error.text);
    return model;
}

/* most: bytes that opening may read() in all, beside what it maps. */
static void open_large(const char *path, size_t num_tensors, uint64_t most)
{
    moe_model_close(open_model(path, 0));   /* from now on the headers are in memory */
    for (uint32_t flags = 0; flags <= MOE_MODEL_READ; flags++) {
        struct moe_model_info info;
        uint64_t before = bytes_read();
        double start = now();
        struct moe_model *model = open_model(path, flags);
        check_time(flags == 0 ? "opened to map" : "opened to read", start, 0.2);
        assert_true(bytes_read() - before <= most);
        MOE_INIT(&info);
        test_assert_ok(moe_model_info(model, &info));
        assert_int_equal(info.num_blocks, LARGE_BLOCKS);
        assert_int_equal(info.num_tensors, num_tensors);
        moe_model_close(model);
    }
}

static void describe_blocks(const char *path)
{
    struct moe_model *model = open_model(path, 0);
    double start = now();
    for (size_t b = 0; b < LARGE_BLOCKS; b++) {
        const struct moe_model_block *block;
        struct moe_error error = {MOE_OK, ""};
        if (moe_model_block(model, b, &block, &error) != MOE_OK)
            fail_msg("%s", error.text);
        assert_non_null(block);
        assert_int_equal(block->experts->num_experts, LARGE_EXPERTS);
    }
    check_time("described 60 blocks", start, 0.2);
    moe_model_close(model);
}

/* ---- tests ---------------------------------------------------------------------------------------------- */

/* The index and config.json are read, a few bytes of this and that are looked at, the shards' headers are mapped. */
static void folder_of_60_gb(void **state)
{
    enum { SMALL_CHANGE = 64 << 10, LARGEST_HEADER = 1 << 20 };
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", write_large_folder());
    uint64_t most = file_size(in_folder("folder/model.safetensors.index.json")) + SMALL_CHANGE;
    open_large(path, LARGE_MATRICES + LARGE_BLOCKS, most);
    describe_blocks(path);
    check_untouched("folder/model-%05u-of-%05u.safetensors", LARGEST_HEADER);
}

static void gguf_set_of_60_gb(void **state)
{
    enum { SMALL_CHANGE = 64 << 10, LARGEST_HEADER = 64 << 10 };
    (void)state;
    char path[1024];
    snprintf(path, sizeof path, "%s", write_large_gguf());
    open_large(path, 4 * LARGE_BLOCKS, SMALL_CHANGE);
    describe_blocks(path);
    check_untouched("set-%05u-of-%05u.gguf", LARGEST_HEADER);
}

static void open_many(const char *path, const char *what)
{
    moe_archive_close(open_good(path, 0));   /* from now on it is in memory */
    double start = now();
    struct moe_archive *archive = open_good(path, 0);
    check_time(what, start, 1.0);
    assert_int_equal(moe_archive_num_tensors(archive), 100000);
    assert_int_equal(moe_archive_num_metadata(archive), 1000000);
    const char *name = moe_archive_tensor_at(archive, 99999)->info.name;
    assert_ptr_equal(moe_archive_find(archive, name), moe_archive_tensor_at(archive, 99999));
    moe_archive_close(archive);
}

static void many_in_gguf(void **state)
{
    (void)state;
    open_many(write_many_gguf(100000, 1000000), "10^5 tensors and 10^6 keys of GGUF");
}

static void many_in_safetensors(void **state)
{
    (void)state;
    open_many(write_many_safetensors(100000, 1000000), "10^5 tensors and 10^6 keys of safetensors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folder_of_60_gb),
        cmocka_unit_test(gguf_set_of_60_gb),
        cmocka_unit_test(many_in_gguf),
        cmocka_unit_test(many_in_safetensors),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
