// SPDX-License-Identifier: MIT
// A file that appears whole or not at all; see outfile.h.
#include "outfile.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
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

static bool name_files(struct outfile *out, bool there)
{
    static const char suffix[] = ".tmp-XXXXXX";
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

/* old_file: what is replaced; NULL: nothing is there. */
static bool open_temporary(struct outfile *out, const struct stat *old_file)
{
    if (!name_files(out, old_file != NULL))
        return false;
    watch_signals();
    sigset_t old;
    hold_signals(true, &old);
    int fd = mkstemp(out->temporary);
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
    int closed = fclose(out->file);
    out->file = NULL;
    if (closed != 0)
        return fail(out, "written");
    if (!out->temporary)
        return true;
    sigset_t old;
    hold_signals(true, &old);
    bool renamed = rename(out->temporary, out->target) == 0;
    if (renamed)
        unfinished = NULL;
    hold_signals(false, &old);
    if (!renamed)
        return fail(out, "put in place");
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
