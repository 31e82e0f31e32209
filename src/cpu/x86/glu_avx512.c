// SPDX-License-Identifier: MIT
// Activations on AVX-512, through the compiler's vectoriser.
#define GLU_FN moe_glu_avx512
#include "cpu/glu_tmpl.h"
