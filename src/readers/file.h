// SPDX-License-Identifier: MIT
// Files as readers need them: regular ones only, opened without waiting, read in full or not at all.
#ifndef MOE_FILE_H
#define MOE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"

/* Read-only; *size as it is now. ERR_IO: not there, not readable, or not a regular file. */
enum moe_status moe_file_open(int *fd, uint64_t *size, const char *path, struct moe_error *error);
void moe_file_close(int fd);   /* -1 is allowed */
/* All size bytes from offset. ERR_IO names path and what, which is being read. */
enum moe_status moe_file_read(int fd, void *data, size_t size, uint64_t offset, const char *path, const char *what,
                              struct moe_error *error);
/* Up to size first bytes of a file: how many there are; 0: none can be read. */
size_t moe_file_peek(const char *path, void *data, size_t size);
/* How a mapping will be used: page by page, so that the system reads no more than is touched; or as usual. */
void moe_file_map_exactly(void *map, size_t size, bool exactly);
/* Have the system read the bytes from .. to of a mapping at once; a hint. */
void moe_file_fetch(const void *map, uint64_t from, uint64_t to);
bool moe_file_is_directory(const char *path);
/* All of a file and a NUL, for moe_free as *size + 1 bytes. ERR_FORMAT above limit bytes. */
enum moe_status moe_file_load(const struct moe_env *env, char **data, size_t *size, const char *path, size_t limit,
                              struct moe_error *error);

#endif
