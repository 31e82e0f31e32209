// SPDX-License-Identifier: MIT
// A line on stderr that shows how far long work is, with the time it still needs; nothing unless stderr is a terminal.
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define BAR 30
#define BETWEEN_UPDATES 0.1   /* seconds */
#define BEFORE_ETA 0.5        /* seconds: a rate taken over less than that jumps about */

int progress_line(char *buf, int size, const struct progress *progress, double now)
{
    double share = progress->total ? (double)progress->done / (double)progress->total : 1;
    if (share > 1)
        share = 1;
    char bar[BAR + 1];
    int full = (int)(share * BAR);
    memset(bar, '#', (size_t)full);
    memset(bar + full, '.', (size_t)(BAR - full));
    bar[BAR] = '\0';
    double elapsed = now - progress->start;
    if (elapsed < BEFORE_ETA || share <= 0)
        return snprintf(buf, (size_t)size, "%s [%s] %3d %%", progress->label, bar, (int)(share * 100));
    double left = elapsed / share - elapsed;
    unsigned long seconds = (unsigned long)(left + 0.5);
    char rate[48] = "", each[32];
    if (progress->bytes)
        snprintf(rate, sizeof rate, "  %s/s", tool_bytes(each, (uint64_t)((double)progress->done / elapsed)));
    return snprintf(buf, (size_t)size, "%s [%s] %3d %%%s  %lu:%02lu left", progress->label, bar, (int)(share * 100),
                    rate, seconds / 60, seconds % 60);
}

static void show(struct progress *progress, double now)
{
    char line[160];
    progress_line(line, sizeof line, progress, now);
    fprintf(stderr, "\r\033[K%s", line);
    fflush(stderr);
    progress->shown = now;
}

void progress_begin(struct progress *progress, const char *label, uint64_t total)
{
    double now = tool_seconds();
    *progress = (struct progress){.label = label, .total = total, .on = isatty(STDERR_FILENO) == 1, .start = now};
    if (progress->on)
        show(progress, now);
}

void progress_add(struct progress *progress, uint64_t amount)
{
    progress->done += amount;
    if (!progress->on)
        return;
    double now = tool_seconds();
    if (now - progress->shown >= BETWEEN_UPDATES)
        show(progress, now);
}

void progress_hide(struct progress *progress)
{
    if (progress->on)
        fputs("\r\033[K", stderr);
}

void progress_end(struct progress *progress)
{
    progress_hide(progress);
    progress->on = false;
}
