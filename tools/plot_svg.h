// SPDX-License-Identifier: MIT
// The cells of a `moe bench` run as one self-contained SVG: arithmetic rate over arithmetic intensity, on logarithmic
// axes, under the roofs that the measured read bandwidth and the peaks of the arithmetic set.
#ifndef PLOT_SVG_H
#define PLOT_SVG_H

#include "outfile.h"

struct plot_cell {
    size_t series;               /* cells of one series are joined by a line */
    const char *format, *down;   /* of gate and up; of down */
    size_t tokens;
    double intensity;            /* FLOP per byte */
    double rate, read;           /* GFLOP/s; GB/s */
    double ratio;                /* ideal time over measured time; NAN: not known */
};

struct plot_roof {
    const char *name;
    double rate;                 /* GFLOP/s */
};

struct plot {
    const char *title, *subtitle;
    struct plot_cell *cells;     /* put in order of series and tokens by the writer */
    size_t num_cells;
    struct plot_roof roofs[8];
    size_t num_roofs;
};

/* The numbers at a dot are its tokens and ratio; they are left out where they would cover others or a dot. A cell whose
 * figures are not finite and positive has no dot. false, with an error on stderr, if out cannot take it. */
bool plot_svg_write(struct outfile *out, struct plot *plot);

#endif
