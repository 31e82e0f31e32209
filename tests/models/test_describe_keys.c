// SPDX-License-Identifier: MIT
// The keys of descriptions against the structs that they fill and the manual that explains them: an axis without a key
// would be lost on the way through a description without a word.
#include <ctype.h>

#include "model_description.h"
#include "model_files.h"

/* ---- fields of structs --------------------------------------------------------------------------------------- */

struct field {
    const char *name;
    size_t offset;
};

#define AXIS(field) {#field, offsetof(struct moe_model_axes, field)}
static const struct field axes_fields[] = {
    AXIS(has_experts), AXIS(num_experts), AXIS(num_zero_experts), AXIS(top_k), AXIS(hidden_size),
    AXIS(intermediate_size), AXIS(latent_size), AXIS(shared_size), AXIS(hash_rows), AXIS(router_norm_unit),
    AXIS(router_norm_eps), AXIS(latent_norm_eps), AXIS(out_norm_eps), AXIS(routed_scale), AXIS(out_scale),
    AXIS(weight_on_input), AXIS(gated), AXIS(shared_gated), AXIS(shared), AXIS(biases), AXIS(shared_biases),
    AXIS(needs), AXIS(takes)};

#define ROUTING(field) {#field, offsetof(struct moe_model_axes, routing.field)}
static const struct field routing_fields[] = {
    ROUTING(select), ROUTING(weight), ROUTING(num_groups), ROUTING(top_groups), ROUTING(group_score),
    ROUTING(group_mask_zero), ROUTING(renorm), ROUTING(renorm_eps), ROUTING(scale), ROUTING(softcap),
    ROUTING(renorm_p), ROUTING(sparsemixer_eps), ROUTING(num_always)};

#define ACT(field) {#field, offsetof(struct moe_model_axes, act.field)}
static const struct field act_fields[] = {ACT(kind), ACT(clamp), ACT(limit), ACT(alpha), ACT(up_offset), ACT(beta),
                                          ACT(beta_up)};
#define SHARED_ACT(field) {#field, offsetof(struct moe_model_axes, shared_act.field)}
static const struct field shared_act_fields[] = {SHARED_ACT(kind), SHARED_ACT(clamp), SHARED_ACT(limit),
                                                 SHARED_ACT(alpha), SHARED_ACT(up_offset), SHARED_ACT(beta),
                                                 SHARED_ACT(beta_up)};

#define FLAG(field) {#field, offsetof(struct moe_names, field)}
static const struct field name_fields[] = {FLAG(router_transposed), FLAG(two_biases)};
#define MLP(field) {#field, offsetof(struct moe_mlp_names, field)}
static const struct field mlp_fields[] = {MLP(gate), MLP(up), MLP(down), MLP(gate_bias), MLP(up_bias), MLP(down_bias)};

/* A struct of a header; others: fields said in their own way, or set when tensors are found. */
struct listed {
    const char *header, *name;
    const struct field *fields;
    size_t count;
    const char *others;
};
#define LIST(fields) fields, sizeof fields / sizeof *fields
static const struct listed structs[] = {
    {"src/model.h", "moe_model_axes", LIST(axes_fields), " routing act shared_act names "},
    {"include/moe/moe.h", "moe_routing", LIST(routing_fields),
     " struct_size router selection_bias norm expert_scale hash_table hash_rows "},
    {"include/moe/moe.h", "moe_act", LIST(act_fields), " struct_size "},
    {"include/moe/moe.h", "moe_act", LIST(shared_act_fields), " struct_size "},
    {"src/presets.h", "moe_names", LIST(name_fields), " role experts shared "},
    {"src/presets.h", "moe_mlp_names", LIST(mlp_fields), " layout unsupported "},
};

static bool among(const char *words, const char *word)
{
    char padded[80];
    snprintf(padded, sizeof padded, " %s ", word);
    return strstr(words, padded) != NULL;
}

static char *read_source(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, MOE_SOURCE_DIR "/%s", name);
    struct bytes b = read_file(path);
    append(&b, "", 1);
    return (char *)b.data;
}

static void remove_comments(char *text)
{
    for (char *start; (start = strstr(text, "/*")) != NULL;) {
        char *end = strstr(start, "*/");
        assert_non_null(end);
        memset(start, ' ', (size_t)(end + 2 - start));
    }
}

/* The last word of a declarator, which is the field's name: "const float *a[4]" is a. */
static void check_declarator(const struct listed *s, char *text, size_t *count)
{
    char *end = strchr(text, '[');
    if (end == NULL)
        end = text + strlen(text);
    while (end > text && !isalnum((unsigned char)end[-1]))
        end--;
    *end = '\0';
    while (end > text && (isalnum((unsigned char)end[-1]) || end[-1] == '_'))
        end--;
    if (*end == '\0' || among(s->others, end))
        return;
    (*count)++;
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->fields[i].name, end) == 0)
            return;
    fail_msg("%s: struct %s has a field '%s' that this test, and so maybe no key of descriptions, knows", s->header,
             s->name, end);
}

/* Every field in the header is in the lists above. */
static void test_fields(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof structs / sizeof *structs; i++) {
        char *text = read_source(structs[i].header), start[64];
        remove_comments(text);
        snprintf(start, sizeof start, "struct %s {", structs[i].name);
        char *at = strstr(text, start);
        assert_non_null(at);
        at += strlen(start);
        char *end = strstr(at, "};");
        assert_non_null(end);
        *end = '\0';
        size_t count = 0;
        for (char *part = strtok(at, ";,"); part != NULL; part = strtok(NULL, ";,"))
            check_declarator(&structs[i], part, &count);
        assert_int_equal(count, structs[i].count);
        free(text);
    }
}

static bool has_axis(size_t offset)
{
    size_t count = 0;
    for (size_t i = 0; i < moe_num_axes; i++)
        count += moe_axes[i].offset == offset;
    return count == 1;
}

static bool has_name(const struct moe_axis_name *names, size_t count, size_t offset)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        found += names[i].offset == offset;
    return found == 1;
}

/* Every field in the lists has one key. */
static void test_table(void **state)
{
    (void)state;
    size_t count = 0;
    for (size_t i = 0; i < 4; i++)
        for (size_t f = 0; f < structs[i].count; f++, count++)
            if (!has_axis(structs[i].fields[f].offset))
                fail_msg("struct %s: field '%s' has no key, or two", structs[i].name, structs[i].fields[f].name);
    assert_int_equal(count, moe_num_axes);
    for (size_t f = 0; f < structs[4].count; f++)
        assert_true(has_name(moe_axis_name_flags, moe_num_axis_name_flags, name_fields[f].offset));
    assert_int_equal(structs[4].count, moe_num_axis_name_flags);
    for (size_t f = 0; f < structs[5].count; f++)
        assert_true(has_name(moe_axis_mlp_names, moe_num_axis_mlp_names, mlp_fields[f].offset));
    assert_int_equal(structs[5].count, moe_num_axis_mlp_names);
    size_t roles = 0, layouts = 0;
    while (moe_axis_roles[roles] != NULL)
        roles++;
    while (moe_axis_layouts[layouts] != NULL)
        layouts++;
    assert_int_equal(roles, MOE_ROLES);
    assert_int_equal(1u << (layouts - 1), MOE_MLP_DOWN_TRANSPOSED);
}

/* ---- the manual ---------------------------------------------------------------------------------------------- */

/* Rows of the manual's tables begin with "| `key`". */
static size_t count_rows(const char *manual, const char *key)
{
    char row[80];
    size_t count = 0, length = (size_t)snprintf(row, sizeof row, "\n| `%s`", key);
    for (const char *at = manual; (at = strstr(at, row)) != NULL; at += length)
        count++;
    return count;
}

static void expect_row(const char *manual, const char *key)
{
    if (count_rows(manual, key) != 1)
        fail_msg("docs/describe.md has %zu rows for the key '%s'", count_rows(manual, key), key);
}

static void expect_word(const char *manual, const char *word)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "`%s`", word);
    if (strstr(manual, quoted) == NULL)
        fail_msg("docs/describe.md does not mention '%s'", word);
}

static void test_manual(void **state)
{
    (void)state;
    static const char *const others[] = {"version", "family", "blocks", "prefix", "tensors", "experts",
                                         "shared_experts"};
    char *manual = read_source("docs/describe.md");
    size_t rows = 0, expected = moe_num_axes + MOE_ROLES + moe_num_axis_name_flags + moe_num_axis_mlp_names + 1 + 7;
    for (size_t i = 0; i < 7; i++)
        expect_row(manual, others[i]);
    for (size_t i = 0; i < moe_num_axes; i++) {
        expect_row(manual, moe_axes[i].key);
        for (size_t w = 0; moe_axes[i].words != NULL && moe_axes[i].words[w] != NULL; w++)
            if (moe_axes[i].words[w][0] != '\0')
                expect_word(manual, moe_axes[i].words[w]);
    }
    for (size_t i = 0; i < MOE_ROLES; i++)
        expect_row(manual, moe_axis_roles[i]);
    for (size_t i = 0; i < moe_num_axis_name_flags; i++)
        expect_row(manual, moe_axis_name_flags[i].key);
    for (size_t i = 0; i < moe_num_axis_mlp_names; i++)
        expect_row(manual, moe_axis_mlp_names[i].key);
    expect_row(manual, "layout");
    for (size_t i = 0; moe_axis_layouts[i] != NULL; i++)
        expect_word(manual, moe_axis_layouts[i]);
    for (const char *at = manual; (at = strstr(at, "\n| `")) != NULL; at++)
        rows++;
    assert_int_equal(rows, expected);
    free(manual);
}

/* The manual's example is a description, and says what the words around it say. */
static void test_example(void **state)
{
    (void)state;
    char *manual = read_source("docs/describe.md");
    char *start = strstr(manual, "```json\n");
    assert_non_null(start);
    start += strlen("```json\n");
    char *end = strstr(start, "```");
    assert_non_null(end);
    *end = '\0';
    struct moe_error error = {.text = ""};
    struct bytes file = {NULL, 0};
    append(&file, "\2\0\0\0\0\0\0\0{}", 10);
    write_file(temp_path("model.safetensors"), &file);
    free(file.data);
    struct moe_model *opened = NULL;
    struct moe_model_params params;
    MOE_INIT(&params);
    params.description = start;
    if (moe_model_open(temp_path("model.safetensors"), &params, &opened, &error) != MOE_OK)
        fail_msg("%s", error.text);
    struct moe_model_axes axes;
    assert_int_equal(moe_model_axes_of(opened, 0, &axes, &error), MOE_OK);
    assert_false(axes.has_experts);
    assert_int_equal(moe_model_axes_of(opened, 3, &axes, &error), MOE_OK);
    assert_int_equal(axes.num_experts, 64);
    assert_int_equal(axes.routing.weight, MOE_SCORE_SIGMOID);
    assert_int_equal(axes.shared_size, 1024);
    assert_int_equal(axes.needs, MOE_ROLE_BIT(SELECTION_BIAS));
    moe_model_close(opened);
    free(manual);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fields), cmocka_unit_test(test_table),
                                       cmocka_unit_test(test_manual), cmocka_unit_test(test_example)};
    return cmocka_run_group_tests_name("describe_keys", tests, temp_setup, temp_teardown);
}
