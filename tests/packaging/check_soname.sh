#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_soname.sh READELF LIBRARY MOE.H. The soname carries MOE_ABI_VERSION of the header.
set -eu
want=libmoe.so.$(awk '$2 == "MOE_ABI_VERSION" { print $3; exit }' "$3")
have=$("$1" -d "$2" | sed -n 's/.*(SONAME).*\[\(.*\)\]$/\1/p')
[ "$have" = "$want" ] || { echo "soname is $have, moe.h says $want"; exit 1; }
