# SPDX-License-Identifier: MIT
# What the tests against other programs have proven, a line each: proven.py PROVEN.TXT GGUF_TEST LIBRARY MODEL
# SCHEMES_TEST ZOO SCRATCH CHECK. Fails if that is not what the file says. Lines: "dequantise NAME" and "quantise NAME"
# (bit-equal to the gguf package), "scheme METHOD SUFFIX TYPE CASE" (bit-equal to the definition in numpy).
import json
import pathlib
import re
import struct
import subprocess
import sys

TYPES = {"F8_E4M3": "e4m3", "I8": "i8", "U8": "u8", "F4": "e2m1", "I32": "i32"}
OTHERS = re.compile(r"scale|zero|_bias|g_idx|shape")


def run(*command):
    result = subprocess.run([sys.executable, "-B", *command], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(result.stdout + result.stderr)
    return result.stdout


def formats(output):
    found = set(re.findall(r"^(dequantise|quantise) (\w+)(?:, [\w ]+)?: \d+ (?:values|bytes) equal$", output, re.M))
    return {f"{verb} {name.lower()}" for verb, name in found}


def schemes(output, folder):
    lines = set()
    for case in re.findall(r"^ok +(\w+)$", output, re.M):
        path = pathlib.Path(folder, case)
        if not (path / "config.json").exists():
            continue
        config = json.loads((path / "config.json").read_text())
        method = config.get("quantization_config", {}).get("quant_method", "none")
        data = (path / "model.safetensors").read_bytes()
        header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
        for name, tensor in header.items():
            if "experts" not in name or OTHERS.search(name) or tensor["dtype"] not in TYPES:
                continue
            suffix = next((s for s in ("weight_packed", "qweight", "blocks") if name.endswith(s)), "weight")
            lines.add(f"scheme {method} .{suffix} {TYPES[tensor['dtype']]} {case}")
    return lines


def main():
    proven, gguf_test, library, model, schemes_test, zoo, scratch, check = sys.argv[1:]
    lines = formats(run(gguf_test, library, model)) | schemes(run(schemes_test, zoo, scratch, check), scratch)
    text = "".join(line + "\n" for line in sorted(lines))
    new = pathlib.Path(scratch, "proven.txt")
    new.write_text(text)
    if not pathlib.Path(proven).exists() or pathlib.Path(proven).read_text() != text:
        sys.exit(f"{proven} differs from what the tests have proven, which is in {new}")


main()
