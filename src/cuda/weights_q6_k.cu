// SPDX-License-Identifier: MIT
#include "cuda/weights_q6_k.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(q6_k, Q6_K, false);
