// SPDX-License-Identifier: MIT
// usage: open_backend NAME STATUS TEXT. Opening backend NAME gives that status, and an error of one sentence that
// contains TEXT; STATUS 0: it opens, twice, and contexts count what the backend says.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "moe/moe.h"

static int failed(const char *what)
{
    fprintf(stderr, "%s\n", what);
    return 1;
}

static int count(struct moe_backend *backend)
{
    struct moe_context *ctx;
    struct moe_stats stats;
    MOE_INIT(&stats);
    if (moe_context_create(backend, NULL, &ctx, NULL) != MOE_OK)
        return failed("no context");
    if (moe_context_stats(ctx, NULL, true) != MOE_ERR_ARGUMENT)
        return failed("stats go nowhere");
    if (moe_context_stats(ctx, &stats, true) != MOE_OK || stats.skipped_pairs != 3)
        return failed("the backend's counts are not in the stats");
    if (moe_context_stats(ctx, &stats, false) != MOE_OK || stats.skipped_pairs != 0)
        return failed("the backend was not told to count from 0");
    moe_context_destroy(ctx);
    return 0;
}

static int open_once(const char *name, int expected, const char *text)
{
    struct moe_backend *backend = NULL;
    struct moe_error error = {.status = MOE_OK};
    enum moe_status status = moe_backend_open(name, NULL, &backend, &error);
    printf("%s: %d %s\n", name, (int)status, status != MOE_OK ? error.text : "");
    if ((int)status != expected)
        return failed("another status than expected");
    if (status != MOE_OK)
        return backend == NULL && strstr(error.text, text) != NULL && strchr(error.text, '\n') == NULL
                   ? 0
                   : failed("another error than expected");
    int code = count(backend);
    moe_backend_close(backend);
    return code;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    const char *name;
    bool listed = false;
    for (size_t i = 0; (name = moe_backend_name(i)) != NULL; i++)
        listed = listed || strncmp(name, argv[1], strlen(name)) == 0;
    if (!listed)
        return failed("moe_backend_name does not give it");
    for (int i = 0; i < 2; i++)
        if (open_once(argv[1], atoi(argv[2]), argv[3]) != 0)
            return 1;
    return 0;
}
