// SPDX-License-Identifier: MIT
// Weights of any format; the format of its row is that of none.
#include "cuda/weights_any.cuh"
#include "cuda/weights.cuh"

enum { MOE_FORMAT_ANY = -1 };

MOE_CUDA_WEIGHTS(any, ANY, false);
