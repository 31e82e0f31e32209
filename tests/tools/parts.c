// SPDX-License-Identifier: MIT
// The command's parts by themselves: .npy files, options, the GGUF header, names, progress, plots, and the oracle's
// routing on cases worked out by hand.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gguf_write.h"
#include "names.h"
#include "npy.h"
#include "options.h"
#include "oracle.h"
#include "outfile.h"
#include "plot_svg.c"
#include "progress.h"
#include "tool.h"

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
};

static enum option_result parse(struct values *values, const char **operands, int argc, const char *const *argv)
{
    *values = (struct values){false, NULL, 0, 0};
    const struct option_row rows[] = {
        {"flag", OPTION_FLAG, &values->flag, NULL, "a flag"},
        {"text", OPTION_STRING, &values->text, "T", "a text"},
        {"size", OPTION_SIZE, &values->size, "N", "a size"},
        {"number", OPTION_NUMBER, &values->number, "X", "a number"},
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
    progress_end(&progress);
}

/* ---- plots ---- */

#define PLOT_BYTES 65536

/* Writes plot.svg and reads it back into text. */
static void save_plot(struct plot_cell *cells, size_t count, const char *title, char text[PLOT_BYTES])
{
    struct plot plot = {title, "backend cpu", cells, count};
    struct outfile out;
    assert_true(outfile_open(&out, "plot.svg") && plot_svg_write(&out, &plot) && outfile_commit(&out));
    FILE *file = fopen("plot.svg", "rb");
    assert_non_null(file);
    size_t size = fread(text, 1, PLOT_BYTES - 1, file);
    fclose(file);
    assert_true(size > 0 && size < PLOT_BYTES - 1);
    text[size] = '\0';
}

static double attribute(const char *element, const char *name)
{
    const char *found = strstr(element, name);
    assert_non_null(found);
    return strtod(found + strlen(name), NULL);
}

/* Where the dots and the labels are; a label is a box of the height of digits. Returns their number. */
static size_t plot_boxes(const char *text, struct box *boxes, size_t *dots, size_t *labels)
{
    size_t count = 0;
    *dots = *labels = 0;
    for (const char *c = text; (c = strstr(c, "<circle class=\"dot\"")) != NULL; c++, ++*dots)
        boxes[count++] = box_at(attribute(c, "cx=\""), attribute(c, "cy=\""), 7, 7);
    for (const char *c = text; (c = strstr(c, "<text class=\"")) != NULL; c++) {
        const char *start = strchr(c, '>') + 1;
        double width = 5.7 * (double)(strchr(start, '<') - start);
        boxes[count++] = box_at(attribute(c, " x=\""), attribute(c, " y=\"") - 4, width, 8);
        *labels += strncmp(c, "<text class=\"tokens\"", 20) == 0;
    }
    return count;
}

static size_t count_overlaps(const struct box *boxes, size_t count, size_t dots)
{
    size_t overlaps = 0;
    for (size_t i = dots; i < count; i++)
        for (size_t j = 0; j < i; j++)
            overlaps += boxes[i].x0 < boxes[j].x1 && boxes[j].x0 < boxes[i].x1 && boxes[i].y0 < boxes[j].y1 &&
                        boxes[j].y0 < boxes[i].y1;
    return overlaps;
}

/* Three formats, four numbers of tokens, at rates that share of the machine's limits, and 5 % of noise. */
static void make_cells(struct plot_cell cells[12], double share, uint64_t seed)
{
    static const char *const names[3] = {"bf16", "q8_0", "q4_k"};
    static const double bytes[3] = {2, 1.0625, 0.5625};
    for (size_t i = 0; i < 12; i++) {
        size_t tokens = (size_t)1 << i % 4 * 3;
        double intensity = 16 * (double)tokens / (128 * (1 - pow(0.9375, (double)tokens))) / bytes[i / 4];
        double rate = share / (1 / (25 * intensity) + 1 / 400.0) * (1 + 0.05 * tool_normal(&seed));
        cells[i] = (struct plot_cell){i / 4, names[i / 4], "q6_k", tokens, intensity, rate, 25 + (double)i};
    }
}

static void plot_labels_apart(void **state)
{
    (void)state;
    static char text[PLOT_BYTES];
    struct plot_cell cells[12];
    struct box boxes[32];
    size_t dots, labels;
    for (uint64_t seed = 0; seed < 60; seed++) {
        make_cells(cells, seed % 3 ? 0.9 : 0.02, seed);
        save_plot(cells, 12, "a plot", text);
        size_t count = plot_boxes(text, boxes, &dots, &labels);
        assert_true(dots == 12 && labels == 12 && count == 26);    /* and one label at each limit */
        assert_int_equal(count_overlaps(boxes, count, dots), 0);
        for (size_t i = 0; i < count; i++)
            assert_true(boxes[i].x0 > LEFT && boxes[i].x1 < RIGHT && boxes[i].y0 > TOP && boxes[i].y1 < BOTTOM);
    }
    assert_non_null(strstr(text, "read: 30.5 GB/s (median)"));
    for (size_t i = 0; i < 12; i++)
        cells[i] = cells[0];
    save_plot(cells, 12, "twelve times the same", text);
    size_t count = plot_boxes(text, boxes, &dots, &labels);
    assert_true(dots == 12 && labels >= 1);
    assert_int_equal(count_overlaps(boxes, count, dots), 0);
}

/* A cell at the read limit is on the line of it, the best one on the dashed line; distances are logarithms. */
static void plot_positions(void **state)
{
    (void)state;
    static char text[PLOT_BYTES];
    struct plot_cell cells[3] = {{0, "f32", "f32", 64, 40, 100, 20},
                                 {0, "f32", "f32", 1, 0.4, 8, 20},
                                 {0, "f32", "f32", 8, 4, 30, 20}};
    struct box boxes[16];
    size_t dots, labels;
    save_plot(cells, 3, "a < b & c", text);
    assert_int_equal(plot_boxes(text, boxes, &dots, &labels), 8);
    assert_non_null(strstr(text, "<title>a &lt; b &amp; c</title>"));
    const char *limit = strstr(text, "stroke-width=\"1.6\""), *dashed = strstr(text, "stroke-width=\"1.2\"");
    assert_true(limit && dashed);
    while (*limit != '<')
        limit--;
    while (*dashed != '<')
        dashed--;
    double x0 = attribute(limit, "x1=\""), y0 = attribute(limit, "y1=\"");
    double slope = (attribute(limit, "y2=\"") - y0) / (attribute(limit, "x2=\"") - x0);
    double x = boxes[0].x0 + 3.5, y = boxes[0].y0 + 3.5;
    assert_true(fabs(y0 + slope * (x - x0) - y) < 0.2);    /* pixels; coordinates have one decimal */
    assert_true(boxes[1].y0 + 3.5 > y0 + slope * (boxes[1].x0 + 3.5 - x0) + 10);    /* 30 of 80: below the line */
    assert_true(fabs(attribute(dashed, "y1=\"") - (boxes[2].y0 + 3.5)) < 0.11);
    assert_true(fabs((boxes[2].x0 - boxes[1].x0) - (boxes[1].x0 - boxes[0].x0)) < 0.3);
}

static void plot_odd_cells(void **state)
{
    (void)state;
    static char text[PLOT_BYTES];
    struct plot_cell cells[4] = {{0, "f32", "f32", 1, 0.5, INFINITY, 20},
                                 {1, "f16", "f16", 1, 1e-7, 1e-7, 0},
                                 {2, "f16", "f16", 1, NAN, 3, 0},
                                 {3, "q8_0", "q8_0", 1048576, 1e7, 1e9, 0}};
    struct box boxes[16];
    size_t dots, labels;
    save_plot(cells, 4, "", text);
    plot_boxes(text, boxes, &dots, &labels);
    assert_true(dots == 2 && labels >= 1);
    assert_null(strstr(text, "read: "));    /* it could not be measured */
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    struct plot nothing = {"", "", cells, 0};
    struct outfile out;
    assert_true(outfile_open(&out, "nothing.svg"));
    assert_false(plot_svg_write(&out, &nothing));
    outfile_discard(&out);
    assert_false(exists("nothing.svg"));
    if (!exists("/dev/full"))
        return;
    struct plot plot = {"", "", cells, 1};
    assert_true(outfile_open(&out, "/dev/full"));
    assert_false(plot_svg_write(&out, &plot) && outfile_commit(&out));
    outfile_discard(&out);
}

/* ---- the oracle ---- */

static void oracle_routes(void **state)
{
    (void)state;
    const float logits[4] = {0, 2, 1, 2};
    int64_t ids[2];
    double weights[2], scratch[8];
    struct moe_routing routing;
    MOE_INIT(&routing);
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    double sum = 1 + 2 * exp(2) + exp(1);
    assert_true(ids[0] == 1 && ids[1] == 3);    /* a tie: the lower id first */
    assert_true(fabs(weights[0] - exp(2) / sum) < 1e-15);
    routing.renorm = MOE_RENORM_ADD_EPS;
    routing.scale = 3;
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    assert_true(fabs(weights[0] - 1.5) < 1e-15);
    const float bias[4] = {5, 0, 0, 0};
    routing.weight = MOE_SCORE_SIGMOID;
    routing.renorm = MOE_RENORM_NONE;
    oracle_route(&routing, bias, 4, 2, logits, ids, weights, scratch);
    assert_true(ids[0] == 0 && ids[1] == 1 && fabs(weights[0] - 1.5) < 1e-15);    /* without the bias */
    routing.num_groups = 2;
    routing.top_groups = 1;
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    assert_true(ids[0] == 3 && ids[1] == 2);
    routing.weight = MOE_SCORE_SOFTMAX_TOPK;
    routing.num_groups = 0;
    routing.scale = 0;
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    assert_true(ids[0] == 1 && ids[1] == 3 && weights[0] == 0.5 && weights[1] == 0.5);
    const float hopeless[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    routing.weight = MOE_SCORE_SIGMOID;
    routing.renorm = MOE_RENORM_ADD_EPS;
    oracle_route(&routing, NULL, 4, 2, hopeless, ids, weights, scratch);
    assert_true(weights[0] == 0 && weights[1] == 0);    /* 0 / 0 is not computed */
    const float poisoned[2] = {1, NAN};
    const double exact[2] = {1, 2};
    assert_true(isinf(oracle_error(poisoned, exact, 2)));
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
        cmocka_unit_test(progress_lines),
        cmocka_unit_test(plot_labels_apart),
        cmocka_unit_test(plot_positions),
        cmocka_unit_test(plot_odd_cells),
        cmocka_unit_test(oracle_routes),
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
