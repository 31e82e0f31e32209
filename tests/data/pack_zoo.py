#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Packs a folder of tiny checkpoints (<family>/{config.json, model.safetensors, reference.safetensors}) as zoo.tar.xz,
# without tensors that no test needs:  pack_zoo.py FOLDER... OUT.tar.xz. Equal input gives an equal archive.
import io
import json
import lzma
import re
import struct
import sys
import tarfile
from pathlib import Path

# Dense parts of decoder layers that stand beside the MoE block; small norms stay, as neighbours to be told apart.
UNUSED = re.compile(r"\.(mlps\.\d+|hc_\w+|[qkvo]_proj|lm_head|embed_tokens)\b")

# Two layers of one kind, of families that are as large as two others or compute what another one does: one is enough.
ONE_LAYER = {"cohere2_moe", "deepseek_v32", "dots1", "glm4_moe_lite", "glm_moe_dsa", "hunyuan_v1_moe",
             "minimax_m3_vl_text"}
SECOND = re.compile(r"^(model\.layers\.1|layer1)\.")


def load(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    metadata = header.pop("__metadata__", None)
    body = data[8 + size:]
    return metadata, {name: (t["dtype"], t["shape"], body[slice(*t["data_offsets"])]) for name, t in header.items()}


def save(metadata, tensors):
    header, offset, body = {}, 0, io.BytesIO()
    if metadata:
        header["__metadata__"] = metadata
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
        body.write(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body.getvalue()


def keep_model(tensors):
    return {name: tensor for name, tensor in tensors.items() if not UNUSED.search(name)}


def keep_reference(tensors, shared):
    """Inputs equal to x say nothing, nor outputs equal to out, unless that says that a shared expert is left out.
    A router's results are in ids and weights."""
    kept = {}
    for name, tensor in tensors.items():
        layer, _, what = name.rpartition(".")
        if what == "logits":
            continue
        if what in ("router_x", "expert_x") and tensors[layer + ".x"] == tensor:
            continue
        if what == "expert_out" and tensors[layer + ".x"] == tensors[layer + ".expert_x"] and \
                tensors[layer + ".out"] == tensor and not shared:
            continue
        if what.startswith("router_res") and (layer + ".ids" in tensors or what != "router_res0"):
            continue
        kept[name] = tensor
    return kept


def drop_second(config, tensors):
    for name in [name for name in tensors if SECOND.match(name)]:
        del tensors[name]
    config["num_hidden_layers"] = 1
    for key, value in config.items():
        if key.endswith("_types"):
            config[key] = value[:1]


def add(archive, name, data):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    archive.addfile(info, io.BytesIO(data))


def main(folders, out):
    families = sorted((p for folder in folders for p in Path(folder).iterdir() if p.is_dir()), key=lambda p: p.name)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for family in families:
            config = json.loads((family / "config.json").read_text())
            metadata, model = load(family / "model.safetensors")
            no_metadata, reference = load(family / "reference.safetensors")
            if family.name in ONE_LAYER:
                drop_second(config, model)
                drop_second(config, reference)
            shared = any("shared" in name for name in model)
            add(archive, f"zoo/{family.name}/config.json", json.dumps(config, indent=1).encode() + b"\n")
            add(archive, f"zoo/{family.name}/model.safetensors", save(metadata, keep_model(model)))
            add(archive, f"zoo/{family.name}/reference.safetensors", save(no_metadata, keep_reference(reference, shared)))
    # Values of two bytes: their high bytes say much about each other, low ones are noise.
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "pb": 1, "lp": 1, "lc": 2,
                "dict_size": 1 << 26}]
    Path(out).write_bytes(lzma.compress(raw.getvalue(), format=lzma.FORMAT_XZ, filters=filters))
    print(f"{len(families)} families, {Path(out).stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: pack_zoo.py FOLDER... OUT.tar.xz")
    main(sys.argv[1:-1], sys.argv[-1])
