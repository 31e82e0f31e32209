// SPDX-License-Identifier: MIT
// What the command writes: files that appear whole, links and modes, outputs that would destroy inputs, JSON of values
// that JSON has no words for.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard.h"
#include "json_value.h"
#include "outfile.h"

static void save(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* ---- files that appear whole ---- */

static size_t count_files(const char *pattern)
{
    char command[256], line[64] = "";
    snprintf(command, sizeof command, "ls | grep -c -e '%s'", pattern);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_non_null(fgets(line, sizeof line, pipe));
    pclose(pipe);
    return strtoul(line, NULL, 10);
}

static void outfile_is_whole_or_absent(void **state)
{
    (void)state;
    struct outfile out;
    assert_true(outfile_open(&out, "whole"));
    assert_true(outfile_write(&out, "abc", 3) && outfile_pad(&out, 32));
    assert_int_equal(out.written, 32);
    assert_false(exists("whole"));
    assert_int_equal(count_files("^whole[.]tmp-"), 1);
    outfile_discard(&out);
    outfile_discard(&out);
    assert_false(exists("whole"));
    assert_int_equal(count_files("^whole[.]tmp-"), 0);
    assert_true(outfile_open(&out, "whole") && outfile_write(&out, "abc", 3) && outfile_commit(&out));
    outfile_discard(&out);
    assert_true(exists("whole"));
    assert_int_equal(count_files("^whole[.]tmp-"), 0);
    assert_false(outfile_open(&out, "no/such/folder"));
    assert_false(outfile_write(&out, "abc", 3));
    assert_false(outfile_open(&out, "."));
    assert_int_equal(chmod("whole", 0604), 0);
    assert_int_equal(symlink("whole", "link"), 0);
    assert_true(outfile_open(&out, "link") && outfile_write(&out, "new", 3) && outfile_commit(&out));
    struct stat info;
    assert_int_equal(lstat("link", &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(lstat("whole", &info), 0);
    assert_true(S_ISREG(info.st_mode) && (info.st_mode & 0777) == 0604 && info.st_size == 3);
    assert_true(outfile_open(&out, "/dev/null") && outfile_write(&out, "abc", 3) && outfile_commit(&out));
}

static void full_device(void **state)
{
    (void)state;
    static const char block[65536];
    struct outfile out;
    if (!exists("/dev/full"))
        skip();
    assert_true(outfile_open(&out, "/dev/full"));
    bool good = true;
    for (int i = 0; i < 4 && good; i++)
        good = outfile_write(&out, block, sizeof block);
    assert_false(good && outfile_commit(&out));
    outfile_discard(&out);
}

/* ---- outputs that would destroy inputs ---- */

static void outputs_are_guarded(void **state)
{
    (void)state;
    assert_int_equal(mkdir("model", 0777), 0);
    save("model/a.safetensors", "a", 1);
    save("model/b.gguf", "b", 1);
    assert_int_equal(symlink("../blob", "model/c.safetensors"), 0);
    save("blob", "c", 1);
    assert_true(guard_of_model("model", "model/a.safetensors") && guard_of_model("model/", "./model/new.json"));
    assert_true(guard_of_model("model", "blob"));    /* what a link of the model leads to */
    assert_false(guard_of_model("model", "model/b.gguf") || guard_of_model("model", "a.safetensors"));
    assert_false(guard_of_model("model", ".") || guard_of_model("nowhere", "blob"));
    save("m-00001-of-00002.gguf", "1", 1);
    save("m-00002-of-00002.gguf", "2", 1);
    save("n-00002-of-00002.gguf", "2", 1);
    assert_true(guard_of_model("m-00001-of-00002.gguf", "./m-00002-of-00002.gguf"));
    assert_true(guard_of_model("m-00001-of-00002.gguf", "m-00001-of-00002.gguf"));
    assert_false(guard_of_model("m-00001-of-00002.gguf", "n-00002-of-00002.gguf"));
    assert_false(guard_of_model("m-00001-of-00002.gguf", "m-00003-of-00002.gguf"));
    assert_true(guard_same("not-yet", "./not-yet") && guard_same("blob", "model/c.safetensors"));
    assert_false(guard_same("not-yet", "model/not-yet") || guard_same("blob", NULL));
    assert_false(guard_same("/dev/null", "/dev/null"));
    assert_true(guard_other_kind("blob", ".svg"));
    assert_false(guard_other_kind("not-yet", ".svg") || guard_other_kind("/dev/null", ".svg"));
}

/* ---- JSON ---- */

static void expect_text(const char *text, const char *expected)
{
    json_t *value = json_value_text(text);
    assert_non_null(value);
    assert_string_equal(json_string_value(value), expected);
    json_decref(value);
}

static void json_of_odd_values(void **state)
{
    (void)state;
    expect_text("", "");
    expect_text("a\xc3\xa4\xf0\x9f\x98\x80", "a\xc3\xa4\xf0\x9f\x98\x80");
    expect_text("\xff" "a\xc3", "\xef\xbf\xbd" "a\xef\xbf\xbd");
    expect_text("\xc3\xa4\xe2\x82z", "\xc3\xa4\xef\xbf\xbd\xef\xbf\xbdz");
    expect_text("\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");    /* half a surrogate pair */
    const double numbers[] = {INFINITY, -INFINITY, NAN, 1.5};
    for (size_t i = 0; i < 4; i++) {
        json_t *value = json_value_number(numbers[i]);
        assert_true(i < 3 ? json_is_null(value) : json_real_value(value) == 1.5);
        json_decref(value);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outfile_is_whole_or_absent),
        cmocka_unit_test(full_device),
        cmocka_unit_test(outputs_are_guarded),
        cmocka_unit_test(json_of_odd_values),
    };
    char command[2048];
    if (argc != 2 ||
        snprintf(command, sizeof command, "rm -rf '%s' && mkdir -p '%s'", argv[1], argv[1]) >= (int)sizeof command ||
        system(command) != 0 || chdir(argv[1]) != 0) {
        fputs("usage: moe_tools_outputs SCRATCH_DIR, which is emptied\n", stderr);
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
