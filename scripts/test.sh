#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Build libmoe and run its tests: the whole suite; where asked for, again under AddressSanitizer and
# UndefinedBehaviorSanitizer, its threaded part under ThreadSanitizer, and the kernels for 64-bit Arm under an emulator.
set -euo pipefail

usage() {
    cat <<'END'
usage: scripts/test.sh [--all | --asan | --tsan | --arm]

Without an option the suite in build/ (Release), all tests: 8 minutes on two cores. Otherwise:
  --all     that, and the three below, as continuous integration does: 25 minutes
  --asan    the suite in build/asan (AddressSanitizer, UndefinedBehaviorSanitizer)
  --tsan    its threaded part in build/tsan (ThreadSanitizer)
  --arm     the kernels for 64-bit Arm and layers on them, built in build/arm with Debian's cross compiler and run under
            qemu-user; on Debian only
The suite in build/asan leaves out the mean losses (examples/*_loss), which take minutes there.

As root on Debian or Ubuntu it installs the packages that are missing, and lists them first; on other systems it
names them and stops. Python packages go into build/venv. Nothing is written outside build/ and the system's package
folders. Log: build/test.log; the last output of each test: Testing/Temporary/LastTest.log in its build folder.

Exit status: 0 all passed, 1 a test or a step failed, 2 something is needed first.
END
}

# Tests that a sanitizer makes too long: mean losses, a hundred times the tokens of the greedy texts through the same
# code.
long='_loss$'

# The tests that run threads; ThreadSanitizer says nothing about the others. Left out, for they take minutes and run no
# phase that these do not: layer/layer, layer_axes, layer_rounded and forward/forward.
threaded='^cpu/|^forward/forward_|^layer/(layer_(bits|create|errors|halves|io|levels|promises)|zoo)'
threaded+='|^examples/(layer|bard_greedy)$'

suites=(release)
case ${1-} in
'') ;;
--all) suites=(release asan tsan arm) ;;
--asan) suites=(asan) ;;
--tsan) suites=(tsan) ;;
--arm) suites=(arm) ;;
-h | --help) usage; exit 0 ;;
*) usage >&2; exit 2 ;;
esac

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
start_log test.log

# The gguf package and what it needs, in build/venv; installed again only when the list changes.
install_python() {
    local venv=$build/venv list=scripts/requirements.txt
    if ! cmp -s "$list" "$venv/installed.txt"; then
        echo "Python packages for build/venv: $(grep -v '^#' "$list" | tr '\n' ' ')"
        rm -rf "$venv"
        step 'python venv' "$log" python3 -m venv "$venv"
        step 'pip install' "$log" "$venv/bin/python" -m pip install --disable-pip-version-check -r "$list"
        cp "$list" "$venv/installed.txt"
    fi
}

# jansson and cmocka for arm64, in build/arm-libraries: Debian's packages, by an apt-get with lists and a state of its
# own, unpacked and not installed, so that the system does not get a second architecture.
fetch_arm_libraries() {
    local folder=$build/arm-libraries packages=(libjansson4 libjansson-dev libcmocka0 libcmocka-dev) package apt
    [[ ! -e $folder/complete ]] || return 0
    rm -rf "$folder"
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial" "$folder/packages"
    apt=(apt-get -o "Dir::State=$folder" -o "Dir::State::lists=$folder/lists" -o Dir::State::status=/dev/null
         -o "Dir::Cache=$folder/cache" -o APT::Architecture=arm64 -o APT::Sandbox::User=root)
    echo "Packages for build/arm-libraries, arm64: ${packages[*]}"
    step 'apt-get update, arm64' "$log" "${apt[@]}" update
    cd "$folder/packages"
    step 'apt-get download' "$log" "${apt[@]}" download "${packages[@]}"
    cd "$root"
    for package in "$folder"/packages/*.deb; do
        dpkg-deb --extract "$package" "$folder"
    done
    touch "$folder/complete"
}

passed=0 failed=0 skipped=0

# run_suite TITLE FOLDER CTEST-OPTION...: run it on the screen, add its counts.
run_suite() {
    local title=$1 folder=$2 output=$build/ctest.log total bad idle
    shift 2
    heading "Tests: $title"
    "${fixed[@]}" ctest --test-dir "$folder" --parallel 2 --output-on-failure --no-tests=error "$@" </dev/null 2>&1 |
        tee "$output" || true
    cat "$output" >>"$log"
    total=$(sed -n 's/.*tests passed, .* tests* failed out of \([0-9]*\)$/\1/p' "$output")
    bad=$(sed -n 's/.*tests passed, \([0-9]*\) tests* failed out of .*/\1/p' "$output")
    idle=$(grep -c '\*\*\*Skipped' "$output" || true)
    if [[ -z $total ]]; then
        echo "ctest gave no summary for $title" >&2
        total=1 bad=1 idle=0
    fi
    passed=$((passed + total - bad - idle)) failed=$((failed + bad)) skipped=$((skipped + idle))
}

# sanitize FOLDER SANITIZERS: configure and build. Assertions stay on.
sanitize() {
    configure "$1" -DCMAKE_BUILD_TYPE=RelWithDebInfo '-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -g1' \
        "-DMOE_SANITIZE=$2" -DMOE_BUILD_TESTS=ON
    compile "$1"
}

# The emulated suite needs Debian's arm64 packages; where it was not asked for by name it may be left out.
if [[ ${#suites[@]} -gt 1 ]] && ! is_debian; then
    echo 'The suite --arm runs on Debian only: left out.'
    suites=(release asan tsan)
fi

heading 'Build'
need_to_test
[[ " ${suites[*]} " != *' arm '* ]] || need_to_test_arm
install_missing

# Sanitizers place their shadow memory at fixed addresses, which a very random layout of the process may occupy.
fixed=()
for suite in "${suites[@]}"; do
    case $suite in
    release)
        install_python
        configure "$build" -DCMAKE_BUILD_TYPE=Release -DMOE_BUILD_TESTS=ON "-DMOE_PYTHON=$build/venv/bin/python"
        compile "$build"
        run_suite 'Release' "$build"
        ;;
    asan | tsan)
        if setarch "$(uname -m)" -R true 2>/dev/null; then
            fixed=(setarch "$(uname -m)" -R)
        fi
        ;;&
    asan)
        sanitize "$build/asan" address,undefined,float-cast-overflow
        run_suite "AddressSanitizer, UndefinedBehaviorSanitizer, without $long" "$build/asan" --exclude-regex "$long"
        ;;
    tsan)
        sanitize "$build/tsan" thread
        run_suite "ThreadSanitizer, tests $threaded" "$build/tsan" --tests-regex "$threaded"
        ;;
    arm)
        fixed=()
        fetch_arm_libraries
        configure "$build/arm" -DCMAKE_BUILD_TYPE=Release "-DCMAKE_TOOLCHAIN_FILE=$root/cmake/aarch64-linux-gnu.cmake" \
            "-DMOE_ARM_LIBRARIES=$build/arm-libraries" -DMOE_BUILD_TOOLS=OFF -DMOE_BUILD_EXAMPLES=OFF
        compile "$build/arm" moe_arm_tests
        run_suite 'Arm, emulated' "$build/arm" --tests-regex '^arm/'
        ;;
    esac
done

printf '\n%d passed, %d failed' "$passed" "$failed"
(( skipped == 0 )) || printf ', %d skipped' "$skipped"
printf '\n'
(( failed == 0 ))
