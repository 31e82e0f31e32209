#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Time the layer on a GPU over shapes, types of weights and numbers of tokens, beside what the GPU can do at best.
set -euo pipefail

usage() {
    cat <<'END_OF_USAGE'
usage: scripts/bench-cuda.sh [--build-only | --run FOLDER] [--out FOLDER] [--no-torch] [OPTION OF moe-bench-cuda...]

Builds libmoe with its CUDA backend in build/, then measures on the GPU: a calibration (copy, read, products), every
cell in the order of its importance, and torch's grouped_mm beside them where python3 can import torch.

  --build-only     only build, into build/cuda-run: a folder that runs on another machine without any package
  --run FOLDER     build nothing, run such a folder
  --out FOLDER     where the results go: bench/results in a checkout, else here
  --no-torch       leave torch out
  --cells LIST, --time-limit S, --memory GB, --backend NAME, ...   build/cuda-run/moe-bench-cuda --help tells

Results: DATE-GPU.jsonl, a line for each cell; DATE-GPU.txt, the table; DATE-GPU/, a roofline for each shape.
Exit status: 0 all measured, 1 a cell failed, 2 something is needed first.
END_OF_USAGE
}

mode=both folder= out= torch=1 options=()
while (( $# > 0 )); do
    case $1 in
    --build-only) mode=build ;;
    --run) mode=run; folder=${2-}; shift ;;
    --out) out=${2-}; shift ;;
    --no-torch) torch=0 ;;
    -h | --help) usage; exit 0 ;;
    *) options+=("$1") ;;
    esac
    shift || { usage >&2; exit 2; }
done

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$(dirname "${BASH_SOURCE[0]}")/cuda_common.sh"
[[ -z $folder ]] || use_folder "$folder"
[[ -z $out ]] || { mkdir -p "$out"; out=$(cd "$out" && pwd); }
cd "$root"
if [[ $mode != run ]]; then
    start_log bench-cuda.log
    build_cuda
fi
[[ $mode != build ]] || exit 0

result=${out:-$(results_folder)}/$(date +%Y-%m-%d)-$(gpu_name)
status=0
heading 'Cells'
"$run_folder/moe-bench-cuda" --json "$result.jsonl" --plot "$result" "${options[@]}" </dev/null |
    tee "$result.txt" || status=1
if (( torch )) && python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    heading "torch's grouped_mm"
    timeout 180 python3 "$run_folder/torch_grouped.py" --json "$result.jsonl" </dev/null | tee -a "$result.txt" ||
        echo 'torch: not measured' | tee -a "$result.txt"
fi
printf '\nResults: %s.jsonl, .txt, %s/\n' "$result" "$result"
exit $status
