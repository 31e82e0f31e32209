# SPDX-License-Identifier: MIT
# The moe command on families with axes of their own: info in words, description files, references of which every part
# counts, token ids. Usage: axes.sh MOE FIXTURE SOURCE_DIR UNPACKED_MODELS SCRATCH_DIR
set -u
moe=$1 fixture=$2 models=$4 scratch=$5
zoo=$models/zoo
. "$(dirname "$0")/expect.sh"

# near FILE FILE LIMIT: the two arrays differ by less.
near()
{
    error=$("$fixture" error "$1" "$2") || { fail "arrays $1 and $2 cannot be compared"; return; }
    awk "BEGIN { exit !($error <= $3) }" || fail "$1 and $2 differ by $error, more than $3"
}

in_words()
{
    while read -r family words; do
        expect 0 info "$zoo/$family"
        said "$words"
    done <<END
deepseek_v4 square root of softplus of 8 experts
deepseek_v4 8 experts by a table of token ids, top 2, weighed by square root of softplus, weights renormalised, x1.5
longcat_flash 8 experts of 64 x 48, top 2, 2 zero experts
longcat_flash the last 2 experts give their input
nemotron_h 8 experts of 32 x 48, top 2, hidden size 64
nemotron_h experts in a space of 32 values
nemotron_h relu squared of up, no gate
phimoe weighed by sparse mixer
dbrx weights divided by their 1-norm
gemma4_text times a scale of each expert; the router's input is normed
inkling_text the last 2 always
minimax_m3_vl_text sum of experts x1.5
cohere2_moe output x0.5
axk1 output normed
jetmoe output with a bias
mistral4 others count as 0
hy_v4 clamped before at 0.5
END
}

# A description file says what a model is, in place of its metadata.
descriptions()
{
    expect 0 info "$zoo/qwen3_moe" --describe
    "$fixture" json out version || fail 'info --describe is no JSON'
    cp out own.json
    expect 0 info --describe "$zoo/qwen3_moe"
    cmp -s out own.json || fail 'info --describe MODEL is another text'
    expect 0 info "$zoo/qwen3_moe"
    cp out own.txt
    expect 0 info "$zoo/qwen3_moe" --describe own.json
    cmp -s out own.txt || fail 'a description read back is another model'
    expect 0 check "$zoo/qwen3_moe" --describe own.json
    expect 0 bench "$zoo/qwen3_moe" --describe own.json --tokens 1 --seconds 0.01
    "$fixture" npy "$zoo/qwen3_moe/reference.safetensors" layer0.x xq.npy || fail npy
    expect 0 run "$zoo/qwen3_moe" --layer 0 --input xq.npy --output yq.npy
    expect 0 run "$zoo/qwen3_moe" --layer 0 --input xq.npy --output yq2.npy --describe own.json
    cmp -s yq.npy yq2.npy || fail 'a description read back computes something else'
    sed 's/"add_eps"/"none"/' own.json >other.json
    if ! cmp -s own.json other.json; then
        expect 1 check "$zoo/qwen3_moe" --describe other.json
        said "the reference's weights are others"
    else
        fail 'the description has no renormalisation to change'
    fi
    for command in info check bench; do
        expect 3 $command "$zoo/qwen3_moe" --describe nowhere.json
        said nowhere.json
    done
    echo '{}' >empty.json
    expect 3 check "$zoo/qwen3_moe" --describe empty.json
    printf '\0' >zero.json
    expect 3 check "$zoo/qwen3_moe" --describe zero.json
    said 'is no description'
    expect 2 bench --shape 64,64,8,2 --format f32 --describe own.json
    expect 2 info "$zoo/qwen3_moe" --describe --json
    expect 2 info --describe
}

# Of a reference every part counts.
damaged()
{
    while read -r family tensors; do
        for tensor in $tensors; do
            "$fixture" doctor "$zoo/$family/reference.safetensors" doctored.safetensors layer0.$tensor || fail 'doctor'
            expect 1 check "$zoo/$family" --exact --reference doctored.safetensors
            said '^layer  0  FAIL'
        done
    done <<END
qwen3_moe x out ids weights router_logits
deepseek_v4 x out ids weights
gemma4_text router_x expert_x expert_out ids weights
nemotron_h x out expert_out ids weights
llama4_text x out
granitemoehybrid x out
inkling_text x out ids weights
END
    expect 0 check "$zoo/nemotron_h"
    said "experts' error"
    expect 0 check "$zoo/llama4_text" --json
    "$fixture" json out layers || fail 'check --json'
    said '"experts_error": [0-9]'
}

# A layer that routes by token id needs them.
token_ids()
{
    reference=$zoo/deepseek_v4/reference.safetensors
    layer=$("$moe" info "$zoo/deepseek_v4" | awk '/^layer/ { n = $2 + 0 } /table of token ids/ { print n }')
    "$fixture" npy "$reference" layer$layer.x xt.npy && "$fixture" npy "$reference" input_ids t.npy &&
        "$fixture" npy "$reference" layer$layer.out expected.npy || fail npy
    expect 3 run "$zoo/deepseek_v4" --layer $layer --input xt.npy --output yt.npy
    said 'give --token-ids'
    [ -e yt.npy ] && fail 'a failed run left a file'
    expect 0 run "$zoo/deepseek_v4" --layer $layer --input xt.npy --output yt.npy --token-ids t.npy --ids-out it.npy \
        --weights-out wt.npy --exact
    near yt.npy expected.npy 1e-5
    expect 0 run "$zoo/deepseek_v4" --layer $layer --input xt.npy --output yt2.npy --ids it.npy --weights wt.npy \
        --exact
    cmp -s yt.npy yt2.npy || fail 'given the ids of the table, the output is another one'
    "$fixture" zeros short.npy 3 1 '<i8'
    expect 3 run "$zoo/deepseek_v4" --layer $layer --input xt.npy --output yt3.npy --token-ids short.npy
    said 'one id for each token'
    "$fixture" zeros floats.npy 11 1 '<f4'
    expect 3 run "$zoo/deepseek_v4" --layer $layer --input xt.npy --output yt3.npy --token-ids floats.npy
}

in_words
descriptions
damaged
token_ids
[ $failures -eq 0 ] || { echo "$failures failures"; exit 1; }
cd / && rm -rf "$scratch"
echo 'all passed'
