#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_symbols.sh NM LIBRARY HEADERS LIST. What the library exports = what the headers declare with MOE_API =
# the list. Taking a name off the list, or changing what it means, needs a new MOE_ABI_VERSION.
set -eu
nm=$1 library=$2 headers=$3 list=$4
LC_ALL=C
export LC_ALL

# compare WHAT NAMES: against the list.
compare() {
    other=$(printf '%s\n' "$2" | sort | diff "$list" - | sed -n 's/^< /  not there: /p; s/^> /  not in the list: /p')
    [ -z "$other" ] || { echo "$1 differs from $list:"; echo "$other"; bad=1; }
}

bad=0
sort -cu "$list" || bad=1
compare "$library" "$("$nm" -D --defined-only "$library" | awk '{ print $NF }')"
compare "$headers" "$(awk '/^MOE_API / {
    if (!match($0, /moe_[a-z0-9_]+\(/)) { print FILENAME ":" FNR ": no function on this line"; next }
    print substr($0, RSTART, RLENGTH - 1) }' "$headers"/*.h)"
exit $bad
