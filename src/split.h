// SPDX-License-Identifier: MIT
// Blocks that hold a scale among their codes, taken apart for backends that ask for it (MOE_BACKEND_PLANES): the same
// values, in the same number of bytes, as codes of one format and a plane of scales beside them.
#ifndef MOE_SPLIT_H
#define MOE_SPLIT_H

#include <stddef.h>

#include "moe/backend.h"

enum { MOE_SPLIT_COLS = 32 };       /* columns that share a scale */

struct moe_split {
    enum moe_format codes, scales;  /* formats of the two planes */
    float zero_offset;              /* value = (code - zero_offset) * scale */
    /* A row of num_blocks blocks, whole bytes: codes and scales are dense. */
    void (*row)(unsigned char *codes, unsigned char *scales, const unsigned char *blocks, size_t num_blocks);
};

/* How rows of so many columns are taken apart, where their codes begin at addresses that a device reads badly: blocks
 * of an odd number of bytes (MXFP4), or rows that are no multiple of 16 bytes. NULL: they stay as they are. */
const struct moe_split *moe_split_find(enum moe_format format, size_t cols);

#endif
