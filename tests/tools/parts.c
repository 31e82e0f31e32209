// SPDX-License-Identifier: MIT
// The command's parts by themselves: .npy files, options, the GGUF header, names, FP4, progress.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "convert.h"
#include "gguf_write.h"
#include "names.h"
#include "npy.h"
#include "options.h"
#include "outfile.h"
#include "presets.h"
#include "progress.h"
#include "tool.h"

static void save(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* ---- .npy ---- */

/* A file of the given version and dict, with count bytes of data behind. */
static void save_npy(const char *path, int version, const char *dict, const void *data, size_t count)
{
    unsigned char bytes[512] = "\x93NUMPY";
    size_t start = version == 1 ? 10 : 12, length = strlen(dict);
    bytes[6] = (unsigned char)version;
    bytes[8] = (unsigned char)length;
    memcpy(bytes + start, dict, length);
    memcpy(bytes + start + length, data, count);
    save(path, bytes, start + length + count);
}

static void npy_round_trip(void **state)
{
    (void)state;
    const float floats[6] = {1, -2.5f, 3e-40f, INFINITY, 0, 7};
    const int32_t integers[6] = {0, -1, 2147483647, 5, 6, 7};
    struct npy array;
    assert_true(npy_write_floats("f.npy", floats, 2, 3));
    assert_true(npy_read_floats("f.npy", &array));
    assert_true(array.rows == 2 && array.cols == 3);
    assert_memory_equal(array.floats, floats, sizeof floats);
    npy_free(&array);
    assert_true(npy_write_integers("i.npy", integers, 3, 2));
    assert_false(npy_read_floats("i.npy", &array));
    assert_true(npy_read_integers("i.npy", &array));
    assert_true(array.rows == 3 && array.cols == 2);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(array.integers[i], integers[i]);
    npy_free(&array);
}

static void npy_other_types(void **state)
{
    (void)state;
    const double doubles[2] = {0.1, -1e300};
    const uint16_t halves[2] = {0x3c00, 0xc100};
    const int64_t longs[2] = {-1, 1LL << 40};
    struct npy array;
    save_npy("d.npy", 2, "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2), }  \n", doubles, sizeof doubles);
    assert_true(npy_read_floats("d.npy", &array));
    assert_true(array.floats[0] == 0.1f && array.floats[1] == -INFINITY);
    npy_free(&array);
    save_npy("h.npy", 3, "{\"shape\":(2,1),\"descr\":\"<f2\",\"fortran_order\":False}", halves, sizeof halves);
    assert_true(npy_read_floats("h.npy", &array));
    assert_true(array.floats[0] == 1 && array.floats[1] == -2.5f);
    npy_free(&array);
    save_npy("l.npy", 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (2, 1)}", longs, sizeof longs);
    assert_true(npy_read_integers("l.npy", &array));
    assert_true(array.integers[1] == 1LL << 40);
    npy_free(&array);
}

static void npy_refuses(void **state)
{
    (void)state;
    static const char *const dicts[] = {
        "{'descr': '>f4', 'fortran_order': False, 'shape': (1, 2), }",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 2), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': '<f16', 'fortran_order': False, 'shape': (1, 1), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 2), }",
        "{'descr': '<f4', 'shape': (1, 2), }",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '",
        "",
    };
    const float data[2] = {1, 2};
    struct npy array;
    for (size_t i = 0; i < sizeof dicts / sizeof dicts[0]; i++) {
        save_npy("bad.npy", 1, dicts[i], data, sizeof data);
        assert_false(npy_read_floats("bad.npy", &array));
        assert_null(array.floats);
    }
    static const char good[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }";
    save_npy("bad.npy", 4, good, data, sizeof data);
    assert_false(npy_read_floats("bad.npy", &array));
    save_npy("long.npy", 1, good, (const float[3]){1, 2, 3}, 3 * sizeof(float));
    assert_false(npy_read_floats("long.npy", &array));
    for (size_t size = 0; size < 10 + sizeof good - 1 + sizeof data; size++) {    /* cut at every byte */
        save_npy("good.npy", 1, good, data, sizeof data);
        assert_int_equal(truncate("good.npy", (off_t)size), 0);
        assert_false(npy_read_floats("good.npy", &array));
    }
}

/* ---- options ---- */

struct values {
    bool flag;
    const char *text;
    size_t size;
    double number;
    const char *items[2];
    struct option_strings list;
};

static enum option_result parse(struct values *values, const char **operands, int argc, const char *const *argv)
{
    *values = (struct values){.list = {values->items, 0, 2}};
    const struct option_row rows[] = {
        {"flag", OPTION_FLAG, &values->flag, NULL, "a flag"},
        {"text", OPTION_STRING, &values->text, "T", "a text"},
        {"size", OPTION_SIZE, &values->size, "N", "a size"},
        {"number", OPTION_NUMBER, &values->number, "X", "a number"},
        {"list", OPTION_STRINGS, &values->list, "T", "texts"},
        {NULL, OPTION_FLAG, NULL, NULL, NULL},
    };
    const struct option_page page = {"moe test", "A [B]", 1, 2, "About.", rows, "  example"};
    return options_parse(&page, argc, (char **)(uintptr_t)argv, operands);
}

static void options_are_parsed(void **state)
{
    (void)state;
    struct values v;
    const char *operands[2];
    const char *good[] = {"test", "--size", "18446744073709551615", "a", "--flag", "--text=x=y", "--number", "1e3",
                          "--",   "--flag"};
    assert_int_equal(parse(&v, operands, 10, good), OPTIONS_OK);
    assert_true(v.flag && v.size == SIZE_MAX && v.number == 1000);
    assert_string_equal(v.text, "x=y");
    assert_string_equal(operands[0], "a");
    assert_string_equal(operands[1], "--flag");
    const char *twice[] = {"test", "a", "--list", "x=y", "--list=z"};
    assert_int_equal(parse(&v, operands, 5, twice), OPTIONS_OK);
    assert_int_equal(v.list.count, 2);
    assert_string_equal(v.items[0], "x=y");
    assert_string_equal(v.items[1], "z");
    const char *thrice[] = {"test", "a", "--list=x", "--list=y", "--list=z"};
    assert_int_equal(parse(&v, operands, 5, thrice), OPTIONS_ERROR);
    const char *one[] = {"test", "-"};
    assert_int_equal(parse(&v, operands, 2, one), OPTIONS_OK);
    assert_string_equal(operands[0], "-");
    assert_null(operands[1]);
    const char *help[] = {"test", "--help"};
    assert_int_equal(parse(&v, operands, 2, help), OPTIONS_HELP);
}

static void options_are_refused(void **state)
{
    (void)state;
    static const char *const bad[][4] = {
        {"test", "a", "--size", "-1"},
        {"test", "a", "--size", "1x"},
        {"test", "a", "--size", "18446744073709551616"},
        {"test", "a", "--size", ""},
        {"test", "a", "--number", "nan"},
        {"test", "a", "--number", "-1"},
        {"test", "a", "--number", "1e999"},
        {"test", "a", "--text", ""},
        {"test", "a", "b", "c"},
        {"test", "a", "--f", "b"},
        {"test", "a", "b", "--size"},
        {"test", "a", "b", "--flag=1"},
        {"test", "--flag", "--flag", "--flag"},
        {"test", "a", "b", "-flag"},
    };
    struct values v;
    const char *operands[2];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(parse(&v, operands, 4, bad[i]), OPTIONS_ERROR);
}

static void lists_and_near_words(void **state)
{
    (void)state;
    size_t sizes[4];
    assert_int_equal(options_sizes("1,22,333", sizes, 4), 3);
    assert_true(sizes[0] == 1 && sizes[1] == 22 && sizes[2] == 333);
    static const char *const bad[] = {"", ",", "1,", ",1", "1,,2", "0", "1,0", "1 ,2", "-1", "1.5", "1,2,3,4,5",
                                      "99999999999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(options_sizes(bad[i], sizes, 4), 0);
    const char *names[] = {"info", "run", "check", NULL};
    assert_string_equal(options_nearest("chekc", names), "check");
    assert_string_equal(options_nearest("inf", names), "info");
    assert_null(options_nearest("frobnicate", names));
    assert_null(options_nearest("", names));
}

/* ---- GGUF header ---- */

static void gguf_header_bytes(void **state)
{
    (void)state;
    struct gguf_header header = {0};
    const size_t shape[2] = {3, 2};
    gguf_add_u32(&header, "a", 0x01020304);
    gguf_begin_array(&header, "b", GGUF_STRING, 1);
    gguf_put_string(&header, "xyz", 3);
    gguf_add_tensor(&header, "t", 0, shape, 2, 24);
    gguf_add_tensor(&header, "u", 0, shape, 1, 12);
    static const unsigned char expected[] = {
        'G', 'G', 'U', 'F', 3, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0, 'a', 4, 0, 0, 0, 4, 3, 2, 1,
        1, 0, 0, 0, 0, 0, 0, 0, 'b', 9, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0,
        3, 0, 0, 0, 0, 0, 0, 0, 'x', 'y', 'z',
        1, 0, 0, 0, 0, 0, 0, 0, 't', 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        1, 0, 0, 0, 0, 0, 0, 0, 'u', 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0,
    };
    const size_t padded = (sizeof expected + 31) / 32 * 32;
    struct outfile out;
    assert_true(outfile_open(&out, "header.gguf") && gguf_write(&header, &out));
    assert_int_equal(out.written, padded);
    assert_int_equal(gguf_file_size(&header), padded + 64);
    assert_true(outfile_commit(&out));
    unsigned char bytes[512];
    FILE *file = fopen("header.gguf", "rb");
    assert_non_null(file);
    assert_int_equal(fread(bytes, 1, sizeof bytes, file), padded);
    fclose(file);
    assert_memory_equal(bytes, expected, sizeof expected);
    gguf_free(&header);
}

/* ---- names ---- */

static void names_of_tensors(void **state)
{
    (void)state;
    const struct names_family *glm = names_find("glm4_moe"), *qwen = names_find("qwen3_moe");
    const struct names_family *deepseek = names_find("deepseek_v3"), *oss = names_find("gpt_oss");
    char name[96];
    assert_true(glm && qwen && deepseek && oss && !names_find("bert"));
    assert_string_equal(names_find("mixtral")->architecture, "llama");
    assert_int_equal(names_map(qwen, "model.layers.12.post_attention_layernorm.weight", 48, name), NAMES_TENSOR);
    assert_string_equal(name, "blk.12.ffn_norm.weight");
    assert_int_equal(names_map(glm, "model.layers.0.post_attention_layernorm.weight", 48, name), NAMES_TENSOR);
    assert_string_equal(name, "blk.0.post_attention_norm.weight");
    assert_int_equal(names_map(qwen, "language_model.model.layers.3.self_attn.q_proj.bias", 48, name), NAMES_TENSOR);
    assert_string_equal(name, "blk.3.attn_q.bias");
    assert_int_equal(names_map(oss, "model.layers.1.self_attn.sinks", 2, name), NAMES_TENSOR);
    assert_string_equal(name, "blk.1.attn_sinks.weight");
    assert_int_equal(names_map(deepseek, "model.layers.1.self_attn.kv_b_proj.weight", 2, name), NAMES_KV_B);
    assert_string_equal(name, "blk.1.");
    assert_int_equal(names_map(qwen, "lm_head.weight", 48, name), NAMES_TENSOR);
    assert_string_equal(name, "output.weight");
    assert_int_equal(names_map(qwen, "model.layers.0.mlp.experts.3.up_proj.weight", 48, name), NAMES_EXPERTS);
    assert_int_equal(names_map(qwen, "model.layers.0.mlp.gate.weight", 48, name), NAMES_EXPERTS);
    assert_int_equal(names_map(qwen, "model.layers.0.mlp.gate_proj.weight", 48, name), NAMES_TENSOR);
    assert_string_equal(name, "blk.0.ffn_gate.weight");
    assert_int_equal(names_map(glm, "model.layers.2.eh_proj.weight", 2, name), NAMES_EXTRA);
    assert_int_equal(names_map(qwen, "model.layers.0.self_attn.q_proj", 48, name), NAMES_UNKNOWN);
    assert_int_equal(names_map(qwen, "model.layers.x.self_attn.q_proj.weight", 48, name), NAMES_UNKNOWN);
    assert_int_equal(names_map(qwen, "model.layers.99999999999999999999999.a.weight", 48, name), NAMES_EXTRA);
    assert_true(names_is_expert("blk.0.ffn_down_shexp.weight") && names_is_down("blk.0.ffn_down_shexp.weight"));
    assert_true(names_is_expert("blk.0.ffn_gate_up_exps.weight") && !names_is_down("blk.0.ffn_up_exps.weight"));
    assert_true(names_is_small("blk.0.ffn_gate_inp.weight") && names_is_small("blk.0.attn_q.bias"));
    assert_false(names_is_small("token_embd.weight") || names_is_small("blk.0.ffn_gate.weight"));
}

/* Every family that convert writes has a row that reads it back, and its names are found. */
static void names_have_rows(void **state)
{
    (void)state;
    size_t count = 0;
    for (const struct names_family *family; (family = names_at(count)) != NULL; count++) {
        const struct moe_preset_gguf *row = moe_preset_find_gguf(family->architecture);
        assert_non_null(row);
        assert_non_null(moe_preset_of_gguf(row));
        assert_null(moe_preset_of_gguf(row)->refused);
        assert_non_null(moe_preset_find(family->family));
        assert_ptr_equal(names_find(family->family), family);
    }
    assert_true(count >= 40);
    char name[96];
    const struct names_family *hybrid = names_find("granitemoehybrid");
    assert_int_equal(names_map(hybrid, "model.layers.1.shared_mlp.input_linear.weight", 2, name), NAMES_HALVES);
    assert_string_equal(name, "blk.1.");
    assert_int_equal(names_map(names_find("gemma4_text"), "model.layers.0.pre_feedforward_layernorm_2.weight", 2, name),
                     NAMES_TENSOR);
    assert_string_equal(name, "blk.0.pre_ffw_norm_2.weight");
    assert_int_equal(names_map(names_find("nemotron_h"), "backbone.layers.1.mixer.fc1_latent_proj.weight", 2, name),
                     NAMES_EXPERTS);
    assert_int_equal(names_map(names_find("dbrx"), "transformer.blocks.1.ffn.experts.mlp.w1", 2, name), NAMES_EXPERTS);
    assert_int_equal(names_map(names_find("mistral4"), "layers.0.mlp.gate.weight", 2, name), NAMES_EXPERTS);
    assert_int_equal(names_map(names_find("jamba"), "model.final_layernorm.weight", 2, name), NAMES_TENSOR);
    assert_string_equal(name, "output_norm.weight");
}

static void names_patterns(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *name;
        bool match;
    } cases[] = {
        {"blk.0.*", "blk.0.ffn_up_exps.weight", true},
        {"blk.0.*", "blk.10.ffn_up_exps.weight", false},
        {"blk.?.ffn_up*", "blk.7.ffn_up_exps.weight", true},
        {"blk.?.ffn_up*", "blk.17.ffn_up_exps.weight", false},
        {"*_down_*", "blk.0.ffn_down_exps.weight", true},
        {"*down*exps*", "blk.0.ffn_down_shexp.weight", false},
        {"*exps.weight", "blk.0.ffn_down_exps.weight", true},
        {"*exps.weight", "blk.0.ffn_down_exps.weight_scale", false},
        {"*", "a", true},
        {"*", "", true},
        {"", "", true},
        {"", "a", false},
        {"a", "", false},
        {"?", "", false},
        {"a*b*c", "a-b-b-c", true},
        {"a*b*c", "a-c-b", false},
        {"**a", "bca", true},
        {"a.c", "abc", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(names_match(cases[i].pattern, strlen(cases[i].pattern), cases[i].name), cases[i].match);
    assert_true(names_match("ab=q4_0", 2, "ab"));
}

/* ---- FP4 ---- */

static const double e2m1[16] = {0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6};

/* E4M3 without its NaN. */
static double e4m3(unsigned char bits)
{
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    double value = exponent ? ldexp(1 + mantissa / 8.0, exponent - 7) : ldexp(mantissa / 8.0, -6);
    return bits & 128 ? -value : value;
}

/* 2 experts of 3 rows, in every second row of a stack; scales are taken from the second row of theirs on. */
static void fp4_blocks(enum moe_format format, size_t run)
{
    enum { EXPERTS = 2, ROWS = 3, COLS = 128 };
    unsigned char values[EXPERTS * ROWS * 2 * COLS / 2], scales[EXPERTS * (ROWS + 1) * COLS / 16], blocks[ROWS * COLS];
    float found[ROWS * COLS];
    uint64_t seed = 7;
    for (size_t i = 0; i < sizeof values; i++)
        values[i] = (unsigned char)tool_random(&seed);
    for (size_t i = 0; i < sizeof scales; i++)    /* below 2^7: no overflow; E4M3 is unsigned in GGUF */
        scales[i] = (unsigned char)(tool_random(&seed) % (run == 32 ? 134 : 126));
    size_t scale_cols = COLS / run;
    struct moe_matrix matrix, scale;
    struct moe_scales s;
    MOE_INIT(&matrix);
    MOE_INIT(&scale);
    MOE_INIT(&s);
    matrix.data = (struct moe_view){.base = values, .size = sizeof values, .format = MOE_FORMAT_E2M1, .stride = COLS};
    matrix.expert_stride = ROWS * COLS;
    matrix.scales = &s;
    scale.data = (struct moe_view){.base = scales, .size = sizeof scales, .stride = scale_cols,
                                   .format = run == 32 ? MOE_FORMAT_E8M0 : MOE_FORMAT_E4M3};
    scale.expert_stride = (ROWS + 1) * scale_cols;
    s.block_rows = 1;
    s.block_cols = run;
    s.first_row = 1;
    s.scale = &scale;
    assert_int_equal(fp4_format(&matrix, COLS), format);
    assert_int_equal(fp4_format(&matrix, COLS - run), run == 32 ? (int)format : (int)MOE_FORMAT_PRIVATE);
    for (size_t e = 0; e < EXPERTS; e++) {
        fp4_rows(&matrix, format, ROWS, COLS, e, 1, 2, blocks);    /* rows 1 and 2 */
        assert_int_equal(moe_format_dequantise(format, found, blocks, 2, COLS), MOE_OK);
        for (size_t r = 0; r < 2; r++) {
            for (size_t c = 0; c < COLS; c++) {
                unsigned char byte = values[(e * ROWS + r + 1) * COLS + c / 2];
                unsigned char bits = scales[(e * (ROWS + 1) + r + 2) * scale_cols + c / run];
                double wanted = e2m1[byte >> c % 2 * 4 & 15] * (run == 32 ? ldexp(1, bits - 127) : e4m3(bits));
                assert_true((double)found[r * COLS + c] == wanted);
            }
        }
    }
}

static void fp4_moves(void **state)
{
    (void)state;
    fp4_blocks(MOE_FORMAT_MXFP4, 32);
    fp4_blocks(MOE_FORMAT_NVFP4, 16);
}

/* ---- progress ---- */

static void progress_lines(void **state)
{
    (void)state;
    struct progress progress;
    char line[160];
    progress_begin(&progress, "convert", 200);
    progress.start = 100;
    progress_line(line, sizeof line, &progress, 100.1);
    assert_string_equal(line, "convert [..............................]   0 %");
    progress_add(&progress, 50);
    progress_line(line, sizeof line, &progress, 130);
    assert_string_equal(line, "convert [#######.......................]  25 %  1:30 left");
    progress_add(&progress, 1000);
    progress_line(line, sizeof line, &progress, 140);
    assert_string_equal(line, "convert [##############################] 100 %  0:00 left");
    progress.bytes = true;
    progress.total = 4000000;
    progress.done = 1000000;
    progress_line(line, sizeof line, &progress, 102);
    assert_string_equal(line, "convert [#######.......................]  25 %  500 KB/s  0:06 left");
    progress_end(&progress);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npy_round_trip),
        cmocka_unit_test(npy_other_types),
        cmocka_unit_test(npy_refuses),
        cmocka_unit_test(options_are_parsed),
        cmocka_unit_test(options_are_refused),
        cmocka_unit_test(lists_and_near_words),
        cmocka_unit_test(gguf_header_bytes),
        cmocka_unit_test(names_of_tensors),
        cmocka_unit_test(names_have_rows),
        cmocka_unit_test(names_patterns),
        cmocka_unit_test(fp4_moves),
        cmocka_unit_test(progress_lines),
    };
    char command[2048];
    if (argc != 2 ||
        snprintf(command, sizeof command, "rm -rf '%s' && mkdir -p '%s'", argv[1], argv[1]) >= (int)sizeof command ||
        system(command) != 0 || chdir(argv[1]) != 0) {
        fputs("usage: moe_tools_parts SCRATCH_DIR, which is emptied\n", stderr);
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
