// SPDX-License-Identifier: MIT
// One call of the fused layer as its kernels see it: plain structs of device pointers, filled on the host and passed to
// kernels by value.
//
//     front    ids and weights, routed or the caller's; pairs sorted by matrix           route.cu, plan.cu
//     prepare  x as bf16 rows, in the order that gate and up want                        prepare.cu
//     up       h = act(gate x) * (up x) for each sorted pair, bf16, in down's order      small.cuh, large.cuh, wide.cuh
//     down     y = down h for each sorted pair, f32                                      small.cuh, large.cuh, wide.cuh
//     combine  out[t] = sum over slots of weight * y, and what a layer does to the sum   combine.cu
//
// For few pairs down and combine are one launch (small_down.cuh), and front and prepare none (front.cuh).
#ifndef MOE_CUDA_CALL_H
#define MOE_CUDA_CALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Columns are summed in segments of 256, which are dealt to 8 accumulators: accumulator j takes the segments j, j + 8,
 * ... in ascending order, in one chain of tensor-core steps of 16 columns; the accumulators are added in ascending
 * order. Every kernel keeps this order, whatever its tiles, so bits do not depend on the number of tokens. */
enum { MOE_SEGMENT = 256, MOE_ACCUMULATORS = 8 };

/* Where the columns of a segment are in a row of activations. Rows are bf16, a whole number of segments long, zeros
 * after the last column. Position 32 q + 8 t + 4 h + j is slot j of lane t (of four) in step 2 q + h of 16 columns, so
 * that a lane reads two steps of an operand as 16 bytes. A format has the order that makes its codes cheap to take
 * apart; within a step of 16 it always is a permutation of 16 columns of the same step, or of the same 32.
 *
 * MOE_ORDER_STEPS beside one of these: the same steps, one behind the other, as wgmma reads them (wide.cuh). Slot j of
 * lane t in step 2 q + h is at 32 q + 16 h + 8 (j >> 1) + 2 t + (j & 1). */
enum moe_cuda_order {
    MOE_ORDER_PLAIN,      /* column 32 q + 8 t + 4 h + j */
    MOE_ORDER_BYTES,      /* column 32 q + 8 t + 4 h + {0, 2, 1, 3}[j] */
    MOE_ORDER_HALVES,     /* column 32 q + 16 h + 4 t + {0, 2, 1, 3}[j] */
    MOE_ORDER_NIBBLES,    /* column 32 q + 8 t + 2 h + {0, 4, 1, 5}[j] */
    MOE_ORDER_STEPS = 4
};

/* Rows of the caller's values: f32, f16 or bf16 (enum moe_format), ids i32 or i64. data NULL: absent. */
struct moe_cuda_rows {
    unsigned char *data;
    size_t stride;            /* bytes */
    int32_t format;
};

/* A matrix for each expert; bases: device array, one address for each, or NULL. */
struct moe_cuda_plane {
    const unsigned char *data;              /* expert 0; NULL with bases, or if there is none */
    const unsigned char *const *bases;
    size_t expert_stride, stride;           /* bytes */
    int32_t format;                         /* enum moe_format */
};

/* The matrices of gate, up or down. The value at (r, c) is (q - zero - zero_offset) * scale * factor, as in
 * backend.h. */
struct moe_cuda_stack {
    struct moe_cuda_plane values;
    uint32_t rows, cols;
    bool scaled;
    struct moe_cuda_plane scale, zero, column_block;
    uint32_t first_row, block_rows, block_cols;
    uint32_t scale_size, block_shift;    /* bytes of a scale; block_rows is 2^block_shift, if it is not 32 */
    uint32_t line_bytes;                 /* of up, in launches of small.cuh: see planes.cuh */
    float zero_offset;
    const float *factors;     /* [num_experts]; NULL: 1 */
    const float *bias;        /* [num_experts, rows]; NULL: none */
};

/* struct moe_act without its size; alpha filled in. */
struct moe_cuda_act {
    int32_t kind, clamp;
    float limit, alpha, up_offset, beta, beta_up;
};

enum { MOE_FRONT_PAIRS = 8, MOE_FRONT_BYTES = 32 * 1024 };
struct moe_cuda_routing;

/* The pairs of a set of experts, sorted by matrix: places start[a] .. start[a + 1] - 1 belong to matrix active[a].
 * num_active NULL: the set has one matrix, and all pairs are its own, in order. */
struct moe_cuda_pairs {
    const int32_t *num_active;    /* [1] */
    const int32_t *active;        /* [num_matrices], ascending */
    const int32_t *starts;        /* [num_matrices + 1]; starts[num_active]: how many pairs are sorted */
    const int32_t *sorted;        /* [num_pairs]: the pair at each place */
    uint32_t num_pairs;           /* at most so many; all that launches may depend on */
    uint32_t num_matrices;
    uint32_t tokens_of;           /* most pairs of one matrix where no token has it twice: num_tokens */
};

/* One product for all pairs of a set: gate and up with the activation between them, or down. */
struct moe_cuda_product {
    struct moe_cuda_stack gate, up;   /* gate.values.format counts only if gated; down is passed as up */
    bool gated, activated;            /* activated: bf16 rows after the activation, otherwise f32 rows */
    struct moe_cuda_act act;
    struct moe_cuda_pairs pairs;
    const uint16_t *x;                /* bf16 rows in the order of the weights */
    size_t x_stride;                  /* values, a multiple of MOE_SEGMENT */
    uint32_t x_divisor;               /* row of x: pair / x_divisor (top_k: rows are tokens; 1: pairs); 0: the place */
    uint16_t *h;                      /* activated: bf16 rows by place, in h_order; padding is not written */
    size_t h_stride;
    int32_t h_order;                  /* enum moe_cuda_order */
    float *y;                         /* not activated: f32 rows by place */
    size_t y_stride;                  /* values */
    /* The kernel may read pairs, and what else the plan wrote, before it waits for the one ahead (launch.cuh). */
    bool planned;
    /* On the host: no kernel has planned, nor prepared x; the product does it for itself (front.cuh), from given ids,
     * for up to MOE_FRONT_PAIRS pairs, and MOE_FRONT_BYTES of rows. NULL: pairs and x are there. */
    const struct moe_cuda_routing *front;
    uint32_t multiprocessors, shared_bytes;    /* of the device; shared memory that a block may have */
};

#ifdef __cplusplus
}
#endif
#endif
