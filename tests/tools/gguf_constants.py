# SPDX-License-Identifier: MIT
# The table of llama.cpp's architectures, tensor names and keys against the constants of the gguf package, which we did
# not write. Usage: gguf_constants.py GGUF_TABLE (the program that prints ours)
import subprocess
import sys

from gguf.constants import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES, Keys

# What llama.cpp has and the package of the version named in docs/testing.md does not have yet.
NEWER_ARCHITECTURES = {
    "bailingmoe3", "cohere2moe", "deepseek32", "deepseek4", "dflash", "dots3note", "glm5-next", "granite_swa", "hy_v3",
    "hy_v4", "kimi-k3", "laguna", "maple", "mellum", "minimax-01", "minimax-m3", "qwen4exp"}
NEWER_TENSORS = {"ffn_routed_down", "ffn_routed_up", "ffn_routed_norm", "ffn_gate_tid2eid"}
NEWER_KEYS = {"expert_latent_length", "activation.situ_beta", "activation.situ_linear_beta", "hash_layer_count"}
# Tensors of MoE blocks that belong to the host, or to architectures that are refused.
OF_HOSTS = {"ffn_norm", "ffn_norm_exps", "ffn_gate", "ffn_up", "ffn_down", "ffn_sub_norm", "ffn"}


def bare(name):
    """The name without "blk.{bid}.", without an expert's number and without .weight and the like."""
    name = name.removeprefix("blk.{bid}.").replace(".{e}", "")
    for suffix in (".weight", ".bias", ".scale"):
        name = name.removesuffix(suffix)
    return name


def keys_of(group):
    for name, value in vars(group).items():
        if isinstance(value, str) and value.startswith("{arch}."):
            yield value.removeprefix("{arch}.")
        elif isinstance(value, type) and not name.startswith("__"):
            yield from keys_of(value)


def main():
    ours = {"architecture": {}, "tensor": set(), "key": set()}
    for line in subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout.splitlines():
        kind, *words = line.split(" ")
        if kind == "architecture":
            ours[kind].setdefault(words[0], set()).add(words[1])
        else:
            ours[kind].add(words[0])
    tensors = {bare(name) for name in ours["tensor"]}

    theirs = {}
    for architecture, members in MODEL_TENSORS.items():
        names = {bare(TENSOR_NAMES[t]) for t in members}
        if any(name.endswith("_exps") and name != "ffn_norm_exps" for name in names):
            theirs[MODEL_ARCH_NAMES[architecture]] = names
    assert len(theirs) > 40, len(theirs)
    missing = set(theirs) - set(ours["architecture"])
    assert not missing, f"architectures with experts that have no row: {missing}"
    strange = set(ours["architecture"]) - set(theirs) - NEWER_ARCHITECTURES
    assert not strange, f"rows that the package does not know: {strange}"

    for architecture, names in theirs.items():
        if "refused" in ours["architecture"][architecture]:
            continue
        experts = {n for n in names if n.startswith("ffn") or n.startswith("exp_probs")} - OF_HOSTS
        unread = {n for n in experts if "norm" not in n} - tensors
        assert not unread, f"{architecture}: tensors of an MoE block without a name here: {unread}"
    unknown = tensors - {bare(name) for name in TENSOR_NAMES.values()} - NEWER_TENSORS
    assert not unknown, f"tensor names that the package does not know: {unknown}"

    unknown = ours["key"] - set(keys_of(Keys)) - NEWER_KEYS
    assert not unknown, f"keys that the package does not know: {unknown}"
    # What decides how a layer computes; the others of these words are of refused architectures.
    refused = {"expert_chunk_feed_forward_length", "expert_group_scale", "experts_per_group", "moe_every_n_layers"}
    unread = {k for k in keys_of(Keys.LLM) if "expert" in k or "moe" in k or "swiglu" in k} - ours["key"] - refused
    assert not unread, f"keys that nothing reads: {unread}"
    print(f"{len(theirs)} architectures, {len(tensors)} tensor names, {len(ours['key'])} keys agree")


main()
