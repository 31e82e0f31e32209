#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Build libmoe and show it at work on the bundled model: what is in the file, every layer against its float64
# reference, a text written through the layer, and which experts wrote it.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/demo.sh

Builds the library, the moe command and the examples in build/ (Release), then runs them on models/bard.
As root on Debian or Ubuntu it installs the packages that are missing, and lists them first; on other systems it
names them and stops. Nothing is written outside build/ and the system's package folders. Log: build/demo.log.

Exit status: 0 all well, 1 a step failed, 2 something is needed first.
END
}

case ${1-} in
'') ;;
-h | --help) usage; exit 0 ;;
*) usage >&2; exit 2 ;;
esac

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
start_log demo.log

heading 'Build'
need_to_build
install_missing
targets=(moe moe_command)
for example in examples/*.c; do
    targets+=("$(basename "$example" .c)")
done
if [[ ! -e build/CMakeCache.txt ]]; then
    configure "$build" -DCMAKE_BUILD_TYPE=Release -DMOE_BUILD_TESTS=OFF
fi
compile "$build" "${targets[@]}"

# show TITLE COMMAND...: a heading, the command as one would type it, its output.
show() {
    heading "$1"
    shift
    printf '$'
    printf ' %q' "$@"
    printf '\n'
    "$@" </dev/null
}

show 'What is in the model' build/bin/moe info models/bard
show 'Every layer against its float64 reference' build/bin/moe check models/bard
show 'A text, its experts computed by libmoe' \
    build/bin/generate models/bard --prompt 'ROMEO:' --tokens 80 --expert-map
