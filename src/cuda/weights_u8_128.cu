// SPDX-License-Identifier: MIT
// U8 weights, scales of 128 columns or more.
#include "cuda/weights_u8.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(u8_128, U8, true);
