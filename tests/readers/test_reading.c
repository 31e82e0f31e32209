// SPDX-License-Identifier: MIT
// Reading under a pread of our own: interrupted, a few bytes at a time, failing at every call once.
#include "files.h"

#include <errno.h>

static size_t calls, fail_at, most_bytes;
static bool interrupted;

/* Takes the place of the C library's: the library under test is linked statically. */
ssize_t pread(int file, void *data, size_t size, off_t offset)
{
    calls++;
    if (calls == fail_at) {
        errno = EIO;
        return -1;
    }
    if (interrupted && calls % 2 == 1) {
        errno = EINTR;
        return -1;
    }
    size_t count = most_bytes > 0 && most_bytes < size ? most_bytes : size;
    if (lseek(file, offset, SEEK_SET) < 0)
        return -1;
    return read(file, data, count);
}

static void set_faults(size_t failing_call, size_t bytes, bool interrupts)
{
    calls = 0;
    fail_at = failing_call;
    most_bytes = bytes;
    interrupted = interrupts;
}

static const char *write_model(void)
{
    const char *header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[25],\"data_offsets\":[0,100]},"
                         "\"b\":{\"dtype\":\"F16\",\"shape\":[50],\"data_offsets\":[100,200]}}";
    mkdir(in_folder("model"), 0777);
    write_text("model/config.json", "{\"model_type\":\"mixtral\",\"hidden_size\":4096}");
    write_text("model/model.safetensors.index.json",
               "{\"weight_map\":{\"a\":\"s.safetensors\",\"b\":\"s.safetensors\"}}");
    safetensors_write("model/s.safetensors", header, 200);
    return in_folder("model");
}

static void expect_values(struct moe_archive *archive)
{
    for (size_t i = 0; i < 2; i++) {
        const void *data;
        const struct moe_archive_tensor *tensor = moe_archive_tensor_at(archive, i);
        assert_int_equal(moe_archive_data(archive, tensor, &data, NULL), MOE_OK);
        for (size_t b = 0; b < 100; b++)
            assert_int_equal(((const unsigned char *)data)[b], 100 * i + b);
    }
}

static void test_short(void **state)
{
    (void)state;
    const char *path = write_model();
    for (size_t bytes = 1; bytes < 8; bytes++) {
        set_faults(0, bytes, bytes % 2 == 1);
        struct moe_archive *archive = open_good(path, MOE_MODEL_READ);
        assert_true(calls > 0);   /* or pread is not ours, and nothing was tested */
        expect_values(archive);
        moe_archive_close(archive);
    }
}

static void test_failing(void **state)
{
    size_t failures = 0;
    (void)state;
    const char *path = write_model();
    for (size_t n = 1;; n++) {
        struct meter meter;
        struct moe_archive *archive;
        struct moe_error error = {MOE_OK, ""};
        meter_init(&meter, 0);
        set_faults(n, 0, false);
        enum moe_status status = open_metered(path, MOE_MODEL_READ, &meter, &archive, &error);
        for (size_t i = 0; status == MOE_OK && i < 2; i++) {
            const void *data;
            status = moe_archive_data(archive, moe_archive_tensor_at(archive, i), &data, &error);
            assert_true((status == MOE_OK) == (data != NULL));
        }
        if (status == MOE_OK)
            assert_true(calls < n);
        if (archive != NULL)
            expect_values(archive);   /* what failed once is read the next time */
        moe_archive_close(archive);
        assert_int_equal(meter.live, 0);
        if (status == MOE_OK)
            break;
        assert_int_equal(status, MOE_ERR_IO);
        assert_non_null(strstr(error.text, "model/"));
        assert_non_null(strstr(error.text, strerror(EIO)));
        failures++;
    }
    assert_int_equal(failures, 4);   /* config, index, two tensors */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_short), cmocka_unit_test(test_failing)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
