// SPDX-License-Identifier: MIT
#include "cuda/weights_q5_k.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(q5_k, Q5_K, false);
