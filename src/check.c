// SPDX-License-Identifier: MIT
// Errors, memory of an env, and params structs of other sizes than ours.
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOE_ALLOC_ALIGN = 64 };

const char *moe_status_text(enum moe_status status)
{
    switch (status) {
#define MOE_STATUS_CASE(code, NAME, text)                                                                              \
    case MOE_##NAME:                                                                                                   \
        return text;
        MOE_STATUS_MAP(MOE_STATUS_CASE)
#undef MOE_STATUS_CASE
    }
    return "unknown status";
}

enum moe_status moe_fail(struct moe_error *error, enum moe_status status, const char *text, ...)
{
    if (error == NULL)
        return status;
    error->status = status;
    va_list args;
    va_start(args, text);
    vsnprintf(error->text, sizeof error->text, text, args);
    va_end(args);
    return status;
}

enum moe_status moe_explain(struct moe_error *error, enum moe_status status, const struct moe_error *said,
                            const char *who)
{
    if (status == MOE_OK)
        return status;
    if (said->status == status && said->text[0] != '\0')
        return moe_fail(error, status, "%s", said->text);
    return moe_fail(error, status, "backend %s: %s", who, moe_status_text(status));
}

void *moe_alloc(const struct moe_env *env, size_t size)
{
    size_t bytes;
    if (!moe_align(&bytes, size > 0 ? size : 1, MOE_ALLOC_ALIGN))
        return NULL;
    void *ptr = env != NULL && env->alloc != NULL ? env->alloc(env->user, bytes, MOE_ALLOC_ALIGN)
                                                  : aligned_alloc(MOE_ALLOC_ALIGN, bytes);
    if (ptr != NULL)
        memset(ptr, 0, bytes);
    return ptr;
}

void *moe_alloc_array(const struct moe_env *env, size_t count, size_t size)
{
    size_t bytes;
    return moe_mul(&bytes, count, size) ? moe_alloc(env, bytes) : NULL;
}

void moe_free(const struct moe_env *env, void *ptr, size_t size)
{
    if (ptr == NULL)
        return;
    if (env != NULL && env->free != NULL) {
        size_t bytes = 0;
        (void)moe_align(&bytes, size > 0 ? size : 1, MOE_ALLOC_ALIGN);
        env->free(env->user, ptr, bytes);
    } else {
        free(ptr);
    }
}

enum moe_status moe_read_params(void *dst, size_t dst_size, const void *src)
{
    size_t size;
    if (src == NULL)
        return MOE_ERR_ARGUMENT;
    memcpy(&size, src, sizeof size);
    if (size < sizeof size)
        return MOE_ERR_ARGUMENT;
    const unsigned char *bytes = src;
    for (size_t i = dst_size; i < size; i++)
        if (bytes[i] != 0)
            return MOE_ERR_ARGUMENT;
    memset(dst, 0, dst_size);
    memcpy(dst, src, size < dst_size ? size : dst_size);
    memcpy(dst, &dst_size, sizeof dst_size);
    return MOE_OK;
}

enum moe_status moe_write_params(void *dst, const void *src, size_t src_size)
{
    size_t size;
    if (dst == NULL)
        return MOE_ERR_ARGUMENT;
    memcpy(&size, dst, sizeof size);
    if (size < sizeof size)
        return MOE_ERR_ARGUMENT;
    memset(dst, 0, size);
    memcpy(dst, src, size < src_size ? size : src_size);
    memcpy(dst, &size, sizeof size);
    return MOE_OK;
}
