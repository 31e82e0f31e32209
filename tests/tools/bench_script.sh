# SPDX-License-Identifier: MIT
# bench/cpu.py on small shapes: lines in a file, tables in a document, another library beside ours; and what the peer's
# script says where its package is missing.
# Usage: bench_script.sh MOE SOURCE_DIR PYTHON SCRATCH_DIR
set -u
moe=$1 source=$2 python=$3 scratch=$4
failures=0
fail()
{
    echo "FAIL: $*"
    failures=$((failures + 1))
}
has()
{
    grep -q -e "$2" "$1" || { fail "$1 has no $2"; cat "$1"; }
}
rm -rf "$scratch" && mkdir -p "$scratch" && cd "$scratch" || exit 1
printf 'before\n<!-- tables: written by bench/cpu.py -->\nold\n<!-- end of tables -->\nafter\n' >page.md
script() { "$python" -B "$source/bench/cpu.py" "$@" --document page.md 2>err || { cat err; fail "cpu.py $*"; }; }

# k-quants do not fit the second shape
script --moe "$moe" --shapes '256,256,8,2;64,96,4,2' --formats q4_K,q8_0+exact --tokens 1,40 --threads 1,2 \
    --seconds 0.01 --no-wait --out lines.jsonl
[ "$(grep -c '"median_ms"' lines.jsonl)" -eq 12 ] || fail 'not 12 cells'
[ "$(grep -c '"machine"' lines.jsonl)" -eq 1 ] || fail 'no line of the machine'
has page.md '^before$'
has page.md '^after$'
grep -q '^old$' page.md && fail 'the old tables are still there'
has page.md '^| q4_K | [0-9.]*, [0-9]* % [a-z0-9]*'
has page.md '^### 64,96,4,2: [a-z0-9]*-exact, 2 threads$'
has page.md '^| 256,256,8,2 | q4_K | [a-z0-9]* | 40 | 2 | [0-9.]* |$'
has page.md '^- 2 threads: read [0-9]* GB/s .*, f32 [0-9]* GFLOP/s'
has page.md '^| q8_0 | [a-z0-9]*-exact | [0-9.]*e-0[6-9] |$'

# another library that took twice as long
sed -n '/"median_ms"/{s/"library": "libmoe"/"library": "other"/;s/"path": "[^"]*"/"path": "plain"/;p;}' lines.jsonl |
    "$python" -c 'import json, sys
for line in sys.stdin:
    cell = json.loads(line)
    print(json.dumps(dict(cell, median_ms=2 * cell["median_ms"], commit="abc")))' >peers.jsonl
script --only-table lines.jsonl --peers peers.jsonl
has page.md '\*\*0[.]50\*\* plain'
has page.md 'other abc'

# ggml's package is not there: -S hides it if it is
"$python" -B -I -S "$source/bench/peers/ggml_layer.py" >out 2>err && fail 'no package, no error'
has err 'pip install llama-cpp-python'
[ $failures -eq 0 ] || exit 1
echo 'all passed'
