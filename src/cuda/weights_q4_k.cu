// SPDX-License-Identifier: MIT
#include "cuda/weights_q4_k.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(q4_k, Q4_K, false);
