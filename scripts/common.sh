# SPDX-License-Identifier: MIT
# What demo.sh and test.sh share: finding and installing what a build needs, steps with a log, configuring with CMake.
# Sourced, not run. The caller has set -euo pipefail.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
jobs=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

stop() {
    printf '%s\n' "$@" >&2
    exit 2
}

heading() {
    printf '\n== %s ==\n' "$*"
}

# ---- what a build needs: package, probe, reason ----------------------------------------------------------------

missing=()
reasons=()

# need PACKAGE PROBE REASON: remember the Debian package if the command PROBE fails.
need() {
    if ! "$2" >/dev/null 2>&1; then
        missing+=("$1")
        reasons+=("$3")
    fi
}

has_cc()      { command -v cc; }
has_cxx()     { command -v c++; }
has_libc()    { echo '#include <stdlib.h>' | cc -x c -fsyntax-only -; }
has_cmake()   { command -v cmake && cmake_is_new "$(cmake --version | awk 'NR == 1 { print $3 }')"; }
has_maker()   { command -v ninja || command -v make; }
has_pkgconf() { command -v pkg-config; }
has_jansson() { pkg-config --exists 'jansson >= 2.13'; }
has_cmocka()  { pkg-config --exists cmocka; }
has_python()  { command -v python3; }
has_venv()    { python3 -c 'import ensurepip, venv'; }
has_arm_cc()  { command -v aarch64-linux-gnu-gcc; }
has_arm_libc() { echo '#include <stdlib.h>' | aarch64-linux-gnu-gcc -x c -fsyntax-only -; }
has_qemu()    { command -v qemu-aarch64; }

# VERSION >= 3.25?
cmake_is_new() {
    local major minor
    IFS=. read -r major minor _ <<<"$1"
    (( major > 3 || (major == 3 && minor >= 25) ))
}

need_to_build() {
    need gcc has_cc 'C compiler'
    need libc6-dev has_libc 'headers of the C library'
    need cmake has_cmake 'build system, 3.25 or newer'
    need ninja-build has_maker 'runs the build'
    need pkg-config has_pkgconf 'finds the libraries'
    need libjansson-dev has_jansson 'JSON: config.json, safetensors headers'
}

need_to_test() {
    need_to_build
    need g++ has_cxx 'C++ compiler: the tests compile the headers with it'
    need libcmocka-dev has_cmocka 'unit tests'
    need python3 has_python 'runs the gguf package, which reads what moe convert wrote'
    need python3-venv has_venv 'a private environment for that package'
}

need_to_test_arm() {
    need gcc-aarch64-linux-gnu has_arm_cc 'C compiler for 64-bit Arm'
    need libc6-dev-arm64-cross has_arm_libc 'headers of its C library'
    need qemu-user has_qemu 'runs programs for 64-bit Arm'
}

is_debian() {
    [[ -r /etc/os-release && $(. /etc/os-release && echo "${ID-}") == debian ]] && command -v apt-get >/dev/null
}

# Debian or Ubuntu, with apt-get, as root?
can_install() {
    local family=''
    [[ -r /etc/os-release ]] && family=$(. /etc/os-release && echo " ${ID-} ${ID_LIKE-} ")
    [[ $family == *' debian '* || $family == *' ubuntu '* ]] && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]
}

# Say what is missing, then install it; elsewhere say what is needed and stop.
install_missing() {
    if (( ${#missing[@]} == 0 )); then
        echo 'Packages: all there.'
        return
    fi
    local i
    echo 'Missing packages, by their Debian names:'
    for i in "${!missing[@]}"; do
        printf '  %-16s %s\n' "${missing[i]}" "${reasons[i]}"
    done
    can_install || stop '' \
        'This script installs packages only as root on Debian or Ubuntu. Please install the above, then run it again.'
    export DEBIAN_FRONTEND=noninteractive
    step 'apt-get update' "$log" apt-get update
    step 'apt-get install' "$log" apt-get install -y --no-install-recommends "${missing[@]}"
    has_cmake >/dev/null || stop 'libmoe needs CMake 3.25 or newer, and this system has an older one.' \
        'Newer ones: https://cmake.org/download'
}

# ---- steps -----------------------------------------------------------------------------------------------------

# start_log FILE: an empty log, beside the build.
start_log() {
    mkdir -p "$build"
    log=$build/$1
    : >"$log"
}

# step TITLE LOG COMMAND...: run it with its output in LOG, one line on the screen; on failure the tail of LOG.
step() {
    local title=$1 file=$2 begin=$SECONDS
    shift 2
    printf '+ %s\n' "$*" >>"$file"
    if "$@" </dev/null 2>&1 | follow "$title" "$file"; then
        [[ -t 1 ]] && printf '\r\033[K'
        printf '  %s: %d s\n' "$title" $((SECONDS - begin))
    else
        [[ -t 1 ]] && printf '\r\033[K'
        printf '  %s: failed. The end of %s:\n\n' "$title" "$file" >&2
        tail -n 40 "$file" >&2
        exit 1
    fi
}

# Append standard input to a log; on a terminal show the build's [n/m].
follow() {
    local line
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$2"
        if [[ -t 1 && $line =~ ^\[\ *[0-9]+[/%][^]]*\] ]]; then
            printf '\r  %s %s ' "$1" "${BASH_REMATCH[0]}"
        fi
    done
}

# ---- CMake -----------------------------------------------------------------------------------------------------

# configure FOLDER OPTION...: a folder that is configured already keeps its generator and its other options.
configure() {
    local folder=$1 generator=()
    shift
    if [[ ! -e $folder/CMakeCache.txt ]] && command -v ninja >/dev/null; then
        generator=(-G Ninja)
    fi
    step "configure ${folder#"$root"/}" "$log" cmake -S "$root" -B "$folder" "${generator[@]}" "$@"
}

# compile FOLDER [TARGET...]: the targets, or everything.
compile() {
    local folder=$1
    shift
    step "compile ${folder#"$root"/}" "$log" cmake --build "$folder" --parallel "$jobs" ${1+--target "$@"}
}
