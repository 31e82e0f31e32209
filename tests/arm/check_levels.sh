#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_levels.sh LEVELS MOE-CHECK... . The kernels that run here, as moe-check lists them, are those of LEVELS,
# each followed by a space.
expected=$1
shift
found=$("$@" --list --json | sed -n 's/.*"level": "\([a-z0-9]*\)", "runs_here": true.*/\1/p' | uniq | tr '\n' ' ')
[ "$found" = "$expected" ] || { echo "levels: $found, expected: $expected"; exit 1; }
