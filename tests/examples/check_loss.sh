#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_loss.sh GENERATE MODEL REFERENCE_DIR LOW HIGH [OPTION...]: the mean loss of MODEL over sampled_ids, as
# a relative change against loss_f64 of reference.json, lies between LOW and HIGH per cent.
generate=$1 model=$2 reference=$3 low=$4 high=$5
shift 5
expected=$(sed -n 's/.*"loss_f64": *\([0-9.e+-]*\).*/\1/p' "$reference/reference.json")
line=$("$generate" "$model" --loss "$reference/sampled_ids.safetensors" "$@") || exit 1
echo "$line" | awk -v expected="$expected" -v low="$low" -v high="$high" '
    {
        change = ($2 / expected - 1) * 100
        printf "loss %s, in float64 %s: %+.5f %%, allowed %s to %s %%\n", $2, expected, change, low, high
        good = $1 == "loss" && $6 == 48 * 256 && expected > 0 && change >= low && change <= high
    }
    END { exit !good }'
