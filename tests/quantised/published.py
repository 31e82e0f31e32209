#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""published.py ZOO FOLDER CHECK [CASE...]: checkpoints in the forms in which models are published: their
quantization_config, and the names, types and shapes of their tensors, on the families of the zoo. CHECK compares each
with a plain checkpoint of the same values: routed and shared experts, quantised or not."""
import json
import os
import re
import shutil
import sys

import numpy as np

import formats as f
import schemes
from formats import Tensor
from schemes import fp8_config, gptq_config, tensors_config, with_

# ---- the matrices of a checkpoint ----

NAMES = {"gate_proj": "gate", "up_proj": "up", "down_proj": "down", "w1": "gate", "w3": "up", "w2": "down"}
USUAL = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
MIXTRAL = {"gate": "w1", "up": "w3", "down": "w2"}


def find_matrices(tensors):
    """Every plain tensor that holds experts: its name, that of its place, "experts" or the shared expert's name, the
    expert (-1: all in one, or shared), what it is, and itself."""
    for name, tensor in tensors.items():
        each = re.fullmatch(r"(.*\.)(experts)\.(\d+)\.(\w+)\.weight", name)
        shared = re.fullmatch(r"(.*\.)(shared_experts?|shared_mlp)\.(\w+)\.weight", name)
        fused = re.fullmatch(r"(.*\.)(experts)\.(gate_up_proj|down_proj)", name)
        if each:
            yield name, each[1], each[2], int(each[3]), each[4], tensor
        elif shared:
            yield name, shared[1], shared[2], -1, shared[3], tensor
        elif fused:
            yield name, fused[1], fused[2], -1, fused[3], tensor


def find_gates(case, tensors):
    """Routers and gates of shared experts that the case quantises."""
    pattern = r"\.(mlp\.gate|shared_expert_gate)\.weight$"
    return [name for name in tensors if "gates" in case and re.search(pattern, name)]


def split(case, name, array):
    """[.., rows, cols] as matrices {what: [.., rows, cols]}."""
    if case.get("turned"):
        array = np.swapaxes(array, -1, -2) if array.ndim == 3 else array
    if name != "gate_up_proj":
        return {NAMES[name]: array}
    half = array.shape[-2] // 2
    if case.get("alternate"):
        return {"gate": array[..., 0::2, :], "up": array[..., 1::2, :]}
    return {"gate": array[..., :half, :], "up": array[..., half:, :]}


def join(case, name, parts):
    """The reverse, of f32 values."""
    if name != "gate_up_proj":
        array = parts[NAMES[name]]
    elif case.get("alternate"):
        array = np.stack([parts["gate"], parts["up"]], -2).reshape(parts["gate"].shape[:-2] + (-1,) +
                                                                  parts["gate"].shape[-1:])
    else:
        array = np.concatenate([parts["gate"], parts["up"]], -2)
    return np.swapaxes(array, -1, -2) if case.get("turned") and array.ndim == 3 else array


def resized(case, owner, what, rows, cols):
    """Sizes that the case gives: of the expert's inner dimension."""
    size = case.get("sizes", {}).get("experts" if owner == "experts" else "shared")
    if size is None:
        return rows, cols
    return (rows, size) if what == "down" else (size, cols)


# ---- writing ----

def base_name(case, prefix, owner, expert, what):
    names = case.get("names", USUAL) if owner == "experts" else case.get("shared_names", USUAL)
    place = f"{owner}.{expert}" if expert >= 0 else owner
    return f"{prefix}{place}.{names[what]}.weight"


def quantise(case, rng, tensors, prefix, owner, expert, what, shape):
    """One matrix as the case has it; its values."""
    rows, cols = resized(case, owner, what, *shape)
    base = base_name(case, prefix, owner, expert, what)
    make = next((make for pattern, make in case["rules"] if re.search(pattern, base)), None)
    if make is None:
        bits = f.bf16_bits(rng.normal(0, 0.1, (rows, cols)))
        tensors[base] = Tensor("BF16", bits)
        return f.bf16_values(bits)
    made, value = make(rng, rows, cols)
    for suffix, tensor in made.items():
        tensors[schemes.full_name(base, suffix)] = tensor
    for suffix, tensor in case.get("extra", {}).items():
        tensors[schemes.full_name(base, suffix)] = tensor
    return value


def quantise_stack(case, rng, tensors, prefix, leaf, shapes):
    """All experts in one tensor, gate and up too; [in, out] where the case says turned."""
    made = []
    start = rng.bit_generator.state
    for _ in range(shapes["experts"]):
        rng.bit_generator.state = start if "one" in case else rng.bit_generator.state
        rows, cols = resized(case, "experts", NAMES.get(leaf, "gate"), shapes["rows"], shapes["cols"])
        made.append(case["stack"](rng, rows * (2 if leaf == "gate_up_proj" else 1), cols))
    for suffix in made[0][0]:
        tensor = Tensor.stack([m[0][suffix] for m in made])
        if suffix == case.get("one"):   # of all experts
            tensor = made[0][0][suffix]
        if case.get("turned") and not case.get("keep_turned") and tensor.array.ndim == 3:
            tensor = Tensor(tensor.dtype, np.swapaxes(tensor.array, 1, 2))
        tensors[f"{prefix}experts.{leaf}{suffix}"] = tensor
    return split({**case, "turned": False}, leaf, np.stack([m[1] for m in made]))


def write_one(case, rng, plain, quantised, entry):
    name, prefix, owner, expert, leaf, tensor = entry
    parts = split(case, leaf, tensor.array)
    what, array = next(iter(parts.items()))
    if tensor.array.ndim == 3 and "stack" in case:
        shapes = {"experts": array.shape[0], "rows": array.shape[1], "cols": array.shape[2]}
        values = quantise_stack(case, rng, quantised, prefix, leaf, shapes)
    elif tensor.array.ndim == 3:
        values = {what: np.stack([quantise(case, rng, quantised, prefix, owner, e, what, part.shape[1:])
                                  for e in range(part.shape[0])]) for what, part in parts.items()}
    else:
        values = {what: quantise(case, rng, quantised, prefix, owner, expert, what, part.shape)
                  for what, part in parts.items()}
    plain[name] = Tensor("F32", np.ascontiguousarray(join(case, leaf, values), np.float32))


def save_model(folder, tensors, config):
    os.makedirs(folder)
    schemes.save(os.path.join(folder, "model.safetensors"), tensors)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=1)


def write(case, zoo, folder, rng):
    tensors = schemes.load(os.path.join(zoo, case["family"], "model.safetensors"))
    with open(os.path.join(zoo, case["family"], "config.json")) as file:
        config = {**json.load(file), **case.get("set", {})}
    shutil.rmtree(folder, ignore_errors=True)
    entries = list(find_matrices(tensors))
    if case["family"] == "gpt_oss" and "sizes" in case:
        for name in [n for n in tensors if n.endswith("gate_up_proj_bias")]:
            bits = f.bf16_bits(rng.normal(0, 0.3, (tensors[name].array.shape[0], 2 * case["sizes"]["experts"])))
            tensors[name] = Tensor("BF16", bits)
    plain = {n: t for n, t in tensors.items() if n not in {entry[0] for entry in entries}}
    quantised = dict(plain)
    quantised[entries[0][1] + "k_proj.k_scale"] = Tensor("F32", np.ones((), np.float32))
    for entry in entries:
        write_one(case, rng, plain, quantised, entry)
    for name in find_gates(case, tensors):
        made, value = case["gates"](rng, *tensors[name].array.shape)
        quantised.pop(name)
        quantised.update({schemes.full_name(name, suffix): tensor for suffix, tensor in made.items()})
        plain[name] = Tensor("F32", np.ascontiguousarray(value, np.float32))
    save_model(os.path.join(folder, "plain"), plain, config)
    rename = case.get("rename", lambda name: name)
    quantised = {rename(name): tensor for name, tensor in quantised.items()}
    save_model(os.path.join(folder, "quantised"), quantised, case.get("place", in_config)(config, case["config"]))


def in_config(config, quantization):
    return config if quantization is None else {**config, "quantization_config": quantization}


def in_text_config(config, quantization):
    """A model of several kinds of input, quantization_config inside."""
    return {"model_type": "kimi_k25", "text_config": {**config, "quantization_config": quantization}}


def beside_text_config(model_type):
    return lambda config, quantization: {"model_type": model_type, "text_config": config,
                                         "quantization_config": quantization}


def four_dims(rng, rows, cols):
    """Blocks of 128 x 128 with dimensions of 1 between."""
    tensors, values = f.fp8_block(rng, rows, cols, name="_scale")
    shape = tensors["_scale"].array.shape
    tensors["_scale"].array = tensors["_scale"].array.reshape(shape[0], 1, shape[1], 1)
    return tensors, values


def int8_block(rng, rows, cols):
    q = rng.integers(-128, 128, (rows, cols)).astype(np.int8)
    scale, s = f.random_scale(rng, (f.ceil(rows, 128), f.ceil(cols, 128)), "F32")
    return {"": Tensor("I8", q), "_scale_inv": scale}, q.astype(np.float32) * f.spread(s, rows, cols, 128, 128)


# ---- the cases ----

EXPERTS, SHARED, ALL = r"experts\.\d+\.", r"shared_", r"experts\.\d+\.|shared_"
SCALAR = Tensor("F32", np.array(0.5, np.float32))
ONE = Tensor("F32", np.array([0.5], np.float32))
nvfp4 = with_(f.fp4, group=16, dtype="F8_E4M3", factor="_scale_2")
nvfp4_packed = with_(f.fp4, group=16, dtype="F8_E4M3", values="_packed", factor="_global_scale", divides=True)
mxfp4_packed = with_(f.fp4, group=32, dtype="U8", values="_packed")
BLOCK = fp8_config(fmt="e4m3", weight_block_size=[128, 128], modules_to_not_convert=["lm_head", "gate"])
FLOAT4 = {"dynamic": False, "num_bits": 4, "type": "float", "group_size": 16}
MODELOPT_GROUP = {"input_activations": FLOAT4, "weights": FLOAT4, "targets": ["Linear"]}
NVFP4 = {"config_groups": {"group_0": MODELOPT_GROUP}, "ignore": ["lm_head", "model.layers.0*"], "quant_algo": "NVFP4",
         "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}, "quant_method": "modelopt",
         "producer": {"name": "modelopt", "version": "0.45.0"}}
MIXED = {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"],
         "quantized_layers": {"model.layers.1.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16}},
         "quant_method": "modelopt"}


def group(form, targets, **weights):
    usual = {"actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "observer": "minmax",
             "observer_kwargs": {}, "symmetric": True}
    return {"format": form, "input_activations": None, "output_activations": None, "targets": targets,
            "weights": {**usual, **weights}}


def tensors_groups(form, *groups):
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "kv_cache_scheme": None, "global_compression_ratio": None, "sparsity_config": {}, "transform_config": {},
            "ignore": ["lm_head", "re:.*gate$"], "config_groups": {f"group_{i}": g for i, g in enumerate(groups)}}


INT4_32 = tensors_groups("pack-quantized", group("pack-quantized", ["Linear"], num_bits=4, type="int", strategy="group",
                                                 group_size=32))
FP8_CHANNEL = tensors_groups("float-quantized", group("float-quantized", ["Linear"], num_bits=8, type="float",
                                                      strategy="channel"))
QUARK = {"quant_method": "quark", "export": {"kv_cache_group": [], "pack_method": "reorder", "weight_format": "real"},
         "global_quant_config": {"weight": {"dtype": "fp4", "qscheme": "per_group", "group_size": 32, "ch_axis": -1,
                                            "scale_format": "e8m0", "is_dynamic": False}}, "exclude": ["lm_head"],
         "layer_quant_config": {}, "quant_mode": "eager_mode"}
ROUND = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "bits": 4, "group_size": 16,
         "sym": True, "data_type": "int", "iters": 200, "block_name_to_quantize": "model.layers"}


def case(name, family, config, rules, **rest):
    return {"name": name, "family": family, "config": config, "rules": rules, **rest}


def behind(prefix):
    return lambda name: prefix + name[len("model."):] if name.startswith("model.") else prefix + name


CASES = [
    case("deepseek_v3_fp8", "deepseek_v3", BLOCK, [(ALL, f.fp8_block)]),
    case("qwen3_next_fp8", "qwen3_next", BLOCK, [(ALL, with_(f.fp8_block, dtype="BF16"))]),
    case("qwen3_5_fp8", "qwen3_5_moe_text", BLOCK, [(ALL, with_(f.fp8_block, dtype="BF16"))],
         rename=behind("model.language_model."), place=beside_text_config("qwen3_5_moe")),
    case("minimax_m2_fp8", "minimax_m2", BLOCK, [(EXPERTS, f.fp8_block)], names=MIXTRAL),
    case("kimi_k2_fp8", "deepseek_v3", BLOCK, [(ALL, f.fp8_block)], set={"model_type": "kimi_k2"}),
    case("shared_only", "glm4_moe", BLOCK, [(SHARED, f.fp8_block)]),
    case("experts_only", "glm4_moe", BLOCK, [(EXPERTS, f.fp8_block)]),
    case("glm_4_5_fp8", "glm4_moe", FP8_CHANNEL, [(ALL, with_(f.fp8_row, dtype="BF16"))]),
    case("mixtral_fp8", "mixtral", {"quant_method": "fp8", "activation_scheme": "static"},
         [(EXPERTS, with_(f.fp8_tensor, shape=(1,)))], names=MIXTRAL, extra={".input_scale": ONE}),
    case("mixtral_fp8_tensors", "mixtral",
         tensors_groups("float-quantized", group("float-quantized", ["Linear"], num_bits=8, type="float",
                                                 strategy="tensor")),
         [(EXPERTS, with_(f.fp8_tensor, dtype="BF16"))], names=MIXTRAL, extra={".input_scale": ONE}),
    case("nemotron_fp8", "nemotron_h", None, [(ALL, with_(f.fp8_tensor, shape=()))], extra={".input_scale": SCALAR}),
    case("fp8_pb_wo", "glm4_moe", {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"},
         [(ALL, four_dims)], sizes={"experts": 144, "shared": 144},
         set={"moe_intermediate_size": 144}),
    case("kimi_k2_thinking", "deepseek_v3", INT4_32, [(EXPERTS, f.pack_quantized)], sizes={"experts": 64, "shared": 64},
         set={"moe_intermediate_size": 64}),
    case("kimi_k2_5", "deepseek_v3", INT4_32, [(EXPERTS, f.pack_quantized)], sizes={"experts": 64, "shared": 64},
         set={"moe_intermediate_size": 64, "model_type": "kimi_k2"}, rename=behind("language_model.model."),
         place=in_text_config),
    case("kimi_k3", "kimi_linear", tensors_groups(
        "mxfp4-pack-quantized", group("mxfp4-pack-quantized", ["Linear"], num_bits=4, type="float", strategy="group",
                                      group_size=32, scale_dtype="torch.uint8")),
         [(EXPERTS, mxfp4_packed)], names=MIXTRAL, sizes={"experts": 64, "shared": 64},
         set={"moe_intermediate_size": 64}),
    case("qwen3_next_awq", "qwen3_next", INT4_32, [(EXPERTS, f.pack_quantized)], sizes={"experts": 64},
         set={"moe_intermediate_size": 64}),
    case("several_groups", "qwen3_next", tensors_groups(
        "mixed-precision", group("float-quantized", ["re:.*self_attn.*"], num_bits=8, type="float", strategy="channel"),
        group("pack-quantized", ["re:.*shared_expert.*"], num_bits=8, type="int", strategy="group", group_size=16),
        group("pack-quantized", ["re:.*experts.*"], num_bits=4, type="int", strategy="group", group_size=32)),
         [(EXPERTS, f.pack_quantized), (SHARED, with_(f.pack_quantized, bits=8, group=16))], sizes={"experts": 64},
         set={"moe_intermediate_size": 64}),
    case("deepseek_nvfp4", "deepseek_v3", None, [(ALL, nvfp4)], extra={".input_scale": SCALAR}),
    case("glm_nvfp4", "glm_moe_dsa", NVFP4, [(EXPERTS, nvfp4)], extra={".input_scale": SCALAR}),
    case("minimax_m2_nvfp4", "minimax_m2", NVFP4, [(EXPERTS, nvfp4)], names=MIXTRAL, extra={".input_scale": SCALAR}),
    case("kimi_nvfp4", "deepseek_v3", NVFP4, [(EXPERTS, nvfp4)], extra={".input_scale": SCALAR},
         rename=behind("language_model.model."), place=beside_text_config("kimi_k25")),
    case("qwen3_6_nvfp4", "qwen3_5_moe_text", MIXED, [(ALL, nvfp4)], rename=behind("model.language_model."),
         place=beside_text_config("qwen3_5_moe")),
    case("minimax_m3_nvfp4", "minimax_m3_vl_text", MIXED, [(EXPERTS, nvfp4), (SHARED, f.mxfp8)], names=MIXTRAL,
         rename=lambda name: behind("language_model.model.")(name).replace(".mlp.", ".block_sparse_moe."),
         place=beside_text_config("minimax_m3_vl"), extra={".input_scale": SCALAR}),
    case("minimax_m3_mxfp8", "minimax_m3_vl_text", {"quant_method": "mxfp8", "weight_block_size": [1, 32]},
         [(ALL, with_(f.mxfp8, name="_scale_inv"))], names=MIXTRAL,
         rename=lambda name: behind("language_model.model.")(name).replace(".mlp.", ".block_sparse_moe."),
         place=beside_text_config("minimax_m3_vl")),
    case("gemma_4_nvfp4", "gemma4_text", NVFP4, [(EXPERTS, nvfp4)], extra={".input_scale": SCALAR},
         rename=behind("model.language_model."), place=beside_text_config("gemma4")),
    case("nemotron_nvfp4", "nemotron_h", None, [(EXPERTS, nvfp4), (SHARED, with_(f.fp8_tensor, shape=()))],
         extra={".input_scale": SCALAR}),
    case("deepseek_v4_nvfp4", "deepseek_v4",
         fp8_config(quant_algo="MIXED_PRECISION", moe_quant_algo="NVFP4", fmt="e4m3", weight_block_size=[128, 128],
                    scale_fmt="ue8m0", group_size=16),
         [(EXPERTS, nvfp4), (SHARED, with_(f.fp8_block, dtype="F8_E8M0", name=".scale"))], names=MIXTRAL,
         shared_names=MIXTRAL, extra={".input_scale": SCALAR}),
    case("nvfp4_pack_quantized", "qwen3_next", tensors_groups(
        "nvfp4-pack-quantized", group("nvfp4-pack-quantized", ["Linear"], num_bits=4, type="float", group_size=16,
                                      strategy="tensor_group")),
         [(EXPERTS, nvfp4_packed)], extra={".input_global_scale": ONE}),
    case("llama_4_fp8", "llama4_text", FP8_CHANNEL, [(ALL, with_(f.fp8_row, dtype="BF16"))], turned=True,
         rename=behind("language_model.model."), place=beside_text_config("llama4")),
    case("llama_4_nvfp4", "llama4_text", NVFP4, [], turned=True, one="_weight_scale_2",
         stack=with_(f.fp4, group=16, dtype="F8_E4M3", scales="_weight_scale", factor="_weight_scale_2"),
         rename=behind("language_model.model."), place=beside_text_config("llama4")),
    case("llama_4_modelopt_fp8", "llama4_text", {"quant_method": "modelopt", "quant_algo": "FP8"}, [], turned=True,
         stack=with_(f.fp8_tensor, shape=())),
    case("qwen3_vl_fp8", "qwen3_vl_moe_text", BLOCK, [], stack=with_(f.fp8_block, name="_scale_inv")),
    case("mistral_fp8", "mistral4", fp8_config(weight_block_size=None), [(SHARED, with_(f.fp8_tensor, shape=(),
                                                                                       name="_scale_inv"))],
         stack=with_(f.fp8_tensor, shape=(1, 1), name="_scale_inv")),
    case("gpt_oss_mxfp4", "gpt_oss", {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, [],
         alternate=True, turned=True, stack=f.mxfp4_blocks, keep_turned=True, sizes={"experts": 64},
         set={"intermediate_size": 64}),
    case("quark_mxfp4", "deepseek_v3", QUARK, [(ALL, with_(f.fp4, group=32, dtype="U8"))],
         sizes={"experts": 64, "shared": 64}, set={"moe_intermediate_size": 64}),
    case("quark_fp8", "mixtral", {"quant_method": "quark"}, [(EXPERTS, with_(f.fp8_tensor, shape=()))], names=MIXTRAL,
         extra={".input_scale": SCALAR}),
    case("qwen3_gptq", "qwen3_moe", gptq_config(group=128, sym=True, checkpoint_format="gptq",
                                                meta={"quantizer": ["gptqmodel:2.2.0"]}),
         [(EXPERTS, with_(f.gptq, sym=True, group=-1))]),
    case("qwen1_5_gptq", "qwen2_moe", gptq_config(group=16, sym=True, modules_in_block_to_quantize=[["mlp"]]),
         [(ALL, with_(f.gptq, sym=True, group=16))]),
    case("gptq_gates", "qwen2_moe", gptq_config(group=16, sym=False), [(ALL, with_(f.gptq, group=16))],
         gates=with_(f.gptq, group=16)),
    case("fp8_gates", "qwen2_moe", BLOCK, [(ALL, f.fp8_block)], gates=f.fp8_block),
    case("auto_round_plain", "qwen3_moe", {**ROUND, "packing_format": "auto_round", "sym": False},
         [(EXPERTS, with_(f.gptq, v2=True, wraps=True, group=16, index=False))]),
    case("auto_round", "qwen3_moe", ROUND, [(EXPERTS, with_(f.gptq, sym=True, group=16, index=False))]),
    case("auto_round_awq", "qwen2_moe", {**ROUND, "quant_method": "intel/auto-round", "sym": False,
                                         "packing_format": "auto_round:auto_awq"}, [(ALL, f.awq)]),
    case("awq", "deepseek_v3", {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True,
                                "version": "gemm", "modules_to_not_convert": ["gate"]}, [(ALL, f.awq)]),
    case("blockwise_int8", "deepseek_v3", {"quant_method": "blockwise_int8", "activation_scheme": "dynamic",
                                           "weight_block_size": [128, 128]},
         [(ALL, int8_block)]),
    case("w8a8_int8", "deepseek_v3", {"quant_method": "w8a8_int8"}, [(ALL, f.int8)]),
]


def main():
    zoo, folder, check = sys.argv[1:4]
    names, failed = sys.argv[4:], []
    for i, item in enumerate(CASES):
        if names and item["name"] not in names:
            continue
        path = os.path.join(folder, item["name"])
        write(item, zoo, path, np.random.default_rng(300 + i))
        result = schemes.run_pair(check, os.path.join(path, "quantised"), os.path.join(path, "plain"))
        print(f"{'ok' if result.returncode == 0 else 'FAILED':6s} {item['name']}")
        if result.returncode != 0:
            print(result.stdout)
            failed.append(item["name"])
    print(f"{len(failed)} failed: {' '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
