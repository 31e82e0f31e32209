// SPDX-License-Identifier: MIT
// Backends that are shared libraries of their own: found by name, loaded when one is opened.
#ifndef MOE_PLUGIN_H
#define MOE_PLUGIN_H

#include "moe/backend.h"

/* Name of the i-th row of plugins.def; NULL past the last. Whether it is installed is another question. */
const char *moe_plugin_name(size_t i);

/* Load the library of a name that moe_plugin_name gave, and find its table in it. *library is to be given back to
 * moe_plugin_unload when nothing of the table is in use any more. */
enum moe_status moe_plugin_load(const char *name, const struct moe_backend_ops **ops, void **library,
                                struct moe_error *error);
void moe_plugin_unload(void *library);   /* NULL is allowed */

#endif
