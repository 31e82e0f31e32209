# SPDX-License-Identifier: MIT
# What `moe convert` writes, read by the gguf package: names, shapes, metadata, and values equal to the library's.
# Usage: gguf_package.py MOE LIBMOE SOURCE_DIR UNPACKED_MODELS SCRATCH_DIR
import ctypes
import json
import pathlib
import shutil
import struct
import subprocess
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type, MODEL_ARCH as Arch
from gguf.quants import dequantize

moe, library = sys.argv[1], ctypes.CDLL(sys.argv[2])
source, models, scratch = (pathlib.Path(p) for p in sys.argv[3:6])
for convert in (library.moe_format_quantise, library.moe_format_dequantise):
    convert.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
library.moe_format_row_bytes.argtypes = [ctypes.c_int, ctypes.c_size_t]
library.moe_format_row_bytes.restype = ctypes.c_size_t

FORMATS = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0,
           "q4_1": Type.Q4_1, "q5_0": Type.Q5_0, "q5_1": Type.Q5_1, "q2_k": Type.Q2_K, "q3_k": Type.Q3_K,
           "q4_k": Type.Q4_K, "q5_k": Type.Q5_K, "q6_k": Type.Q6_K, "iq4_nl": Type.IQ4_NL, "iq4_xs": Type.IQ4_XS,
           "tq1_0": Type.TQ1_0, "tq2_0": Type.TQ2_0, "mxfp4": Type.MXFP4, "nvfp4": Type.NVFP4}
ARCHITECTURES = {"qwen3_moe": Arch.QWEN3MOE, "qwen2_moe": Arch.QWEN2MOE, "olmoe": Arch.OLMOE, "mixtral": Arch.LLAMA,
                 "glm4_moe": Arch.GLM4_MOE, "deepseek_v3": Arch.DEEPSEEK2, "gpt_oss": Arch.GPT_OSS,
                 "llama4_text": Arch.LLAMA4}


def quantise(format, values):
    values = np.ascontiguousarray(values, np.float32)
    rows, cols = values.size // values.shape[-1], values.shape[-1]
    out = np.empty(rows * library.moe_format_row_bytes(format, cols), np.uint8)
    assert library.moe_format_quantise(format, out.ctypes.data, values.ctypes.data, rows, cols) == 0
    return out


def dequantise(format, blocks, shape):
    blocks = np.ascontiguousarray(blocks)
    out = np.empty(shape, np.float32)
    rows = out.size // shape[-1]
    assert library.moe_format_dequantise(format, out.ctypes.data, blocks.ctypes.data, rows, shape[-1]) == 0
    return out


def load_safetensors(folder):
    tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        for name, entry in json.loads(data[8:8 + size]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + size + o for o in entry["data_offsets"])
            assert entry["dtype"] == "BF16"
            bits = np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16
            tensors[name] = bits.view(np.float32).reshape(entry["shape"])
    return tensors


def save_safetensors(path, tensors):
    header, blobs, at = {}, [], 0
    for name, values in tensors.items():
        blob = (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def convert(folder, name, *options):
    path = scratch / name
    subprocess.run([moe, "convert", str(folder), str(path), *options], check=True, stdout=subprocess.DEVNULL)
    return gguf.GGUFReader(path)


def value(reader, key):
    return reader.fields[key].contents()


def tensors_of(reader):
    """name -> (type, shape outermost first, raw blocks)"""
    return {t.name: (t.tensor_type, tuple(int(n) for n in reversed(t.shape)), t.data) for t in reader.tensors}


def expected_tensors(folder):
    """llama.cpp's name -> values, built by the names of the gguf package."""
    config = json.loads((folder / "config.json").read_text())
    names = gguf.get_tensor_name_map(ARCHITECTURES[config["model_type"]], config["num_hidden_layers"])
    expected, stacks = {}, {}
    for name, values in load_safetensors(folder).items():
        if ".experts." in name and name.split(".experts.")[1][0].isdigit():
            before, after = name.split(".experts.")
            index, rest = after.split(".", 1)
            stacks.setdefault(before + ".experts." + rest, {})[int(index)] = values
            continue
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        expected[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values
    for name, parts in stacks.items():
        name = names.get_name(name, try_suffixes=(".weight",))
        expected[name] = np.stack([parts[i] for i in range(len(parts))])
    assert None not in expected
    return expected


def check_model(folder, format):
    wanted = FORMATS[format]
    reader = convert(folder, f"{folder.name}-{format}.gguf", "--format", format)
    found, expected = tensors_of(reader), expected_tensors(folder)
    assert set(found) == set(expected), set(found) ^ set(expected)
    for name, values in expected.items():
        type, shape, data = found[name]
        assert shape == values.shape, (name, shape, values.shape)
        small = values.ndim == 1 or "norm" in name or "ffn_gate_inp" in name
        outside = "exps" not in name and "shexp" not in name
        target = Type.F32 if small else Type.Q8_0 if wanted in (Type.MXFP4, Type.NVFP4) and outside else wanted
        block = gguf.GGML_QUANT_SIZES[target][0]
        if values.shape[-1] % block:
            target = Type.Q8_0 if values.shape[-1] % 32 == 0 else Type.F16
        assert type == target, (name, type, target)
        raw = np.ascontiguousarray(data).view(np.uint8).reshape(-1)
        assert np.array_equal(raw, quantise(target, values)), f"{name}: blocks differ from moe_format_quantise"
        theirs = dequantize(np.ascontiguousarray(data).view(np.uint8) if target not in (Type.F32, Type.F16) else data,
                            target).astype(np.float32).reshape(shape)
        ours = dequantise(target, raw, shape)
        # Products of two f32 factors may be rounded in another order: 2^-22 of the block's largest value.
        limit = np.abs(theirs).max() * 2.0**-22
        assert np.abs(theirs - ours).max() <= limit, f"{name}: dequantised values differ"
        if target in (Type.F32, Type.BF16):
            assert np.array_equal(ours, values), name
    return reader


def check_metadata(reader, folder, architecture):
    config = json.loads((folder / "config.json").read_text())
    assert value(reader, "general.architecture") == architecture
    keys = {"block_count": "num_hidden_layers", "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
            "attention.key_length": "head_dim", "attention.value_length": "head_dim", "vocab_size": "vocab_size",
            "attention.layer_norm_rms_epsilon": "rms_norm_eps", "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "moe_intermediate_size"}
    for key, theirs in keys.items():
        assert np.float32(value(reader, f"{architecture}.{key}")) == np.float32(config[theirs]), key
    assert value(reader, f"{architecture}.rope.freq_base") == config["rope_parameters"]["rope_theta"]
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens, kinds = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    assert len(tokens) == len(kinds) == config["vocab_size"]
    for token, index in tokenizer["model"]["vocab"].items():
        assert tokens[index] == token
    assert value(reader, "tokenizer.ggml.merges") == [" ".join(m) for m in tokenizer["model"]["merges"]]
    assert value(reader, "tokenizer.ggml.model") == "gpt2" and value(reader, "tokenizer.ggml.pre") == "gpt-2"
    assert value(reader, "tokenizer.ggml.bos_token_id") == config["bos_token_id"]
    assert kinds[tokenizer["added_tokens"][0]["id"]] == 3


def check_routing_keys(bard, scribe):
    for key, expected in (("expert_count", 16), ("expert_gating_func", 1), ("expert_weights_norm", True)):
        assert value(bard, f"qwen3moe.{key}") == expected, key
    assert value(bard, "qwen3moe.rope.dimension_count") == 64
    for key, expected in (("expert_count", 24), ("expert_gating_func", 2), ("expert_weights_norm", True),
                          ("expert_weights_scale", 1.5), ("expert_group_count", 4), ("expert_group_used_count", 2),
                          ("expert_shared_count", 1), ("expert_shared_feed_forward_length", 160),
                          ("leading_dense_block_count", 1), ("rope.dimension_count", 32)):
        assert value(scribe, f"glm4moe.{key}") == expected, key


def with_attention(family, shapes):
    """A copy of a checkpoint of the zoo with random attention tensors in layer 0."""
    folder = scratch / f"hf-{family}"
    folder.mkdir()
    shutil.copy(models / "zoo" / family / "config.json", folder)
    tensors = load_safetensors(models / "zoo" / family)
    random = np.random.default_rng(1)
    extra = {}
    for name, shape in shapes.items():
        bits = random.standard_normal(shape).astype(np.float32).view(np.uint32) & 0xffff0000
        extra[f"model.layers.0.self_attn.{name}"] = bits.view(np.float32)
    save_safetensors(folder / "model.safetensors", {**tensors, **extra})
    return folder, {name.rsplit("self_attn.", 1)[1]: values for name, values in extra.items()}


def check_rope_order():
    """llama.cpp's 'llama' pairs rotary dimensions 2i and 2i+1 of a head, Hugging Face i and i + d/2."""
    folder, attention = with_attention("mixtral", {"q_proj.weight": (64, 64), "k_proj.weight": (32, 64),
                                                   "q_proj.bias": (64,), "v_proj.weight": (32, 64)})
    found = tensors_of(convert(folder, "mixtral-attention.gguf", "--format", "f32"))
    for theirs, ours, heads in (("q_proj.weight", "attn_q.weight", 4), ("k_proj.weight", "attn_k.weight", 2),
                                ("q_proj.bias", "attn_q.bias", 4)):
        values = attention[theirs]
        half = values.shape[0] // heads // 2
        pairs = values.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(values.shape)
        assert np.array_equal(found[f"blk.0.{ours}"][2].reshape(values.shape), pairs), ours
    assert np.array_equal(found["blk.0.attn_v.weight"][2], attention["v_proj.weight"])


def check_latent_attention():
    heads, rank, nope, rope, width = 4, 16, 8, 8, 16
    folder, attention = with_attention("deepseek_v3", {
        "kv_b_proj.weight": (heads * (nope + width), rank), "kv_a_proj_with_mqa.weight": (rank + rope, 64),
        "q_a_proj.weight": (16, 64), "q_b_proj.weight": (heads * (nope + rope), 16), "q_a_layernorm.weight": (16,)})
    reader = convert(folder, "deepseek-attention.gguf", "--format", "f32")
    found = tensors_of(reader)
    kv = attention["kv_b_proj.weight"].reshape(heads, nope + width, rank)
    assert np.array_equal(found["blk.0.attn_k_b.weight"][2], kv[:, :nope].swapaxes(1, 2))
    assert np.array_equal(found["blk.0.attn_v_b.weight"][2], kv[:, nope:])
    for theirs, ours in (("kv_a_proj_with_mqa", "attn_kv_a_mqa"), ("q_a_proj", "attn_q_a"), ("q_b_proj", "attn_q_b"),
                         ("q_a_layernorm", "attn_q_a_norm")):
        assert np.array_equal(found[f"blk.0.{ours}.weight"][2], attention[f"{theirs}.weight"]), ours
    for key, expected in (("head_count_kv", 1), ("kv_lora_rank", rank), ("q_lora_rank", 16), ("value_length", rank),
                          ("key_length", rank + rope), ("key_length_mla", nope + rope), ("value_length_mla", width)):
        assert value(reader, f"deepseek2.attention.{key}") == expected, key


def check_fused_stacks():
    """Hugging Face's transposed, fused and interleaved stacks come out as [experts, rows, cols]."""
    for family, gate, up in (("gpt_oss", np.s_[..., ::2], np.s_[..., 1::2]),
                             ("llama4_text", np.s_[..., :48], np.s_[..., 48:])):
        folder = models / "zoo" / family
        values = load_safetensors(folder)
        found = tensors_of(convert(folder, f"{family}-fused.gguf", "--format", "f32"))
        block = "model.layers.1.mlp.experts" if family == "gpt_oss" else "model.layers.1.feed_forward.experts"
        fused, down = values[f"{block}.gate_up_proj"], values[f"{block}.down_proj"]
        assert np.array_equal(found["blk.1.ffn_gate_exps.weight"][2], fused[gate].swapaxes(1, 2)), family
        assert np.array_equal(found["blk.1.ffn_up_exps.weight"][2], fused[up].swapaxes(1, 2)), family
        assert np.array_equal(found["blk.1.ffn_down_exps.weight"][2], down.swapaxes(1, 2)), family
        if family == "gpt_oss":
            bias = values[f"{block}.gate_up_proj_bias"]
            assert np.array_equal(found["blk.1.ffn_gate_exps.bias"][2], bias[:, ::2])
            assert np.array_equal(found["blk.1.ffn_up_exps.bias"][2], bias[:, 1::2])
            assert np.array_equal(found["blk.1.ffn_down_exps.bias"][2], values[f"{block}.down_proj_bias"])
            assert np.array_equal(found["blk.1.ffn_gate_inp.bias"][2], values["model.layers.1.mlp.router.bias"])


def check_gguf_input():
    """From GGUF to GGUF: names and metadata stay, but for what the format decides."""
    reader = convert(source / "models/bard", "first.gguf", "--format", "f32")
    again = convert(scratch / "first.gguf", "second.gguf", "--format", "q8_0", "--down", "q6_k")
    changed = {"general.file_type", "general.quantization_version"}
    kept = {k for k in reader.fields if not k.startswith("GGUF.")} - changed
    assert kept == {k for k in again.fields if not k.startswith("GGUF.")} - changed
    for key in kept:
        assert value(reader, key) == value(again, key), key
    before, after = tensors_of(reader), tensors_of(again)
    assert list(before) == list(after)
    for name, (type, shape, data) in before.items():
        new = after[name]
        target = Type.Q6_K if "ffn_down_exps" in name else Type.Q8_0
        if len(shape) == 1 or "norm" in name or "ffn_gate_inp" in name:
            target = Type.F32
        assert new[0] == target and new[1] == shape, name
        assert np.array_equal(np.ascontiguousarray(new[2]).view(np.uint8).reshape(-1), quantise(target, data)), name


def check_families():
    """Every tensor of the zoo that the package has a name for stands under it, with the same values."""
    architectures = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    compared = {}
    for folder in sorted((models / "zoo").iterdir()):
        path = scratch / f"{folder.name}-named.gguf"
        if subprocess.run([moe, "convert", str(folder), str(path), "--format", "f32"], capture_output=True).returncode:
            continue
        reader = gguf.GGUFReader(path)
        architecture = value(reader, "general.architecture")
        if architecture not in architectures:   # newer than the package
            continue
        found = tensors_of(reader)
        names = gguf.get_tensor_name_map(architectures[architecture], value(reader, f"{architecture}.block_count"))
        stacks, expected = {}, {}
        for name, values in load_safetensors(folder).items():
            after = name.split(".experts.")[-1]
            if ".experts." in name and after[0].isdigit():
                index, rest = after.split(".", 1)
                stacks.setdefault(name.split(".experts.")[0] + ".experts." + rest, {})[int(index)] = values
            else:
                expected[name] = values
        expected.update({name: np.stack([s[i] for i in range(len(s))]) for name, s in stacks.items()})
        compared[folder.name] = 0
        for name, values in expected.items():
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
            ours = names.get_name(name, (".weight", ".bias"))
            if ours is None or ours not in found or found[ours][2].size != values.size:
                continue   # fused, cut or reordered on the way: proven by what the layers compute
            same = np.array_equal(np.asarray(found[ours][2]).reshape(-1), values.reshape(-1))
            assert same, f"{folder.name}: {name} is not {ours}"
            compared[folder.name] += 1
    print("tensors under the package's names:", compared)
    assert len(compared) > 25 and sum(count >= 8 for count in compared.values()) > 18


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def e4m3(bits):
    exponent, mantissa = (bits >> 3 & 15).astype(np.int32), (bits & 7).astype(np.float32)
    small = np.ldexp(mantissa / 8, -6)
    return np.where(exponent > 0, np.ldexp(1 + mantissa / 8, exponent - 7), small).astype(np.float32)


def save_raw(path, tensors):
    header, blobs, at = {}, [], 0
    for name, (dtype, values) in tensors.items():
        blob = values.tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def fp4_model(name, method, group, hidden=128, ff=64, experts=8):
    """A qwen3_moe checkpoint with FP4 experts, and their values by the formats' definitions."""
    folder = scratch / f"hf-{name}"
    folder.mkdir()
    config = json.loads((models / "zoo/qwen3_moe/config.json").read_text())
    config.update(num_hidden_layers=1, hidden_size=hidden, moe_intermediate_size=ff, quantization_config=method)
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(3)
    tensors, expected = {"model.layers.0.mlp.gate.weight": ("F32", random.random((experts, hidden), np.float32))}, {}
    for part, rows, cols in (("gate", ff, hidden), ("up", ff, hidden), ("down", hidden, ff)):
        values, factors = [], []
        for e in range(experts):
            packed = random.integers(0, 256, (rows, cols // 2), np.uint8)
            scale = random.integers(100, 140, (rows, cols // group)).astype(np.uint8) if group == 32 else \
                random.integers(0, 127, (rows, cols // group)).astype(np.uint8)
            factor = np.float32(random.random() + 0.5)
            stem = f"model.layers.0.mlp.experts.{e}.{part}_proj."
            if name == "modelopt":
                tensors.update({stem + "weight": ("U8", packed), stem + "weight_scale": ("F8_E4M3", scale),
                                stem + "weight_scale_2": ("F32", factor)})
            else:
                tensors.update({stem + "weight_packed": ("U8", packed),
                                stem + "weight_scale": ("U8" if group == 32 else "F8_E4M3", scale)})
            if name == "compressed":
                tensors[stem + "weight_global_scale"] = ("F32", np.array([factor], np.float32))
            nibbles = np.stack([packed & 15, packed >> 4], -1).reshape(rows, cols)
            scales = np.ldexp(np.float32(1), scale.astype(np.int32) - 127) if group == 32 else e4m3(scale)
            values.append(E2M1[nibbles] * np.repeat(scales, group, 1))
            factors.append(factor if name == "modelopt" else np.float32(1) / factor)
        expected[part] = np.stack(values), np.array(factors, np.float32)
    save_raw(folder / "model.safetensors", tensors)
    return folder, expected


def check_fp4():
    """FP4 of safetensors becomes GGUF's bit by bit: the package's dequantiser finds the very values."""
    compressed = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    for name, method, group, format in (
            ("modelopt", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, 16, "nvfp4"),
            ("compressed", compressed, 16, "nvfp4"),
            ("mxfp4", {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, 32, "mxfp4")):
        folder, expected = fp4_model(name, method, group)
        for wanted in (format, "keep"):
            found = tensors_of(convert(folder, f"{name}-{wanted}.gguf", "--format", wanted))
            for part, (values, factors) in expected.items():
                type, shape, data = found[f"blk.0.ffn_{part}_exps.weight"]
                assert type == (Type.NVFP4 if group == 16 else Type.MXFP4) and shape == values.shape
                assert np.array_equal(dequantize(np.ascontiguousarray(data), type).reshape(shape), values), (name, part)
                scale = found.get(f"blk.0.ffn_{part}_exps.scale")
                assert (scale is None) == (group == 32)
                assert scale is None or np.array_equal(scale[2], factors), (name, part)
        found = tensors_of(convert(folder, f"{name}-f32.gguf", "--format", "f32"))
        for part, (values, factors) in expected.items():
            assert f"blk.0.ffn_{part}_exps.scale" not in found
            ours = found[f"blk.0.ffn_{part}_exps.weight"][2]
            whole = values * factors[:, None, None] if group == 16 else values
            assert np.abs(ours - whole).max() <= np.abs(whole).max() * 2.0**-22, (name, part)
        print(name, "FP4 ok")


def check_fp8_outside():
    """FP8 with scales in blocks, of rows and of all, outside the MoE layer of a checkpoint that has it plain."""
    folder = scratch / "hf-fp8"
    folder.mkdir()
    config = json.loads((models / "zoo/qwen3_moe/config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    plain = load_safetensors(models / "zoo/qwen3_moe")
    tensors = {name: ("F32", values) for name, values in plain.items()}
    random, expected = np.random.default_rng(5), {}
    for name, shape, suffix, scales in (("q", (200, 160), "_scale_inv", (2, 2)), ("k", (64, 160), "_scale", (64, 1)),
                                        ("v", (64, 160), "_scale", (1,))):
        bits, scale = random.integers(0, 127, shape).astype(np.uint8), random.random(scales, np.float32)
        stem = f"model.layers.0.self_attn.{name}_proj.weight"
        tensors.update({stem: ("F8_E4M3", bits), stem + suffix: ("F32", scale)})
        whole = scale.repeat(128, 0).repeat(128, 1)[:shape[0], :shape[1]] if name == "q" else scale
        expected[f"blk.0.attn_{name}.weight"] = e4m3(bits) * whole
    save_raw(folder / "model.safetensors", tensors)
    found = tensors_of(convert(folder, "fp8.gguf", "--format", "f32"))
    for name, values in expected.items():
        assert np.array_equal(found[name][2], values), name
    found = tensors_of(convert(folder, "fp8-keep.gguf", "--format", "keep"))
    assert all(found[name][0] == Type.BF16 for name in expected)
    assert found["blk.0.ffn_up_exps.weight"][0] == Type.F32


def main():
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    bard, scribe = source / "models/bard", models / "scribe"
    for format in FORMATS:
        reader = check_model(bard, format)
        check_metadata(reader, bard, "qwen3moe")
        print("bard", format, "ok")
    scribe_reader = check_model(scribe, "q4_k")
    check_metadata(scribe_reader, scribe, "glm4moe")
    check_routing_keys(reader, scribe_reader)
    for family in ("qwen3_moe", "qwen2_moe", "olmoe", "mixtral", "glm4_moe", "deepseek_v3"):
        if family != "qwen2_moe":   # its shared gate loses a dimension of size 1
            check_model(models / "zoo" / family, "q8_0")
    check_rope_order()
    check_latent_attention()
    check_fused_stacks()
    check_gguf_input()
    check_families()
    check_fp4()
    check_fp8_outside()
    shutil.rmtree(scratch)
    print("all passed")


main()
