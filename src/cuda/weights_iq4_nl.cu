// SPDX-License-Identifier: MIT
#include "cuda/weights_iq4_nl.cuh"
#include "cuda/weights.cuh"

MOE_CUDA_WEIGHTS(iq4_nl, IQ4_NL, false);
