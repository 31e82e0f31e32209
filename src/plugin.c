// SPDX-License-Identifier: MIT
// Loads the library of a backend that is none of libmoe's own: libmoe_<name>.so.<MOE_BACKEND_ABI>.
#include "plugin.h"

#include <dlfcn.h>
#include <stdio.h>

#include "check.h"

static const char *const names[] = {
#define X(name) #name,
#include "plugins.def"
#undef X
};

enum { LONGEST = 64 };   /* characters of a file or symbol made of a name */

const char *moe_plugin_name(size_t i)
{
    return i < MOE_ARRAY_SIZE(names) ? names[i] : NULL;
}

static enum moe_status find_table(void *library, const char *name, const char *file, const struct moe_backend_ops **ops,
                                  struct moe_error *error)
{
    char symbol[LONGEST];
    snprintf(symbol, sizeof symbol, "moe_%s_ops", name);
    const struct moe_backend_ops *table = dlsym(library, symbol);
    if (table == NULL)
        return moe_fail(error, MOE_ERR_UNSUPPORTED, "%s has no symbol %s: it is no backend of libmoe", file, symbol);
    if (table->abi != MOE_BACKEND_ABI)
        return moe_fail(error, MOE_ERR_UNSUPPORTED,
                        "%s is made for MOE_BACKEND_ABI %u, and this libmoe for %d: install the two of one release",
                        file, (unsigned)table->abi, MOE_BACKEND_ABI);
    *ops = table;
    return MOE_OK;
}

/* The loader's plain search: LD_LIBRARY_PATH, RUNPATH of what this code is linked into, the system's folders. The code
 * stays loaded for good, since a runtime library in it may have left handlers for the end of the program. */
enum moe_status moe_plugin_load(const char *name, const struct moe_backend_ops **ops, void **library,
                                struct moe_error *error)
{
    char file[LONGEST];
    snprintf(file, sizeof file, "libmoe_%s.so.%d", name, MOE_BACKEND_ABI);
    void *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (handle == NULL) {
        const char *said = dlerror();
        return moe_fail(error, MOE_ERR_UNSUPPORTED,
                        "backend %s needs the library %s, which cannot be loaded: libmoe was built without %s, or it "
                        "is not installed (%.240s)", name, file, name, said != NULL ? said : "no reason given");
    }
    enum moe_status status = find_table(handle, name, file, ops, error);
    if (status != MOE_OK)
        dlclose(handle);
    else
        *library = handle;
    return status;
}

void moe_plugin_unload(void *library)
{
    if (library != NULL)
        dlclose(library);
}
