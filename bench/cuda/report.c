// SPDX-License-Identifier: MIT
// A line of the table and an object of JSON for each cell, as soon as it is measured; drawings at the end.
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "bench.h"
#include "../../tools/outfile.h"
#include "../../tools/plot_svg.h"

static void print_number(FILE *out, const char *key, double value)
{
    if (isfinite(value))
        fprintf(out, ", \"%s\": %.6g", key, value);
    else
        fprintf(out, ", \"%s\": null", key);
}

void report_calibration(struct bench *bench)
{
    printf("%s, %d multiprocessors: copy %.0f GB/s (read and written), read %.0f GB/s, mma.sync bf16 %.0f TFLOP/s\n",
           bench->device, bench->multiprocessors, bench->copy / 1e9, bench->read / 1e9, bench->mma / 1e12);
    fflush(stdout);
    if (bench->json == NULL)
        return;
    fprintf(bench->json, "{\"library\": \"libmoe\", \"version\": \"%s\", \"device\": \"%s\", \"calibration\": true",
            moe_version(), bench->device);
    print_number(bench->json, "copy_GB_s", bench->copy / 1e9);
    print_number(bench->json, "read_GB_s", bench->read / 1e9);
    print_number(bench->json, "mma_bf16_TFLOP_s", bench->mma / 1e12);
    fputs("}\n", bench->json);
    fflush(bench->json);
}

static const char *down_name(const struct cell *cell)
{
    return moe_format_info(cell->type->down.format)->name;
}

static void print_json(const struct bench *bench, const struct cell *cell)
{
    const struct shape *s = cell->shape;
    const char *whose;
    double peer = 1e-6 * peer_find(cell, &whose), floor = cell_floor(cell);
    FILE *out = bench->json;
    fprintf(out, "{\"library\": \"libmoe\", \"version\": \"%s\", \"device\": \"%s\", \"shape_name\": \"%s\", "
            "\"shape\": [%zu, %zu, %zu, %zu], \"type\": \"%s\", \"down\": \"%s\", \"variant\": \"%s\", \"tokens\": %zu",
            moe_version(), bench->device, s->name, s->hidden_size, s->intermediate_size, s->num_experts, s->top_k,
            cell->type->name, down_name(cell), variant_name(cell->variant), cell->tokens);
    if (cell->failure != NULL) {
        fputs(", \"failure\": \"", out);
        for (const char *at = cell->failure; *at != '\0'; at++)
            fputc(*at == '"' || *at == '\\' || (unsigned char)*at < 32 ? '\'' : *at, out);
        fputs("\"}\n", out);
        return;
    }
    print_number(out, "median_us", 1e6 * cell->median);
    print_number(out, "min_us", 1e6 * cell->least);
    print_number(out, "unique_expert_bytes", round(cell->bytes));
    print_number(out, "GB_s", cell->bytes / cell->median / 1e9);
    print_number(out, "TFLOP_s", cell->flops / cell->median / 1e12);
    print_number(out, "floor_us", 1e6 * floor);
    print_number(out, "ratio_to_floor", cell->median / floor);
    print_number(out, "ratio_to_copy", bench->copy > 0 ? cell->median * bench->copy / cell->bytes : (double)NAN);
    fprintf(out, ", \"peer\": \"%s\"", whose);
    print_number(out, "peer_us", peer > 0 ? 1e6 * peer : (double)NAN);
    print_number(out, "ratio_to_peer", peer > 0 ? cell->median / peer : (double)NAN);
    print_number(out, "nodes", cell->nodes);
    fprintf(out, ", \"layers\": %zu, \"weight_sets\": %zu, \"replays\": %zu, \"finite\": %s}\n", cell->num_layers,
            cell->num_sets, cell->replays, cell->finite ? "true" : "false");
}

static void print_row(struct bench *bench, const struct cell *cell)
{
    const char *whose;
    double peer = 1e-6 * peer_find(cell, &whose), floor = cell_floor(cell);
    char type[64], beside[64] = "";
    snprintf(type, sizeof type, "%s%s%s", cell->type->name, cell->variant == PLAIN ? "" : "+",
             variant_name(cell->variant));
    if (!bench->headed)
        printf("\n%-12s %-20s %6s %10s %10s %7s %7s %6s %6s  %s\n", "shape", "weights", "tokens", "median us", "min us",
               "GB/s", "TFLOP/s", "floor", "nodes", "best other");
    bench->headed = true;
    printf("%-12s %-20s %6zu ", cell->shape->name, type, cell->tokens);
    if (cell->failure != NULL) {
        printf("failed: %s\n", cell->failure);
        return;
    }
    if (peer > 0)
        snprintf(beside, sizeof beside, "%.2f of %.0f us, %s", cell->median / peer, 1e6 * peer, whose);
    printf("%10.2f %10.2f %7.0f %7.1f %6.2f %6.3g  %s%s\n", 1e6 * cell->median, 1e6 * cell->least,
           cell->bytes / cell->median / 1e9, cell->flops / cell->median / 1e12, cell->median / floor, cell->nodes,
           beside, cell->finite ? "" : "  NOT FINITE");
}

void report_cell(struct bench *bench, const struct cell *cell)
{
    print_row(bench, cell);
    fflush(stdout);
    if (bench->json != NULL) {
        print_json(bench, cell);
        fflush(bench->json);
    }
}

/* ---- drawings ---- */

static bool draw(const struct bench *bench, const struct shape *shape, struct plot_cell *dots, size_t num_dots,
                 const char *folder)
{
    char path[512], title[160], subtitle[160];
    struct outfile out;
    snprintf(path, sizeof path, "%s/%s.svg", folder, shape->name);
    snprintf(title, sizeof title, "%s: hidden %zu, intermediate %zu, %zu experts, top-k %zu", shape->name,
             shape->hidden_size, shape->intermediate_size, shape->num_experts, shape->top_k);
    snprintf(subtitle, sizeof subtitle, "libmoe %s on %s, CUDA graph replay, cold L2, router excluded", moe_version(),
             bench->device);
    struct plot plot = {title, subtitle, dots, num_dots, {{"bf16, large matrix products", FLOOR_BF16 / 1e9}}, 1};
    if (bench->mma > 0)
        plot.roofs[plot.num_roofs++] = (struct plot_roof){"bf16, mma.sync", bench->mma / 1e9};
    if (!outfile_open(&out, path))
        return false;
    bool good = plot_svg_write(&out, &plot) && outfile_commit(&out);
    outfile_discard(&out);
    return good;
}

bool report_plot(const struct bench *bench, const struct cell *cells, size_t num_cells, const char *folder)
{
    struct plot_cell *dots = calloc(num_cells > 0 ? num_cells : 1, sizeof *dots);
    bool good = dots != NULL;
    mkdir(folder, 0777);
    for (size_t i = 0; good && i < num_cells; i++) {
        const struct shape *shape = cells[i].shape;
        const struct type *types[64];
        size_t count = 0, num_types = 0;
        bool first = true;
        for (size_t k = 0; k < i; k++)
            first = first && cells[k].shape != shape;
        for (size_t k = i; first && k < num_cells; k++) {
            const struct cell *cell = &cells[k];
            size_t series = 0;
            if (cell->shape != shape || cell->variant != PLAIN || cell->failure != NULL)
                continue;
            while (series < num_types && types[series] != cell->type)
                series++;
            if (series == num_types && num_types < 64)
                types[num_types++] = cell->type;
            dots[count++] = (struct plot_cell){
                .series = series, .format = cell->type->name, .down = cell->type->name, .tokens = cell->tokens,
                .intensity = cell->flops / cell->bytes, .rate = cell->flops / cell->median / 1e9,
                .read = (bench->read > 0 ? bench->read : FLOOR_BYTES) / 1e9, .ratio = cell_floor(cell) / cell->median,
            };
        }
        if (count > 0)
            good = draw(bench, shape, dots, count, folder);
    }
    free(dots);
    return good;
}
