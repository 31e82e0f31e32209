// SPDX-License-Identifier: MIT
// A file that appears whole or not at all; see outfile.h.
#include "outfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

/* What a signal has to remove. Set before the file exists and cleared after the rename, signals held meanwhile. */
static char *volatile unfinished;

static void on_signal(int number)
{
    char *path = unfinished;
    if (path)
        unlink(path);
    signal(number, SIG_DFL);
    raise(number);
}

static void watch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction old;
        if (sigaction(numbers[i], NULL, &old) == 0 && old.sa_handler == SIG_IGN)
            continue;   /* nohup and background jobs */
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_handler = on_signal;
        sigemptyset(&action.sa_mask);
        sigaction(numbers[i], &action, NULL);
    }
}

static void hold_signals(bool hold, sigset_t *old)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(hold ? SIG_BLOCK : SIG_SETMASK, hold ? &all : old, hold ? old : NULL);
}

static bool fail(struct outfile *out, const char *what)
{
    if (!out->failed)
        tool_fail(TOOL_INPUT, "%s: cannot be %s: %s", out->path, what, strerror(errno));
    out->failed = true;
    return false;
}

static void free_names(struct outfile *out)
{
    free(out->target);
    free(out->temporary);
    out->target = out->temporary = NULL;
}

static const char suffix[] = ".tmp-XXXXXX";

static bool name_files(struct outfile *out, bool there)
{
    out->target = there ? realpath(out->path, NULL) : strdup(out->path);
    if (!out->target)
        return fail(out, "found");
    out->temporary = tool_alloc(strlen(out->target) + sizeof suffix, 1);
    if (!out->temporary) {
        out->failed = true;
        free_names(out);
        return false;
    }
    strcpy(out->temporary, out->target);
    strcat(out->temporary, suffix);
    return true;
}

static mode_t new_mode(void)
{
    mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

/* Temporary files that a killed process left. Whoever still writes one holds a lock on it. */
static void remove_stale(const char *target)
{
    const char *slash = strrchr(target, '/'), *name = slash ? slash + 1 : target;
    size_t length = strlen(name), fixed = sizeof suffix - sizeof "XXXXXX";
    char *folder = tool_alloc((size_t)(name - target) + 2, 1);
    DIR *dir = NULL;
    if (folder) {
        memcpy(folder, slash ? target : ".", slash ? (size_t)(name - target) : 1);
        folder[slash ? name - target : 1] = '\0';
        dir = opendir(folder);
    }
    const struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        if (strlen(entry->d_name) != length + sizeof suffix - 1 || strncmp(entry->d_name, name, length) != 0 ||
            strncmp(entry->d_name + length, suffix, fixed) != 0)
            continue;
        int fd = openat(dirfd(dir), entry->d_name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
        if (fd >= 0)
            close(fd);
    }
    if (dir)
        closedir(dir);
    free(folder);
}

/* A new file that has the lock; one that was taken for stale before it had it is made again. */
static int make_locked(char *path)
{
    struct stat info;
    size_t length = strlen(path), random = sizeof "XXXXXX" - 1;
    for (int i = 0; i < 8; i++) {
        memcpy(path + length - random, "XXXXXX", random);
        int fd = mkstemp(path);
        if (fd < 0)
            return -1;
        flock(fd, LOCK_EX | LOCK_NB);
        if (fstat(fd, &info) != 0 || info.st_nlink > 0)
            return fd;
        close(fd);
    }
    errno = EEXIST;
    return -1;
}

/* old_file: what is replaced; NULL: nothing is there. */
static bool open_temporary(struct outfile *out, const struct stat *old_file)
{
    if (!name_files(out, old_file != NULL))
        return false;
    remove_stale(out->target);
    watch_signals();
    sigset_t old;
    hold_signals(true, &old);
    int fd = make_locked(out->temporary);
    if (fd >= 0)
        unfinished = out->temporary;
    hold_signals(false, &old);
    if (fd < 0) {
        fail(out, "created");
        free_names(out);
        return false;
    }
    out->file = fdopen(fd, "wb");
    if (fchmod(fd, old_file ? old_file->st_mode & 0777 : new_mode()) == 0 && out->file)
        return true;
    fail(out, "created");
    if (!out->file)
        close(fd);
    outfile_discard(out);
    return false;
}

bool outfile_open(struct outfile *out, const char *path)
{
    *out = (struct outfile){.path = path};
    struct stat info;
    if (stat(path, &info) != 0)
        return open_temporary(out, NULL);
    if (S_ISREG(info.st_mode))
        return open_temporary(out, &info);
    if (S_ISDIR(info.st_mode)) {
        errno = EISDIR;
        return fail(out, "written");
    }
    out->file = fopen(path, "wb");
    return out->file ? true : fail(out, "opened");
}

bool outfile_write(struct outfile *out, const void *data, size_t size)
{
    if (out->failed)
        return false;
    if (size && fwrite(data, 1, size, out->file) != size)
        return fail(out, "written");
    out->written += size;
    return true;
}

bool outfile_pad(struct outfile *out, uint64_t align)
{
    static const char zeros[64];
    uint64_t missing = (align - out->written % align) % align;
    while (missing) {
        size_t now = missing < sizeof zeros ? (size_t)missing : sizeof zeros;
        if (!outfile_write(out, zeros, now))
            return false;
        missing -= now;
    }
    return true;
}

bool outfile_commit(struct outfile *out)
{
    if (out->failed)
        return false;
    if (fflush(out->file) != 0 || (out->temporary && fsync(fileno(out->file)) != 0))
        return fail(out, "written");
    if (!out->temporary) {
        int closed = fclose(out->file);
        out->file = NULL;
        return closed == 0 ? true : fail(out, "written");
    }
    sigset_t old;
    hold_signals(true, &old);
    bool renamed = rename(out->temporary, out->target) == 0;
    if (renamed)
        unfinished = NULL;
    hold_signals(false, &old);
    if (!renamed)
        return fail(out, "put in place");
    fclose(out->file);    /* not before: the lock goes with it; nothing is left to be written */
    out->file = NULL;
    free_names(out);
    return true;
}

void outfile_discard(struct outfile *out)
{
    if (out->file)
        fclose(out->file);
    out->file = NULL;
    if (!out->temporary)
        return;
    sigset_t old;
    hold_signals(true, &old);
    unlink(out->temporary);
    unfinished = NULL;
    hold_signals(false, &old);
    free_names(out);
}
