# SPDX-License-Identifier: MIT
# docs/models.md against what is generated from the library's tables and from what runs: the results of layer/zoo, and
# every checkpoint of the zoo converted to GGUF and compared layer by layer.
# Usage: models_table.sh MOE SAME TABLE SOURCE_DIR BINARY_DIR UNPACKED_MODELS SCRATCH_DIR
set -u
moe=$1 same=$2 table=$3 source=$4 binary=$5 models=$6 scratch=$7
rm -rf "$scratch"
mkdir -p "$scratch" || exit 1
cat "$binary/zoo-results.txt" "$source/tests/docs/proven.txt" >"$scratch/results.txt" || exit 1
for folder in "$models"/zoo/*; do
    family=${folder##*/}
    # In f32 values are the same: 2e-6 leaves room for 32 roundings of sums taken in another order.
    if "$moe" convert "$folder" "$scratch/model.gguf" --format f32 >"$scratch/log" 2>&1; then
        "$same" "$folder" "$scratch/model.gguf" 2e-6 >"$scratch/log" 2>&1 || { cat "$scratch/log"; exit 1; }
        "$moe" info "$scratch/model.gguf" --json | sed -n 's/^ *"architecture": "\(.*\)",*$/gguf '"$family"' \1/p' \
            >>"$scratch/results.txt"
    elif ! grep -q 'llama.cpp has no names' "$scratch/log"; then
        echo "refused $family" >>"$scratch/results.txt"
    fi
    rm -f "$scratch/model.gguf"
done
"$table" "$scratch/results.txt" >"$scratch/models.md" || exit 1
if ! cmp -s "$scratch/models.md" "$source/docs/models.md"; then
    diff "$source/docs/models.md" "$scratch/models.md" | head -40
    echo "docs/models.md is not what the tables and tests give: that is in $scratch/models.md"
    exit 1
fi
