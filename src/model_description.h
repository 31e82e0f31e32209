// SPDX-License-Identifier: MIT
// Description files: a model's axes and tensor names as JSON. One table of keys serves both ways; docs/describe.md
// explains them to users. model_describe.c writes, model_description.c reads.
#ifndef MOE_MODEL_DESCRIPTION_H
#define MOE_MODEL_DESCRIPTION_H

#include "model.h"
#include "readers/json.h"

enum { MOE_DESCRIPTION_VERSION = 1 };

enum moe_axis_kind {
    MOE_AXIS_SIZE,    /* size_t of min..max */
    MOE_AXIS_NUMBER,  /* float of min..max */
    MOE_AXIS_BOOL,
    MOE_AXIS_WORD,    /* an enum: the index of one of words */
    MOE_AXIS_ROLES    /* a set of MOE_ROLE_BIT: a list of role names */
};

/* A key, and where its value is in struct moe_model_axes. */
struct moe_axis {
    const char *key;
    enum moe_axis_kind kind;
    bool required;
    size_t offset;
    double min, max;
    const char *const *words; /* NULL-terminated; "": a value that has no place here */
};
extern const struct moe_axis moe_axes[];
extern const size_t moe_num_axes;

/* Names of enum moe_role, and of the bits of enum moe_mlp_layout from the lowest up, NULL-terminated. */
extern const char *const moe_axis_roles[];
extern const char *const moe_axis_layouts[];

/* Keys of struct moe_mlp_names that are names of tensors. */
struct moe_axis_name {
    const char *key;
    size_t offset;
};
extern const struct moe_axis_name moe_axis_mlp_names[];
extern const size_t moe_num_axis_mlp_names;

/* Flags of struct moe_names. */
extern const struct moe_axis_name moe_axis_name_flags[];
extern const size_t moe_num_axis_name_flags;

/* What a key has that is not there. */
void moe_axis_defaults(struct moe_model_axes *axes);
/* Is the axis the same in both? */
bool moe_axis_same(const struct moe_model_axes *a, const struct moe_model_axes *b, const struct moe_axis *axis);

/* A parsed description. */
struct moe_description {
    struct moe_json_document document; /* owns all text */
    size_t num_blocks;
    const char *family, *prefix;
    struct moe_names names;
};

/* Parse and check all but the axes of single blocks, which moe_description_axes checks. ERR_FORMAT names the key. */
enum moe_status moe_description_read(const struct moe_model *model, const char *text, struct moe_description **out,
                                     struct moe_error *error);
enum moe_status moe_description_axes(const struct moe_model *model, size_t block, struct moe_model_axes *out,
                                     struct moe_error *error);
void moe_description_free(struct moe_model *model, struct moe_description *description);

/* What a block comes to: by the description if there is one, else by metadata and preset. */
enum moe_status moe_model_axes_of(const struct moe_model *model, size_t block, struct moe_model_axes *out,
                                  struct moe_error *error);

#endif
