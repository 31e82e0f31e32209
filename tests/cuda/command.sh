#!/bin/sh
# SPDX-License-Identifier: MIT
# usage: command.sh MOE PLUGIN_DIR SOURCE_DIR SCRATCH_DIR. The moe command with the CUDA backend on the emulated device,
# loaded as a library: weights, activations and results live where the host cannot read them.
set -u
moe=$1 source=$3 scratch=$4
LD_LIBRARY_PATH=$2
export LD_LIBRARY_PATH
. "$(dirname "$0")/../tools/expect.sh"

expect 0 info
said '^  cuda$'
said 'kernel  *linear q4_k sm_'
expect 0 info --json
said '"name": "cuda",'
said '"value": "linear q4_k sm_90"'
expect 0 check "$source/models/bard" --backend cuda:0 --primitives --exact
said '4 layers'
expect 0 bench --shape 64,32,4,2 --format q8_0,bf16 --tokens 1,3 --seconds 0.01 --error --backend cuda
said '^q8_0 .* - '
expect 0 bench --shape 64,32,4,2 --format q8_0 --tokens 2 --seconds 0.01 --backend cuda --json
said '"read_GB_s": null'
said '"backend": "cuda", "level": "sm_'
expect 0 info "$source/models/bard" --tokens 1 --backend cuda:0
said '^  1 token on cuda:0, level sm_'
said '^    gate, up         small (bf16): as long as [0-9]* rows of bf16 through each of 4 multiprocessors; large: '
said '^    down             small_down (bf16): one launch with the sum over slots, up to 8 tokens and 64 pairs$'
expect 0 info "$source/models/bard" --tokens 8 --backend cuda:0
said '^    gate, up         small (bf16): '
said '^    down             small_down (bf16): '
expect 0 info "$source/models/bard" --tokens 4096 --backend cuda:0 --json
said '"value": "large (bf16): as long as [0-9]* rows of bf16 through each of 4 multiprocessors; small: [0-9]*"'
grep -q -e 'small (' -e small_down out && fail 'small kernels for 1024 pairs an expert'
expect 2 info "$source/models/bard" --tokens 536870912 --backend cuda:0
said '536870912 is more than a call on cuda:0 may have'
expect 3 info "$source/models/bard" --tokens 8 --backend cuda:1
said 'there is no GPU 1'
expect 3 check "$source/models/bard" --backend cuda:1
said 'there is no GPU 1'
expect 3 check "$source/models/bard" --backend cuda:x
said 'takes the number of a GPU'
exit $((failures > 0))
