// SPDX-License-Identifier: MIT
// Rows of f32, f16 and bf16 in plain C: conversions and scaled sums.
#define LEVEL c
#include "cpu/plain_tmpl.h"
