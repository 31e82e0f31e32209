# SPDX-License-Identifier: MIT
# What test-cuda.sh and bench-cuda.sh share: building the programs for a GPU, and finding them. Sourced after common.sh.

run_folder=$build/cuda-run

has_nvcc() { command -v nvcc || command -v /usr/local/cuda/bin/nvcc; }

# The folder that can be carried to another machine: programs with libmoe and jansson in them, the backend beside them.
build_cuda() {
    local program
    heading 'Build'
    has_nvcc >/dev/null || stop 'nvcc is needed, of the CUDA toolkit: https://developer.nvidia.com/cuda-toolkit' \
        'It is looked for in the PATH and in /usr/local/cuda/bin.'
    need_to_build
    install_missing
    PATH=$PATH:/usr/local/cuda/bin
    if [[ -e $build/CMakeCache.txt ]]; then
        configure "$build" -DMOE_CUDA=ON
    else
        configure "$build" -DCMAKE_BUILD_TYPE=Release -DMOE_CUDA=ON -DMOE_BUILD_TESTS=OFF
    fi
    compile "$build" moe_cuda moe-test-cuda moe-bench-cuda moe-portable
    rm -rf "$run_folder"
    mkdir -p "$run_folder"
    for program in moe-test-cuda moe-bench-cuda moe-portable; do
        strip -o "$run_folder/${program/moe-portable/moe}" "$build/bin/$program"
    done
    for program in "$build"/libmoe_cuda.so.*; do
        [[ -L $program ]] && strip -o "$run_folder/${program##*/}" "$program"
    done
    cp bench/cuda/torch_grouped.py "$run_folder"
    echo 'For a machine with a GPU: scripts/test-cuda.sh --run FOLDER, scripts/bench-cuda.sh --run FOLDER' \
        >"$run_folder/README"
    printf '  %s: %s\n' "${run_folder#"$root"/}" "$(du -sh "$run_folder" | cut -f1)"
}

# Tell whether the programs are there; paths are absolute from here on.
use_folder() {
    [[ -x $1/moe-test-cuda && -x $1/moe-bench-cuda && -x $1/moe ]] ||
        stop "$1 is no folder that --build-only made: moe-test-cuda, moe-bench-cuda and moe are not in it."
    run_folder=$(cd "$1" && pwd)
}

# "nvidia-h200", or "gpu".
gpu_name() {
    local name=
    name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -n 1) || true
    name=$(printf '%s' "${name:-gpu}" | tr '[:upper:] /' '[:lower:]--' | tr -cd 'a-z0-9-')
    printf '%s\n' "${name:-gpu}"
}

# Where results go: bench/results in a checkout, else the current folder.
results_folder() {
    if [[ -d $root/bench/results ]]; then
        printf '%s\n' "$root/bench/results"
    else
        pwd
    fi
}
