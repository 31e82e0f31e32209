// SPDX-License-Identifier: MIT
// Outputs that would destroy inputs; see guard.h. Files are compared by device and inode, so that links count.
#include "guard.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define LONGEST_PATH 4096
#define PART_LENGTH 20      /* of "-00001-of-00003.gguf" */
#define COUNT_LENGTH 14     /* of "-of-00003.gguf" */

static bool same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool ends_in(const char *text, const char *suffix)
{
    size_t length = strlen(text), size = strlen(suffix);
    return length >= size && strcmp(text + length - size, suffix) == 0;
}

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The folder that path lies in. */
static bool folder_of(char folder[LONGEST_PATH], const char *path)
{
    size_t length = (size_t)(file_name(path) - path);
    if (length >= LONGEST_PATH)
        return false;
    memcpy(folder, path, length);
    strcpy(folder + length, length ? "" : ".");
    return true;
}

static bool stat_folder_of(const char *path, struct stat *info)
{
    char folder[LONGEST_PATH];
    return folder_of(folder, path) && stat(folder, info) == 0;
}

/* Whether two names differ in the number of the part only. */
static bool is_part(const char *name, const char *given)
{
    size_t length = strlen(given);
    return length > PART_LENGTH && strlen(name) == length && strncmp(given + length - COUNT_LENGTH, "-of-", 4) == 0 &&
           strncmp(name, given, length - PART_LENGTH + 1) == 0 &&
           strcmp(name + length - COUNT_LENGTH, given + length - COUNT_LENGTH) == 0;
}

/* Whether the file is one of those of the model in the folder. part: the name of a GGUF file; NULL: a directory. */
static bool in_folder(const char *folder, const char *part, const struct stat *file)
{
    bool found = false;
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    while (dir && !found && (entry = readdir(dir)) != NULL) {
        struct stat info;
        if (part ? is_part(entry->d_name, part) : !ends_in(entry->d_name, ".gguf"))
            found = fstatat(dirfd(dir), entry->d_name, &info, 0) == 0 && same(&info, file);
    }
    if (dir)
        closedir(dir);
    return found;
}

bool guard_of_model(const char *model, const char *out)
{
    struct stat in, file, folder;
    char path[LONGEST_PATH];
    bool there = stat(out, &file) == 0;
    if (stat(model, &in) != 0 || (there && !S_ISREG(file.st_mode)))
        return false;
    if (!S_ISDIR(in.st_mode))
        return there && (same(&in, &file) || (folder_of(path, model) && in_folder(path, file_name(model), &file)));
    if ((ends_in(out, ".safetensors") || ends_in(out, ".json")) && stat_folder_of(out, &folder) && same(&in, &folder))
        return true;
    return there && in_folder(model, NULL, &file);
}

bool guard_same(const char *a, const char *b)
{
    struct stat first, second;
    if (!a || !b)
        return false;
    bool has_first = stat(a, &first) == 0, has_second = stat(b, &second) == 0;
    if (has_first != has_second)
        return false;
    if (has_first)
        return S_ISREG(first.st_mode) && same(&first, &second);
    return strcmp(file_name(a), file_name(b)) == 0 && stat_folder_of(a, &first) && stat_folder_of(b, &second) &&
           same(&first, &second);
}

bool guard_other_kind(const char *path, const char *suffix)
{
    struct stat info;
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    char *target = realpath(path, NULL);
    bool other = !ends_in(target ? target : path, suffix);
    free(target);
    return other;
}
