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
           "q4_k": Type.Q4_K, "q6_k": Type.Q6_K, "mxfp4": Type.MXFP4}
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
        target = Type.F32 if small else Type.Q8_0 if wanted == Type.MXFP4 and outside else wanted
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
    shutil.copy(source / "tests/data/zoo" / family / "config.json", folder)
    tensors = load_safetensors(source / "tests/data/zoo" / family)
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
        folder = source / "tests/data/zoo" / family
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
            check_model(source / "tests/data/zoo" / family, "q8_0")
    check_rope_order()
    check_latent_attention()
    check_fused_stacks()
    check_gguf_input()
    shutil.rmtree(scratch)
    print("all passed")


main()
