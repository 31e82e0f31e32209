// SPDX-License-Identifier: MIT
// A file that appears whole or not at all: written under another name in the same folder, put in place at the end,
// removed on an error, SIGINT or SIGTERM. Links are followed, and a file that is replaced keeps its mode. A path that
// is no regular file (/dev/null, a pipe) is written directly.
#ifndef OUTFILE_H
#define OUTFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct outfile {
    FILE *file;
    const char *path;       /* as given; must outlive the outfile */
    char *target;           /* what path leads to, links followed */
    char *temporary;        /* beside target; NULL: path is written directly */
    uint64_t written;
    bool failed;
};

/* One outfile is open at a time. All functions report an error on stderr once and return false. */
bool outfile_open(struct outfile *out, const char *path);
bool outfile_write(struct outfile *out, const void *data, size_t size);
bool outfile_pad(struct outfile *out, uint64_t align);    /* zeros up to a multiple of align */
bool outfile_commit(struct outfile *out);                 /* fsync, close, rename */
void outfile_discard(struct outfile *out);                /* close and remove; harmless after commit */

#endif
