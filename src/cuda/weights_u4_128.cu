// SPDX-License-Identifier: MIT
// U4 weights, scales of 128 columns or more.
#include "cuda/weights_u4.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(u4_128, U4, true);
