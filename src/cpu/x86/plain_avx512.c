// SPDX-License-Identifier: MIT
// Rows of f32, f16 and bf16 on AVX-512: conversions and scaled sums.
#define LEVEL avx512
#include "cpu/plain_tmpl.h"
