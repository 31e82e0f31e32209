// SPDX-License-Identifier: MIT
#include "cuda/weights_q4_0.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(q4_0, Q4_0, false);
