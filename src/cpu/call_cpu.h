// SPDX-License-Identifier: MIT
// One call of the fused layer while it runs: what the phases read and write, and where it lies in the workspace.
//
//     prepare  x (and router_x) to f32 rows                        items: blocks of tokens
//     logits   the layer's router                                  items: blocks of tokens x blocks of experts
//     route    logits, or the caller's ids -> ids and weights      items: blocks of tokens
//     plan     checks of MOE_STRICT, pairs sorted by matrix        one lane
//     latent_in     latent experts: their x, latent->up x          items: blocks of rows
//     scale    weight_on_input: weight * x for each pair           items: blocks of pairs
//     round    x as gate and up take it, where that is not f32     items: blocks of tokens or pairs
//     gate_up  h = act(gate x) * (up x), shared expert first       items: matrices with pairs x blocks of rows
//     down     down h for all pairs, their weighted sum, out       items: blocks of rows
//     combine  moe_layer_combine, in place of the last four        items: blocks of tokens
//     latent_norm   latent experts: norm of the sum                items: blocks of tokens
//     latent_out    latent->down of it, shared expert's down, out  items: blocks of rows
//     out_norm      norm of the sum, out                           items: blocks of tokens
//
// Nothing that the caller can see is written before plan has found the call good. Sums have one order (combine_cpu.c,
// kernels.h), so results do not depend on lanes or items.
#ifndef MOE_CPU_CALL_CPU_H
#define MOE_CPU_CALL_CPU_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/kernels.h"
#include "moe/backend.h"

enum moe_cpu_phase {
    MOE_PHASE_PREPARE,
    MOE_PHASE_LOGITS,
    MOE_PHASE_ROUTE,
    MOE_PHASE_PLAN,
    MOE_PHASE_LATENT_IN,
    MOE_PHASE_SCALE,
    MOE_PHASE_ROUND,
    MOE_PHASE_GATE_UP,
    MOE_PHASE_DOWN,
    MOE_PHASE_COMBINE,
    MOE_PHASE_LATENT_NORM,
    MOE_PHASE_LATENT_OUT,
    MOE_PHASE_OUT_NORM,
    MOE_NUM_PHASES
};

/* What positions hold of a pair that is not sorted: nothing is done for it, or it goes to a zero expert. */
enum { MOE_PAIR_SKIPPED = -1, MOE_PAIR_ZERO = -2 };

enum moe_cpu_mode { MOE_CALL_FORWARD, MOE_CALL_ROUTE, MOE_CALL_COMBINE };

/* Rows of f32 values: x as it stands, or a copy in the workspace. */
struct moe_cpu_rows {
    const float *data;
    size_t stride;             /* floats */
    float *copy;               /* NULL: data is the caller's; otherwise prepare fills it, dense */
};

/* What a product takes its activations as: f32, or rounded, where the matrix' format has a kernel for it. */
enum moe_cpu_kind { MOE_CPU_F32, MOE_CPU_Q8, MOE_CPU_BF16 };

struct moe_cpu_kinds {
    enum moe_cpu_kind in, down, shared_in, shared_down;
};

/* Rows of activations of a kind, aligned to 64 where they are rounded. */
struct moe_cpu_acts {
    enum moe_cpu_kind kind;
    unsigned char *data;
    size_t stride;             /* bytes */
};

/* A counter of work items that has a cache line of its own. */
struct moe_cpu_counter {
    _Alignas(64) _Atomic size_t next;
};

struct moe_cpu_call {
    struct moe_cpu_counter items[MOE_NUM_PHASES];
    _Atomic uint64_t nonfinite_rows;
    _Atomic bool out_of_range;

    const struct moe_kernels *kernels;
    const struct moe_layer_desc *desc;
    struct moe_cpu_kinds kinds;
    struct moe_cpu_kinds other_kinds;  /* of calls of other sizes: the workspace has room for these too */
    struct moe_layer_io io;
    enum moe_cpu_mode mode;
    enum moe_status status;            /* set by setup and by plan */
    size_t num_lanes;
    size_t num_tokens, live_tokens, top_k, num_pairs;
    bool has_shared, computes_logits;
    bool finishes;                     /* the sum over slots is not yet out: finish_cpu.c has the rest */

    /* in the workspace */
    struct moe_cpu_rows x, router_x;
    struct moe_cpu_rows expert_x;      /* x, or rows of the experts' own width */
    double *logits;            /* [num_tokens, num_experts], where the layer's router is used */
    int32_t *ids;              /* [num_pairs], -1: empty */
    float *weights;            /* [num_pairs] */
    float *shared_weights;     /* [num_tokens] */
    size_t *starts;            /* [matrices + 1]: where the sorted pairs of a matrix begin */
    int32_t *active;           /* [matrices]: those with pairs, num_active of them */
    int32_t *positions;        /* [num_pairs]: a pair's place in the sorted order, or as above */
    int32_t *tokens;           /* [num_pairs], sorted: the token of each */
    float *scaled;             /* [num_pairs, expert_width], sorted; weight_on_input */
    struct moe_cpu_acts in;    /* rounded rows of expert_x, or of scaled */
    struct moe_cpu_acts shared_in;     /* rounded rows of x; may be the same */
    struct moe_cpu_acts h;             /* [num_pairs, intermediate], sorted */
    struct moe_cpu_acts shared_h;      /* [num_tokens, shared intermediate] */
    float *sums;               /* [num_tokens, expert_width]: sums over slots; latent experts */
    float *finished;           /* [num_tokens, hidden]: out before its norm; out_norm */
    unsigned char *scratch;    /* scratch_bytes for each lane: for kernels, then for phases */
    size_t scratch_bytes;
    size_t num_active, num_sorted;
    size_t skipped_pairs;
};

static inline size_t moe_cpu_take(struct moe_cpu_call *call, enum moe_cpu_phase phase)
{
    return atomic_fetch_add_explicit(&call->items[phase].next, 1, memory_order_relaxed);
}

/* A lane's scratch: first what kernels with rounded activations want, where there are any, then what phases want. */
static inline bool moe_cpu_kinds_round(const struct moe_cpu_kinds *kinds)
{
    return kinds->in != MOE_CPU_F32 || kinds->down != MOE_CPU_F32 || kinds->shared_in != MOE_CPU_F32 ||
           kinds->shared_down != MOE_CPU_F32;
}

static inline bool moe_cpu_rounds(const struct moe_cpu_call *call)
{
    return moe_cpu_kinds_round(&call->kinds) || moe_cpu_kinds_round(&call->other_kinds);
}

static inline void *moe_cpu_panels(const struct moe_cpu_call *call, size_t lane)
{
    return call->scratch + lane * call->scratch_bytes;
}

static inline void *moe_cpu_scratch(const struct moe_cpu_call *call, size_t lane)
{
    return call->scratch + lane * call->scratch_bytes + (moe_cpu_rounds(call) ? MOE_ROUNDED_SCRATCH : 0);
}

static inline size_t moe_cpu_blocks(size_t n, size_t block)
{
    return n / block + (n % block != 0);
}

static inline size_t moe_cpu_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* plan_cpu.c. Lay the workspace out from base on (NULL: only count) for a call whose sizes are set. ERR_ARGUMENT where
 * the sizes overflow. */
enum moe_status moe_plan_cpu_workspace(struct moe_cpu_call *call, unsigned char *base, size_t *bytes);
void moe_plan_cpu_run(void *call, size_t lane);

/* Phases: how many items there are, and the work of a lane. */
size_t moe_route_cpu_prepare_items(const struct moe_cpu_call *call);
void moe_route_cpu_prepare(void *call, size_t lane);
size_t moe_route_cpu_logits_items(const struct moe_cpu_call *call);
void moe_route_cpu_logits(void *call, size_t lane);
size_t moe_route_cpu_items(const struct moe_cpu_call *call);
void moe_route_cpu_run(void *call, size_t lane);
size_t moe_route_cpu_scratch(size_t num_experts);     /* bytes that a lane needs; 0: they overflow */

size_t moe_experts_cpu_scale_items(const struct moe_cpu_call *call);
void moe_experts_cpu_scale(void *call, size_t lane);
/* round_cpu.c: activations that are rounded below f32. */
size_t moe_round_cpu_items(const struct moe_cpu_call *call);
void moe_round_cpu_run(void *call, size_t lane);

size_t moe_experts_cpu_gate_up_items(const struct moe_cpu_call *call);
void moe_experts_cpu_gate_up(void *call, size_t lane);
size_t moe_experts_cpu_gate_up_scratch(void);

size_t moe_combine_cpu_down_items(const struct moe_cpu_call *call);
void moe_combine_cpu_down(void *call, size_t lane);
size_t moe_combine_cpu_down_floats(const struct moe_cpu_call *call);    /* of a lane's scratch, for a pair or token */
/* out[row][first..] = acc, or += acc; any false: nothing was added, zeros. */
void moe_combine_cpu_write(const struct moe_cpu_call *call, size_t row, size_t first, const float *acc, size_t n,
                           bool any);
size_t moe_combine_cpu_items(const struct moe_cpu_call *call);
void moe_combine_cpu_run(void *call, size_t lane);

/* finish_cpu.c: the phases around the experts, where a layer has them. */
size_t moe_finish_cpu_latent_in_items(const struct moe_cpu_call *call);
void moe_finish_cpu_latent_in(void *call, size_t lane);
size_t moe_finish_cpu_latent_norm_items(const struct moe_cpu_call *call);
void moe_finish_cpu_latent_norm(void *call, size_t lane);
size_t moe_finish_cpu_latent_out_items(const struct moe_cpu_call *call);
void moe_finish_cpu_latent_out(void *call, size_t lane);
size_t moe_finish_cpu_latent_out_scratch(void);
size_t moe_finish_cpu_out_norm_items(const struct moe_cpu_call *call);
void moe_finish_cpu_out_norm(void *call, size_t lane);
/* Take the sum over slots of token t from its value first on; any false: no slot had an expert, acc is not set. acc is
 * changed. shared: the shared expert's output, NULL where it is added later, or there is none. */
void moe_finish_cpu_take(const struct moe_cpu_call *call, size_t t, size_t first, float *acc, const float *shared,
                         size_t n, bool any);

#endif
