// SPDX-License-Identifier: MIT
// The experts that `moe bench` times: random ones of a shape and format, several layers of them, or those of a model;
// and how fast their bytes can be read on this machine.
#ifndef BENCH_WEIGHTS_H
#define BENCH_WEIGHTS_H

#include "session.h"

struct bench_shape {
    size_t hidden_size, intermediate_size, num_experts, top_k;
};

struct bench_range {
    const void *data;
    size_t size;
};

/* Experts of num_layers layers, alike in shape and formats. */
struct bench_weights {
    struct bench_shape shape;
    enum moe_format format, down;          /* of gate and up; of down */
    size_t num_layers;
    struct moe_experts_params *params;     /* [num_layers] */
    struct moe_matrix *matrices;           /* gate, up, down of each layer; NULL: params point into a model */
    void **memory;                         /* [num_layers]; NULL: likewise */
    struct bench_range *ranges;            /* where the bytes are */
    size_t num_ranges;
    uint64_t layer_bytes, expert_bytes;
    bool weight_on_input;
    size_t matrices_each;                  /* of an expert: gate, up and down, or up and down */
};

/* Gaussian weights with sigma 1/sqrt(cols), as many layers as hold cold_bytes. */
int bench_weights_make(struct bench_weights *weights, const struct bench_shape *shape, enum moe_format format,
                       enum moe_format down, uint64_t cold_bytes);
/* The routed experts of all layers of a model that are like its first. */
int bench_weights_of_model(struct bench_weights *weights, struct session *session);
void bench_weights_free(struct bench_weights *weights);

/* Linear read of the first num_layers layers, split between threads: bytes a second;
 * 0 when there is no memory for it. */
double bench_read(const struct bench_weights *weights, size_t num_layers, size_t threads);

#endif
