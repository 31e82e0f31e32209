#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: check_rules_fail.sh RULES WORK. Breaks each rule once in a small tree and sees its check fail.
set -eu
rules=$1 work=$2
licence='// SPDX-License-Identifier: MIT'

# A tree that keeps the rules.
fresh() {
    rm -rf "$work"
    mkdir -p "$work/include/moe" "$work/src/format" "$work/src/readers" "$work/src/cpu" "$work/src/ref" "$work/tools"
    cd "$work"
    for file in include/moe/moe.h src/core.h src/format/f.h src/readers/r.h src/cpu/k.h src/ref/ref.h; do
        echo "$licence" >$file
    done
    { echo "$licence"; echo '#include <stdio.h>'; echo '#include "moe/moe.h"'; } >tools/tool.c
    { echo "$licence"; echo '#include "readers/r.h"'; echo '#include "core.h"'; } >src/core.c
}

# expect STATUS CHECK WHAT
expect() {
    status=0
    # The breach lies in a build folder, which git ignores: without git the check looks at all files.
    GIT_DIR=$work/none sh "$rules/$2" "$work" >/dev/null 2>&1 || status=$?
    [ "$status" = "$1" ] || { echo "$2: status $status, expected $1: $3"; exit 1; }
}

fresh
expect 0 check_includes.sh 'a clean tree'
expect 0 check_sources.sh 'a clean tree'
for breach in 'src/core.c cpu/k.h' 'src/core.c ref/ref.h' 'src/format/f.h core.h' 'src/ref/ref.h format/f.h' \
    'src/readers/r.h core.h' 'src/cpu/k.h readers/r.h' 'include/moe/moe.h core.h' 'tools/tool.c core.h' \
    'tools/tool.c ../src/core.h' 'src/core.c absent.h'; do
    fresh
    echo "#include \"${breach#* }\"" >>"${breach% *}"
    expect 1 check_includes.sh "$breach"
done
fresh; echo 'int x;' >src/core.c; expect 1 check_sources.sh 'no licence'
fresh; seq -f '// %g' 600 >>src/core.c; expect 1 check_sources.sh 'over 600 lines'
fresh; printf '// TO%s: later\n' DO >>src/core.c; expect 1 check_sources.sh 'unfinished work'
fresh; printf '// %0120d\n' 0 >>src/core.c; expect 1 check_sources.sh 'over 120 columns'
