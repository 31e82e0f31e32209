// SPDX-License-Identifier: MIT
// The cells of a benchmark as an SVG, with labels placed where they cover nothing; see plot_svg.h.
#include "plot_svg.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define WIDTH 900.0
#define HEIGHT 560.0
#define LEFT 78.0       /* the frame of the axes, pixels */
#define RIGHT 712.0
#define TOP 72.0
#define BOTTOM 496.0
#define DOT 4.0         /* radius */
#define FONT 11.0
#define DIGIT (0.64 * FONT)     /* width, at most, in the fonts asked for */
#define LETTER (0.58 * FONT)    /* of a sentence, on average */
#define OVERLAP 1e4     /* cost of a label that covers a dot or another label: more than all lines it may cross */

/* Dark enough to be read as text on white, and apart from each other for the colour-blind. */
static const char *const colours[] = {"#0b61a4", "#c2410c", "#15803d", "#7e22ce",
                                      "#a16207", "#0e7490", "#be185d", "#475569"};
#define NUM_COLOURS (sizeof colours / sizeof colours[0])
static const char *const dashes[] = {"none", "7 3", "2 3", "9 3 2 3"};   /* the next series once colours run out */

struct axis {
    double low, high;       /* values at the ends; powers of ten times 1, 2 or 5 */
    double from, to;        /* their pixels */
};

struct box {
    double x0, y0, x1, y1;  /* pixels, x0 < x1, y0 < y1 */
};

struct segment {
    double x0, y0, x1, y1;
};

struct drawing {
    struct outfile *out;
    struct axis x, y;
    struct plot_cell *cells;
    size_t num_cells, num_boxes, num_segments;
    double read, top;           /* GB/s; the highest roof, GFLOP/s, 0: none */
    const struct plot *plot;
    size_t roof_lines[8];       /* segments; SIZE_MAX: out of sight */
    struct box *boxes;          /* what labels must not cover: dots, then labels */
    struct segment *segments;   /* what they rather do not cross */
};

TOOL_PRINTF(2, 3) static void emit(struct drawing *d, const char *text, ...)
{
    char line[1024];
    va_list args;
    va_start(args, text);
    int length = vsnprintf(line, sizeof line, text, args);
    va_end(args);
    if (length > 0)
        outfile_write(d->out, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
}

/* text for the inside of an element; buf is returned. */
static const char *escape(char buf[256], const char *text)
{
    buf[0] = '\0';
    for (; *text; text++)
        if (*text == '<' || *text == '&')
            tool_append(buf, 256, "%s", *text == '<' ? "&lt;" : "&amp;");
        else
            tool_append(buf, 256, "%c", (unsigned char)*text < 32 ? ' ' : *text);
    return buf;
}

/* Three digits without an exponent where that is short. */
static const char *figure(char buf[32], double value)
{
    bool odd = value >= 1e7 || value < 0.01;
    snprintf(buf, 32, odd ? "%.2e" : value >= 99.95 ? "%.0f" : value >= 9.995 ? "%.1f" : "%.2f", value);
    return buf;
}

/* ---- axes ---- */

/* The nearest 1, 2 or 5 times a power of ten that is at most value; or, with up, at least. */
static double snap(double value, bool up)
{
    static const double steps[] = {1, 2, 5, 10};
    double power = pow(10, floor(log10(value)));
    size_t i = up ? 0 : 3;
    if (up)
        while (i < 3 && steps[i] * power < value * (1 - 1e-9))
            i++;
    else
        while (i > 0 && steps[i] * power > value * (1 + 1e-9))
            i--;
    return steps[i] * power;
}

static double at(const struct axis *axis, double value)
{
    return axis->from + (axis->to - axis->from) * log(value / axis->low) / log(axis->high / axis->low);
}

static void set_axes(struct drawing *d)
{
    double x0 = INFINITY, x1 = 0, y0 = INFINITY, y1 = 0;
    for (size_t i = 0; i < d->num_cells; i++) {
        x0 = fmin(x0, d->cells[i].intensity);
        x1 = fmax(x1, d->cells[i].intensity);
        y0 = fmin(y0, d->cells[i].rate);
        y1 = fmax(y1, d->cells[i].rate);
    }
    for (size_t i = 0; i < d->plot->num_roofs; i++)
        d->top = fmax(d->top, d->plot->roofs[i].rate);
    y1 = fmax(y1, d->top);
    if (d->read > 0) {      /* so that the limit of the leftmost cell is in sight, and where the roofs meet */
        x1 = fmax(x1, d->top / d->read);
        y0 = fmin(y0, d->read * x0);
        y1 = fmax(y1, d->read * x0);
    }
    d->x = (struct axis){snap(x0 / 2, false), snap(x1 * 2, true), LEFT, RIGHT};
    d->y = (struct axis){snap(y0 / 2, false), snap(y1 * 2, true), BOTTOM, TOP};
}

/* Lines at 1, 2 and 5; numbers at all of them up to 3 decades, else at powers of ten only. */
static void draw_axis(struct drawing *d, const struct axis *axis, bool vertical)
{
    bool many = axis->high / axis->low > 1001;
    for (double value = axis->low; value <= axis->high * 1.001; value = snap(value * 1.5, true)) {
        bool power = fabs(log10(value) - round(log10(value))) < 1e-6;
        double p = at(axis, value);
        emit(d, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", vertical ? LEFT : p,
             vertical ? p : TOP, vertical ? RIGHT : p, vertical ? p : BOTTOM, power ? "#cbd5e1" : "#eceff3");
        if (!many || power)
            emit(d, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" fill=\"#334155\">%g</text>\n",
                 vertical ? LEFT - 8 : p, vertical ? p + 4 : BOTTOM + 18, vertical ? "end" : "middle", value);
    }
}

static void draw_frame(struct drawing *d, const struct plot *plot)
{
    char text[256];
    emit(d, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" "
            "height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" role=\"img\" font-family=\"Helvetica, Arial, sans-serif\" "
            "font-size=\"%.0f\">\n", WIDTH, HEIGHT, WIDTH, HEIGHT, FONT);
    emit(d, "<title>%s</title>\n", escape(text, plot->title));
    emit(d, "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n");
    emit(d, "<text x=\"%.0f\" y=\"30\" font-size=\"17\" font-weight=\"bold\" fill=\"#0f172a\">%s</text>\n", LEFT,
         text);
    emit(d, "<text x=\"%.0f\" y=\"52\" font-size=\"12.5\" fill=\"#475569\">%s</text>\n", LEFT,
         escape(text, plot->subtitle));
    draw_axis(d, &d->x, false);
    draw_axis(d, &d->y, true);
    emit(d, "<rect x=\"%.0f\" y=\"%.0f\" width=\"%.0f\" height=\"%.0f\" fill=\"none\" stroke=\"#64748b\"/>\n", LEFT,
         TOP, RIGHT - LEFT, BOTTOM - TOP);
    emit(d, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"middle\" font-size=\"13\" fill=\"#0f172a\">arithmetic "
            "intensity, FLOP per byte of the experts in use, each counted once</text>\n", (LEFT + RIGHT) / 2,
         BOTTOM + 46);
    emit(d, "<text transform=\"translate(24 %.0f) rotate(-90)\" text-anchor=\"middle\" font-size=\"13\" "
            "fill=\"#0f172a\">arithmetic rate, GFLOP/s</text>\n", (TOP + BOTTOM) / 2);
}

/* ---- placing labels ---- */

/* Length of the part of s inside b: s is cut at the box's four sides, one after the other. */
static double inside(const struct box *b, const struct segment *s)
{
    double dx = s->x1 - s->x0, dy = s->y1 - s->y0, from = 0, to = 1;
    const double rise[4] = {-dx, dx, -dy, dy};
    const double room[4] = {s->x0 - b->x0, b->x1 - s->x0, s->y0 - b->y0, b->y1 - s->y0};
    for (size_t i = 0; i < 4; i++) {
        if (rise[i] == 0 && room[i] < 0)
            return 0;
        if (rise[i] < 0)
            from = fmax(from, room[i] / rise[i]);
        else if (rise[i] > 0)
            to = fmin(to, room[i] / rise[i]);
    }
    return to > from ? (to - from) * hypot(dx, dy) : 0;
}

/* How bad a label is in box b, margin pixels clear of dots and labels, a quarter of that of lines. */
static double cost(const struct drawing *d, struct box b, double margin)
{
    double sum = 0, near = margin / 4;
    const struct box wide = {b.x0 - near, b.y0 - near, b.x1 + near, b.y1 + near};
    if (b.x0 < LEFT + 2 || b.x1 > RIGHT - 2 || b.y0 < TOP + 2 || b.y1 > BOTTOM - 2)
        sum += 1e3 * OVERLAP;
    for (size_t i = 0; i < d->num_segments; i++)
        sum += inside(&wide, &d->segments[i]);
    for (size_t i = 0; i < d->num_boxes; i++) {
        const struct box *other = &d->boxes[i];
        if (b.x0 - margin < other->x1 && other->x0 < b.x1 + margin && b.y0 - margin < other->y1 &&
            other->y0 < b.y1 + margin)
            sum += OVERLAP;
    }
    return sum;
}

static struct box box_at(double x, double y, double width, double height)
{
    return (struct box){x - width / 2, y - height / 2, x + width / 2, y + height / 2};
}

static void draw_label(struct drawing *d, struct box b, const char *class, const char *colour, const char *text)
{
    d->boxes[d->num_boxes++] = b;
    emit(d, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" fill=\"%s\" stroke=\"#ffffff\" "
            "stroke-width=\"3\" paint-order=\"stroke\">%s</text>\n", class, (b.x0 + b.x1) / 2, b.y1 - 2, colour, text);
}

/* A label beside a line, wherever along it there is most room. */
static void label_line(struct drawing *d, const struct segment *s, const char *text)
{
    double width = LETTER * (double)strlen(text), least = INFINITY;
    struct box best = {0};
    for (int i = 0; i <= 20; i++)
        for (int side = -1; side <= 1; side += 2) {     /* above to the left, below to the right */
            double x = s->x0 + i / 20.0 * (s->x1 - s->x0), y = s->y0 + i / 20.0 * (s->y1 - s->y0);
            struct box b = box_at(x + side * (width / 2 + 6), y + side * 11, width, 12);
            double c = cost(d, b, 10) + (side > 0 ? 2 : 0) + 0.1 * abs(i - 15);
            if (c < least) {
                least = c;
                best = b;
            }
        }
    draw_label(d, best, "line", "#334155", text);
}

/* The tokens of a cell and its ratio, beside its dot or, joined to it by a thin line, some way off. */
static void label_dot(struct drawing *d, const struct plot_cell *cell)
{
    static const double toward[8][2] = {{0.7, 0.7}, {-0.7, -0.7}, {0, -1}, {0, 1},
                                        {1, 0}, {-1, 0}, {0.7, -0.7}, {-0.7, 0.7}};
    static const double distances[] = {6, 11, 18, 27};
    char text[48];
    snprintf(text, sizeof text, "%zu", cell->tokens);
    if (isfinite(cell->ratio))
        tool_append(text, sizeof text, ": %.0f%%", 100 * cell->ratio);
    double x = at(&d->x, cell->intensity), y = at(&d->y, cell->rate), least = OVERLAP, far = 0;
    double width = DIGIT * (double)strlen(text) + 2;
    struct box best = {0};
    for (size_t r = 0; r < 4; r++)
        for (size_t i = 0; i < 8; i++) {
            struct box b = box_at(x + toward[i][0] * (distances[r] + width / 2),
                                  y + toward[i][1] * (distances[r] + 6), width, 12);
            double c = cost(d, b, 1) + 0.8 * distances[r] + 0.1 * (double)i;
            if (c < least) {
                least = c;
                best = b;
                far = distances[r];
            }
        }
    if (least >= OVERLAP)
        return;
    const char *colour = colours[cell->series % NUM_COLOURS];
    if (far > 11)
        emit(d, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"0.7\"/>\n", x, y,
             fmin(fmax(x, best.x0), best.x1), fmin(fmax(y, best.y0), best.y1), colour);
    draw_label(d, best, "tokens", colour, text);
}

/* ---- lines and dots ---- */

static void add_segment(struct drawing *d, double x0, double y0, double x1, double y1, const char *style)
{
    d->segments[d->num_segments++] = (struct segment){x0, y0, x1, y1};
    emit(d, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" %s/>\n", x0, y0, x1, y1, style);
}

/* rate = read x intensity, the part of it within the axes and below the highest roof, then the roofs, each from where
 * it meets that line. */
static void draw_limits(struct drawing *d)
{
    double high = d->top > 0 ? fmin(d->y.high, d->top) : d->y.high;
    double from = fmax(d->x.low, d->y.low / d->read), to = fmin(d->x.high, high / d->read);
    if (d->read > 0 && from < to)
        add_segment(d, at(&d->x, from), at(&d->y, d->read * from), at(&d->x, to), at(&d->y, d->read * to),
                    "stroke=\"#334155\" stroke-width=\"1.6\"");
    else
        d->read = 0;
    for (size_t i = 0; i < d->plot->num_roofs; i++) {
        double rate = d->plot->roofs[i].rate, meets = d->read > 0 ? fmax(d->x.low, rate / d->read) : d->x.low;
        d->roof_lines[i] = SIZE_MAX;
        if (rate < d->y.low || rate > d->y.high * 1.001 || meets >= d->x.high)
            continue;
        d->roof_lines[i] = d->num_segments;
        add_segment(d, at(&d->x, meets), at(&d->y, rate), RIGHT, at(&d->y, rate),
                    "stroke=\"#334155\" stroke-width=\"1.2\" stroke-dasharray=\"6 4\"");
    }
}

static void draw_series(struct drawing *d)
{
    for (size_t i = 1; i < d->num_cells; i++) {
        const struct plot_cell *a = &d->cells[i - 1], *b = &d->cells[i];
        char style[96] = "";
        tool_append(style, sizeof style, "stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\"",
                    colours[b->series % NUM_COLOURS], dashes[b->series / NUM_COLOURS % 4]);
        if (a->series == b->series)
            add_segment(d, at(&d->x, a->intensity), at(&d->y, a->rate), at(&d->x, b->intensity), at(&d->y, b->rate),
                        style);
    }
    for (size_t i = 0; i < d->num_cells; i++) {
        const struct plot_cell *c = &d->cells[i];
        char intensity[32], rate[32], share[48] = "";
        double x = at(&d->x, c->intensity), y = at(&d->y, c->rate);
        if (isfinite(c->ratio))
            snprintf(share, sizeof share, ", %.0f %% of the ideal", 100 * c->ratio);
        emit(d, "<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.0f\" fill=\"%s\" stroke=\"#ffffff\">"
                "<title>%s, down %s, tokens %zu: %s GFLOP/s at %s FLOP per byte%s</title></circle>\n", x, y, DOT,
             colours[c->series % NUM_COLOURS], c->format, c->down, c->tokens, figure(rate, c->rate),
             figure(intensity, c->intensity), share);
        d->boxes[d->num_boxes++] = box_at(x, y, 2 * DOT, 2 * DOT);
    }
}

static void draw_labels(struct drawing *d)
{
    char value[32], text[96];
    if (d->read > 0) {
        snprintf(text, sizeof text, "read: %s GB/s (median)", figure(value, d->read));
        label_line(d, &d->segments[0], text);
    }
    for (size_t i = 0; i < d->plot->num_roofs; i++) {
        const struct plot_roof *roof = &d->plot->roofs[i];
        snprintf(text, sizeof text, "%s: %s GFLOP/s", roof->name, figure(value, roof->rate));
        if (d->roof_lines[i] != SIZE_MAX)
            label_line(d, &d->segments[d->roof_lines[i]], text);
    }
    for (size_t i = 0; i < d->num_cells; i++)
        label_dot(d, &d->cells[i]);
}

static void draw_legend(struct drawing *d)
{
    size_t count = 0, row = 0;
    for (size_t i = 0; i < d->num_cells; i++)
        count += i == 0 || d->cells[i].series != d->cells[i - 1].series;
    double x = RIGHT + 18, step = fmin(20, (BOTTOM - TOP - 70) / (double)count);
    emit(d, "<text x=\"%.0f\" y=\"%.0f\" font-size=\"12\" font-weight=\"bold\" fill=\"#0f172a\">weights</text>\n", x,
         TOP + 10);
    for (size_t i = 0; i < d->num_cells; i++) {
        const struct plot_cell *c = &d->cells[i];
        if (i > 0 && c->series == d->cells[i - 1].series)
            continue;
        const char *colour = colours[c->series % NUM_COLOURS];
        double y = TOP + 28 + step * (double)row++;
        emit(d, "<line x1=\"%.0f\" y1=\"%.1f\" x2=\"%.0f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\" "
                "stroke-dasharray=\"%s\"/>\n<ellipse cx=\"%.0f\" cy=\"%.1f\" rx=\"%.0f\" ry=\"%.0f\" fill=\"%s\"/>\n",
             x, y, x + 26, y, colour, dashes[c->series / NUM_COLOURS % 4], x + 13, y, DOT, DOT, colour);
        emit(d, "<text x=\"%.0f\" y=\"%.1f\" font-size=\"12\" fill=\"#0f172a\">%s%s%s</text>\n", x + 33, y + 4,
             c->format, strcmp(c->format, c->down) ? ", down " : "", strcmp(c->format, c->down) ? c->down : "");
    }
    emit(d, "<text x=\"%.0f\" y=\"%.0f\" fill=\"#475569\">At the dots: tokens of a</text>\n"
            "<text x=\"%.0f\" y=\"%.0f\" fill=\"#475569\">call, share of the ideal</text>\n</svg>\n", x, BOTTOM - 16, x,
         BOTTOM - 2);
}

/* ---- the whole ---- */

static int by_series(const void *left, const void *right)
{
    const struct plot_cell *a = left, *b = right;
    if (a->series != b->series)
        return a->series < b->series ? -1 : 1;
    return (a->tokens > b->tokens) - (a->tokens < b->tokens);
}

static int by_read(const void *left, const void *right)
{
    const struct plot_cell *a = left, *b = right;
    return (a->read > b->read) - (a->read < b->read);
}

static bool drawable(double value)
{
    return isfinite(value) && value >= 1e-9 && value <= 1e15;
}

/* Leaves out what cannot be drawn and puts the rest in order. */
static void prepare(struct drawing *d, struct plot *plot)
{
    for (size_t i = 0; i < plot->num_cells; i++)
        if (drawable(plot->cells[i].intensity) && drawable(plot->cells[i].rate))
            plot->cells[d->num_cells++] = plot->cells[i];
    plot->num_cells = d->num_cells;
    d->cells = plot->cells;
    size_t n = d->num_cells;
    if (!n)
        return;
    qsort(d->cells, n, sizeof *d->cells, by_read);
    d->read = (d->cells[(n - 1) / 2].read + d->cells[n / 2].read) / 2;
    if (!drawable(d->read))
        d->read = 0;
    qsort(d->cells, n, sizeof *d->cells, by_series);
}

bool plot_svg_write(struct outfile *out, struct plot *plot)
{
    struct drawing d = {.out = out, .plot = plot};
    prepare(&d, plot);
    if (!d.num_cells) {
        tool_fail(TOOL_INPUT, "%s: there is no cell to draw", out->path);
        return false;
    }
    d.boxes = tool_alloc(2 * d.num_cells + 9, sizeof *d.boxes);
    d.segments = tool_alloc(d.num_cells + 9, sizeof *d.segments);
    if (d.boxes && d.segments) {
        set_axes(&d);
        draw_frame(&d, plot);
        draw_limits(&d);
        draw_series(&d);
        draw_labels(&d);
        draw_legend(&d);
    }
    bool good = d.boxes && d.segments && !out->failed;
    free(d.boxes);
    free(d.segments);
    return good;
}
