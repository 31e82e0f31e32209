// SPDX-License-Identifier: MIT
// Every layer of both trained models and of the checkpoints of all families against its float64 reference; a test for
// each, so that one run names all that fail.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zoo.h"

enum { MAX_FAMILIES = 128, MAX_PATH = 512, MIN_FAMILIES = 61 };

/* Of layers whose sums are long, with activations in bf16. */
#define TRAINED_ERROR 4e-3

static void test_bard(void **state)
{
    struct zoo_result result;
    (void)state;
    zoo_check_model(MOE_SOURCE_DIR "/models/bard", &result);
    assert_int_equal(result.num_layers, 4);
    test_assert_most(result.fast_error, TRAINED_ERROR, "relative error by default");
}

static void test_scribe(void **state)
{
    struct zoo_result result;
    (void)state;
    zoo_check_model(MOE_TEST_MODELS "/scribe", &result);
    assert_int_equal(result.num_layers, 3);
    test_assert_most(result.fast_error, TRAINED_ERROR, "relative error by default");
}

/* What passed, a line each, for models_table.c. */
static FILE *results;

/* One row in four at most may be too close to call: a rule that excludes more proves nothing. */
static void test_family(void **state)
{
    struct zoo_result result;
    zoo_check_model(*state, &result);
    assert_true(result.num_layers > 0);
    if (result.num_ties > 0)
        print_message("  %zu of %zu rows are too close to call\n", result.num_ties, result.num_rows);
    assert_true(4 * result.num_ties <= result.num_rows);
    if (results != NULL)
        fprintf(results, "zoo %s %zu\n", strrchr(*state, '/') + 1, result.num_layers);
}

/* What excludes rows, on logits where the answer is known. */
static void test_ties(void **state)
{
    (void)state;
    struct moe_routing routing;
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_SIGMOID;
    const double logits[] = {1.0, 0.5, 0.5 + 1e-7, 0.2, -3, -4, 2.0, -5};
    const double far[] = {1.0, 0.5, 0.5 + 1e-3, 0.2, -3, -4, 2.0, -5};
    assert_true(zoo_is_tie(&routing, 8, 3, logits));
    assert_false(zoo_is_tie(&routing, 8, 2, logits));
    assert_false(zoo_is_tie(&routing, 8, 4, logits));
    assert_false(zoo_is_tie(&routing, 8, 3, far));
    assert_false(zoo_is_tie(&routing, 8, 8, logits));
    routing.num_groups = 4;   /* {1, .5}, {.5, .2}, {-3, -4}, {2, -5} */
    routing.top_groups = 1;
    routing.group_score = MOE_GROUP_MAX;
    assert_false(zoo_is_tie(&routing, 8, 1, logits));
    const double groups[] = {2.0, 0.5, 0.3, 0.2, -3, -4, 2.0 + 1e-7, -5};
    assert_true(zoo_is_tie(&routing, 8, 1, groups));
    routing.group_score = MOE_GROUP_TOP2_SUM;
    assert_false(zoo_is_tie(&routing, 8, 1, groups));
    routing.hash_table.base = &routing;
    assert_false(zoo_is_tie(&routing, 8, 3, logits));
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* Paths of the families, sorted; how many. */
static size_t find_families(char (*paths)[MAX_PATH])
{
    const char *zoo = MOE_TEST_MODELS "/zoo";
    size_t count = 0;
    DIR *folder = opendir(zoo);
    struct dirent *entry;
    while (folder != NULL && (entry = readdir(folder)) != NULL && count < MAX_FAMILIES)
        if (entry->d_name[0] != '.')
            snprintf(paths[count++], MAX_PATH, "%s/%s", zoo, entry->d_name);
    if (folder != NULL)
        closedir(folder);
    qsort(paths, count, MAX_PATH, compare_names);
    return count;
}

/* With arguments: the models of those paths alone. */
int main(int argc, char **argv)
{
    static char paths[MAX_FAMILIES][MAX_PATH];
    struct CMUnitTest tests[MAX_FAMILIES + 3] = {
        cmocka_unit_test(test_ties), cmocka_unit_test(test_bard), cmocka_unit_test(test_scribe)};
    size_t first = argc > 1 ? 0 : 3, count = 0;
    for (; (int)count + 1 < argc && count < MAX_FAMILIES; count++)
        snprintf(paths[count], MAX_PATH, "%s", argv[count + 1]);
    if (argc == 1)
        count = find_families(paths);
    if (argc == 1 && count < MIN_FAMILIES) {
        fprintf(stderr, "the zoo has %zu families, expected at least %d\n", count, MIN_FAMILIES);
        return 1;
    }
    for (size_t i = 0; i < count; i++)
        tests[first + i] = (struct CMUnitTest){paths[i], test_family, NULL, NULL, paths[i]};
    if (argc == 1)
        results = fopen(MOE_BINARY_DIR "/zoo-results.txt", "w");
    int failed = _cmocka_run_group_tests("zoo", tests, first + count, NULL, NULL);
    if (results != NULL && fclose(results) != 0)
        failed = 1;
    return failed;
}
