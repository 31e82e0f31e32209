#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_includes.sh ROOT. The dependency rule over #include lines: each folder's files include what its row
# allows and no more. include <- format, ref <- core <- backends; tools, examples and bindings see include/ only.
cd "$1" || exit 2
find include src tools examples bindings -type f \( -name '*.[chS]' -o -name '*.cu' -o -name '*.cuh' \) \
    -exec grep -nE '^[ \t]*#[ \t]*include[ \t]*[<"]' {} + \
    2>/dev/null | sed -E 's/^([^:]*):([0-9]+):[^<"]*([<"])([^>"]*).*/\1 \2 \3 \4/' | {
    bad=0
    while read -r file line quote name; do
        # The repository's file that is meant: beside the includer, in src/ or in include/. None: the system's.
        # Paths that climb are never right.
        target=
        for place in "$(dirname "$file")" src include; do
            [ -e "$place/$name" ] && target=$place/$name && break
        done
        [ -z "$target" ] && [ "$quote" = '<' ] && continue
        case $file in
        include/*)    allowed='include/' ;;
        src/format/*) allowed='src/format/|src/(half|inline|check)\.h|include/' ;;
        src/ref/*)    allowed='src/ref/|include/' ;;
        src/readers/*) allowed='src/readers/|src/check\.h|include/' ;;
        src/cpu/*)    allowed='src/cpu/|src/format/|src/[^/]*$|include/' ;;
        src/cuda/*)   allowed='src/cuda/|src/format/|src/[^/]*$|include/' ;;
        src/*/*)      allowed='' ;;
        src/*)        allowed='src/format/|src/readers/|src/[^/]*$|include/' ;;
        *)            allowed="$(dirname "$file")/|include/" ;;
        esac
        case $name in *..*) allowed='' ;; esac
        printf '%s\n' "$target" | grep -qE "^($allowed)" && [ -n "$allowed" ] && continue
        echo "$file:$line: must not include $name"
        bad=1
    done
    exit $bad
}
