// SPDX-License-Identifier: MIT
// The command's parts by themselves: SVG plots, the oracle on cases worked out by hand, the lists of families.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "families.h"
#include "oracle.h"
#include "outfile.h"
#include "plot_svg.c"
#include "presets.h"
#include "tool.h"

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* ---- plots ---- */

#define PLOT_BYTES 65536

/* Writes plot.svg, with one roof, and reads it back into text. */
static void save_plot(struct plot_cell *cells, size_t count, const char *title, double roof, char text[PLOT_BYTES])
{
    struct plot plot = {title, "backend cpu", cells, count, {{"f32 peak", roof}}, 1};
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
        cells[i] = (struct plot_cell){i / 4, names[i / 4], "q6_k", tokens, intensity, rate, 25 + (double)i, share};
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
        save_plot(cells, 12, "a plot", 400, text);
        size_t count = plot_boxes(text, boxes, &dots, &labels);
        assert_true(dots == 12 && labels == 12 && count == 26);    /* and one label at each limit */
        assert_int_equal(count_overlaps(boxes, count, dots), 0);
        for (size_t i = 0; i < count; i++)
            assert_true(boxes[i].x0 > LEFT && boxes[i].x1 < RIGHT && boxes[i].y0 > TOP && boxes[i].y1 < BOTTOM);
    }
    assert_non_null(strstr(text, "read: 30.5 GB/s (median)"));
    for (size_t i = 0; i < 12; i++)
        cells[i] = cells[0];
    save_plot(cells, 12, "twelve times the same", 400, text);
    size_t count = plot_boxes(text, boxes, &dots, &labels);
    assert_true(dots == 12 && labels >= 1);
    assert_int_equal(count_overlaps(boxes, count, dots), 0);
}

/* A cell at the read limit is on the line of it, one at the peak on the dashed line; distances are logarithms. */
static void plot_positions(void **state)
{
    (void)state;
    static char text[PLOT_BYTES];
    struct plot_cell cells[3] = {{0, "f32", "f32", 64, 40, 100, 20, 1},
                                 {0, "f32", "f32", 1, 0.4, 8, 20, 1},
                                 {0, "f32", "f32", 8, 4, 30, 20, NAN}};
    struct box boxes[16];
    size_t dots, labels;
    save_plot(cells, 3, "a < b & c", 100, text);
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
    struct plot_cell cells[4] = {{0, "f32", "f32", 1, 0.5, INFINITY, 20, NAN},
                                 {1, "f16", "f16", 1, 1e-7, 1e-7, 0, 1},
                                 {2, "f16", "f16", 1, NAN, 3, 0, NAN},
                                 {3, "q8_0", "q8_0", 1048576, 1e7, 1e9, 0, NAN}};
    struct box boxes[16];
    size_t dots, labels;
    save_plot(cells, 4, "", 0, text);
    plot_boxes(text, boxes, &dots, &labels);
    assert_true(dots == 2 && labels >= 1);
    assert_null(strstr(text, "read: "));    /* it could not be measured */
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    struct plot nothing = {.title = "", .subtitle = "", .cells = cells};
    struct outfile out;
    assert_true(outfile_open(&out, "nothing.svg"));
    assert_false(plot_svg_write(&out, &nothing));
    outfile_discard(&out);
    assert_false(exists("nothing.svg"));
    if (!exists("/dev/full"))
        return;
    struct plot plot = {.title = "", .subtitle = "", .cells = cells, .num_cells = 1};
    assert_true(outfile_open(&out, "/dev/full"));
    assert_false(plot_svg_write(&out, &plot) && outfile_commit(&out));
    outfile_discard(&out);
}

/* ---- the oracle ---- */

static void oracle_routes(void **state)
{
    (void)state;
    const double logits[4] = {0, 2, 1, 2};
    int64_t ids[2];
    double weights[2], scratch[12];
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
    oracle_route(&routing, &(struct oracle_tables){.bias = bias}, 4, 2, logits, ids, weights, scratch);
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
    const double hopeless[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    routing.weight = MOE_SCORE_SIGMOID;
    routing.renorm = MOE_RENORM_ADD_EPS;
    oracle_route(&routing, NULL, 4, 2, hopeless, ids, weights, scratch);
    assert_true(weights[0] == 0 && weights[1] == 0);    /* 0 / 0 is not computed */
    const float poisoned[2] = {1, NAN};
    const double exact[2] = {1, 2};
    assert_true(isinf(oracle_error(poisoned, exact, 2)));
}

/* The axes of routing that few families have, each worked out by hand. */
static void oracle_axes(void **state)
{
    (void)state;
    const double logits[4] = {1, 3, 2, -1};
    int64_t ids[3];
    double weights[3], scratch[12];
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_SQRT_SOFTPLUS;
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    assert_true(ids[0] == 1 && ids[1] == 2 && fabs(weights[0] - sqrt(log1p(exp(3)))) < 1e-15);
    routing.renorm = MOE_RENORM_P_NORM;
    routing.renorm_p = 2;
    double a = log1p(exp(3)), b = log1p(exp(2));
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    assert_true(fabs(weights[1] - sqrt(b / (a + b))) < 1e-15);
    routing.renorm = MOE_RENORM_NONE;
    routing.softcap = 2;
    routing.weight = MOE_SCORE_LOGIT;
    const float scale[4] = {1, 10, 100, 1000};
    oracle_route(&routing, &(struct oracle_tables){.expert_scale = scale}, 4, 2, logits, ids, weights, scratch);
    assert_true(fabs(weights[0] - 20 * tanh(1.5)) < 1e-13 && fabs(weights[1] - 200 * tanh(1)) < 1e-13);
    routing.softcap = 0;
    routing.num_always = 1;
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    assert_true(ids[0] == 1 && ids[1] == 3 && weights[1] == -1);
    routing.num_always = 0;
    const int64_t row[2] = {3, 0};
    oracle_route(&routing, &(struct oracle_tables){.hash_row = row}, 4, 2, logits, ids, weights, scratch);
    assert_true(ids[0] == 3 && ids[1] == 0 && weights[0] == -1 && weights[1] == 1);
    /* of 3: (3 - z) / 3 <= 0.7 keeps 1, 2 and 3; of 2, without 3: (2 - z) / 2 <= 0.7 keeps 1 and 2 */
    routing.weight = MOE_SCORE_SPARSEMIXER;
    routing.sparsemixer_eps = 0.35f;
    oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch);
    assert_true(fabs(weights[0] - 1 / (1 + exp(-1) + exp(-2))) < 1e-15);
    assert_true(fabs(weights[1] - 1 / (1 + exp(-1))) < 1e-15);
}

static void oracle_ties(void **state)
{
    (void)state;
    int64_t ids[3];
    double weights[3], scratch[12];
    const double logits[4] = {1, 0.5, 0.5 + 1e-7, 2}, far[4] = {1, 0.5, 0.5 + 1e-3, 2};
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_SIGMOID;
    assert_true(oracle_route(&routing, NULL, 4, 3, logits, ids, weights, scratch));
    assert_false(oracle_route(&routing, NULL, 4, 2, logits, ids, weights, scratch));
    assert_false(oracle_route(&routing, NULL, 4, 3, far, ids, weights, scratch));
    routing.num_groups = 2;    /* {1, .5}, {.5, 2}, and with a bias of 1 for expert 0 {2, .5}, {.5, 2} */
    routing.top_groups = 1;
    routing.group_score = MOE_GROUP_MAX;
    assert_false(oracle_route(&routing, NULL, 4, 1, logits, ids, weights, scratch));
    routing.select = MOE_SCORE_LOGIT;
    const float bias[4] = {1, 0, 0, 0};
    assert_true(oracle_route(&routing, &(struct oracle_tables){.bias = bias}, 4, 1, logits, ids, weights, scratch));
}

static void oracle_router(void **state)
{
    (void)state;
    const float w[6] = {1, 2, 3, -4, 0, 1}, biases[3] = {10, 20, 30}, x[4] = {3, 4, 0, 0}, scale[2] = {2, 1};
    struct moe_matrix router;
    struct moe_norm norm;
    struct moe_routing routing;
    double logits[6], sizes[2];
    MOE_INIT(&router);
    MOE_INIT(&norm);
    MOE_INIT(&routing);
    router.data = (struct moe_view){(void *)w, 0, sizeof w, 0, MOE_FORMAT_F32};
    router.bias = (struct moe_view){(void *)biases, 0, sizeof biases, 0, MOE_FORMAT_F32};
    routing.router = &router;
    assert_true(oracle_logits(&routing, 3, 2, 2, x, logits, sizes));
    assert_true(logits[0] == 21 && logits[1] == 13 && logits[2] == 34 && logits[3] == 10);
    assert_true(sizes[0] == 45 && sizes[1] == 30);
    norm.scale = (struct moe_view){(void *)scale, 0, sizeof scale, 0, MOE_FORMAT_F32};
    norm.unit = true;    /* x / 5 */
    routing.norm = &norm;
    assert_true(oracle_logits(&routing, 3, 2, 2, x, logits, sizes));
    assert_true(fabs(logits[0] - 12.8) < 1e-12 && fabs(logits[1] - 20.4) < 1e-12 && logits[5] == 30);
}

static bool listed(const char *const *names, const char *name)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names;
}

/* `moe info` lists what the library knows, all of it and no more. */
static void families_are_complete(void **state)
{
    (void)state;
    struct moe_routing routing;
    struct moe_act act;
    MOE_INIT(&routing);
    MOE_INIT(&act);
    for (size_t i = 0; i < moe_num_presets; i++)
        if (listed(families_config, moe_presets[i].name) != !moe_presets[i].refused)
            fail_msg("tools/families.c: family %s", moe_presets[i].name);
    for (size_t i = 0; i < moe_num_presets_gguf; i++)
        if (listed(families_gguf, moe_presets_gguf[i].architecture) !=
            !moe_preset_of_gguf(&moe_presets_gguf[i])->refused)
            fail_msg("tools/families.c: architecture %s", moe_presets_gguf[i].architecture);
    for (size_t i = 0; families_config[i]; i++) {
        assert_true(i == 0 || strcmp(families_config[i - 1], families_config[i]) < 0);
        assert_int_equal(moe_preset(families_config[i], &routing, &act), MOE_OK);
    }
    for (size_t i = 0; families_gguf[i]; i++) {
        assert_true(i == 0 || strcmp(families_gguf[i - 1], families_gguf[i]) < 0);
        assert_int_equal(moe_preset(families_gguf[i], &routing, &act), MOE_OK);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plot_labels_apart),
        cmocka_unit_test(plot_positions),
        cmocka_unit_test(plot_odd_cells),
        cmocka_unit_test(oracle_routes),
        cmocka_unit_test(oracle_axes),
        cmocka_unit_test(oracle_ties),
        cmocka_unit_test(oracle_router),
        cmocka_unit_test(families_are_complete),
    };
    char command[2048];
    if (argc != 2 ||
        snprintf(command, sizeof command, "rm -rf '%s' && mkdir -p '%s'", argv[1], argv[1]) >= (int)sizeof command ||
        system(command) != 0 || chdir(argv[1]) != 0) {
        fputs("usage: moe_tools_lists SCRATCH_DIR, which is emptied\n", stderr);
        return 2;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
