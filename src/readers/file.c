// SPDX-License-Identifier: MIT
// Opening and reading files: interrupted and short reads, files that are no files.
#include "readers/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

enum { READ_LARGEST = 1 << 30 };   /* bytes of one pread; Linux stops below 2^31 by itself */

static enum moe_status fail_errno(struct moe_error *error, const char *path, int number)
{
    char reason[128] = "";
    if (strerror_r(number, reason, sizeof reason) != 0)
        return moe_fail(error, MOE_ERR_IO, "%s: error %d", path, number);
    return moe_fail(error, MOE_ERR_IO, "%s: %s", path, reason);
}

enum moe_status moe_file_open(int *fd, uint64_t *size, const char *path, struct moe_error *error)
{
    struct stat status;
    int opened;
    /* O_NONBLOCK: a FIFO without a writer must not hold us; regular files do not know it. */
    do {
        opened = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    } while (opened < 0 && errno == EINTR);
    if (opened < 0)
        return fail_errno(error, path, errno);
    if (fstat(opened, &status) != 0) {
        int number = errno;
        close(opened);
        return fail_errno(error, path, number);
    }
    if (!S_ISREG(status.st_mode) || status.st_size < 0) {
        close(opened);
        return moe_fail(error, MOE_ERR_IO, "%s: not a regular file", path);
    }
    *fd = opened;
    *size = (uint64_t)status.st_size;
    return MOE_OK;
}

void moe_file_close(int fd)
{
    if (fd >= 0)
        close(fd);
}

enum moe_status moe_file_read(int fd, void *data, size_t size, uint64_t offset, const char *path, const char *what,
                              struct moe_error *error)
{
    unsigned char *bytes = data;
    size_t done = 0;
    while (done < size) {
        size_t rest = size - done < READ_LARGEST ? size - done : READ_LARGEST;
        ssize_t count = pread(fd, bytes + done, rest, (off_t)(offset + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail_errno(error, path, errno);
        if (count == 0)
            return moe_fail(error, MOE_ERR_IO, "%s: the file ends at byte %llu, inside '%.100s': it has shrunk", path,
                            (unsigned long long)(offset + done), what);
        done += (size_t)count;
    }
    return MOE_OK;
}

size_t moe_file_peek(const char *path, void *data, size_t size)
{
    int fd;
    uint64_t file_size;
    if (moe_file_open(&fd, &file_size, path, NULL) != MOE_OK)
        return 0;
    size_t count = file_size < size ? (size_t)file_size : size;
    if (moe_file_read(fd, data, count, 0, path, "", NULL) != MOE_OK)
        count = 0;
    moe_file_close(fd);
    return count;
}

void moe_file_map_exactly(void *map, size_t size, bool exactly)
{
    (void)posix_madvise(map, size, exactly ? POSIX_MADV_RANDOM : POSIX_MADV_NORMAL);
}

void moe_file_fetch(const void *map, uint64_t from, uint64_t to)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t start = from - from % page;   /* mappings begin with a page */
    if (to > start)
        (void)posix_madvise((unsigned char *)map + start, (size_t)(to - start), POSIX_MADV_WILLNEED);
}

bool moe_file_is_directory(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

enum moe_status moe_file_load(const struct moe_env *env, char **data, size_t *size, const char *path, size_t limit,
                              struct moe_error *error)
{
    int fd;
    uint64_t file_size;
    MOE_TRY(moe_file_open(&fd, &file_size, path, error));
    enum moe_status status = MOE_OK;
    char *bytes = NULL;
    if (file_size > limit) {
        status = moe_fail(error, MOE_ERR_FORMAT, "%s: has %llu bytes; at most %zu are read", path,
                          (unsigned long long)file_size, limit);
    } else {
        bytes = moe_alloc(env, (size_t)file_size + 1);
        status = bytes != NULL ? moe_file_read(fd, bytes, (size_t)file_size, 0, path, "", error)
                               : moe_fail(error, MOE_ERR_MEMORY, "%s: no memory to read it", path);
    }
    moe_file_close(fd);
    if (status != MOE_OK) {
        moe_free(env, bytes, (size_t)file_size + 1);
        return status;
    }
    *data = bytes;
    *size = (size_t)file_size;
    return MOE_OK;
}
