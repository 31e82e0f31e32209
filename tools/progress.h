// SPDX-License-Identifier: MIT
// A line on stderr that shows how far long work is, with the time it still needs; nothing unless stderr is a terminal.
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
    const char *label;
    uint64_t total, done;
    bool on;
    bool bytes;              /* total and done are bytes: the line has their rate */
    double start, shown;
};

void progress_begin(struct progress *progress, const char *label, uint64_t total);
void progress_add(struct progress *progress, uint64_t amount);
void progress_hide(struct progress *progress);   /* erases the line until the next add, for other lines */
void progress_end(struct progress *progress);    /* erases the line */

/* The line for a moment; for tests. Returns its length, as snprintf. */
int progress_line(char *buf, int size, const struct progress *progress, double now);

#endif
