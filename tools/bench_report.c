// SPDX-License-Identifier: MIT
// What `moe bench` says of its cells: a line of the table, an object of JSON, a dot of the drawing.
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "describe.h"
#include "json_value.h"

/* What sets the ideal: the bytes, or the arithmetic of the layer's kernels. */
static const char *bound(char text[32], const struct bench *bench, const struct bench_cell *cell)
{
    bool one = bench->in == bench->down;
    if (!(bench_cell_ideal(cell) > 0))
        snprintf(text, 32, "-");
    else if (cell->memory >= cell->compute)
        snprintf(text, 32, "read");
    else
        snprintf(text, 32, "%s%s%s", bench_peak_name(bench->in), one ? "" : "+",
                 one ? "" : bench_peak_name(bench->down));
    return text;
}

/* NAN where the limits are not known. */
static double ratio_to_ideal(const struct bench_cell *cell)
{
    double ideal = bench_cell_ideal(cell);
    return ideal > 0 ? ideal / cell->median : (double)NAN;
}

static double ratio_to_tiles(const struct bench *bench, const struct bench_cell *cell)
{
    return bench_limits_tiles(bench) ? fmax(cell->memory, cell->tiles) / cell->median : (double)NAN;
}

/* ---- JSON ---- */

static void add_number(json_t *line, const char *name, double value)
{
    json_object_set_new(line, name, json_value_number(value));
}

static void add_text(json_t *line, const char *name, const char *text)
{
    json_object_set_new(line, name, json_value_text(text));
}

static void add_peaks(json_t *line, const struct bench *bench)
{
    static const char *const names[NUM_PEAKS] = {"peak_f32_GFLOP_s", "peak_bf16_GFLOP_s", "peak_int8_GFLOP_s",
                                                 "peak_amx_bf16_GFLOP_s", "peak_amx_int8_GFLOP_s"};
    for (size_t kind = 0; kind < NUM_PEAKS; kind++)
        add_number(line, names[kind], bench->peaks[kind] > 0 ? bench->peaks[kind] / 1e9 : (double)NAN);
}

static void add_noise(json_t *line, const struct bench_cell *cell)
{
    add_number(line, "f32_GFLOP_s", cell->f32 > 0 ? cell->f32 / 1e9 : (double)NAN);
    add_number(line, "other_cpu_percent", cell->noise.other);
    add_number(line, "steal_percent", cell->noise.steal);
    add_number(line, "read_spread", cell->noise.read_spread);
    json_object_set_new(line, "disturbed", json_boolean(bench_noise_disturbed(&cell->noise)));
}

static void print_json(const struct bench *bench, const struct bench_cell *cell)
{
    const struct bench_weights *w = &bench->weights;
    const struct bench_shape *s = &w->shape;
    double rate = cell->unique_bytes / cell->median;
    char text[96];
    json_t *line = json_object();
    add_text(line, "library", "libmoe");
    add_text(line, "version", moe_version());
    add_text(line, "backend", bench->backend);
    add_text(line, "level", bench->session.level);
    snprintf(text, sizeof text, "%s%s", bench->session.level, bench->exact ? "-exact" : "");
    add_text(line, "path", text);
    json_object_set_new(line, "shape",
                        json_pack("[I, I, I, I]", (json_int_t)s->hidden_size, (json_int_t)s->intermediate_size,
                                  (json_int_t)s->num_experts, (json_int_t)s->top_k));
    add_text(line, "type", bench->name);
    add_text(line, "down", describe_format(w->down));
    json_object_set_new(line, "tokens", json_integer((json_int_t)cell->tokens));
    json_object_set_new(line, "threads", json_integer((json_int_t)bench->threads));
    add_number(line, "median_ms", 1e3 * cell->median);
    add_number(line, "min_ms", 1e3 * cell->least);
    add_number(line, "spread", cell->spread);
    json_object_set_new(line, "calls", json_integer((json_int_t)cell->calls));
    json_object_set_new(line, "unique_expert_bytes", json_integer((json_int_t)cell->unique_bytes));
    add_number(line, "GB_s", rate / 1e9);
    add_number(line, "read_GB_s", cell->read > 0 ? cell->read / 1e9 : (double)NAN);
    add_number(line, "ratio_to_read", cell->read > 0 ? rate / cell->read : (double)NAN);
    add_number(line, "GFLOP_s", cell->flops / cell->median / 1e9);
    add_number(line, "ideal_ms", bench_cell_ideal(cell) > 0 ? 1e3 * bench_cell_ideal(cell) : (double)NAN);
    add_number(line, "ratio_to_ideal", ratio_to_ideal(cell));
    add_text(line, "bound", bound(text, bench, cell));
    add_number(line, "ratio_to_amx", ratio_to_tiles(bench, cell));
    add_number(line, "rel_error", cell->error);
    add_peaks(line, bench);
    add_noise(line, cell);
    json_dumpf(line, stdout, JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(line);
}

/* ---- table ---- */

static void print_head(const struct bench *bench)
{
    const struct bench_shape *s = &bench->weights.shape;
    printf("shape %zu,%zu,%zu,%zu, backend %s, level %s%s, %zu thread%s\npeaks, GFLOP/s:", s->hidden_size,
           s->intermediate_size, s->num_experts, s->top_k, bench->backend,
           *bench->session.level ? bench->session.level : "-", bench->exact ? ", exact" : "", bench->threads,
           bench->threads == 1 ? "" : "s");
    for (size_t kind = 0, count = 0; kind < NUM_PEAKS; kind++)
        if (bench->peaks[kind] > 0)
            printf("%s %s %.0f", count++ ? "," : "", bench_peak_name((enum peak_kind)kind), bench->peaks[kind] / 1e9);
    printf("\n%-13s %6s %10s %6s %7s %7s %8s %9s %6s %-8s%s%s\n", "weights", "tokens", "median ms", "spread", "GB/s",
           "read", "GFLOP/s", "ideal ms", "ratio", "bound", bench_limits_tiles(bench) ? "   AMX" : "",
           bench->error ? "     error" : "");
}

static void print_row(const struct bench *bench, const struct bench_cell *cell)
{
    const struct bench_weights *w = &bench->weights;
    char name[80], what[32], read[16] = "-", ideal[16] = "-", ratio[16] = "-";
    snprintf(name, sizeof name, "%s%s%s", describe_format(w->format), w->format == w->down ? "" : "/",
             w->format == w->down ? "" : describe_format(w->down));
    if (cell->read > 0)
        snprintf(read, sizeof read, "%.2f", cell->read / 1e9);
    if (bench_cell_ideal(cell) > 0) {
        snprintf(ideal, sizeof ideal, "%.4f", 1e3 * bench_cell_ideal(cell));
        snprintf(ratio, sizeof ratio, "%.0f %%", 100 * ratio_to_ideal(cell));
    }
    printf("%-13s %6zu %10.4f %4.1f %% %7.2f %7s %8.1f %9s %6s %-8s", name, cell->tokens, 1e3 * cell->median,
           100 * cell->spread, cell->unique_bytes / cell->median / 1e9, read, cell->flops / cell->median / 1e9, ideal,
           ratio, bound(what, bench, cell));
    if (bench_limits_tiles(bench))
        printf("%4.0f %%", 100 * ratio_to_tiles(bench, cell));
    if (bench->error)
        printf("  %.2e", cell->error);
    puts(bench_noise_disturbed(&cell->noise) ? "  !" : "");
}

static void warn(const struct bench *bench, const struct bench_cell *cell)
{
    const struct bench_noise *noise = &cell->noise;
    if (bench_noise_disturbed(noise))
        tool_note("%s, %zu token%s: disturbed: other processes took %.1f %% of the CPUs, the host %.1f %%; the read "
                  "bandwidth varied by %.2f; arithmetic ran at %.0f %% of its best", bench->name, cell->tokens,
                  cell->tokens == 1 ? "" : "s", noise->other, noise->steal, noise->read_spread, 100 * noise->compute);
}

void bench_report_cell(struct bench *bench, const struct bench_cell *cell)
{
    progress_hide(&bench->progress);
    if (bench->json) {
        print_json(bench, cell);
    } else {
        if (!bench->headed)
            print_head(bench);
        print_row(bench, cell);
    }
    bench->headed = true;
    fflush(stdout);
    warn(bench, cell);
}

/* ---- drawing ---- */

void bench_report_keep(struct bench *bench, const struct bench_cell *cell, size_t series)
{
    const struct bench_weights *w = &bench->weights;
    bench->shape = w->shape;    /* a MODEL's outlives its weights */
    bench->used[bench->in] = bench->used[bench->down] = true;
    bench->plot_cells[bench->num_plot_cells++] = (struct plot_cell){
        .series = series,
        .format = describe_format(w->format),
        .down = describe_format(w->down),
        .tokens = cell->tokens,
        .intensity = cell->flops / cell->unique_bytes,
        .rate = cell->flops / cell->median / 1e9,
        .read = cell->read / 1e9,
        .ratio = ratio_to_ideal(cell),
    };
}

bool bench_report_plot(struct bench *bench, struct outfile *out)
{
    const struct bench_shape *s = &bench->shape;
    char title[160], subtitle[240];
    snprintf(title, sizeof title, "moe bench: hidden %zu, intermediate %zu, %zu experts, top-k %zu", s->hidden_size,
             s->intermediate_size, s->num_experts, s->top_k);
    snprintf(subtitle, sizeof subtitle, "backend %s, level %s%s, %zu thread%s", bench->backend,
             *bench->session.level ? bench->session.level : "-", bench->exact ? ", exact" : "", bench->threads,
             bench->threads == 1 ? "" : "s");
    struct plot plot = {title, subtitle, bench->plot_cells, bench->num_plot_cells, {{0}}, 0};
    for (size_t kind = 0; kind < NUM_PEAKS; kind++)
        if (bench->used[kind] && bench->peaks[kind] > 0)
            plot.roofs[plot.num_roofs++] = (struct plot_roof){bench_peak_name((enum peak_kind)kind),
                                                              bench->peaks[kind] / 1e9};
    return plot_svg_write(out, &plot) && outfile_commit(out);
}
