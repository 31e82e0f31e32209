// SPDX-License-Identifier: MIT
// Rows of f32, f16 and bf16 on AVX2: conversions and scaled sums.
#define LEVEL avx2
#include "cpu/plain_tmpl.h"
