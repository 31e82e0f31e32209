#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_text.sh GENERATE BARD: what a person sees: the text on stdout, the map of experts, and exit codes.
generate=$1 bard=$2
fail() { echo "$*"; exit 1; }

# The first lines of the first greedy text of reference.json.
text=$("$generate" "$bard" --tokens 24 --expert-map) || fail "exit code $?"
echo "$text"
echo "$text" | head -n 2 | tr '\n' '/' | grep -qxF 'ROMEO:/I am agreed, and I am a careful man./' || fail "another text"
layers=$(echo "$text" | grep -c '^layer  [0-3] |.\{16\}| most: expert [0-9]*, [0-9]* %$')
[ "$layers" = 4 ] || fail "no map of 4 layers"

a=$("$generate" "$bard" --tokens 40 --temperature 1 --seed 7) || fail "exit code $?"
b=$("$generate" "$bard" --tokens 40 --temperature 1 --seed 7 --threads 1)
c=$("$generate" "$bard" --tokens 40 --temperature 1 --seed 8)
[ "$a" = "$b" ] || fail "the same seed gives another text"
[ "$a" != "$c" ] || fail "another seed gives the same text"

"$generate" --help | grep -q -- --greedy-reference || fail "--help does not teach"
"$generate" 2>/dev/null; [ $? = 2 ] || fail "no model: exit code"
"$generate" "$bard" --tokens many 2>/dev/null; [ $? = 2 ] || fail "a bad number: exit code"
"$generate" "$bard" --tokens 2>/dev/null; [ $? = 2 ] || fail "a missing value: exit code"
problem=$("$generate" "$bard" --tokens 1000000000 2>&1); [ $? = 3 ] || fail "too many tokens: exit code"
echo "$problem" | grep -q "context has 1024$" || fail "too many tokens: $problem"
"$generate" "$bard/nowhere" 2>/dev/null; [ $? = 3 ] || fail "no such model: exit code"
"$generate" "$bard" --prompt '' 2>/dev/null; [ $? = 3 ] || fail "an empty prompt: exit code"
exit 0
