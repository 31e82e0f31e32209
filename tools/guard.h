// SPDX-License-Identifier: MIT
// Which outputs a command must not write: files of the model that it reads, and one file under two names.
#ifndef GUARD_H
#define GUARD_H

#include <stdbool.h>

/* Whether writing out would replace or add a file of the model: the model itself, another part of a split GGUF file,
 * what a Hugging Face directory holds besides .gguf files, or a new .safetensors or .json in it. */
bool guard_of_model(const char *model, const char *out);

/* Whether two outputs, there already or not, are one regular file. NULL: no output. */
bool guard_same(const char *a, const char *b);

/* Whether path is there, is a regular file, and its name, links followed, does not end in suffix. */
bool guard_other_kind(const char *path, const char *suffix);

#endif
