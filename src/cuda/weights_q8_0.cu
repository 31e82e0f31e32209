// SPDX-License-Identifier: MIT
#include "cuda/weights_q8_0.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(q8_0, Q8_0, false);
