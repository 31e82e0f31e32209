#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""schemes.py ZOO FOLDER CHECK [CASE...]: for each scheme that quantises safetensors files, take a checkpoint of the
zoo, quantise the experts of its first block as formats.py defines it, and run CHECK on the result. The other blocks
stay plain. Then damage some of these checkpoints: CHECK has to fail with a sentence that names the tensor or the key.
"""
import json
import os
import shutil
import struct
import subprocess
import sys

import numpy as np

import formats as f
from formats import Tensor


# ---- safetensors ----

def load(path):
    """Tensors by name; values as bytes, in the shape of the file."""
    sizes = {"BF16": np.uint16, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32}
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            array = np.frombuffer(data[begin:end], sizes[entry["dtype"]]).reshape(entry["shape"])
            tensors[name] = Tensor(entry["dtype"], array)
    return tensors


def save(path, tensors):
    header, offset, parts = {}, 0, []
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].array.itemsize):
        data = tensor.array.tobytes()
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.array.shape),
                        "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))


def floats(tensor):
    return f.bf16_values(tensor.array) if tensor.dtype == "BF16" else tensor.array.astype(np.float32)


# ---- families: where experts lie ----

EACH = {"qwen3_moe": ("model.layers.{b}.mlp.experts.{e}.", ("gate_proj", "up_proj", "down_proj")),
        "deepseek_v4": ("model.layers.{b}.ffn.experts.{e}.", ("w1", "w3", "w2"))}
FUSED = {"qwen3_moe": "model.layers.{b}.mlp.experts.", "gpt_oss": "model.layers.{b}.mlp.experts.",
         "llama4_text": "model.layers.{b}.feed_forward.experts.", "qwen3_vl_moe_text": "layers.{b}.mlp.experts."}


def full_name(base, suffix):
    """The name of the tensor of a matrix: "a.weight" and "_scale" give "a.weight_scale"."""
    if base.endswith(".weight"):
        return base[:-len(".weight")] + suffix if suffix.startswith(".") else base + suffix
    return base + suffix


def plain_values(family, tensors, block, experts, rows, cols):
    """gate, up, down [experts, ..] of a block that stays plain."""
    out = {}
    if family in EACH:
        prefix, names = EACH[family]
        for what, name in zip(("gate", "up", "down"), names):
            base = prefix.replace("{b}", str(block))
            out[what] = np.stack([floats(tensors[base.replace("{e}", str(e)) + name + ".weight"])
                                  for e in range(experts)])
        return out
    base = FUSED[family].replace("{b}", str(block))
    both, down = floats(tensors[base + "gate_up_proj"]), floats(tensors[base + "down_proj"])
    if both.shape != (experts, 2 * rows, cols):
        both, down = both.transpose(0, 2, 1), down.transpose(0, 2, 1)
    gate, up = (both[:, 0::2], both[:, 1::2]) if family == "gpt_oss" else (both[:, :rows], both[:, rows:])
    return {"gate": gate, "up": up, "down": down}


def drop_experts(family, tensors, block):
    marks = [(EACH[family][0] if family in EACH else FUSED[family]).split("{e}")[0].replace("{b}", str(block))]
    for name in [n for n in tensors if n.startswith(marks[0]) and not n.endswith("_bias")]:
        del tensors[name]


# ---- writing one checkpoint ----

def transposed(tensor):
    return Tensor(tensor.dtype, np.swapaxes(tensor.array, -1, -2)) if tensor.array.ndim > 1 else tensor


def put_each(case, tensors, rng, block, experts, rows, cols):
    prefix, names = EACH[case["family"]]
    values = {"gate": [], "up": [], "down": []}
    for e in range(experts):
        for what, name in zip(values, names):
            shape = (cols, rows) if what == "down" else (rows, cols)
            made, value = case["make"](rng, *shape)
            base = prefix.replace("{b}", str(block)).replace("{e}", str(e)) + name + ".weight"
            tensors.update({full_name(base, suffix): tensor for suffix, tensor in made.items()})
            values[what].append(value)
    return {what: np.stack(value) for what, value in values.items()}


def put_fused(case, tensors, rng, block, experts, rows, cols):
    base = FUSED[case["family"]].replace("{b}", str(block))
    values = {}
    for name, shape in (("gate_up_proj", (2 * rows, cols)), ("down_proj", (cols, rows))):
        made = [case["make"](rng, *shape) for _ in range(experts)]
        for suffix in made[0][0]:
            tensor = Tensor.stack([m[0][suffix] for m in made])
            if case.get("transposed"):
                tensor = transposed(tensor)
            tensors[base + name + suffix] = tensor
        values[name] = np.stack([m[1] for m in made])
    both = values["gate_up_proj"]
    gate, up = (both[:, 0::2], both[:, 1::2]) if case.get("interleaved") else (both[:, :rows], both[:, rows:])
    return {"gate": gate, "up": up, "down": values["down_proj"]}


def resize(case, tensors, config, rng):
    """Another intermediate size for all blocks; gpt-oss' biases go with it."""
    config["intermediate_size" if case["family"] == "gpt_oss" else "moe_intermediate_size"] = case["rows"]
    for name in [n for n in tensors if n.endswith("gate_up_proj_bias")]:
        bias = rng.normal(0, 0.3, (tensors[name].array.shape[0], 2 * case["rows"]))
        tensors[name] = Tensor("BF16", f.bf16_bits(bias))


def write(case, zoo, folder, rng, damage=None):
    family = case["family"]
    tensors = load(os.path.join(zoo, family, "model.safetensors"))
    with open(os.path.join(zoo, family, "config.json")) as file:
        config = json.load(file)
    experts = config.get("num_local_experts") or config.get("num_experts") or config.get("n_routed_experts")
    cols = config["hidden_size"]
    rows = config["intermediate_size"] if family in ("gpt_oss", "llama4_text") else config["moe_intermediate_size"]
    blocks, quantised = range(config["num_hidden_layers"]), [0]
    if "rows" in case:
        resize(case, tensors, config, rng)
        rows, quantised = case["rows"], list(blocks)
    if case["config"] is not None:
        config["quantization_config"] = json.loads(json.dumps(case["config"]))
    expected = {}
    for block in blocks:
        if block in quantised:
            drop_experts(family, tensors, block)
            put = put_fused if case.get("fused") else put_each
            values = put(case, tensors, rng, block, experts, rows, cols)
        else:
            values = plain_values(family, tensors, block, experts, rows, cols)
        for what, value in values.items():
            expected[f"layer{block}.{what}"] = Tensor("F32", np.ascontiguousarray(value, np.float32))
    if damage is not None:
        damage(tensors, config)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    save(os.path.join(folder, "model.safetensors"), tensors)
    save(os.path.join(folder, "expected.safetensors"), expected)
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config, file, indent=1)


# ---- the cases ----

UNITS = 48   # intermediate size in the zoo's qwen3_moe

def fp8_config(**keys):
    return {"quant_method": "fp8", "activation_scheme": "dynamic", **keys}


def tensors_config(form, **weights):
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def gptq_config(bits=4, group=32, **keys):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": False, **keys}


def case(name, make, config, family="qwen3_moe", **rest):
    return {"name": name, "make": make, "config": config, "family": family, **rest}


def with_(function, **arguments):
    return lambda rng, rows, cols: function(rng, rows, cols, **arguments)


def fused_tensor_scales(rng, rows, cols):
    """A scale for gate and one for up, or one for down."""
    parts = 2 if rows == 2 * UNITS else 1
    made = [f.fp8_tensor(rng, rows // parts, cols, name="_scale_inv") for _ in range(parts)]
    tensors = {"": Tensor("F8_E4M3", np.concatenate([m[0][""].array for m in made])),
               "_scale_inv": Tensor("F32", np.stack([m[0]["_scale_inv"].array for m in made]))}
    return tensors, np.concatenate([m[1] for m in made])


def fused_parts(rng, rows, cols, block):
    """Gate and up with blocks of their own, one below the other."""
    parts = 2 if rows == 2 * UNITS else 1
    made = [f.fp8_block(rng, rows // parts, cols, block) for _ in range(parts)]
    return ({k: Tensor(made[0][0][k].dtype, np.concatenate([m[0][k].array for m in made])) for k in made[0][0]},
            np.concatenate([m[1] for m in made]))


def deepseek_v4(rng, rows, cols):
    """E2M1 in bytes called int8, e8m0 scales called scale."""
    return f.fp4(rng, rows, cols, 32, "F8_E8M0", "", ".scale", "I8")


CASES = [
    case("fp8_128", with_(f.fp8_block), fp8_config(weight_block_size=[128, 128])),
    case("fp8_partial", with_(f.fp8_block, block=(20, 24), dtype="BF16"), fp8_config(weight_block_size=[20, 24])),
    case("fp8_rows", with_(f.fp8_block, block=(1, 16)), fp8_config(weight_block_size=[1, 16])),
    case("fp8_ue8m0", with_(f.fp8_block, block=(16, 16), dtype="F8_E8M0"),
         fp8_config(weight_block_size=[16, 16], scale_fmt="ue8m0")),
    case("fp8_v4", with_(f.fp8_block, block=(32, 32), dtype="F8_E8M0", name=".scale"),
         fp8_config(weight_block_size=[32, 32]), "deepseek_v4"),
    case("fp8_fused", with_(f.fp8_block, block=(40, 24)), fp8_config(weight_block_size=[40, 24]), fused=True),
    case("fp8_fused_parts", with_(fused_parts, block=(20, 24)), fp8_config(weight_block_size=[20, 24]), fused=True),
    case("fp8_fused_tensor", fused_tensor_scales, fp8_config(weight_block_size=None), fused=True),
    case("fp8_transposed", with_(f.fp8_row), {"quant_method": "fbgemm_fp8"}, "llama4_text", fused=True,
         transposed=True),
    case("fp8_transposed_blocks", with_(f.fp8_block, block=(40, 24)), fp8_config(weight_block_size=[40, 24]),
         "llama4_text", fused=True, transposed=True),
    case("float_quantized_channel", with_(f.fp8_row, dtype="BF16"),
         tensors_config("float-quantized", num_bits=8, type="float", strategy="channel")),
    case("float_quantized_block", with_(f.fp8_block, block=(16, 24), name="_scale"),
         tensors_config("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[16, 24])),
    case("float_quantized_tensor", with_(f.fp8_tensor, dtype="F16"),
         tensors_config("float-quantized", num_bits=8, type="float", strategy="tensor")),
    case("modelopt_fp8", with_(f.fp8_tensor, shape=()), {"quant_method": "modelopt", "quant_algo": "FP8"}),
    case("modelopt_fp8_no_config", with_(f.fp8_tensor, shape=()), None),
    case("mistral_fp8", with_(f.fp8_tensor, shape=(), name=".qscale_weight", dtype="BF16"), fp8_config()),
    case("modelopt_mxfp8", f.mxfp8, {"quant_method": "modelopt", "quant_algo": "MXFP8"}, rows=64),
    case("mxfp8_scale_inv", with_(f.mxfp8, dtype="F8_E8M0", name="_scale_inv"),
         {"quant_method": "mxfp8", "weight_block_size": [1, 32]}),
    case("mxfp8_quantized", f.mxfp8, tensors_config("mxfp8-quantized", num_bits=8, type="float", group_size=32),
         rows=64),
    case("gpt_oss_mxfp4", f.mxfp4_blocks, {"quant_method": "mxfp4"}, "gpt_oss", fused=True, interleaved=True, rows=96),
    case("deepseek_v4_fp4", deepseek_v4, fp8_config(weight_block_size=[128, 128], scale_fmt="ue8m0"), "deepseek_v4"),
    case("fp4_fused", with_(f.fp4, group=32, dtype="F8_E8M0", scales="_scale_inv", stored="I8"),
         fp8_config(weight_block_size=[128, 128]), fused=True, rows=64),
    case("modelopt_nvfp4", with_(f.fp4, group=16, dtype="F8_E4M3", factor="_scale_2"),
         {"quant_method": "modelopt", "quant_algo": "NVFP4"}),
    case("modelopt_nvfp4_no_config", with_(f.fp4, group=16, dtype="F8_E4M3", factor="_scale_2"), None),
    case("nvfp4_pack_quantized", with_(f.fp4, group=16, dtype="F8_E4M3", values="_packed", factor="_global_scale",
                                       divides=True),
         tensors_config("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16)),
    case("mxfp4_pack_quantized", with_(f.fp4, group=32, dtype="U8", values="_packed"),
         tensors_config("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32), rows=64),
    case("int4_symmetric", f.pack_quantized,
         tensors_config("pack-quantized", num_bits=4, type="int", symmetric=True, group_size=32), rows=64),
    case("int4_asymmetric", with_(f.pack_quantized, zeros=True, group=16, dtype="F32"),
         tensors_config("pack-quantized", num_bits=4, type="int", symmetric=False, group_size=16)),
    case("int4_i8_zeros", with_(f.pack_quantized, zeros=True, plain_zeros=True, dtype="F16"),
         tensors_config("pack-quantized", num_bits=4, type="int", symmetric=False, group_size=32), rows=64),
    case("int4_ordered", with_(f.pack_quantized, zeros=True, ordered=True),
         tensors_config("pack-quantized", num_bits=4, type="int", symmetric=False, group_size=32, actorder="group"),
         rows=64),
    case("int8_channel", with_(f.pack_quantized, bits=8, group=None),
         tensors_config("pack-quantized", num_bits=8, type="int", symmetric=True, strategy="channel")),
    case("int8_asymmetric", with_(f.pack_quantized, bits=8, group=16, zeros=True),
         tensors_config("pack-quantized", num_bits=8, type="int", symmetric=False, group_size=16)),
    case("int4_fused", with_(f.pack_quantized, zeros=True),
         tensors_config("pack-quantized", num_bits=4, type="int", symmetric=False, group_size=32), fused=True, rows=64),
    case("int_quantized", f.int8, tensors_config("int-quantized", num_bits=8, type="int", strategy="channel")),
    case("int_quantized_zeros", with_(f.int8, zeros=True, dtype="BF16"),
         tensors_config("int-quantized", num_bits=8, type="int", strategy="channel", symmetric=False)),
    case("gptq_symmetric", with_(f.gptq, sym=True), gptq_config(sym=True), rows=64),
    case("gptq_asymmetric", f.gptq, gptq_config(), rows=64),
    case("gptq_wraps", with_(f.gptq, wraps=True), gptq_config(checkpoint_format="gptq"), rows=64),
    case("gptq_ordered", with_(f.gptq, ordered=True, group=16), gptq_config(group=16, desc_act=True)),
    case("gptq_no_groups", with_(f.gptq, group=-1, index=False), gptq_config(group=-1)),
    case("gptq_v2", with_(f.gptq, v2=True, wraps=True), gptq_config(checkpoint_format="gptq_v2"), rows=64),
    case("gptq_8", with_(f.gptq, bits=8, wraps=True), gptq_config(bits=8), rows=64),
    case("gptq_8_v2", with_(f.gptq, bits=8, v2=True), gptq_config(bits=8, checkpoint_format="gptq_v2"), rows=64),
    case("gptq_rules", with_(f.gptq, bits=8, group=16), gptq_config(dynamic={"+:.*experts.*": {"bits": 8}})),
    case("awq", f.awq, {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}),
]


# ---- damage ----

EXPERT = "model.layers.0.mlp.experts.3.up_proj"


def drop(name):
    return lambda tensors, config: tensors.pop(name)


def cut(name, dimension=-1):
    """One value less along a dimension."""
    def damage(tensors, config):
        array = tensors[name].array
        tensors[name] = Tensor(tensors[name].dtype, np.delete(array, -1, dimension))
    return damage


def cut_all(suffix):
    def damage(tensors, config):
        for name in [n for n in tensors if n.endswith(suffix)]:
            cut(name)(tensors, config)
    return damage


def retype(suffix, dtype):
    def damage(tensors, config):
        for name in [n for n in tensors if n.endswith(suffix)]:
            tensors[name].dtype = dtype
    return damage


def set_key(**keys):
    return lambda tensors, config: config["quantization_config"].update(keys)


def set_weights(**keys):
    return lambda tensors, config: config["quantization_config"]["config_groups"]["group_0"]["weights"].update(keys)


def smaller(tensors, config):
    """The checkpoint is made with another size; see check_errors."""


def set_index(tensors, config):
    tensors[EXPERT + ".g_idx"].array[5] = 4


# case, damage, words of the sentence
ERRORS = [
    ("fp8_128", drop(EXPERT + ".weight_scale_inv"), [EXPERT + ".weight_scale_inv", "missing"]),
    ("fp8_128", cut_all(".weight_scale_inv"), ["weight_scale_inv", "expected shape [1, 1], found [1, 0]"]),
    ("fp8_128", set_key(quant_method="bitsandbytes"), ["quantization_config.quant_method", "fp8", "bitsandbytes"]),
    ("fp8_128", set_key(transform_config={"config_groups": {"R4": {"type": "hadamard", "apply": []}}}),
     ["transform_config.config_groups.R4.type", "not supported"]),
    ("fp8_partial", set_key(weight_block_size=[20, 0]), ["quantization_config.weight_block_size", "two sizes above 0"]),
    ("fp8_partial", set_key(weight_block_size=[24, 24]), ["weight_scale_inv", "expected shape [2, 3], found [3, 3]"]),
    ("fp8_partial", cut(EXPERT + ".weight"), [EXPERT + ".weight", "as in expert 0", "[48, 63]"]),
    ("fp8_partial", cut_all("_proj.weight"), ["gate_proj.weight", "expected shape [48, 64], found [48, 63]"]),
    ("fp8_partial", retype(".weight_scale_inv", "I16"), ["weight_scale_inv", "expected f32", "found i16"]),
    ("gpt_oss_mxfp4", drop("model.layers.0.mlp.experts.gate_up_proj_scales"), ["gate_up_proj_scales", "missing"]),
    ("gpt_oss_mxfp4", cut("model.layers.0.mlp.experts.gate_up_proj_scales"),
     ["gate_up_proj_scales", "expected shape [8, 192, 2], found [8, 192, 1]"]),
    ("gpt_oss_mxfp4", cut("model.layers.0.mlp.experts.down_proj_blocks", 2),
     ["down_proj_blocks", "expected shape [8, 64, 3, 16], found [8, 64, 2, 16]"]),
    ("modelopt_nvfp4", drop(EXPERT + ".weight_scale_2"), [EXPERT + ".weight_scale_2", "missing"]),
    ("modelopt_nvfp4", retype(".weight_scale", "I8"), ["weight_scale", "expected e4m3, e8m0 or u8, found i8"]),
    ("nvfp4_pack_quantized", cut_all(".weight_scale"), ["weight_scale", "expected shape [48, 4], found [48, 3]"]),
    ("int4_symmetric", set_weights(num_bits=8), ["weight_packed", "expected shape [64, 16], found [64, 8]"]),
    ("int4_symmetric", set_weights(num_bits=2), ["group_0.weights.num_bits", "4 or 8 bits, found 2"]),
    ("int4_symmetric", cut_all(".weight_packed"), ["weight_packed", "expected shape [64, 8], found [64, 7]"]),
    ("int4_symmetric", set_weights(group_size=64), ["weight_scale", "expected shape [64, 1], found [64, 2]"]),
    ("int4_asymmetric", cut_all(".weight_zero_point"), ["weight_zero_point", "expected shape [6, 4], found [6, 3]"]),
    ("gptq_asymmetric", drop(EXPERT + ".scales"), [EXPERT + ".scales", "missing"]),
    ("gptq_asymmetric", drop(EXPERT + ".qzeros"), [EXPERT + ".qzeros", "missing"]),
    ("gptq_asymmetric", set_key(bits=3), ["quantization_config.bits", "4 or 8 bits, found 3"]),
    ("gptq_asymmetric", set_key(bits=8), ["qweight", "expected shape [16, 64], found [8, 64]"]),
    ("gptq_asymmetric", set_key(group_size=64), ["scales", "expected shape [1, 64], found [2, 64]"]),
    ("gptq_asymmetric", set_key(group_size=0), ["quantization_config.group_size", "-1 or an integer above 0"]),
    ("gptq_asymmetric", set_key(checkpoint_format="marlin"), ["quantization_config.checkpoint_format", "marlin"]),
    ("gptq_asymmetric", set_key(quant_method="hqq"), ["quantization_config.quant_method", "gptq|awq", "hqq"]),
    ("gptq_asymmetric", lambda tensors, config: config.pop("quantization_config"),
     ["quantization_config.quant_method", "missing"]),
    ("gptq_ordered", drop(EXPERT + ".g_idx"), [EXPERT + ".g_idx", "missing"]),
    ("gptq_ordered", set_index, ["g_idx", "of expert 3: expected groups of 0 to 3, found 4"]),
    ("int4_symmetric", smaller, ["weight_scale", "groups of 32 do not divide 48 columns"]),
    ("gptq_asymmetric", smaller, ["scales", "groups of 32 do not divide 48 columns"]),
    ("mxfp4_pack_quantized", smaller, ["weight_scale", "groups of 32 do not divide 48 columns"]),
    ("gptq_asymmetric", set_key(packing_format="auto_round:other"), ["quantization_config.packing_format", "other"]),
    ("awq", lambda tensors, config: tensors.update({"model.layers.0.mlp.experts.0.up_proj.pre_quant_scale":
                                                    Tensor("F32", np.ones(64, np.float32))}),
     ["up_proj.pre_quant_scale", "not supported"]),
    ("awq", set_key(bits=8), ["quantization_config.bits", "expected 4, found 8"]),
    ("awq", set_key(version="gemv"), ["quantization_config.version", "gemm", "gemv"]),
    ("awq", cut_all(".qzeros"), ["qzeros", "expected shape [4, 6], found [4, 5]"]),
]


def run_pair(check, model, expected):
    return subprocess.run([check, model, expected], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(check, folder, model=""):
    return run_pair(check, os.path.join(folder, model), os.path.join(folder, "expected.safetensors"))


def write_gguf(folder, rng):
    """GGUF's own way: a factor for each expert in "x.scale" beside "x.weight"."""
    import gguf
    experts, rows, cols, expected = 4, 48, 64, {}
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    writer = gguf.GGUFWriter(os.path.join(folder, "model.gguf"), "qwen3moe")
    writer.add_block_count(1)
    writer.add_embedding_length(cols)
    writer.add_feed_forward_length(rows)
    writer.add_expert_feed_forward_length(rows)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    writer.add_head_count(4)
    writer.add_tensor("blk.0.ffn_gate_inp.weight", rng.normal(size=(experts, cols)).astype(np.float32))
    for what in ("gate", "up", "down"):
        shape = (experts, cols, rows) if what == "down" else (experts, rows, cols)
        q, scale = rng.normal(size=shape).astype(np.float32), rng.uniform(0.5, 2, experts).astype(np.float32)
        writer.add_tensor(f"blk.0.ffn_{what}_exps.weight", q)
        writer.add_tensor(f"blk.0.ffn_{what}_exps.scale", scale)
        expected[f"layer0.{what}"] = Tensor("F32", q * scale[:, None, None])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save(os.path.join(folder, "expected.safetensors"), expected)


def check_errors(zoo, folder, check, names):
    cases = {item["name"]: item for item in CASES}
    failed = []
    for i, (name, damage, words) in enumerate(ERRORS):
        if names and name not in names:
            continue
        path = os.path.join(folder, "damaged")
        size = {"rows": UNITS} if damage is smaller else {}
        write({**cases[name], **size}, zoo, path, np.random.default_rng(500 + i), damage)
        result = run(check, path)
        missing = [word for word in words if word not in result.stdout]
        if result.returncode != 1 or missing:
            failed.append(f"error{i}")
            print(f"FAILED {name}: exit {result.returncode}, no {missing} in\n{result.stdout}")
    return failed


def main():
    zoo, folder, check = sys.argv[1:4]
    names, failed = sys.argv[4:], []
    for i, item in enumerate(CASES):
        if names and item["name"] not in names:
            continue
        path = os.path.join(folder, item["name"])
        write(item, zoo, path, np.random.default_rng(100 + i))
        result = run(check, path)
        print(f"{'ok' if result.returncode == 0 else 'FAILED':6s} {item['name']}")
        if result.returncode != 0:
            print(result.stdout)
            failed.append(item["name"])
    if not names:
        path = os.path.join(folder, "gguf_scale")
        write_gguf(path, np.random.default_rng(1))
        result = run(check, path, "model.gguf")
        print(f"{'ok' if result.returncode == 0 else 'FAILED':6s} gguf_scale")
        failed += [] if result.returncode == 0 else [result.stdout]
    failed += check_errors(zoo, folder, check, names)
    print(f"{len(failed)} failed: {' '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
