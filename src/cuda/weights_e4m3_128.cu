// SPDX-License-Identifier: MIT
// E4M3 weights, scales of 128 columns or more.
#include "cuda/weights_e4m3.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(e4m3_128, E4M3, true);
