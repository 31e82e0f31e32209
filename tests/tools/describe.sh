# SPDX-License-Identifier: MIT
# A model that no preset knows, run by its description: the same numbers as those of the model that it was made from.
# Usage: describe.sh MOE UNPACKED_MODELS SCRATCH_DIR
set -u
moe=$1 zoo=$2/zoo scratch=$3
. "$(dirname "$0")/expect.sh"
mkdir -p tomorrow || exit 1

own=$zoo/qwen2_moe
cp "$own/model.safetensors" "$own/reference.safetensors" tomorrow
sed 's/"model_type": "[a-z0-9_]*"/"model_type": "tomorrow"/' "$own/config.json" >tomorrow/config.json

expect 3 info tomorrow
said "architecture 'tomorrow' is not one of the model families"
expect 3 check tomorrow

# What the library says of the model that it knows, and says again of the same tensors under another name.
expect 0 info "$own" --describe
cp out model.json
expect 0 info tomorrow --describe model.json
said tomorrow
expect 0 check tomorrow --describe model.json
expect 0 bench tomorrow --describe model.json --tokens 1 --seconds 0.01

"$moe" check "$own" --json >own.json && "$moe" check tomorrow --describe model.json --json >other.json
grep -o '"error": [^,]*' own.json >own.errors
grep -o '"error": [^,]*' other.json >other.errors
[ -s own.errors ] && cmp -s own.errors other.errors || fail 'a described model has other errors than its own'

# Converted: under the architecture of the description's family, and a model that needs no description.
expect 0 convert tomorrow tomorrow.gguf --format f32 --describe model.json
expect 0 info tomorrow.gguf
said qwen2moe
expect 0 check tomorrow.gguf --reference tomorrow/reference.safetensors

# Errors name the key.
sed 's/"top_k": [0-9]*/"top_k": 99/' model.json >damaged.json
for command in info check bench; do
    expect 3 $command tomorrow --describe damaged.json
    said "key 'top_k'"
done
sed 's/"renorm": "[a-z_]*"/"renorm": "clamp_eps", "renorm_eps": 0.75/; /"renorm_eps": 0,/d' model.json >other.json
expect 0 info tomorrow --describe other.json
expect 1 check tomorrow --describe other.json

[ $failures -eq 0 ] || { echo "$failures failures"; exit 1; }
