// SPDX-License-Identifier: MIT
// F32 weights.
#include "cuda/weights_f32.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(f32, F32, false);
