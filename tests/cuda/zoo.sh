#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: zoo.sh PROGRAM ZOO. cuda_models on every checkpoint of the zoo but one whose reference is of weighted pairs,
# which that program does not read.
set -eu
program=$1
cd "$2"
set --
for model in */; do
    [ "$model" = diffusion_gemma_text/ ] || set -- "$@" "${model%/}"
done
[ $# -ge 60 ] || { echo "only $# models under $PWD"; exit 1; }
exec "$program" "$@"
