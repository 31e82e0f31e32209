#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: bench/instructions.sh [--compare] [BUILD [NAME]]. Counts the instructions of the product kernels (those with
# NAME in their name) and writes them into bench/instructions.md; --compare shows which differ from it by over 2 %, and
# writes nothing. BUILD is a Release build with tests (build). Exit status of --compare: 1 if one takes more.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
page=$here/instructions.md
compare=no
if [ "${1:-}" = --compare ]; then
    compare=yes
    shift
fi
build=${1:-$here/../build}
name=${2:-}
program=$build/tests/moe-instructions
[ -x "$program" ] || { echo "instructions.sh: $program is not there; build the tests" >&2; exit 2; }
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

"$program" ${name:+--function "$name"} | tee "$lines"

if [ $compare = yes ]; then
    awk -F '|' '
        { gsub(/ /, "") }
        FNR == NR { if ($2 ~ /^linear/) for (i = 3; i <= 5; i++) old[$2, i] = $i; next }
        {
            split("1 8 32", tokens, " ")
            for (i = 3; i <= 5; i++) {
                was = old[$2, i]
                if (was != "" && $i != "" && ($i > 1.02 * was || $i < 0.98 * was)) {
                    printf "%s, %s tokens: %s, was %s (%+.0f %%)\n", $2, tokens[i - 2], $i, was, 100 * ($i / was - 1)
                    more = more || $i > was
                }
            }
        }
        END { exit more }' "$page" "$lines"
    exit
fi

compiler=$(sed -n 's/^CMAKE_C_COMPILER:[A-Z]*=//p' "$build/CMakeCache.txt")
# Of a part, rows that were not counted now stay as they are.
if [ -n "$name" ]; then old=$page; else old=/dev/null; fi
{
    sed '/^| linear/,$d' "$page"
    awk -F '|' '
        /^\| linear/ { if (!($2 in row)) order[++count] = $2; row[$2] = $0 }
        END { for (i = 1; i <= count; i++) print row[order[i]] }' "$old" "$lines"
    echo
    echo "Last written with $("$compiler" --version | head -n 1), commit $(git -C "$here" rev-parse --short HEAD)."
} >"$page.new"
mv "$page.new" "$page"
