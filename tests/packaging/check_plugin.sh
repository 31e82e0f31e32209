#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_plugin.sh NM READELF LIBRARY NAME. A backend that is a library of its own exports its table and nothing
# else, needs nothing of libmoe, and no library but the C library's.
set -eu
nm=$1 readelf=$2 library=$3 name=$4 bad=0
exported=$("$nm" -D --defined-only "$library" | awk '{ print $NF }')
[ "$exported" = "moe_${name}_ops" ] || { echo "exports:" $exported; bad=1; }
missing=$("$nm" -D --undefined-only "$library" | awk '$NF ~ /^(moe_|cuda)/ { print $NF }')
[ -z "$missing" ] || { echo "undefined:" $missing; bad=1; }
needed=$("$readelf" -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]$/\1/p' |
    grep -vE '^(libc|libm|libdl|librt|libpthread|ld-linux-[a-z0-9-]+)\.so' || true)
[ -z "$needed" ] || { echo "needs:" $needed; bad=1; }
exit $bad
