# SPDX-License-Identifier: MIT
# moe convert from outside: every family to GGUF and back into layers, formats by rule, memory, what is refused.
# Usage: convert.sh MOE SAME SOURCE_DIR UNPACKED_MODELS SCRATCH_DIR [SANITIZER]
set -u
moe=$1 same=$2 source=$3 models=$4 scratch=$5 sanitizer=${6-}
zoo=$models/zoo
bard=$source/models/bard
. "$(dirname "$0")/expect.sh"

# big FOLDER: one layer whose experts have 96 MB of bf16, as a sparse file of zeros.
big()
{
    mkdir -p "$1"
    cat >"$1/config.json" <<EOF
{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 1, "hidden_size": 2048,
 "intermediate_size": 2048, "moe_intermediate_size": 2048, "num_experts": 4, "num_experts_per_tok": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 512, "norm_topk_prob": true, "decoder_sparse_step": 1,
 "mlp_only_layers": [], "hidden_act": "silu", "rms_norm_eps": 1e-6, "vocab_size": 8}
EOF
    layer=model.layers.0.mlp
    header="{\"$layer.experts.gate_up_proj\":{\"dtype\":\"BF16\",\"shape\":[4,4096,2048],"
    header="$header\"data_offsets\":[0,67108864]},"
    header="$header\"$layer.experts.down_proj\":{\"dtype\":\"BF16\",\"shape\":[4,2048,2048],"
    header="$header\"data_offsets\":[67108864,100663296]},\"$layer.gate.weight\":{\"dtype\":\"BF16\","
    header="$header\"shape\":[4,2048],\"data_offsets\":[100663296,100679680]}}"
    while [ $((${#header} % 8)) -ne 0 ]; do header="$header "; done
    size=${#header}
    printf "\\$(printf %o $((size % 256)))\\$(printf %o $((size / 256)))\\0\\0\\0\\0\\0\\0%s" "$header" \
        >"$1/model.safetensors"
    truncate -s $((8 + size + 100679680)) "$1/model.safetensors"
}

# The bound does not grow with the layer: 65 MB do for experts of 96 MB, from safetensors and from GGUF.
streams()
{
    big big
    [ -z "$sanitizer" ] || return 0
    (ulimit -d 66560 && "$moe" convert big big.gguf --format q8_0 >out 2>err) ||
        fail 'a layer of 96 MB in 65 MB of memory'
    (ulimit -d 66560 && "$moe" convert big.gguf big4.gguf --format q4_0 >out 2>err) ||
        fail 'a layer of 96 MB in 65 MB of memory, from GGUF'
    [ "$(format_of big4.gguf blk.0.ffn_up_exps.weight)" = q4_0 ] || fail 'big4.gguf is not q4_0'
    rm -f big.gguf big4.gguf
}

# Killed where nothing can be cleaned up: no file of the final name, and the next run removes what was left.
killed()
{
    mkdir -p stale
    "$moe" convert big stale/big.gguf --format q4_k --threads 1 >out 2>err &
    pid=$!
    tries=0
    while [ -z "$(ls stale)" ] && [ $tries -lt 100 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
    [ -e stale/big.gguf ] && fail 'a killed convert left a file of the final name'
    ls stale | grep -q '^big\.gguf\.tmp-' || fail 'a killed convert left nothing: it was not killed in the middle'
    : >stale/big.gguf.tmp-other    # not a name of ours: it stays
    expect 0 convert "$bard" stale/big.gguf --format q8_0
    [ "$(ls stale | tr '\n' ' ')" = 'big.gguf big.gguf.tmp-other ' ] || fail "left: $(ls stale)"
    rm -rf stale big
}

# Families that are another's layers under another name.
renamed()
{
    for pair in qwen3_moe:qwen3_omni_moe_text glm4_moe:glm4v_moe_text glm4_moe:solar_open granitemoe:granitemoe_swa \
        granitemoehybrid:granitemoeshared qwen3_next:qwen4_exp_text qwen3_moe:mellum; do
        from=${pair%:*} to=${pair#*:}
        variant $from "s/\"model_type\": \"$from\"/\"model_type\": \"$to\"/"
        expect 0 convert variant "$to.gguf" --format f32
        "$same" variant "$to.gguf" 1e-6 >out 2>err || fail "$to: another layer came back"
        printf '%-20s %s\n' "$to" "$(cat out)"
    done
}

# variant FAMILY SED: the family's checkpoint with another config.json, in ./variant.
variant()
{
    rm -rf variant
    mkdir variant && cp "$zoo/$1"/*.safetensors variant || fail "$1 cannot be copied"
    sed "$2" "$zoo/$1/config.json" >variant/config.json
    cmp -s variant/config.json "$zoo/$1/config.json" && fail "$2 does not change the config of $1"
    return 0
}

# Families that llama.cpp has no architecture for, and checkpoints of the zoo whose configuration its keys cannot say.
unnamed=' aria_text axk1 axk2 diffusion_gemma_text doge ernie4_5_vl_moe ernie4_5_vl_moe_text flex_olmo inkling_mm_model
inkling_text jetmoe longcat_flash openai_privacy_filter zaya '
unsaid=' glm5_next_text hy_v4 mellum qwen3_omni_moe_text '

# there_and_back MODEL FAMILY: from GGUF, the layers compute the same.
there_and_back()
{
    expect 0 convert "$1" "$2.gguf" --format f32
    "$same" "$1" "$2.gguf" 1e-6 >out 2>err || fail "$2: another layer came back"
    printf '%-20s %s\n' "$2" "$(cat out)"
    expect 0 convert "$1" "$2-keep.gguf" --format keep
    "$same" "$1" "$2-keep.gguf" 1e-6 >out 2>err || fail "$2: another layer came back, format kept"
    expect 0 convert "$2.gguf" again.gguf --format keep
    cmp -s "$2.gguf" again.gguf || fail "$2: a copy differs"
    rm -f "$2-keep.gguf" again.gguf
}

# From the checkpoint, and from its GGUF file, layers compute the same. The values are the same; sums may be taken in
# another order where a kernel reads bf16 and not f32, so that errors of some 2^-24 are left: 1e-6 is 16 of those.
families()
{
    for model in "$zoo"/*; do
        family=$(basename "$model")
        [ -f "$model/config.json" ] || continue
        case $unnamed in
        *[!a-z0-9_]"$family"[!a-z0-9_]*)
            expect 3 convert "$model" lost.gguf --format f32
            said 'llama.cpp has no names for models of family'
            [ -e lost.gguf ] && fail "$family: a refused convert left a file"
            continue ;;
        esac
        case $unsaid in
        *" $family "*)
            expect 3 convert "$model" lost.gguf --format f32
            said 'layer [01] has .* GGUF file of architecture'
            [ -e lost.gguf ] && fail "$family: a refused convert left a file" ;;
        *) there_and_back "$model" "$family" ;;
        esac
    done
    for family in glm5_next_text hy_v4; do    # but for the activation of their shared expert
        variant $family 's/"hidden_act": "gelu"/"hidden_act": "silu"/'
        there_and_back variant $family
    done
}

# format_of FILE TENSOR
format_of()
{
    "$moe" info "$1" --tensors | awk -v name="$2" '$1 == name { print $2 }'
}

# is FILE TENSOR FORMAT
is()
{
    found=$(format_of "$1" "$2")
    [ "$found" = "$3" ] || fail "$2 is '$found', not $3"
}

rules()
{
    expect 0 convert "$bard" rules.gguf --format q4_0 --down q6_k --rule 'blk.0.*=q8_0' \
        --rule '*_down_exps.weight=q5_0' --rule 'blk.?.ffn_up_exps.weight=keep' --rule 'blk.3.ffn_up*=f16'
    is rules.gguf blk.0.ffn_gate_exps.weight q8_0
    is rules.gguf blk.1.ffn_gate_exps.weight q4_0
    is rules.gguf blk.0.ffn_down_exps.weight q5_0
    is rules.gguf blk.2.ffn_down_exps.weight q5_0
    is rules.gguf blk.1.ffn_up_exps.weight bf16
    is rules.gguf blk.3.ffn_up_exps.weight f16
    is rules.gguf blk.0.ffn_gate_inp.weight f32
    expect 0 convert rules.gguf ruled.gguf --format keep --rule '*exps*=q8_0'
    is ruled.gguf blk.3.ffn_up_exps.weight q8_0
    is ruled.gguf token_embd.weight q4_0
    expect 0 convert rules.gguf ruled.gguf --format f16 --rule '*=f32' --rule 'token*=keep'
    is ruled.gguf token_embd.weight q4_0
    is ruled.gguf blk.1.attn_q.weight f32
    expect 2 convert "$bard" lost.gguf --format q4_0 --rule 'blk.9.*=q8_0'
    said "rule 'blk.9.\*=q8_0' fits no matrix"
    expect 2 convert "$bard" lost.gguf --format q4_0 --rule 'blk.0.*'
    said 'PATTERN=F'
    expect 2 convert "$bard" lost.gguf --format q4_0 --rule 'blk.0.*=q9_9'
    said "no weight format 'q9_9'; there are keep, f32"
    for format in u4 u8 e4m3 e2m1 e8m0 i8 i32; do    # not GGUF's, or not of weights
        expect 2 convert "$bard" lost.gguf --format $format
        said "no weight format '$format'"
    done
    [ -e lost.gguf ] && fail 'a refused convert left a file'
    return 0
}

# Formats that are only read are an error that names the tensor, unless the input has them.
only_read()
{
    expect 3 convert "$bard" lost.gguf --format iq2_xxs
    said "tensor 'blk.0.ffn_gate_exps.weight' cannot become iq2_xxs: that format can only be read"
    expect 3 convert "$bard" lost.gguf --format q4_0 --rule 'blk.3.ffn_up_exps.weight=iq3_s'
    said "tensor 'blk.3.ffn_up_exps.weight' cannot become iq3_s"
    [ -e lost.gguf ] && fail 'a refused convert left a file'
    return 0
}

# A convert may have 64 MB, and what one layer's experts take: here less than a megabyte. Stacks of threads count.
memory()
{
    [ -z "$sanitizer" ] || return 0    # it takes memory of its own
    for threads in 1 64; do
        (ulimit -d 66560 && "$moe" convert "$bard" small.gguf --format q4_k --threads $threads >out 2>err) ||
            fail "more than 65 MB of memory with $threads threads"
        (ulimit -d 66560 && "$moe" convert small.gguf smaller.gguf --format q4_0 --threads $threads >out 2>err) ||
            fail "more than 65 MB of memory with $threads threads, from GGUF"
    done
    rm -f small.gguf smaller.gguf
    (ulimit -d 4096 && "$moe" convert "$bard" lost.gguf --format q4_k >out 2>err) &&
        fail 'the limit of memory has no effect'
    [ -e lost.gguf ] && fail 'a convert that failed left a file'
    ls | grep -q '\.tmp-' && fail 'a temporary file was left'
    return 0
}

# Axes without a key in GGUF files.
no_key()
{
    variant laguna 's/"moe_router_logit_softcapping": [^,]*,/"moe_router_logit_softcapping": 5.0,/'
    expect 3 convert variant lost.gguf --format f32
    said "soft-cap of the router's logits of 5; .*'laguna' cannot say that, it would be read as 0"
    variant phimoe 's/"router_jitter_noise": [^,]*,/"router_jitter_noise": 0.25,/'
    expect 3 convert variant lost.gguf --format f32
    said "sparse mixer of 0.25; .*'phimoe' cannot say that"
    variant cohere2_moe 's/"shared_expert_combination_strategy": "average"/"shared_expert_combination_strategy": "sum"/'
    expect 3 convert variant lost.gguf --format f32
    said "a scale of the layer's sum of 1; .*read as 0.5"
    [ -e lost.gguf ] && fail 'a refused convert left a file'
    ls | grep -q '\.tmp-' && fail 'a temporary file was left'
    return 0
}

families
rules
only_read
memory
streams
killed
renamed
no_key
[ $failures -eq 0 ] || { echo "$failures failures"; exit 1; }
cd / && rm -rf "$scratch"
echo 'all passed'
