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
expect 3 check "$source/models/bard" --backend cuda:1
said 'there is no GPU 1'
expect 3 check "$source/models/bard" --backend cuda:x
said 'takes the number of a GPU'
exit $((failures > 0))
