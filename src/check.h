// SPDX-License-Identifier: MIT
// Small helpers that every file of the core uses: errors in one sentence, sizes that cannot overflow, memory.
#ifndef MOE_CHECK_H
#define MOE_CHECK_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "moe/moe.h"

#define MOE_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Return the status of a call that failed. */
#define MOE_TRY(call)                                                                                                  \
    do {                                                                                                               \
        enum moe_status moe_try_status_ = (call);                                                                      \
        if (moe_try_status_ != MOE_OK)                                                                                 \
            return moe_try_status_;                                                                                    \
    } while (0)

/* Fill error (may be NULL) with the status and one sentence; returns the status. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
enum moe_status
moe_fail(struct moe_error *error, enum moe_status status, const char *text, ...);

/* After a call of someone else's function that may have left its error unsaid: say at least the status. */
enum moe_status moe_explain(struct moe_error *error, enum moe_status status, const struct moe_error *said,
                            const char *who);

/* *out = a * b, or a + b; false, *out untouched, if it does not fit. */
static inline bool moe_mul(size_t *out, size_t a, size_t b)
{
    if (b != 0 && a > SIZE_MAX / b)
        return false;
    *out = a * b;
    return true;
}

static inline bool moe_add(size_t *out, size_t a, size_t b)
{
    if (a > SIZE_MAX - b)
        return false;
    *out = a + b;
    return true;
}

/* *out = a rounded up to a multiple of align, a power of two. */
static inline bool moe_align(size_t *out, size_t a, size_t align)
{
    if (a > SIZE_MAX - (align - 1))
        return false;
    *out = (a + align - 1) & ~(align - 1);
    return true;
}

/* Memory of an env; env NULL, or without functions: malloc and free. moe_alloc gives zeroed memory, aligned to 64
 * bytes, NULL when there is none; size 0 gives a pointer that is not NULL. */
void *moe_alloc(const struct moe_env *env, size_t size);
void *moe_alloc_array(const struct moe_env *env, size_t count, size_t size);
void moe_free(const struct moe_env *env, void *ptr, size_t size);

/* Copy a caller's params struct, which may be of an older or newer header: what ours has more is 0. ERR_ARGUMENT if
 * struct_size is 0 or the caller set fields that this library does not know. */
enum moe_status moe_read_params(void *dst, size_t dst_size, const void *src);
#define MOE_READ_PARAMS(dst, src) moe_read_params((dst), sizeof *(dst), (src))

/* Write a struct back into a caller's struct of struct_size bytes, which stays as it is. */
enum moe_status moe_write_params(void *dst, const void *src, size_t src_size);

#endif
