// SPDX-License-Identifier: MIT
// linear and linear_scaled on AVX2 of any format, through its dequantiser.
#define LEVEL avx2
#include "cpu/x86/linear_any_tmpl.h"
