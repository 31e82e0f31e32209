// SPDX-License-Identifier: MIT
// Axes whose wrong reading random data may hide, on data where it shows, against formulas written out here: clamps
// before and after, kinds of activations, offsets, what scales, bias and norm apply to, latent experts, zero experts.
#include <math.h>
#include <string.h>

#include "support.h"

enum { HIDDEN = 2, MOST = 16 };

/* One or two experts of [inner, hidden] in f32 by their values. */
struct part {
    struct moe_experts_params params;
    struct moe_matrix gate, up, down;
    struct moe_act act;
};

/* A layer under test: parts that are not set are absent. */
struct model {
    struct part experts, shared, latent;
    struct moe_layer_params layer;
    struct moe_norm out_norm, latent_norm;
};

static void set_matrix(struct moe_matrix *m, const float *values, size_t num_values)
{
    MOE_INIT(m);
    m->data = test_view(values, num_values * sizeof *values, 0, MOE_FORMAT_F32);
}

/* gate NULL: not gated. */
static void set_part(struct part *part, size_t num_experts, size_t hidden, size_t inner, const float *gate,
                     const float *up, const float *down)
{
    size_t n = num_experts * hidden * inner;
    MOE_INIT(&part->params);
    MOE_INIT(&part->act);
    part->params.num_experts = num_experts;
    part->params.hidden_size = hidden;
    part->params.intermediate_size = inner;
    set_matrix(&part->up, up, n);
    set_matrix(&part->down, down, n);
    part->params.up = &part->up;
    part->params.down = &part->down;
    part->params.act = &part->act;
    if (gate == NULL)
        return;
    set_matrix(&part->gate, gate, n);
    part->params.gate = &part->gate;
}

static struct moe_view vector(const float *values, size_t n)
{
    return test_view(values, n * sizeof *values, 0, MOE_FORMAT_F32);
}

static struct moe_experts *create(struct moe_backend *backend, const struct part *part)
{
    struct moe_experts *experts = NULL;
    if (part->params.struct_size != 0)
        test_assert_ok(moe_experts_create(backend, &part->params, &experts, NULL));
    return experts;
}

/* Fused and composed give n expected values, each but for a few roundings. */
static void expect(const struct model *model, struct test_call call, const double *expected, size_t n, const char *what)
{
    struct moe_backend *backend = test_backend("cpu");
    struct moe_context *ctx = test_context(backend, 2);
    struct moe_experts *experts = create(backend, &model->experts), *shared = create(backend, &model->shared);
    struct moe_experts *latent = create(backend, &model->latent);
    for (uint32_t flags = 0; flags <= MOE_LAYER_FORCE_COMPOSED; flags += MOE_LAYER_FORCE_COMPOSED) {
        struct moe_layer_params params = model->layer;
        struct moe_shared with = {.struct_size = sizeof with, .experts = shared};
        struct moe_layer *layer = NULL;
        float out[MOST];
        assert_in_range(n, 1, MOST);
        params.struct_size = sizeof params;
        params.flags = flags;
        params.experts = experts;
        params.latent = latent;
        params.shared = shared != NULL ? &with : NULL;
        if (params.top_k == 0)
            params.top_k = 1;
        test_assert_ok(moe_layer_create(backend, &params, &layer, NULL));
        call.out = out;
        test_assert_ok(test_call_run(ctx, layer, &call));
        for (size_t i = 0; i < n; i++) {
            if (!(fabs(out[i] - expected[i]) <= 1e-6 * fabs(expected[i]) + 1e-30))
                fail_msg("%s, %s: value %zu is %.9g, expected %.9g", what, flags ? "composed" : "fused", i,
                         (double)out[i], expected[i]);
        }
        moe_layer_destroy(layer);
    }
    moe_experts_destroy(experts);
    moe_experts_destroy(shared);
    moe_experts_destroy(latent);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
}

static const int64_t first_expert[] = {0, 0, 0, 0, 0, 0, 0, 0};
static const float ones[] = {1, 1, 1, 1, 1, 1, 1, 1};

static struct test_call tokens_of(const float *x, size_t num_tokens)
{
    return (struct test_call){.num_tokens = num_tokens, .x = x, .ids = first_expert, .weights = ones};
}

static double sigmoid(double v)
{
    return 1 / (1 + exp(-v));
}

/* ---- activations: hidden_size 2 carries g and u of a single neuron ---- */

/* Tokens (g, u) through an expert whose gate is g, up is u, output h at 0 and 0 at 1. */
static void set_neuron(struct model *model, bool gated)
{
    static const float gate[] = {1, 0}, up[] = {0, 1}, down[] = {1, 0};
    memset(model, 0, sizeof *model);
    set_part(&model->experts, 1, HIDDEN, 1, gated ? gate : NULL, up, down);
}

/* Values of g and u of a token, and h. */
struct point {
    float g, u;
    double h;
};

static void expect_points(const struct model *model, const struct point *points, size_t n, const char *what)
{
    float x[MOST];
    double expected[MOST];
    assert_in_range(n, 1, MOST / HIDDEN);
    for (size_t i = 0; i < n; i++) {
        x[2 * i] = points[i].g;
        x[2 * i + 1] = points[i].u;
        expected[2 * i] = points[i].h;
        expected[2 * i + 1] = 0;
    }
    expect(model, tokens_of(x, n), expected, n * HIDDEN, what);
}

/* g has no lower clamp: at -3 a swish is -0.14, but at -1 it would be -0.27. u has one. */
static void test_clamps(void **state)
{
    (void)state;
    struct model model;
    set_neuron(&model, true);
    model.experts.act.limit = 1;
    model.experts.act.clamp = MOE_CLAMP_BEFORE;
    const struct point before[] = {{3, 0.5f, sigmoid(1) * 0.5}, {-3, 0.5f, -3 * sigmoid(-3) * 0.5},
                                   {0.5f, 5, 0.5 * sigmoid(0.5) * 1}, {0.5f, -5, 0.5 * sigmoid(0.5) * -1}};
    expect_points(&model, before, 4, "clamp before");
    model.experts.act.clamp = MOE_CLAMP_AFTER;
    const struct point after[] = {{3, 0.5f, 1 * 0.5}, {-3, 0.5f, -3 * sigmoid(-3) * 0.5},
                                  {1.2f, 0.5f, 1.2f * sigmoid(1.2f) * 0.5}, {0.5f, -5, 0.5 * sigmoid(0.5) * -1}};
    expect_points(&model, after, 4, "clamp after");
    model.experts.act.up_offset = 1;   /* added to the clamped u */
    const struct point offset[] = {{0.5f, 5, 0.5 * sigmoid(0.5) * 2}, {0.5f, -5, 0}, {0.5f, 0.25f,
                                   0.5 * sigmoid(0.5) * 1.25}};
    expect_points(&model, offset, 3, "offset after the clamp");
    set_neuron(&model, false);         /* u is clamped as g would be, without the offset */
    model.experts.act = (struct moe_act){.struct_size = sizeof(struct moe_act), .limit = 1, .clamp = MOE_CLAMP_BEFORE,
                                         .up_offset = 1};
    const struct point plain[] = {{9, 3, sigmoid(1)}, {9, -3, -3 * sigmoid(-3)}};
    expect_points(&model, plain, 2, "clamp without a gate");
}

/* gpt-oss: alpha inside the sigmoid only, both limits, offset 1. */
static void test_swiglu_oai(void **state)
{
    (void)state;
    struct model model;
    set_neuron(&model, true);
    model.experts.act = (struct moe_act){.struct_size = sizeof(struct moe_act), .clamp = MOE_CLAMP_BEFORE, .limit = 7,
                                         .alpha = 1.702f, .up_offset = 1};
    const double alpha = 1.702f;
    const struct point points[] = {{9, 2, 7 * sigmoid(7 * alpha) * 3}, {-9, 2, -9 * sigmoid(-9 * alpha) * 3},
                                   {1, 9, sigmoid(alpha) * 8}, {1, -9, sigmoid(alpha) * -6}};
    expect_points(&model, points, 4, "swiglu of gpt-oss");
}

static double gelu_tanh(double g)
{
    return 0.5 * g * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g)));
}

/* The three differ by at least 1e-4 at each of these points. */
static void test_kinds(void **state)
{
    (void)state;
    const float at[] = {-2.5f, -0.75f, 0.6f, 2.5f};
    for (size_t kind = 0; kind < 6; kind++) {
        struct point points[4];
        struct model model;
        set_neuron(&model, true);
        model.experts.act.kind = (enum moe_act_kind)kind;
        model.experts.act.beta = kind == MOE_ACT_SITU ? 0.5f : 0;
        for (size_t i = 0; i < 4; i++) {
            double g = at[i], silu = g * sigmoid(g), erf_gelu = 0.5 * g * (1 + erf(g / sqrt(2)));
            const double h[] = {silu, gelu_tanh(g), erf_gelu, fmax(g, 0), fmax(g, 0) * fmax(g, 0),
                                0.5 * tanh(g / 0.5) * sigmoid(g)};
            assert_true(fabs(silu - erf_gelu) > 1e-4 && fabs(erf_gelu - gelu_tanh(g)) > 2e-5);
            points[i] = (struct point){at[i], 2, 2 * h[kind]};
        }
        expect_points(&model, points, 4, "kind of activation");
    }
}

/* beta_up bends u, after a clamp and before the offset; not where there is no gate. */
static void test_situ(void **state)
{
    (void)state;
    struct model model;
    set_neuron(&model, true);
    model.experts.act = (struct moe_act){.struct_size = sizeof(struct moe_act), .kind = MOE_ACT_SITU, .beta = 4,
                                         .beta_up = 2};
    const struct point points[] = {{6, 3, 4 * tanh(1.5) * sigmoid(6) * 2 * tanh(1.5)},
                                   {-5, 0.01f, 4 * tanh(-1.25) * sigmoid(-5) * 2 * tanh(0.01f / 2)}};
    expect_points(&model, points, 2, "situ");
    model.experts.act.beta_up = 0;
    const struct point straight[] = {{6, 3, 4 * tanh(1.5) * sigmoid(6) * 3}};
    expect_points(&model, straight, 1, "situ without beta_up");
    model.experts.act.beta_up = 2;
    model.experts.act.up_offset = 0.5f;
    model.experts.act.clamp = MOE_CLAMP_BEFORE;
    model.experts.act.limit = 1;
    const struct point clamped[] = {{6, 3, 4 * tanh(0.25) * sigmoid(1) * (2 * tanh(0.5) + 0.5)}};
    expect_points(&model, clamped, 1, "situ with a clamp and an offset");
    set_neuron(&model, false);
    model.experts.act = (struct moe_act){.struct_size = sizeof(struct moe_act), .kind = MOE_ACT_SITU, .beta = 4,
                                         .beta_up = 2};
    const struct point no_gate[] = {{9, 6, 4 * tanh(1.5) * sigmoid(6)}};
    expect_points(&model, no_gate, 1, "situ without a gate");
}

/* ---- the sum: experts without a gate, relu, so that expert e gives scale_e * x for positive x ---- */

/* Two experts, 2x and 3x swapped; a shared expert, 5x. */
static void set_sum(struct model *model)
{
    static const float up[] = {1, 0, 0, 1, 1, 0, 0, 1}, down[] = {2, 0, 0, 2, 0, 3, 3, 0}, shared[] = {5, 0, 0, 5};
    memset(model, 0, sizeof *model);
    set_part(&model->experts, 2, HIDDEN, HIDDEN, NULL, up, down);
    set_part(&model->shared, 1, HIDDEN, HIDDEN, NULL, up, shared);
    model->experts.act.kind = model->shared.act.kind = MOE_ACT_RELU;
    MOE_INIT(&model->layer);
    model->layer.top_k = 2;
}

static const int64_t both[] = {0, 1};
static const float halves[] = {0.5f, 0.25f}, input[] = {1, 2};
/* 0.5 * 2x + 0.25 * 3 swap(x), and 5x */
static const double routed[] = {1 + 1.5, 2 + 0.75}, shared_out[] = {5, 10};

static struct test_call sum_call(void)
{
    return (struct test_call){.num_tokens = 1, .x = input, .ids = both, .weights = halves};
}

/* routed_scale leaves the shared expert alone, out_scale does not; the bias comes after both. */
static void test_scales_and_bias(void **state)
{
    (void)state;
    static const float bias[] = {0.125f, -3}, start[] = {100, 200};
    struct model model;
    double expected[HIDDEN];
    set_sum(&model);
    for (size_t way = 0; way < 16; way++) {
        double rs = way & 1 ? 2.5 : 1, os = way & 2 ? 0.25 : 1;
        model.layer.routed_scale = way & 1 ? 2.5f : 0;
        model.layer.out_scale = way & 2 ? 0.25f : 0;
        model.layer.out_bias = way & 4 ? vector(bias, HIDDEN) : (struct moe_view){0};
        struct test_call call = sum_call();
        call.flags = way & 8 ? MOE_ACCUMULATE : 0;
        call.start = way & 8 ? start : NULL;
        for (size_t c = 0; c < HIDDEN; c++)
            expected[c] = (rs * routed[c] + shared_out[c]) * os + (way & 4 ? (double)bias[c] : 0) +
                          (way & 8 ? (double)start[c] : 0);
        expect(&model, call, expected, HIDDEN, "scales and bias");
    }
}

/* The scale is not in the weights that a call reports. */
static void test_reported_weights(void **state)
{
    (void)state;
    struct moe_backend *backend = test_backend("cpu");
    struct moe_context *ctx = test_context(backend, 1);
    struct model model;
    struct moe_routing routing;
    set_sum(&model);
    MOE_INIT(&routing);
    routing.weight = MOE_SCORE_LOGIT;
    struct moe_experts *experts = create(backend, &model.experts);
    for (uint32_t flags = 0; flags <= MOE_LAYER_FORCE_COMPOSED; flags += MOE_LAYER_FORCE_COMPOSED) {
        struct moe_layer *layer = NULL;
        struct moe_layer_params params = model.layer;
        const float logits[] = {0.5f, 0.25f};
        float out[HIDDEN], weights[2];
        params.flags = flags;
        params.experts = experts;
        params.routing = &routing;
        params.routed_scale = 2.5f;
        test_assert_ok(moe_layer_create(backend, &params, &layer, NULL));
        struct test_call call = {.num_tokens = 1, .x = input, .logits = logits, .out = out, .out_weights = weights};
        test_assert_ok(test_call_run(ctx, layer, &call));
        assert_true(weights[0] == 0.5f && weights[1] == 0.25f);
        assert_true(out[0] == 2.5f * 2.5f && out[1] == 2.5f * 2.75f);
        moe_layer_destroy(layer);
    }
    moe_experts_destroy(experts);
    moe_context_destroy(ctx);
    moe_backend_close(backend);
}

static void norm(double *y, const double *x, const float *scale, double eps, bool unit, size_t n)
{
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += x[i] * x[i];
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] / sqrt(squares / (double)n + eps) * (double)scale[i] / (unit ? sqrt((double)n) : 1);
}

/* Of everything but what is in out already. eps is as large as the values, so that a scale before the norm shows. */
static void test_out_norm(void **state)
{
    (void)state;
    static const float bias[] = {0.125f, -3}, start[] = {100, 200}, scale[] = {2, 0.5f};
    struct model model;
    set_sum(&model);
    model.layer.routed_scale = 3;
    model.layer.out_scale = 0.5f;
    model.layer.out_bias = vector(bias, HIDDEN);
    model.layer.out_norm = &model.out_norm;
    MOE_INIT(&model.out_norm);
    model.out_norm.eps = 2;
    for (size_t way = 0; way < 8; way++) {
        double value[HIDDEN], expected[HIDDEN];
        model.out_norm.unit = way & 1;
        model.out_norm.scale = way & 2 ? vector(scale, HIDDEN) : (struct moe_view){0};
        for (size_t c = 0; c < HIDDEN; c++)
            value[c] = (3 * routed[c] + shared_out[c]) * 0.5 + (double)bias[c];
        norm(expected, value, way & 2 ? scale : ones, 2, way & 1, HIDDEN);
        struct test_call call = sum_call();
        for (size_t c = 0; way & 4 && c < HIDDEN; c++)
            expected[c] += (double)start[c];
        call.flags = way & 4 ? MOE_ACCUMULATE : 0;
        call.start = way & 4 ? start : NULL;
        expect(&model, call, expected, HIDDEN, "norm of out");
    }
}

/* No expert and nothing added: zeros, also through a norm without eps; out_bias still counts. */
static void test_empty_tokens(void **state)
{
    (void)state;
    static const int64_t nobody[] = {-1, -1};
    static const float bias[] = {3, -4};
    const double zeros[HIDDEN] = {0};
    struct model model;
    set_sum(&model);
    memset(&model.shared, 0, sizeof model.shared);
    model.layer.routed_scale = 2;
    model.layer.out_norm = &model.out_norm;
    MOE_INIT(&model.out_norm);
    struct test_call call = sum_call();
    call.ids = nobody;
    expect(&model, call, zeros, HIDDEN, "norm of nothing");
    model.layer.out_bias = vector(bias, HIDDEN);
    const double normed[] = {3 / sqrt(12.5), -4 / sqrt(12.5)};
    expect(&model, call, normed, HIDDEN, "norm of the bias alone");
    model.layer.out_norm = NULL;
    const double alone[] = {3, -4};
    expect(&model, call, alone, HIDDEN, "the bias alone");
}

/* The shared expert has a limit of its own. */
static void test_shared_act(void **state)
{
    (void)state;
    struct model model;
    const float x[] = {3, 0.5f};
    static const float gate[] = {1, 0}, up[] = {0, 1}, down[] = {1, 0};
    set_neuron(&model, true);
    set_part(&model.shared, 1, HIDDEN, 1, gate, up, down);
    model.experts.act.clamp = model.shared.act.clamp = MOE_CLAMP_BEFORE;
    model.experts.act.limit = 1;
    model.shared.act.limit = 2;
    model.shared.act.kind = MOE_ACT_GELU_ERF;
    const double expected[] = {sigmoid(1) * 0.5 + 0.5 * 2 * (1 + erf(2 / sqrt(2))) * 0.5, 0};
    expect(&model, tokens_of(x, 1), expected, HIDDEN, "the shared expert's activation");
}

/* ---- latent experts: hidden_size 2, width 3 ---- */

enum { WIDTH = 3 };
static const float latent_up[] = {1, 0, 0, 1, 1, 1}, latent_down[] = {1, 0, 2, 0, 1, -1};
static const float up_bias[] = {0.5f, 0, 0}, down_bias[] = {0.25f, 7};

static void set_latent(struct model *model)
{
    static const float up[] = {1, 0, 0, 0, 1, 0, 0, 0, 1}, down[] = {2, 0, 0, 0, 2, 0, 0, 0, 3};
    static const float shared_up[] = {1, 0, 0, 1}, shared_down[] = {5, 0, 0, 5};
    memset(model, 0, sizeof *model);
    set_part(&model->experts, 1, WIDTH, WIDTH, NULL, up, down);
    set_part(&model->shared, 1, HIDDEN, HIDDEN, NULL, shared_up, shared_down);
    set_part(&model->latent, 1, HIDDEN, WIDTH, NULL, latent_up, latent_down);
    model->experts.act.kind = model->shared.act.kind = MOE_ACT_RELU;
    model->latent.act.kind = MOE_ACT_RELU2;     /* does not count */
    model->latent.up.bias = vector(up_bias, WIDTH);
    model->latent.down.bias = vector(down_bias, HIDDEN);
    MOE_INIT(&model->layer);
}

/* Weight 0.5; the biases are not scaled, the shared expert sees x itself. */
static void test_latent(void **state)
{
    (void)state;
    static const float half[] = {0.5f}, scale[] = {1, 2, 3};
    struct model model;
    set_latent(&model);
    for (size_t way = 0; way < 8; way++) {
        double factor = way & 1 ? 4 : 1, sum[WIDTH] = {1.5 * 2, 2 * 2, 3 * 3}, expected[HIDDEN];
        model.layer.routed_scale = (float)factor;
        model.layer.latent_norm = way & 2 ? &model.latent_norm : NULL;
        model.layer.weight_on_input = way & 4;  /* relu: the same for a positive weight */
        MOE_INIT(&model.latent_norm);
        model.latent_norm.eps = 9;
        model.latent_norm.scale = vector(scale, WIDTH);
        for (size_t c = 0; c < WIDTH; c++)
            sum[c] *= 0.5 * factor;
        if (way & 2)
            norm(sum, (double[]){sum[0], sum[1], sum[2]}, scale, 9, false, WIDTH);
        for (size_t r = 0; r < HIDDEN; r++) {
            expected[r] = (double)down_bias[r] + shared_out[r];
            for (size_t c = 0; c < WIDTH; c++)
                expected[r] += (double)latent_down[r * WIDTH + c] * sum[c];
        }
        struct test_call call = tokens_of(input, 1);
        call.weights = half;
        expect(&model, call, expected, HIDDEN, "latent experts");
    }
}

/* Rows of pairs are of the experts' width, before weights, scale, norm and projection; combine does all but the shared
 * expert. A token without an expert still gets the projection's bias. */
static void test_latent_halves(void **state)
{
    (void)state;
    static const float pairs[] = {1, 2, 3}, weight[] = {0.5f};
    static const int64_t nobody[] = {-1};
    struct model model;
    set_latent(&model);
    model.layer.routed_scale = 4;
    const double rows[] = {1.5 * 2, 2 * 2, 3 * 3}, combined[] = {2 * 7 + 0.25, 2 * (2 - 3) + 7};
    struct test_call call = tokens_of(input, 1);
    call.flags = MOE_OUT_PAIRS;
    expect(&model, call, rows, WIDTH, "pairs of latent experts");
    call = (struct test_call){.entry = TEST_COMBINE, .num_tokens = 1, .x = pairs, .ids = first_expert,
                              .weights = weight};
    expect(&model, call, combined, HIDDEN, "combine of latent experts");
    call.ids = nobody;
    const double bias[] = {0.25, 7};
    expect(&model, call, bias, HIDDEN, "combine of nothing");
}

/* ---- zero experts ---- */

/* Ids 2 and 3 give x. A map of -1 drops one, any other entry means nothing. */
static void test_zero_experts(void **state)
{
    (void)state;
    static const int64_t ids[] = {3, 1, 2};
    static const float weights[] = {0.5f, 0.25f, 2}, x[] = {1, -2};
    static const int32_t drop[] = {0, 1, -1, -1}, keep[] = {0, 1, 77, -5}, swap[] = {1, 0, 0, -1};
    struct model model;
    set_sum(&model);
    memset(&model.shared, 0, sizeof model.shared);
    model.layer.top_k = 3;
    model.layer.num_zero_experts = 2;
    for (size_t way = 0; way < 4; way++) {
        struct test_call call = {.num_tokens = 1, .x = x, .ids = ids, .weights = weights};
        model.layer.weight_on_input = way & 1;
        model.layer.routed_scale = way & 2 ? 3 : 0;
        double s = way & 2 ? 3 : 1;             /* expert 1 gives (0, 3), expert 0 gives (2, 0) */
        const double all[] = {s * 2.5, s * (0.75 - 5)}, dropped[] = {0, s * 0.75}, swapped[] = {s * 2.5, s * -4};
        expect(&model, call, all, HIDDEN, "zero experts");
        call.expert_map = keep;
        expect(&model, call, all, HIDDEN, "zero experts with a map");
        call.expert_map = drop;
        expect(&model, call, dropped, HIDDEN, "zero experts that a map drops");
        call.expert_map = swap;
        expect(&model, call, swapped, HIDDEN, "a map that drops one");
        const double in = way & 1 ? 0.5 : 1, w = way & 1 ? 0.25 : 1, last = way & 1 ? 2 : 1;
        const double rows[] = {in * 1, in * -2, 0, w * 3, last * 1, last * -2};
        call.expert_map = NULL;
        call.flags = MOE_OUT_PAIRS;
        expect(&model, call, rows, 3 * HIDDEN, "pairs of zero experts");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clamps),          cmocka_unit_test(test_swiglu_oai),
        cmocka_unit_test(test_kinds),           cmocka_unit_test(test_situ),
        cmocka_unit_test(test_scales_and_bias), cmocka_unit_test(test_reported_weights),
        cmocka_unit_test(test_out_norm),        cmocka_unit_test(test_empty_tokens),
        cmocka_unit_test(test_shared_act),      cmocka_unit_test(test_latent),
        cmocka_unit_test(test_latent_halves),   cmocka_unit_test(test_zero_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
