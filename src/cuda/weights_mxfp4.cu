// SPDX-License-Identifier: MIT
#include "cuda/weights_mxfp4.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(mxfp4, MXFP4, false);
