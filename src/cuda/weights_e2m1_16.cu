// SPDX-License-Identifier: MIT
// E2M1 weights, scales of 16 columns or more.
#include "cuda/weights_e2m1.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(e2m1_16, E2M1, true);
