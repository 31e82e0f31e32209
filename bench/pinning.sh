#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: bench/pinning.sh [MOE [SHAPE [TYPE]]]. What pinning shows of larger machines on one with two CPUs: one thread,
# two threads, two processes that each hold half of every expert on a CPU of their own, as two sockets would, and two
# threads on one CPU. Times in ms of one token, least and median. docs/scaling.md explains.
set -eu
moe=${1:-build/bin/moe}
shape=${2:-2048,768,128,8}
type=${3:-q8_0}
hidden=${shape%%,*}
rest=${shape#*,}
half=$hidden,$((${rest%%,*} / 2)),${rest#*,}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# cell NAME CPUS THREADS SHAPE
cell()
{
    taskset -c "$2" "$moe" bench --shape "$4" --type "$type" --tokens 1 --threads "$3" --cold-bytes 1e9 --retries 0 \
        --json >"$scratch/$1" 2>"$scratch/$1.err" || { cat "$scratch/$1.err" >&2; exit 1; }
}
show()
{
    awk -v name="$2" '
        function field(key,   skip) {
            skip = length(key) + 4
            match($0, "\"" key "\": [^,}]*")
            return substr($0, RSTART + skip, RLENGTH - skip)
        }
        { printf "%-36s least %8.4f  median %8.4f  %6.2f GB/s%s\n", name, field("min_ms"), field("median_ms"),
          field("GB_s"), field("disturbed") == "true" ? "  !" : "" }' "$scratch/$1"
}

cell one 0 1 "$shape"
cell two 0,1 2 "$shape"
cell half0 0 1 "$half" &
cell half1 1 1 "$half"
wait $!
cell both 0 2 "$shape"
show one '1 thread on CPU 0'
show two '2 threads on CPUs 0 and 1'
show half0 'half of each expert on CPU 0, and'
show half1 'the other on CPU 1 at once'
show both '2 threads on CPU 0'
