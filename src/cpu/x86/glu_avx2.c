// SPDX-License-Identifier: MIT
// Activations on AVX2, through the compiler's vectoriser.
#define GLU_FN moe_glu_avx2
#include "cpu/glu_tmpl.h"
