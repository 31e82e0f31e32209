// SPDX-License-Identifier: MIT
// Which levels of instruction sets this machine and its operating system can run.
#ifndef MOE_CPU_CPUID_H
#define MOE_CPU_CPUID_H

#include <stdbool.h>

#include "cpu/kernels.h"

bool moe_cpuid_has(enum moe_level level);

/* The highest level that this machine has. */
enum moe_level moe_cpuid_best(void);

#endif
