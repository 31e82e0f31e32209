// SPDX-License-Identifier: MIT
// Metadata of one block, key by key: found under any of its names, of the right kind, in range; or a sentence that says
// which key it is, what was expected and what was found.
#ifndef MOE_MODEL_KEYS_H
#define MOE_MODEL_KEYS_H

#include "model.h"

enum { MOE_KEY_SIZE = 192 };

/* A reading of one block's metadata. */
struct moe_reading {
    const struct moe_model *model;
    size_t block;
    struct moe_error *error;
};

struct moe_found {
    bool there;
    bool null;               /* there as null, which counts as absent */
    char key[MOE_KEY_SIZE];  /* in full; the first alternative where none is there */
    struct moe_value value;
};

/* Does the family obey the key in this file? Keys that it does not are absent in all that follows. */
bool moe_keys_obey(const struct moe_reading *r, enum moe_key key);

/* Look for a key under its alternative names. */
void moe_keys_find(const struct moe_reading *r, enum moe_key key, struct moe_found *out);
/* The same for a single value, which may be given as a list with an item for each block. */
enum moe_status moe_keys_find_one(const struct moe_reading *r, enum moe_key key, struct moe_found *out);

enum moe_status moe_keys_fail(const struct moe_reading *r, const struct moe_found *f, const char *expected);
enum moe_status moe_keys_fail_missing(const struct moe_reading *r, enum moe_key key);

/* An integer of min..max; absent: *out stays as it is and *there, if given, tells. */
enum moe_status moe_keys_size(const struct moe_reading *r, enum moe_key key, size_t min, size_t max, size_t *out,
                              bool *there);
enum moe_status moe_keys_need_size(const struct moe_reading *r, enum moe_key key, size_t min, size_t max, size_t *out);
/* A finite number above 0, or 0 too; absent: *out stays. */
enum moe_status moe_keys_number(const struct moe_reading *r, enum moe_key key, bool allow_zero, float *out);
/* Absent: *out stays; null: false, whatever it was. */
enum moe_status moe_keys_bool(const struct moe_reading *r, enum moe_key key, bool *out);
/* A text; absent: *out is NULL. */
enum moe_status moe_keys_text(const struct moe_reading *r, enum moe_key key, const char **out);
/* Is the block in a list of block numbers, or in a text of them parted by commas? */
enum moe_status moe_keys_listed(const struct moe_reading *r, enum moe_key key, bool *there, bool *listed);

#endif
