// SPDX-License-Identifier: MIT
// I8 weights, scales of 128 columns or more.
#include "cuda/weights_u8.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(i8_128, I8, true);
