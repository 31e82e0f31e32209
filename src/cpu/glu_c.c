// SPDX-License-Identifier: MIT
// Activations in plain C.
#define GLU_FN moe_glu_c
#include "cpu/glu_tmpl.h"
