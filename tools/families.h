// SPDX-License-Identifier: MIT
// The model families that the library runs, by their names in files, in alphabetical order; NULL ends a list.
#ifndef FAMILIES_H
#define FAMILIES_H

extern const char *const families_config[];   /* model_type in config.json */
extern const char *const families_gguf[];     /* general.architecture in GGUF */

#endif
