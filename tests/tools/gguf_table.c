// SPDX-License-Identifier: MIT
// Prints what the library knows of llama.cpp's files, a line each: "architecture NAME FAMILY" (or "refused" for
// FAMILY), "tensor NAME" without the block's prefix, "key NAME" without the architecture's. For gguf_constants.py.
#include <stdio.h>
#include <string.h>

#include "presets.h"

static void print_words(const char *kind, const char *words)
{
    while (words != NULL && *words != '\0') {
        size_t length = strcspn(words, "|");
        printf("%s %.*s\n", kind, (int)length, words);
        words += length + (words[length] == '|');
    }
}

static void print_mlp(const struct moe_mlp_names *names)
{
    for (size_t i = 0; i < MOE_MAX_MLP_LAYOUTS && names[i].up != NULL; i++) {
        const char *const all[] = {names[i].gate,      names[i].up,      names[i].down,
                                   names[i].gate_bias, names[i].up_bias, names[i].down_bias};
        for (size_t k = 0; k < MOE_ARRAY_SIZE(all); k++)
            print_words("tensor", all[k]);
    }
}

static void print_names(const struct moe_names *names)
{
    for (size_t i = 0; i < MOE_ROLES; i++)
        print_words("tensor", names->role[i]);
    print_mlp(names->experts);
    print_mlp(names->shared);
}

int main(void)
{
    for (size_t i = 0; i < moe_num_presets_gguf; i++) {
        const struct moe_preset_gguf *row = &moe_presets_gguf[i];
        const struct moe_preset *preset = moe_preset_of_gguf(row);
        if (preset == NULL) {
            fprintf(stderr, "architecture %s: there is no family %s\n", row->architecture, row->family);
            return 1;
        }
        printf("architecture %s %s\n", row->architecture, preset->refused != NULL ? "refused" : preset->name);
        if (row->names != NULL)
            print_names(row->names);
    }
    print_names(&moe_names_gguf);
    for (int key = 0; key < (int)MOE_KEYS; key++)
        print_words("key", moe_preset_key_names((enum moe_key)key, MOE_VOCABULARY_GGUF));
    return 0;
}
