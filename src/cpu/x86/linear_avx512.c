// SPDX-License-Identifier: MIT
// linear and linear_scaled on AVX-512 of any format, through its dequantiser.
#define LEVEL avx512
#include "cpu/x86/linear_any_tmpl.h"
