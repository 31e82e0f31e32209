// SPDX-License-Identifier: MIT
// I8 weights, scales of 32 columns.
#include "cuda/weights_u8.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(i8_32, I8, true);
