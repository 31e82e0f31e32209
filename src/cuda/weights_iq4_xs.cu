// SPDX-License-Identifier: MIT
#include "cuda/weights_iq4_xs.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(iq4_xs, IQ4_XS, false);
