#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Test the CUDA backend on a GPU: layers of every format against double precision, graphs, whole models, sanitizers.
set -euo pipefail

usage() {
    cat <<'END_OF_USAGE'
usage: scripts/test-cuda.sh [--build-only | --run FOLDER] [--backend NAME] [--out FOLDER] [--quick] [--no-sanitizers]

Builds libmoe with its CUDA backend in build/, then on the GPU:
  layers     moe-test-cuda: every format, odd sizes, routing, graphs, sizes beyond 2^31; --help and --list of it tell
  models     moe check of models/bard and of the packed checkpoints of every family (tests/data)
  sanitizers compute-sanitizer's memcheck, racecheck, synccheck and initcheck on a small part, where it is in the PATH

  --build-only     only build, into build/cuda-run: a folder that runs on another machine without any package
  --run FOLDER     build nothing, run such a folder
  --backend NAME   cuda:0
  --out FOLDER     where the results go: bench/results in a checkout, else here
  --quick          a small part, seconds
  --no-sanitizers

Results: DATE-GPU-test.txt. Exit status: 0 all passed, 1 something failed, 2 something is needed first.
END_OF_USAGE
}

mode=both folder= backend=cuda:0 out= quick=() sanitizers=1
while (( $# > 0 )); do
    case $1 in
    --build-only) mode=build ;;
    --run) mode=run; folder=${2-}; shift ;;
    --backend) backend=${2-}; shift ;;
    --out) out=${2-}; shift ;;
    --quick) quick=(--quick) ;;
    --no-sanitizers) sanitizers=0 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
    shift || { usage >&2; exit 2; }
done

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname "${BASH_SOURCE[0]}")/cuda_common.sh"
[[ -z $folder ]] || use_folder "$folder"
[[ -z $out ]] || { mkdir -p "$out"; out=$(cd "$out" && pwd); }
cd "$root"
if [[ $mode != run ]]; then
    start_log test-cuda.log
    build_cuda
fi
[[ $mode != build ]] || exit 0

result=${out:-$(results_folder)}/$(date +%Y-%m-%d)-$(gpu_name)-test.txt
: >"$result"
passed=0 failed=0 skipped=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# verdict STATUS TITLE SECONDS: a line, and the count.
verdict() {
    local line
    if (( $1 == 0 )); then
        passed=$((passed + 1))
        printf -v line '%-6s %s (%d s)' ok "$2" "$3"
    else
        failed=$((failed + 1))
        printf -v line '%-6s %s (%d s): exit status %d' FAIL "$2" "$3" "$1"
    fi
    printf '%s\n' "$line" | tee -a "$result"
}

# run TITLE LIMIT COMMAND...: at most LIMIT seconds; its output into the results, shown where it failed.
run() {
    local title=$1 limit=$2 begin=$SECONDS status=0
    shift 2
    timeout "$limit" "$@" >"$scratch/output" 2>&1 </dev/null || status=$?
    sed 's/^/  /' "$scratch/output" >>"$result"
    (( status == 0 )) || grep -vE '^(ok|layer .* ok) ' "$scratch/output" | tail -n 40 || true
    verdict "$status" "$title" $((SECONDS - begin))
}

# unpack ARCHIVE: with what there is, CMake or tar.
unpack() {
    (cd "$scratch" && { cmake -E tar xf "$1" || tar xf "$1"; }) >/dev/null 2>&1
}

heading "Layers on $backend"
run 'moe-test-cuda' 900 "$run_folder/moe-test-cuda" --backend "$backend" "${quick[@]}"
grep -E '^[0-9]+ passed' "$scratch/output" || true

heading 'Models'
for archive in zoo scribe; do
    if [[ -r tests/data/$archive.tar.xz ]] && ! unpack "$root/tests/data/$archive.tar.xz"; then
        echo "tests/data/$archive.tar.xz cannot be unpacked: left out" | tee -a "$result"
        skipped=$((skipped + 1))
    fi
done
for model in models/bard "$scratch"/scribe "$scratch"/zoo/*/; do
    [[ -r $model/reference.safetensors ]] || continue
    run "moe check $(basename "$model")" 120 "$run_folder/moe" check "$model" --backend "$backend" --tolerance 5e-3
    (( ${#quick[@]} == 0 )) || break
done

heading 'Sanitizers'
sanitizer=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer || true)
if (( ! sanitizers )) || [[ -z $sanitizer ]]; then
    echo 'compute-sanitizer: left out' | tee -a "$result"
    skipped=$((skipped + 1))
else
    for tool in memcheck racecheck synccheck initcheck; do
        run "compute-sanitizer, $tool" 240 "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 20 \
            "$run_folder/moe-test-cuda" --backend "$backend" --quick --only formats,slots,axes,graphs
    done
fi

printf '\n%d passed, %d failed, %d left out. %s\n' "$passed" "$failed" "$skipped" "$result" | tee -a "$result"
(( failed == 0 ))
