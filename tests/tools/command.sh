# SPDX-License-Identifier: MIT
# The moe command from outside: exit codes, error sentences, help pages, JSON, and whole ways from a checkpoint to a
# verified layer. Usage: command.sh MOE FIXTURE SOURCE_DIR UNPACKED_MODELS SCRATCH_DIR
set -u
moe=$1 fixture=$2 source=$3 models=$4 scratch=$5
zoo=$models/zoo
bard=$source/models/bard
scribe=$models/scribe
. "$(dirname "$0")/expect.sh"

help_pages()
{
    expect 0 --help
    for command in info run check bench convert; do
        expect 0 --help
        said "^  $command "
        expect 0 $command --help
        said 'Usage: moe'
        said 'Examples:'
        said '^  moe '
        expect 0 help $command
        said 'Usage: moe'
    done
    options info json tensors tokens backend describe
    options run layer input output router-input token-ids ids weights ids-out weights-out describe backend threads \
        primitives exact
    options check reference tolerance describe backend threads primitives exact json
    options bench shape format type down tokens threads backend describe exact error seconds retries cold-bytes json \
        plot
    options convert format down rule experts-only threads
    expect 0 --version
    said '^moe [0-9]'
}

# options COMMAND NAMES...: the help page has them all.
options()
{
    command=$1
    shift
    expect 0 "$command" --help
    for name; do
        said "^  --$name "
    done
}

wrong_usage()
{
    expect 2
    expect 2 inof
    said "did you mean 'info'"
    expect 2 frobnicate
    expect 2 info --jason
    said 'did you mean --json'
    expect 2 info a b
    expect 2 info --tensors
    expect 2 info --tokens 8
    said '--tokens needs a MODEL'
    expect 2 info "$bard" --backend cpu
    said '--backend says where --tokens N would run: give both'
    for tokens in 0 x -1 1,2 18446744073709551616; do
        expect 2 info "$bard" --tokens $tokens
        said "a whole number from 1 on, not '$tokens'"
    done
    expect 2 info "$bard" --tokens 18446744073709551615
    said 'more than a call on cpu may have'
    expect 2 info "$bard" --describe --tokens 8
    said 'without --json, --tensors, --tokens'
    expect 2 run "$bard"
    said 'needs --layer'
    expect 2 run --layer 0 --input x --output y
    expect 2 run "$bard" --layer x --input x --output y
    said 'a whole number'
    expect 2 run "$bard" --layer 0 --input x --output y --ids i
    expect 2 run "$bard" --layer
    expect 2 check "$bard" --tolerance -1
    expect 2 check "$bard" --json=1
    expect 2 bench
    expect 2 bench --shape 64,64,8,2
    expect 2 bench --shape 64,64,8 --format f32
    expect 2 bench --shape 64,64,8,9 --format f32
    expect 2 bench --shape 64,64,8,2 --format f33
    expect 2 bench --shape 64,64,8,2 --format i32
    expect 2 bench --shape 64,64,8,2 --format q4_k
    expect 2 bench --shape 64,64,8,2 --format f32 --tokens 0
    expect 2 bench --shape 64,64,8,2 --format f32, --tokens 1
    expect 2 bench --shape 64,64,8,2 --format ,f32 --tokens 1
    expect 2 bench --shape 64,64,4097,2 --format f32 --tokens 1
    said '4097 experts are more than 4096'
    expect 2 bench --shape 4294967296,4294967296,8,2 --format f32 --tokens 1
    said 'more bytes than can be addressed'
    for outputs in '--ids-out y.npy' '--weights-out ./y.npy' '--ids-out w.npy --weights-out w.npy'; do
        expect 2 run "$bard" --layer 0 --input x.npy --output y.npy $outputs
        said 'are one file'
    done
    expect 2 bench "$bard" --format f32
    expect 2 bench "$bard" --type f32
    expect 2 bench --shape 64,64,8,2 --format f32 --type f32
    said 'give one of them'
    expect 2 bench --shape 64,64,8,2 --format f32 --retries 1001
    expect 2 bench "$bard" --plot
    said '--plot needs a value: --plot FILE'
    expect 2 bench "$bard" --plot=
    expect 2 convert "$bard" x.gguf
    expect 2 convert "$bard" x.gguf --format q9_9
    said 'q8_0'
    expect 2 convert "$bard" --format f32
}

bad_input()
{
    printf 'GGUF' >short.gguf
    mkdir -p empty
    for command in info check; do
        expect 3 $command nowhere
        expect 3 $command short.gguf
        said short.gguf
        expect 3 $command empty
    done
    expect 3 info "$bard/reference.safetensors" --tokens 8
    said 'holds tensors but no model'
    expect 3 info "$bard" --tokens 8 --backend frobnicate
    expect 3 info "$bard" --tokens 8 --backend cpu:frobnicate
    expect 3 check "$bard/reference.safetensors"
    expect 3 check "$bard" --reference nowhere.safetensors
    expect 3 check "$bard" --reference "$bard/sampled_ids.safetensors"
    expect 3 convert nowhere x.gguf --format f32
    expect 3 convert "$bard" no/such/folder/x.gguf --format f32
    expect 3 convert "$bard" . --format f32
    [ -e x.gguf ] && fail 'a failed convert left a file'
    expect 3 bench nowhere
    expect 3 bench nowhere --plot x.svg
    expect 3 bench "$bard" --plot no/such/folder/x.svg
    said 'no/such/folder/x.svg: cannot be created'
    expect 3 bench "$bard" --plot .
    ls | grep -q 'x[.]svg' && fail 'a failed bench left a file'
    expect 3 run "$bard" --layer 0 --input nowhere.npy --output y.npy
    "$fixture" zeros small.npy 3 255 '<f4'
    "$fixture" zeros x.npy 3 256 '<f4'
    "$fixture" zeros x-int.npy 3 256 '<i4'
    expect 3 run "$bard" --layer 0 --input small.npy --output y.npy
    said '255'
    expect 3 run "$bard" --layer 4 --input x.npy --output y.npy
    said 'layers 0 to 3'
    expect 3 run "$bard" --layer 0 --input x-int.npy --output y.npy
    expect 3 run "$bard" --layer 0 --input short.gguf --output y.npy
    expect 3 run "$bard" --layer 0 --input x.npy --output y.npy --ids x-int.npy --weights x.npy
    expect 3 run "$bard" --layer 0 --input x.npy --output no/such/folder/y.npy
    expect 3 run "$scribe" --layer 0 --input x.npy --output y.npy
    [ -e y.npy ] && fail 'a failed run left a file'
    return 0
}

info_pages()
{
    expect 0 info
    said 'level'
    said 'q4_k'
    said '^  iq2_xxs .* can only be read$'
    grep -q '^  q4_k .*read' out && fail 'q4_k can be made'
    said '^model families, model_type'
    said ' qwen3_moe,'
    said ' gpt-oss,'
    expect 0 info --json
    "$fixture" json out version backends formats families gguf_architectures || fail 'info --json'
    expect 0 info "$bard"
    said 'softmax over all 16 experts, top 4, weights renormalised'
    said '^layers 0-3: 16 experts of 256 x 256'
    expect 0 info "$scribe"
    said '^layer 0: dense'
    said '^layers 1-3: 24 experts'
    said '4 groups, best 2 by the sum of their two best, top 4, weights renormalised, x1.5; one shared expert, ungated'
    expect 0 info "$scribe" --json --tensors
    "$fixture" json out architecture family layers tensors || fail 'info --json of a model'
    expect 0 info "$bard/reference.safetensors" --tensors
    said 'no model'
    said 'layer0.x'
    expect 0 info "$zoo/qwen2_moe"
    said 'gated by a sigmoid'
    expect 0 info "$zoo/llama4_text"
    said "applied to the expert's input"
}

# Which kernels so many tokens would take. Levels above c are the machine's.
info_plans()
{
    expect 0 info "$bard" --tokens 8 --backend cpu:c
    said '^layers 0-3: 16 experts'
    said '^  8 tokens on cpu:c, level c$'
    said '^    path             fused$'
    said '^    pairs            32 (8 x top 4): spread evenly, 16 of 16 experts get 2.0 each$'
    said '^    gate, up         linear bf16 c, activations in f32$'
    said '^    down             linear bf16 c, activations in f32$'
    [ "$(grep -c ' tokens on ' out)" -eq 1 ] || fail 'four layers of one kind, one plan'
    expect 0 info "$bard" --tokens 1
    said '^  1 token on cpu, level [a-z0-9]*$'
    said '^    gate, up         linear[a-z0-9_]* bf16 [a-z0-9]*, activations '
    expect 0 info "$zoo/nemotron_h" --tokens 3 --backend cpu:c
    said '^    latent in        linear bf16 c'
    said '^    shared down      linear bf16 c'
    expect 0 info "$scribe" --tokens 3 --backend cpu:c --json --tensors
    "$fixture" json out model layers tensors || fail 'info --json --tokens'
    [ "$(grep -c '"plan": {' out)" -eq 3 ] || fail 'a plan for each MoE layer'
    [ "$(grep -c '"plan": null' out)" -eq 1 ] || fail 'a plan for a dense layer'
    said '"backend": "cpu:c",'
    said '"num_tokens": 3,'
    said '"key": "shared gate, up",'
    said '"value": "linear bf16 c, activations in f32"'
    expect 0 info "$scribe" --json
    grep -q '"plan"' out && fail 'a plan that nobody asked for'
    return 0
}

checks()
{
    for model in "$bard" "$scribe" "$zoo"/*; do
        expect 0 check "$model"
        grep -q FAIL out && fail "check $model"
    done
    expect 0 check "$bard" --primitives --threads 1 --backend cpu:c
    expect 0 check "$bard" --json
    "$fixture" json out model layers passed failed || fail 'check --json'
    expect 1 check "$bard" --tolerance 0
    expect 1 check "$bard" --tolerance 0 --json
    "$fixture" json out passed || fail 'check --json of a failing check'
    "$fixture" doctor "$bard/reference.safetensors" doctored.safetensors layer2.out || fail 'doctor'
    expect 1 check "$bard" --reference doctored.safetensors
    [ "$(grep -c FAIL out)" -eq 2 ] || fail 'one layer and the summary should fail'
    said '^layer  2  FAIL'
    "$fixture" doctor "$bard/reference.safetensors" doctored.safetensors layer1.x || fail 'doctor'
    expect 1 check "$bard" --reference doctored.safetensors
    said '^layer  1  FAIL'
}

# A reference without tokens, of more tokens than inputs, or of other widths compares nothing.
hostile_references()
{
    for shapes in 'layer0.x 0 layer0.out 5' 'layer0.x 0 layer0.out 0' 'layer0.x 3 layer0.out 5' \
        'layer0.x 3 layer0.out 3 layer0.router_x 0'; do
        "$fixture" floats hostile.safetensors 256 $shapes || fail 'floats'
        expect 3 check "$bard" --reference hostile.safetensors
        said 'of at least one token'
    done
    "$fixture" floats hostile.safetensors 255 layer0.x 3 layer0.out 3
    expect 3 check "$bard" --reference hostile.safetensors
    said 'of 256 values a token'
}

# A path of other bytes than UTF-8 is no reason for JSON to fail.
other_bytes()
{
    path=$(printf 'bard-\377\303')
    ln -s "$bard" "$path" || return 0
    for command in 'info --json --tensors' 'check --json'; do
        expect 0 $command "$path"
        "$fixture" json out model layers || fail "$command of a path that is no UTF-8"
        said "$(printf 'bard-\357\277\275\357\277\275"')"
    done
}

# unharmed ARGUMENTS...: the command is refused for its output, and all files of ./precious stay as they are.
unharmed()
{
    cat precious/* | cksum >before
    ls precious >>before
    expect 2 "$@"
    { cat precious/* | cksum; ls precious; } | cmp -s - before || fail "files were harmed by: moe $*"
}

# No command writes over the model that it reads, whatever the path says.
models_are_safe()
{
    mkdir precious && cp "$bard"/*.json "$bard"/*.safetensors precious && chmod -R u+w precious || fail 'copy'
    for name in model-00002-of-00002.safetensors config.json new.safetensors new.json; do
        unharmed convert precious "precious/$name" --format f32
        unharmed run precious --layer 0 --input x.npy --output "$PWD/precious/../precious/$name"
    done
    (cd precious && "$moe" convert . new.json --format f32 >../out 2>../err)
    [ $? -eq 2 ] || fail 'convert of the current folder'
    ln -s precious/config.json config.svg
    unharmed convert precious config.svg --format f32
    unharmed bench precious --tokens 1 --seconds 0.01 --plot config.svg
    unharmed bench precious --tokens 1 --seconds 0.01 --plot precious/config.json
    unharmed bench --shape 64,64,8,2 --format f32 --tokens 1 --seconds 0.01 --plot precious/config.json
    expect 0 convert precious precious/own.gguf --format q4_0
    expect 0 convert precious precious/own.gguf --format q8_0
    unharmed bench precious/own.gguf --tokens 1 --seconds 0.01 --plot precious/own.gguf
    unharmed run precious/own.gguf --layer 0 --input x.npy --output precious/own.gguf
    for number in 1 2; do    # as names go: the model is not opened before
        echo "part $number" >precious/split-0000$number-of-00002.gguf
    done
    unharmed convert precious/split-00001-of-00002.gguf precious/split-00002-of-00002.gguf --format f32
    echo other >precious/split-00002-of-00003.gguf
    expect 3 convert precious/split-00001-of-00002.gguf precious/split-00002-of-00003.gguf --format f32
}

# near FILE FILE LIMIT: the two arrays differ by less.
near()
{
    error=$("$fixture" error "$1" "$2") || { fail "arrays $1 and $2 cannot be compared"; return; }
    awk "BEGIN { exit !($error <= $3) }" || fail "$1 and $2 differ by $error, more than $3"
}

runs()
{
    reference=$bard/reference.safetensors
    "$fixture" npy "$reference" layer1.x x.npy && "$fixture" npy "$reference" layer1.out expected.npy || fail npy
    expect 0 run "$bard" --layer 1 --input x.npy --output y0.npy --exact
    near y0.npy expected.npy 1e-5
    expect 0 run "$bard" --layer 1 --input x.npy --output y.npy --ids-out ids.npy --weights-out w.npy
    near y.npy expected.npy 4e-3
    expect 0 run "$bard" --layer 1 --input x.npy --output y2.npy --ids ids.npy --weights w.npy
    cmp -s y.npy y2.npy || fail 'given the ids and weights of the router, the output is another one'
    expect 0 run "$bard" --layer=1 --input=x.npy --output=y3.npy --primitives --exact --threads 3
    near y3.npy expected.npy 1e-5
    "$fixture" zeros zero.npy 96 256 '<f4'
    expect 0 run "$bard" --layer 1 --input x.npy --output y4.npy --router-input zero.npy --ids-out ids0.npy
    cmp -s ids.npy ids0.npy && fail 'another router input did not change the choice of experts'
    "$fixture" zeros none.npy 96 0 '<i8'
    expect 3 run "$bard" --layer 1 --input x.npy --output y5.npy --ids none.npy --weights none.npy
    "$fixture" zeros nothing.npy 0 256 '<f8'
    expect 0 run "$bard" --layer 1 --input nothing.npy --output y6.npy
    expect 0 run "$bard" --layer 1 --input x.npy --output /dev/null
    [ -c /dev/null ] || fail '/dev/null is no more'
    mkdir -p elsewhere && echo old >elsewhere/y.npy && chmod 604 elsewhere/y.npy && ln -s elsewhere/y.npy link.npy
    expect 0 run "$bard" --layer 1 --input x.npy --output link.npy
    [ -L link.npy ] || fail 'a link to the output was replaced'
    cmp -s y.npy elsewhere/y.npy || fail 'a link to the output was not followed'
    [ "$(stat -c %a elsewhere/y.npy)" = 604 ] || fail 'a file that was replaced lost its mode'
    ls elsewhere | grep -q '\.tmp-' && fail 'a temporary file was left'
    ls | grep -q '\.tmp-' && fail 'a temporary file was left'
    return 0
}

converted()
{
    for format in f32 f16 bf16 q8_0 q6_k q5_k q4_k q3_k q2_k q5_1 q5_0 q4_1 q4_0 iq4_nl iq4_xs tq1_0 tq2_0 mxfp4 \
        nvfp4; do
        expect 0 convert "$bard" bard-$format.gguf --format $format
        expect 0 check bard-$format.gguf --reference "$bard/reference.safetensors"
    done
    expect 0 convert "$scribe" scribe.gguf --format Q4_K
    said 'q8_0 for 3 ffn_down_exps: 160 columns are no whole number of q4_k blocks'
    expect 0 check scribe.gguf --reference "$scribe/reference.safetensors"
    mkdir -p beside
    cp "$bard/reference.safetensors" beside
    expect 0 convert "$bard" beside/mixed.gguf --format q4_k --down q6_k
    expect 0 check beside/mixed.gguf
    expect 0 info beside/mixed.gguf
    said 'gate q4_k, up q4_k, down q6_k'
    families=0
    for model in "$zoo"/*; do
        name=$(basename "$model")
        # which families llama.cpp has no names or keys for, convert.sh knows
        "$moe" convert "$model" $name-f32.gguf --format f32 >out 2>err || continue
        families=$((families + 1))
        for format in f32 q8_0; do
            expect 0 convert "$model" $name-$format.gguf --format $format
            expect 0 check $name-$format.gguf --reference "$model/reference.safetensors"
        done
        expect 0 check $name-f32.gguf --reference "$model/reference.safetensors" --tolerance 1e-5
        rm -f $name-f32.gguf $name-q8_0.gguf
    done
    [ $families -ge 39 ] || fail "only $families families were converted"
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

# What a GGUF file has no words for is refused, never converted into something else.
not_convertible()
{
    for family in qwen3_moe qwen2_moe olmoe mixtral glm4_moe deepseek_v3 llama4_text; do
        variant $family 's/"hidden_act": "silu"/"hidden_act": "gelu_pytorch_tanh"/'
        expect 3 convert variant lost.gguf --format f32
        said 'layer 0 computes gelu (tanh) of gate, times up; .*would compute silu of gate, times up$'
    done
    variant gpt_oss 's/^{/{ "swiglu_limit": 3.5,/'
    expect 3 convert variant lost.gguf --format f32
    said "clamped before at 3.5; .*'gpt-oss' would .*clamped before at 7$"
    variant qwen3_moe 's/"mlp_only_layers": \[\]/"mlp_only_layers": [0]/'
    expect 3 convert variant lost.gguf --format f32
    said "layer 0 has no experts; .*'qwen3moe' experts are in every layer$"
    variant qwen2_moe 's/"mlp_only_layers": \[\]/"mlp_only_layers": [1]/'
    expect 3 convert variant lost.gguf --format f32
    said "layer 1 has no experts; .*'qwen2moe'"
    variant qwen3_moe 's/"decoder_sparse_step": 1/"decoder_sparse_step": 2/'
    expect 3 convert variant lost.gguf --format f32
    said 'layer 0 has no experts'
    variant llama4_text 's/"moe_layers": \[/"moe_layers": [0], "other": [/'
    expect 3 convert variant lost.gguf --format f32
    said 'layer 1 has no experts; .*experts are in just the layers i where a step, here 1, divides i + 1$'
    variant glm4_moe 's/"num_experts_per_tok": 2/"num_experts_per_tok": [2, 3]/'
    expect 3 convert variant lost.gguf --format f32
    said 'layer 1 has other numbers'
    variant glm4_moe 's/"norm_topk_prob": true/"norm_topk_prob": [true, false]/'
    expect 3 convert variant lost.gguf --format f32
    said 'layer 1 has other numbers'
    [ -e lost.gguf ] && fail 'a refused convert left a file'
    return 0
}

# Keys that follow from the layers, and notes on what llama.cpp does not look at.
layer_keys()
{
    for change in 's/"moe_layers": \[/"moe_layers": [1], "other": [/' \
        's/"moe_layers": \[/"other": [/;s/"interleave_moe_layer_step": 1/"interleave_moe_layer_step": 2/'; do
        variant llama4_text "$change"
        expect 0 convert variant step.gguf --format f32
        expect 0 info step.gguf
        said '^layer 0: dense'
        said '^layer 1: 8 experts'
    done
    variant glm4_moe 's/"first_k_dense_replace": 0/"first_k_dense_replace": 1/'
    expect 0 convert variant leading.gguf --format f32
    expect 0 info leading.gguf
    said '^layer 0: dense'
    variant glm4_moe 's/"n_shared_experts": 1/"n_shared_experts": null/'
    LC_ALL=C sed 's/shared_experts/shared_experto/g' "$zoo/glm4_moe/model.safetensors" >variant/model.safetensors
    expect 0 convert variant unshared.gguf --format f32
    said "note: llama.cpp expects a shared expert in architecture 'glm4moe'"
    expect 0 info unshared.gguf
    grep -q 'shared expert' out && fail 'a shared expert out of nowhere'
    for case in qwen3_moe:true:qwen3moe qwen2_moe:true:qwen2moe olmoe:true:olmoe qwen3_moe:false:qwen3moe \
        qwen2_moe:false:qwen2moe olmoe:false:olmoe; do
        family=${case%%:*} norm=${case#*:}
        variant $family "s/\"norm_topk_prob\": true/\"norm_topk_prob\":  ${norm%:*}/"
        expect 0 convert variant norm.gguf --format f32
        case $family:${norm%:*} in
        qwen3_moe:true | qwen2_moe:false | olmoe:false) grep -q note err && fail "a note on $case" ;;
        *) said "note: llama.cpp .*renormalise.*'${case##*:}'" ;;
        esac
    done
}

converted_again()
{
    expect 0 convert bard-f32.gguf again.gguf --format q8_0
    "$moe" info again.gguf --json --tensors | sed 's/again//' >a
    "$moe" info bard-q8_0.gguf --json --tensors | sed 's/bard-q8_0//' >b
    cmp -s a b || fail 'a GGUF file converted from another has other tensors'
    cmp -s again.gguf bard-q8_0.gguf || [ "$(wc -c <again.gguf)" -eq "$(wc -c <bard-q8_0.gguf)" ] ||
        fail 'a GGUF file converted from another has another size'
    expect 0 check again.gguf --reference "$bard/reference.safetensors"
    expect 0 convert bard-q8_0.gguf twice.gguf --format q4_0 --experts-only
    said 'already quantised'
    expect 0 check twice.gguf --reference "$bard/reference.safetensors"
    expect 2 convert twice.gguf twice.gguf --format f32
    "$fixture" u64 bard-q8_0.gguf large.gguf && "$fixture" has-u64 large.gguf || fail 'u64'
    expect 0 convert large.gguf large-again.gguf --format q8_0
    "$fixture" has-u64 large-again.gguf || fail 'large numbers of the metadata were changed'
    expect 0 convert bard-q8_0.gguf one.gguf --format q8_0 --threads 1
    expect 0 convert bard-q8_0.gguf four.gguf --format q8_0 --threads 4
    cmp -s one.gguf four.gguf || fail 'the number of threads changes the file'
    mode=$(umask)
    umask 027
    expect 0 convert "$zoo/olmoe" mode.gguf --format f32
    umask "$mode"
    [ "$(stat -c %a mode.gguf)" = 640 ] || fail 'the file does not have the mode that umask gives'
    ls | grep -q '\.tmp-' && fail 'a temporary file was left'
    return 0
}

quick='--seconds 0.01 --cold-bytes 1e6 --retries 0'

benches()
{
    expect 0 bench --shape 256,256,8,2 --format f32,q4_k --down q8_0 --tokens 1,3 $quick --error --json --threads 2
    [ "$(wc -l <out)" -eq 4 ] || fail 'four cells, four lines'
    "$fixture" json out library version backend level path shape type down tokens threads median_ms min_ms spread \
        calls unique_expert_bytes GB_s read_GB_s ratio_to_read GFLOP_s ideal_ms ratio_to_ideal bound ratio_to_amx \
        peak_f32_GFLOP_s peak_bf16_GFLOP_s peak_int8_GFLOP_s peak_amx_bf16_GFLOP_s peak_amx_int8_GFLOP_s f32_GFLOP_s \
        other_cpu_percent steal_percent read_spread disturbed rel_error || fail 'bench --json'
    said '"shape": \[256, 256, 8, 2\], "type": "q4_k", "down": "q8_0"'
    grep -q '"disturbed": \(true\|false\)' out || fail 'disturbed is neither true nor false'
    grep -q -v '"peak_f32_GFLOP_s": [1-9]' out && fail 'no peak of f32'
    expect 0 bench --shape 256,256,8,2 --format q4_0 --tokens 2 $quick --json --exact --error
    said '"rel_error": [0-9.]*e-0*[6-9],'
    expect 0 bench --shape 256,256,8,2 --type q4_K,MXFP4 --tokens 1 $quick --json --exact --backend cpu:c
    said '"path": "c-exact", "shape": \[256, 256, 8, 2\], "type": "q4_K", "down": "q6_k"'
    said '"type": "MXFP4", "down": "mxfp4"'
    said '"peak_int8_GFLOP_s": null'
    grep -q -v '"bound": "\(read\|f32\)"' out && fail 'an exact layer is bound by what it does not use'
    expect 0 bench --shape 256,256,8,2 --type q4_k --down q5_0 --tokens 1 $quick
    said '^q4_k/q5_0 .* %'
    said '^weights .* ideal ms  ratio bound'
    said '^peaks, GFLOP/s: f32 [1-9]'
    expect 0 bench "$zoo/gpt_oss" --tokens 5 --seconds 0.01 --retries 0 --error
    said 'GFLOP/s'
}

# plot FILE CELLS: an SVG by itself whose tags close in the order they open, with a dot for each cell.
plot()
{
    [ "$(grep -c '<circle class="dot"' "$1")" -eq "$2" ] || fail "$1: not $2 dots"
    tr '\n' ' ' <"$1" | sed 's/</\n</g' | awk '
        /^<\?/ { next }
        { name = $0; sub(/^<\/?/, "", name); sub(/[ >\/].*/, "", name) }
        /^</ && !/>/ { bad = 1 }
        /^<[a-z]/ && !/\/>/ { open[++depth] = name }
        /^<\// { bad = bad || !depth || open[depth--] != name; count++ }
        END { exit bad || depth || !count }' || fail "$1: no well-formed XML"
    grep -q -e '<script' -e '<style' -e 'href' -e 'url(' "$1" && fail "$1 needs more than itself"
    for text in 'FLOP per byte' 'rate, GFLOP/s' 'read: [0-9.]* GB/s' '>[a-z0-9]*: [0-9.]* GFLOP/s<' ' threads\{0,1\}<' \
        '>[0-9]*: [0-9]*%<' '[0-9]* % of the ideal<'; do
        grep -q "$text" "$1" || fail "$1 does not say $text"
    done
}

plots()
{
    expect 0 bench --shape 256,256,8,2 --format f32,q4_k --down q8_0 --tokens 3,1 $quick --json --threads 2 \
        --plot plot.svg
    [ "$(grep -c '^{.*}$' out)" -eq 4 ] && [ "$(wc -l <out)" -eq 4 ] || fail 'four cells, four lines beside a plot'
    plot plot.svg 4
    grep -q 'hidden 256, intermediate 256, 8 experts, top-k 2<' plot.svg || fail 'the plot does not say the shape'
    grep -q 'backend cpu, level [a-z0-9_+]*, 2 threads<' plot.svg || fail 'the plot does not say how it ran'
    grep -q '>q4_k, down q8_0<' plot.svg || fail 'no legend'
    cp plot.svg before.svg
    expect 3 bench nowhere --plot plot.svg
    cmp -s plot.svg before.svg || fail 'a failed bench changed an older plot'
    expect 0 bench "$zoo/gpt_oss" --tokens 5 --seconds 0.01 --retries 0 --threads 1 --plot=plot.svg
    said 'ratio'
    plot plot.svg 1
    ls | grep -q '\.tmp-' && fail 'a temporary file was left'
    return 0
}

# A convert that is interrupted leaves neither OUT nor its temporary file.
interrupted()
{
    mkdir -p stopped
    (cd stopped && exec "$moe" convert "$bard" out.gguf --format q4_k --threads 1) >out 2>err &
    process=$!
    tries=0
    while [ -z "$(ls stopped)" ] && [ $tries -lt 200 ]; do
        sleep 0.01
        tries=$((tries + 1))
    done
    kill -TERM $process 2>/dev/null
    wait $process 2>/dev/null
    code=$?
    [ -e stopped/out.gguf ] && [ $code -ne 0 ] && fail 'an interrupted convert left its output'
    ls stopped | grep -q '\.tmp-' && fail 'an interrupted convert left its temporary file'
    return 0
}

help_pages
wrong_usage
bad_input
info_pages
info_plans
checks
hostile_references
other_bytes
runs
models_are_safe
converted
not_convertible
layer_keys
converted_again
benches
plots
interrupted
[ $failures -eq 0 ] || { echo "$failures failures"; exit 1; }
cd / && rm -rf "$scratch"
echo 'all passed'
