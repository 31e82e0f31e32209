#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_headers.sh INCLUDE CC CXX. Each public header compiles alone, and twice, as C11 and C++17, without a
# warning.
set -u
include=$1 cc=$2 cxx=$3
flags='-Wall -Wextra -Wpedantic -Werror -fsyntax-only'
bad=0
for header in "$include"/moe/*.h; do
    name=moe/$(basename "$header")
    text=$(printf '#include <%s>\n#include <%s>\n' "$name" "$name")
    printf '%s\n' "$text" | "$cc" -std=c11 $flags -I "$include" -x c - || { echo "$name: not C11"; bad=1; }
    printf '%s\n' "$text" | "$cxx" -std=c++17 $flags -I "$include" -x c++ - || { echo "$name: not C++17"; bad=1; }
done
exit $bad
