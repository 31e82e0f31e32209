// SPDX-License-Identifier: MIT
// docs/models.md, to standard output: the families and formats that the library's tables have, and what the tests have
// proven of each. Usage: moe_models_table RESULTS; models_table.sh gathers the results.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "description.h"
#include "model_quant.c"   /* for its table of schemes, which nothing else needs to see */
#include "presets.h"

/* ---- results ------------------------------------------------------------------------------------------------- */

enum { MAX_RESULTS = 1024, LINE = 160 };
static char results[MAX_RESULTS][LINE];
static size_t num_results;

static bool read_results(const char *path)
{
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    while (num_results < MAX_RESULTS && fgets(results[num_results], LINE, file) != NULL) {
        results[num_results][strcspn(results[num_results], "\n")] = '\0';
        num_results++;
    }
    fclose(file);
    return num_results < MAX_RESULTS;
}

/* What follows "<verb> <name>" in the results; NULL: no such line. */
static const char *find_result(const char *verb, const char *name)
{
    char start[LINE];
    size_t length = (size_t)snprintf(start, sizeof start, "%s %s", verb, name);
    for (size_t i = 0; i < num_results; i++)
        if (strncmp(results[i], start, length) == 0 && (results[i][length] == ' ' || results[i][length] == '\0'))
            return results[i] + length;
    return NULL;
}

/* ---- families in words --------------------------------------------------------------------------------------- */

static const char *const scores[] = {"softmax", "softmax", "sigmoid", "logit", "softmax of the chosen",
                                     "square root of softplus", "sparse mixer"};
static const char *const acts[] = {"SiLU", "GELU (tanh)", "GELU (erf)", "ReLU", "ReLU squared", "SiTU"};

static bool has_role(const struct moe_preset *p, uint32_t bit)
{
    return ((p->needs | p->takes) & bit) != 0;
}

static bool obeys(const struct moe_preset *p, uint64_t bit)
{
    return (p->keys & bit) != 0;
}

static void print_routing(const struct moe_preset *p)
{
    printf("%s", scores[p->weight]);
    if (p->select != MOE_SCORE_DEFAULT && p->select != p->weight)
        printf(", chosen by %s", p->select == MOE_SCORE_LOGIT ? "the logit" : scores[p->select]);
    if (has_role(p, MOE_ROLE_BIT(SELECTION_BIAS)))
        printf(", selection bias");
    if (p->num_groups > 1 || obeys(p, MOE_KEY_BIT(GROUPS)))
        printf(", groups by %s", p->group_score == MOE_GROUP_MAX ? "their best" : "their best two");
    if (p->renorm == MOE_RENORM_P_NORM)
        printf(", p-norm");
    else if (p->renorm != MOE_RENORM_NONE)
        printf(", %s", p->norm.family ? "renormalised" : "renormalised by key");
    if (p->num_groups == 0 && p->scale != 0 && p->scale != 1)
        printf(", x%g", (double)p->scale);
    if (has_role(p, MOE_ROLE_BIT(ROUTER_BIAS)))
        printf(", router bias");
    if (has_role(p, MOE_ROLE_BIT(ROUTER_NORM)))
        printf(", router norm");
    if (has_role(p, MOE_ROLE_BIT(EXPERT_SCALE)))
        printf(", scale of each expert");
    if (obeys(p, MOE_KEY_BIT(SOFTCAP)))
        printf(", soft-cap");
    if (obeys(p, MOE_KEY_BIT(HASH_LAYERS)) || p->blocks.num_hash > 0)
        printf(", hash table");
    if (p->weight_on_input || obeys(p, MOE_KEY_BIT(ON_INPUT)))
        printf(", weight on the input");
}

static void print_experts(const struct moe_preset *p)
{
    printf("; %s%s", acts[p->act.kind], p->ungated ? " without a gate" : "");
    if (obeys(p, MOE_KEY_BIT(ACT)))
        printf(" or by key");
    if (p->act.clamp != MOE_CLAMP_NONE)
        printf(", clamped");
    if (p->biases)
        printf(", biases");
    if (obeys(p, MOE_KEY_BIT(ZERO_EXPERTS)))
        printf(", zero experts");
    if (obeys(p, MOE_KEY_BIT(LATENT)) || has_role(p, MOE_ROLE_BIT(LATENT_IN)))
        printf(", latent experts");
    if (p->shared != MOE_PRESET_SHARED_NONE)
        printf("; shared expert%s%s", p->shared == MOE_PRESET_SHARED_SIGMOID ? " with a gate" : "",
               p->shared_averaged ? ", averaged" : "");
    if (p->shared_routed)
        printf("; experts that are always chosen");
    if (has_role(p, MOE_ROLE_BIT(OUT_NORM)))
        printf("; output norm");
    if (has_role(p, MOE_ROLE_BIT(OUT_BIAS)))
        printf("; output bias");
}

/* "a|b" as names between accents. */
static void print_names(const char *start, const char *names)
{
    for (const char *at = names; at != NULL && *at != '\0';) {
        size_t length = strcspn(at, "|");
        printf("%s`%.*s`", start, (int)length, at);
        start = ", ";
        at += length + (at[length] == '|');
    }
}

static void print_architectures(const char *family)
{
    const char *start = "", *before = "", *converted = find_result("gguf", family);
    for (size_t i = 0; i < moe_num_presets_gguf; i++) {
        const struct moe_preset_gguf *row = &moe_presets_gguf[i];
        if (strcmp(moe_preset_of_gguf(row)->name, family) != 0 || strcmp(before, row->architecture) == 0)
            continue;
        printf("%s`%s`", start, row->architecture);
        before = row->architecture;
        start = ", ";
    }
    if (*start == '\0')
        printf(converted != NULL ? "written as `%s`" : "-", converted != NULL ? converted + 1 : "");
}

/* Layers whose blocks a description gives again; -1: it does not. */
static long described_layers(const char *family)
{
    char path[512];
    struct moe_error error;
    snprintf(path, sizeof path, MOE_TEST_MODELS "/zoo/%s", family);
    size_t layers = description_round_trip(path, &error);
    if (layers > 0)
        return (long)layers;
    fprintf(stderr, "%s: %s\n", family, error.text);
    return -1;
}

static bool print_proven(const struct moe_preset *p)
{
    const char *layers = find_result("zoo", p->name);
    if (layers == NULL) {
        printf("- | - | - |\n");
        return true;
    }
    long described = described_layers(p->name);
    const char *converted = find_result("gguf", p->name) != NULL ? "yes" : "-";
    if (find_result("refused", p->name) != NULL)
        converted = "refused";
    printf("%s | %s | %s |\n", layers + 1, converted, described > 0 ? "yes" : "NO");
    return described > 0;
}

static bool print_family(const struct moe_preset *p, bool own)
{
    if (p->refused != NULL)
        return true;
    printf("| `%s`", p->name);
    if (!own)
        print_names(", ", p->aliases);
    if (!own)
        print_names("; in `text_config` of ", p->outer);
    if (!own)
        print_names("; in `text_config` of ", p->around);
    printf(" | ");
    print_architectures(p->name);
    printf(" | ");
    print_routing(p);
    print_experts(p);
    printf(" | ");
    if (!own)
        return print_proven(p);
    printf("- | - | - |\n");
    return true;
}

static bool print_families(void)
{
    bool good = true;
    for (size_t i = 0; i < moe_num_presets; i++)
        good = print_family(&moe_presets[i], false) && good;
    printf("\nOnly in GGUF files, since transformers does not have them:\n\n"
           "| family | GGUF | layer | zoo layers | converted | described |\n|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < moe_num_presets_gguf; i++) {
        const struct moe_preset *own = moe_presets_gguf[i].own;
        bool again = false;
        for (size_t j = 0; j < i; j++)
            again = again || (own != NULL && moe_presets_gguf[j].own == own);
        if (own != NULL && !again)
            good = print_family(own, true) && good;
    }
    printf("\n## Refused\n\n| family | why |\n|---|---|\n");
    for (size_t i = 0; i < moe_num_presets; i++)
        if (moe_presets[i].refused != NULL)
            printf("| `%s` | %s |\n", moe_presets[i].name, moe_presets[i].refused);
    for (size_t i = 0; i < moe_num_presets_gguf; i++)
        if (moe_presets_gguf[i].own != NULL && moe_presets_gguf[i].own->refused != NULL)
            printf("| `%s` (GGUF) | %s |\n", moe_presets_gguf[i].architecture, moe_presets_gguf[i].own->refused);
    return good;
}

/* ---- formats ------------------------------------------------------------------------------------------------- */

static void print_formats(void)
{
    const struct moe_format_info *info;
    for (size_t i = 0; (info = moe_format_at(i)) != NULL; i++) {
        bool gguf = (uint32_t)info->format < 1024, dequantise = find_result("dequantise", info->name) != NULL;
        printf("| %s | %u in %u bytes | %s | %s | %s%s |\n", info->name, (unsigned)info->block_values,
               (unsigned)info->block_bytes, gguf ? "GGUF" : "safetensors",
               moe_format_can_quantise(info->format) ? "yes" : "-", dequantise ? "values of the gguf package" : "-",
               find_result("quantise", info->name) != NULL ? ", its bytes when made" : "");
    }
}

/* Cases of the row, as "scheme METHOD SUFFIX TYPE CASE". */
static void print_cases(const struct scheme *scheme)
{
    const char *start = "";
    for (size_t i = 0; i < num_results; i++) {
        char method[32], suffix[32], type[16], name[64];
        if (sscanf(results[i], "scheme %31s %31s %15s %63s", method, suffix, type, name) != 4 ||
            strcmp(suffix, scheme->values) != 0 || strcmp(type, moe_format_info(scheme->stored)->name) != 0)
            continue;
        printf("%s%s", start, name);
        start = ", ";
    }
    printf("%s", *start == '\0' ? "-" : "");
}

static void print_schemes(void)
{
    for (size_t i = 0; i < MOE_ARRAY_SIZE(schemes); i++) {
        printf("| `%s` %s |", schemes[i].values, moe_format_info(schemes[i].stored)->name);
        print_names(" ", schemes[i].methods);
        printf(" | ");
        print_cases(&schemes[i]);
        printf(" |\n");
    }
}

int main(int argc, char **argv)
{
    if (argc != 2 || !read_results(argv[1])) {
        fprintf(stderr, "usage: moe_models_table RESULTS\n");
        return 2;
    }
    printf("<!-- SPDX-License-Identifier: MIT -->\n# Models and formats\n\n"
           "Generated by tests/docs/models_table.c from the library's tables and from what the tests have proven; the "
           "test docs/models fails where\nthis page is out of date, and says where the new one is. A model that is not "
           "here: [describe.md](describe.md), [add-a-family.md](add-a-family.md).\n\n## Families\n\n"
           "zoo layers: layers of tiny checkpoints, made and saved by transformers, whose outputs, ids and weights are "
           "those of a float64 run\n(tests/layer/test_zoo.c has the bounds). converted: the checkpoint converted by "
           "`moe convert` computes the same, to 2e-6; refused: llama.cpp's\nkeys cannot say what this checkpoint "
           "computes, and `moe convert` says so. described: what `moe_model_describe` says of it "
           "gives\nthe same layers, "
           "bit for bit. \"-\": there is no such proof.\n\n"
           "| model_type | GGUF | layer | zoo layers | converted | described |\n|---|---|---|---|---|---|\n");
    bool good = print_families();
    printf("\n## Formats\n\nproven: bit-equal to the gguf package on random blocks, all codes of their scales and "
           "trained weights (tests/formats).\n\n"
           "| format | values | from | made by convert | proven |\n|---|---|---|---|---|\n");
    print_formats();
    printf("\n## Quantised safetensors\n\nproven: cases whose matrices are bit for bit those of the format's "
           "definition in numpy (tests/quantised); docs/quantised.md explains\nthem.\n\n"
           "| values | quant_method | proven |\n|---|---|---|\n");
    print_schemes();
    return good && fflush(stdout) == 0 ? 0 : 1;
}
