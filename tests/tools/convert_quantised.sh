#!/bin/sh
# SPDX-License-Identifier: MIT
# A CHECK for tests/quantised/schemes.py: a quantised checkpoint becomes a GGUF file whose layers compute the same.
# Usage: MOE=... SAME=... convert_quantised.sh MODEL EXPECTED
set -u
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT

# through FORMAT TOLERANCE
through()
{
    "$MOE" convert "$1" "$scratch/out.gguf" --format "$2" || exit 1
    "$SAME" "$1" "$scratch/out.gguf" "$3" || exit 1
}

# In f32 values are the same: 2e-6 leaves room for 32 roundings of sums taken in another order. FP4 goes to GGUF's FP4
# and the rest to bf16 (8 bits: 2^-9 a weight, some of it twice) or to q8_0 (7 bits of the largest of 32).
through "$1" f32 2e-6
through "$1" keep 0.01
through "$1" q8_0 0.03
