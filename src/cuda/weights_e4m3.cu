// SPDX-License-Identifier: MIT
// E4M3 weights without scales.
#include "cuda/weights_e4m3.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(e4m3, E4M3, false);
