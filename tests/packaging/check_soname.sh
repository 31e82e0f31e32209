#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_soname.sh READELF LIBRARY NAME HEADER MACRO. The soname is NAME.so with the number of the header's macro.
set -eu
want=$3.so.$(awk -v macro="$5" '$2 == macro { print $3; exit }' "$4")
have=$("$1" -d "$2" | sed -n 's/.*(SONAME).*\[\(.*\)\]$/\1/p')
[ "$have" = "$want" ] || { echo "soname is $have, $4 says $want"; exit 1; }
