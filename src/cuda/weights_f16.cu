// SPDX-License-Identifier: MIT
// F16 weights.
#include "cuda/weights_f16.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(f16, F16, false);
