// SPDX-License-Identifier: MIT
#include "cuda/weights_bf16.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(bf16, BF16, false);
