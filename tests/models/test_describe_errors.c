// SPDX-License-Identifier: MIT
// Descriptions are hostile input: whatever is wrong in one is refused with a sentence that names the key, and no text
// makes the library read what it should not.
#include "describe_files.h"

struct damage {
    const char *key, *value; /* JSON; NULL: the key is taken out */
    const char *sentence;    /* part of the error's text; NULL: it opens */
};

static const struct damage damages[] = {
    /* the whole */
    {"version", "2", "key 'version': expected 1, found 2"},
    {"version", "\"1\"", "key 'version': expected 1, found the text '1'"},
    {"version", NULL, "key 'version': expected 1, found nothing"},
    {"top-k", "2", "key 'top-k' is not known"},
    {"family", "7", "key 'family'"},
    {"family", "\"\"", "key 'family'"},
    {"blocks", NULL, "key 'blocks': expected an integer of 1 to 4096, found nothing"},
    {"blocks", "0", "key 'blocks': expected an integer of 1 to 4096, found 0"},
    {"blocks", "4097", "key 'blocks'"},
    {"blocks", "3", "key 'moe': expected one value, or a list with an item for each of 3 blocks, found a list of 2"},
    {"prefix", NULL, "key 'prefix'"},
    {"prefix", "\"model.{e}.\"", "key 'prefix'"},
    {"prefix", "\"a}\"", "key 'prefix'"},
    {"prefix", "\"0123456789012345678901234567890123456789012345678901234567890123456789\"", "key 'prefix'"},
    /* values */
    {"num_experts", NULL, "key 'num_experts' is missing"},
    {"num_experts", "0", "key 'num_experts': expected an integer of 1 to 65536, found 0"},
    {"num_experts", "4.0", "key 'num_experts': expected an integer of 1 to 65536, found the number 4"},
    {"num_experts", "-9223372036854775808", "key 'num_experts'"},
    {"num_experts", "65537", "key 'num_experts'"},
    {"num_experts", "[null, null]", "key 'num_experts': expected an integer of 1 to 65536, found null"},
    {"num_experts", "[4]", "key 'num_experts': expected one value, or a list with an item for each of 2 blocks"},
    {"num_experts", "{}", "key 'num_experts': expected an integer of 1 to 65536, found an object"},
    {"hidden_size", "2147483648", "key 'hidden_size'"},
    {"top_k", "5", "key 'top_k': block 1: is larger than the number of experts"},
    {"num_always", "2", "key 'num_always': block 1: must be below top_k"},
    {"moe", "1", "key 'moe': expected true or false, found 1"},
    {"moe", "[false, true, true]", "key 'moe'"},
    {"weight", "\"soft\"", "key 'weight': expected one of default softmax sigmoid logit softmax_topk sqrt_softplus "
                           "sparsemixer, found the text 'soft'"},
    {"select", "\"\"", "key 'select'"},
    {"select", "\"softmax_topk\"", "key 'select'"},
    {"scale", "-1", "key 'scale': expected a finite number, 0 or above, found -1"},
    {"scale", "1e39", "key 'scale': expected a finite number"},
    {"scale", "1e-60", "key 'scale': expected a finite number"},
    {"scale", "\"1\"", "key 'scale': expected a finite number"},
    {"act_alpha", "-2", NULL},
    {"num_groups", "3", "key 'num_groups': block 1: does not divide the number of experts"},
    {"num_groups", "2", "key 'top_groups': block 1: must be 1 to num_groups"},
    {"hash_rows", "9", "key 'hash_rows': block 1"},
    {"needs", "[\"hash_table\"]", "key 'hash_rows': block 1"},
    {"needs", "[\"expert_scale\"]", "key 'tensors': block 1: the name of 'expert_scale' is missing"},
    {"needs", "[\"router_bias\", 3]", "key 'needs'"},
    {"needs", "[[], [\"x\"]]", "key 'needs'"},
    {"takes", "\"router_bias\"", "key 'takes': expected a list of words, found the text"},
    {"takes", "[\"router_biases\"]", "key 'takes': expected one of router router_bias"},
    {"shared", "\"plain\"", "key 'shared_experts': block 1: names are missing"},
    {"shared_size", "8", "key 'shared_size': block 1: must be 0 where shared is 'none'"},
    {"latent_size", "8", "key 'tensors': block 1: the name of 'latent_in' is missing"},
    /* names */
    {"tensors", NULL, "key 'tensors': expected an object"},
    {"tensors", "[]", "key 'tensors': expected an object"},
    {"tensors", "{}", "key 'tensors': expected the name of the 'router'"},
    {"tensors", "{\"router\": \"mlp.gate.{e}\"}", "key 'router'"},
    {"tensors", "{\"router\": \"a\\u0001b\"}", "key 'router'"},
    {"tensors", "{\"router\": \"a\", \"rooter\": \"b\"}", "key 'rooter' is not known in tensors"},
    {"tensors", "{\"router\": \"a\", \"router_transposed\": 1}", "key 'router_transposed'"},
    {"tensors", "{\"router\": \"none\", \"selection_bias\": \"mlp.gate.offset\"}", "tensor 'model.layers.1.none'"},
    {"experts", NULL, "key 'experts': expected a list of 1 to 4 layouts, found nothing"},
    {"experts", "[]", "key 'experts'"},
    {"experts", "[1]", "key 'experts': expected a list of objects, found 1"},
    {"experts", "[{}]", "key 'experts': a layout needs the names 'up' and 'down'"},
    {"experts", "[{\"up\": \"a\", \"down\": \"b\"}]", "key 'experts': block 1: a layout without 'gate'"},
    {"experts", "[{\"up\": \"a.{e}\", \"down\": \"b\"}]", "key 'experts': {e} must be in all names"},
    {"experts", "[{\"up\": \"a\", \"down\": \"b\", \"layout\": [\"fused\", \"tall\"]}]", "key 'layout': expected one"},
    {"experts", "[{\"up\": \"a\", \"down\": \"b\", \"gate\": \"c\", \"layout\": [\"fused\"]}]", "a fused layout has"},
    {"experts", "[{\"up\": \"a\", \"down\": \"b\", \"layout\": [\"interleaved\"]}]", "only a fused layout"},
    {"experts", "[{\"up\": \"a.{e}\", \"down\": \"b.{e}\", \"layout\": [\"fused\", \"flat\"]}]", "a flat layout"},
    {"experts", "[{\"up\": \"a\", \"down\": \"b\", \"side\": \"c\"}]", "key 'side' is not known in experts"},
    {"experts", "[{\"gate\": \"g\", \"up\": \"u\", \"down\": \"d\"}]", "tensor 'model.layers.1.g'"},
    {"shared_experts", "[{\"up\": \"a.{e}\", \"down\": \"b.{e}\"}]", "key 'up'"},
    {"biases", "true", "the experts need biases"},
    {"intermediate_size", "2147483647", "tensor 'model.layers.1.mlp.experts.0.gate_proj.weight'"},
    {"num_experts", "65536", "tensor 'model.layers.1.mlp.gate.weight': expected shape [65536, 16]"},
};

/* Open, and all blocks and layers; the first error. */
static enum moe_status try_text(const char *text, struct moe_backend *backend, struct moe_error *error)
{
    struct moe_model *model = NULL;
    struct moe_model_info info;
    MOE_INIT(&info);
    error->text[0] = '\0';
    enum moe_status status = description_open(temp_dir, text, &model, error);
    assert_true((status == MOE_OK) == (model != NULL));
    if (status != MOE_OK)
        return status;
    assert_int_equal(moe_model_info(model, &info), MOE_OK);
    for (size_t b = 0; b < info.num_blocks && status == MOE_OK; b++) {
        const struct moe_model_block *block;
        struct moe_layer *layer = NULL;
        status = moe_model_block(model, b, &block, error);
        if (status == MOE_OK && block != NULL)
            status = moe_model_layer(model, b, backend, 0, &layer, error);
        moe_layer_destroy(layer);
    }
    moe_model_close(model);
    return status;
}

static char *damaged(const struct damage *d)
{
    if (d->value != NULL)
        return describe_with(d->key, d->value);
    json_t *root = json_loads(describe_tomorrow, 0, NULL);
    assert_int_equal(json_object_del(root, d->key), 0);
    char *text = json_dumps(root, 0);
    json_decref(root);
    return text;
}

static void test_sentences(void **state)
{
    size_t wrong = 0;
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        const struct damage *d = &damages[i];
        struct moe_error error;
        char *text = damaged(d);
        enum moe_status status = try_text(text, *state, &error);
        bool good = d->sentence == NULL ? status == MOE_OK
                                        : status == MOE_ERR_FORMAT && error.status == status &&
                                              strstr(error.text, d->sentence) != NULL &&
                                              strstr(error.text, temp_dir) != NULL && strchr(error.text, '\n') == NULL;
        free(text);
        if (good)
            continue;
        wrong++;
        print_error("%s = %s: status %d, %s\n", d->key, d->value != NULL ? d->value : "nothing", status, error.text);
    }
    assert_int_equal(wrong, 0);
}

/* Text that is no JSON, or not that of a description. */
static void test_texts(void **state)
{
    static const char *const texts[] = {"", "{", "[]", "7", "{}", "{\"version\": 1} x",
                                        "{\"version\": 1, \"version\": 1}",
                                        "\xff\xfe", "{\"version\": 1e999}"};
    struct moe_error error;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(try_text(texts[i], *state, &error), MOE_ERR_FORMAT);
        assert_non_null(strstr(error.text, "description"));
    }
    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH + 16);
    assert_non_null(deep);
    memcpy(deep, "{\"moe\":", 7);
    memset(deep + 7, '[', DEPTH);
    deep[7 + DEPTH] = '\0';
    assert_int_equal(try_text(deep, *state, &error), MOE_ERR_FORMAT);
    free(deep);
}

/* Bytes changed, taken out and doubled all over: it opens or it fails, with a sentence. */
static void test_mutations(void **state)
{
    enum { ROUNDS = 4000 };
    static const char bytes[] = "{}[]\",:0123456789-+.eE|bntrf \\\x01\xff";
    size_t size = sizeof describe_tomorrow - 1, opened = 0;
    char *text = malloc(2 * size + 1);
    uint64_t seed = 88172645463325252u;
    assert_non_null(text);
    for (int round = 0; round < ROUNDS; round++) {
        struct moe_error error;
        memcpy(text, describe_tomorrow, size + 1);
        size_t length = size;
        for (int change = 0; change <= round % 3; change++) {
            seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
            size_t at = (size_t)(seed % length), count = 1 + (size_t)(seed >> 32) % 12;
            if (count > length - at)
                count = length - at;
            if (seed >> 62 == 0) {
                memmove(text + at, text + at + count, length - at - count + 1);
                length -= count;
            } else if (seed >> 62 == 1) {
                memmove(text + at + count, text + at, length - at + 1);
                length += count;
            } else {
                text[at] = bytes[(seed >> 40) % (sizeof bytes - 1)];
            }
        }
        enum moe_status status = try_text(text, *state, &error);
        assert_true(status == MOE_OK || (error.status == status && error.text[0] != '\0'));
        opened += status == MOE_OK;
    }
    free(text);
    assert_true(opened > 0 && opened < ROUNDS);
}

static int setup(void **state)
{
    if (temp_setup(state) != 0)
        return -1;
    describe_tomorrow_save("tomorrow", false);
    return moe_backend_open("cpu", NULL, (struct moe_backend **)state, NULL);
}

static int teardown(void **state)
{
    moe_backend_close(*state);
    return temp_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentences), cmocka_unit_test(test_texts), cmocka_unit_test(test_mutations)};
    return cmocka_run_group_tests_name("describe_errors", tests, setup, teardown);
}
