// SPDX-License-Identifier: MIT
// The shapes and types of weights that are measured, floors, and what others need for the same.
#include <math.h>
#include <string.h>

#include "bench.h"

static const struct shape shapes[] = {
    {"qwen3-30b", 2048, 768, 128, 8}, {"gptoss-120b", 2880, 2880, 128, 4}, {"mixtral", 4096, 14336, 8, 2},
    {"olmoe", 2048, 1024, 64, 8},     {"dsv3", 7168, 2048, 256, 8},
};

#define PLAIN_SCHEME(NAME) {.format = MOE_FORMAT_##NAME}
#define ONE(name, NAME) {name, PLAIN_SCHEME(NAME), PLAIN_SCHEME(NAME)}
#define SCALED(name, ...) {name, {__VA_ARGS__}, {__VA_ARGS__}}

static const struct type types[] = {
    ONE("bf16", BF16),
    SCALED("fp8", MOE_FORMAT_E4M3, MOE_FORMAT_F32, true, 128, 128, 0),
    SCALED("int4", MOE_FORMAT_U4, MOE_FORMAT_F16, true, 1, 128, 8),
    SCALED("mxfp4", MOE_FORMAT_E2M1, MOE_FORMAT_E8M0, true, 1, 32, 0),
    {"q4_k", PLAIN_SCHEME(Q4_K), PLAIN_SCHEME(Q6_K)},
    ONE("q4_k-pure", Q4_K),
    ONE("q8_0", Q8_0),
    ONE("f16", F16),
    SCALED("fp8-channel", MOE_FORMAT_E4M3, MOE_FORMAT_F32, true, 1, 0, 0),
    ONE("mxfp4-blocks", MXFP4),
    SCALED("q8_0-planes", MOE_FORMAT_I8, MOE_FORMAT_F16, true, 1, 32, 0),
    ONE("q4_0", Q4_0),
    SCALED("q4_0-planes", MOE_FORMAT_U4, MOE_FORMAT_F16, true, 1, 32, 8),
    ONE("q5_k", Q5_K),
    ONE("q6_k", Q6_K),
    ONE("iq4_xs", IQ4_XS),
};

struct peer {
    const char *shape, *type;
    int us[6];
    const char *whose[6];
};
#define X(shape, type, a, b, c, d, e, f, A, B, C, D, E, F) {shape, type, {a, b, c, d, e, f}, {A, B, C, D, E, F}},
static const struct peer peers[] = {
#include "peers.def"
};
#undef X
static const size_t peer_tokens[6] = {1, 8, 64, 512, 4096, 16384};

const struct shape *shape_at(size_t i)
{
    return i < sizeof shapes / sizeof shapes[0] ? &shapes[i] : NULL;
}

const struct type *type_find(const char *name)
{
    static struct type plain[64];
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0)
            return &types[i];
    for (size_t i = 0; i < sizeof plain / sizeof plain[0] && moe_format_at(i) != NULL; i++)
        if (strcmp(moe_format_at(i)->name, name) == 0) {
            struct scheme scheme = {.format = moe_format_at(i)->format};
            plain[i] = (struct type){moe_format_at(i)->name, scheme, scheme};
            return &plain[i];
        }
    return NULL;
}

static bool scheme_fits(const struct scheme *scheme, size_t cols)
{
    return moe_format_row_bytes(scheme->format, cols) > 0;
}

bool type_fits(const struct type *type, const struct shape *shape)
{
    return scheme_fits(&type->in, shape->hidden_size) && scheme_fits(&type->down, shape->intermediate_size);
}

const char *variant_name(enum variant variant)
{
    static const char *const names[NUM_VARIANTS] = {"", "logits", "router", "shared", "router+shared"};
    return names[variant];
}

double cell_floor(const struct cell *cell)
{
    double rate = cell->type->in.format == MOE_FORMAT_E4M3 ? FLOOR_FP8 : FLOOR_BF16;
    return fmax(cell->bytes / FLOOR_BYTES, cell->flops / rate);
}

/* Types that others have one implementation of. */
static const char *peer_type(const char *name)
{
    if (strcmp(name, "q4_k-pure") == 0)
        return "q4_k";
    if (strcmp(name, "fp8-channel") == 0)
        return "fp8";
    return strcmp(name, "mxfp4-blocks") == 0 ? "mxfp4" : strcmp(name, "q8_0-planes") == 0 ? "q8_0" : name;
}

double peer_find(const struct cell *cell, const char **whose)
{
    *whose = "";
    for (size_t i = 0; cell->variant == PLAIN && i < sizeof peers / sizeof peers[0]; i++)
        for (size_t k = 0; k < 6; k++)
            if (strcmp(peers[i].shape, cell->shape->name) == 0 && peer_tokens[k] == cell->tokens &&
                strcmp(peers[i].type, peer_type(cell->type->name)) == 0) {
                *whose = peers[i].whose[k];
                return peers[i].us[k];
            }
    return 0;
}
