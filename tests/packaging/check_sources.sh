#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_sources.sh ROOT. Every source file has the licence on line 1 (line 2 after #!), at most 600 lines of at
# most 120 columns, no tabs but in make files, and no marks of unfinished work.
cd "$1" || exit 2

# Tracked and new files; without git, all that are not in a build folder.
list() {
    git ls-files -co --exclude-standard 2>/dev/null ||
        find . -name .git -prune -o -path './build*' -prune -o -type f -print | sed 's|^\./||'
}

list | grep -E '(\.(c|h|cuh?|sh|py|cmake|def|yml|in)|/run|CMakeLists\.txt)$' | grep -vE '^(models|tests/data)/' |
    sort | {
    bad=0 count=0
    while IFS= read -r file; do
        [ -e "$file" ] || continue
        count=$((count + 1))
        LC_ALL=C awk -v file="$file" '
            function fault(text) { print file ":" NR ": " text; bad = 1 }
            NR == 1 && /^#!/ { shebang = 1 }
            NR == 1 + shebang { spdx = /SPDX-License-Identifier: MIT/ }
            { columns = $0; gsub(/[\200-\277]/, "", columns) }
            length(columns) > 120 { fault("over 120 columns") }
            /(^|[^A-Za-z])(TO[D]O|FIX[M]E|XX[X])([^A-Za-z]|$)/ { fault("unfinished work") }
            /[ \t\r]$/ { fault("white space at the end of the line") }
            END {
                if (!spdx) { print file ":1: no SPDX line"; bad = 1 }
                if (NR > 600) { print file ": " NR " lines, at most 600"; bad = 1 }
                exit bad
            }' "$file" || bad=1
    done
    [ $count -gt 0 ] || { echo "no source files under $PWD"; bad=1; }
    echo "$count files"
    exit $bad
}
