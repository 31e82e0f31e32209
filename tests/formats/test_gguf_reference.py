# SPDX-License-Identifier: MIT
# usage: test_gguf_reference.py LIBRARY MODEL
# Compare libmoe's formats with the gguf package, bit for bit, and print what each loses on the weights of MODEL.
import ctypes
import json
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

NUM_BLOCKS = 4096
# The largest ||q - w|| / ||w|| on the trained weights of models/bard. Those of 32 values but MXFP4 and IQ4_NL, and the
# ternary ones, are what the package reaches; the others are below the reference quantisers of ggml, which reach 0.2966
# (Q2_K), 0.1509, 0.07135, 0.03611, 0.01775 (Q6_K), 0.07614, 0.07673 (IQ4_XS), 0.1173 and 0.1002 (NVFP4).
LIMITS = {"F16": 2**-11, "BF16": 0, "Q8_0": 0.00536, "Q4_0": 0.0860, "Q4_1": 0.0783, "Q5_0": 0.0427, "Q5_1": 0.0379,
          "Q2_K": 0.2620, "Q3_K": 0.1440, "Q4_K": 0.0699, "Q5_K": 0.0342, "Q6_K": 0.0171, "IQ4_NL": 0.0738,
          "IQ4_XS": 0.0742, "TQ1_0": 0.8080, "TQ2_0": 0.8080, "MXFP4": 0.1130, "NVFP4": 0.0871}

# Where scales of f16 lie in a block.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64]}


class Library:
    """The functions of moe/format.h, on arrays of bytes and of f32."""

    def __init__(self, path):
        library = ctypes.CDLL(path)
        arguments = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._quantise, self._dequantise = library.moe_format_quantise, library.moe_format_dequantise
        self._row_bytes = library.moe_format_row_bytes
        self._quantise.argtypes = self._dequantise.argtypes = arguments
        self._row_bytes.argtypes, self._row_bytes.restype = [ctypes.c_int, ctypes.c_size_t], ctypes.c_size_t

    def quantise(self, values, kind):
        values = np.ascontiguousarray(values, np.float32)
        rows, cols = values.shape
        out = np.empty((rows, self._row_bytes(kind, cols)), np.uint8)
        assert self._quantise(kind, out.ctypes.data, values.ctypes.data, rows, cols) == 0
        return out

    def dequantise(self, data, kind):
        values, size = GGML_QUANT_SIZES[kind]
        rows, cols = data.shape[0], data.shape[1] // size * values
        out = np.empty((rows, cols), np.float32)
        assert self._dequantise(kind, out.ctypes.data, np.ascontiguousarray(data).ctypes.data, rows, cols) == 0
        return out


def check_same(ours, theirs, what):
    """Equal bits, or both NaN."""
    same = (ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))
    if not same.all():
        at = tuple(np.argwhere(~same)[0])
        sys.exit(f"{what}: {np.count_nonzero(~same)} values differ, the first at {at}: {ours[at]}, not {theirs[at]}")
    print(f"{what}: {ours.size} values equal")


def scatter_scales(data, scales):
    """Bits 4 n .. 4 n + 3 of the scale of f16 go to the highest bits of the n-th number of 16 bits."""
    for n in range(4):
        data[:, 2 * n + 1] = data[:, 2 * n + 1] & 15 | (scales.view("<u2")[:, 0] >> 4 * n & 15) << 4


def every_byte(data):
    """Each place of a block has each value of a byte in one of 256 blocks."""
    data[:] = np.arange(256, dtype=np.uint8)[:, None] + (np.arange(data.shape[1]) * 37).astype(np.uint8)


def random_blocks(rng, kind):
    """Random bytes. Scales of f16 of 256 blocks are the codes of infinity, NaN, 0, denormals and the largest."""
    values, size = GGML_QUANT_SIZES[kind]
    data = rng.integers(0, 256, (NUM_BLOCKS, size), np.uint8)
    special = np.array([0x7C00, 0xFC00, 0x7E00, 0x7C01, 0, 0x8000, 1, 0x83FF, 0x0400, 0x7BFF], "<u2").view(np.uint8)
    special = special.reshape(-1, 2)
    for offset in SCALES.get(kind.name, []):
        data[:256, offset:offset + 2] = special[rng.integers(0, len(special), 256)]
    if kind.name.startswith(("IQ1_S", "IQ2", "IQ3")):
        data[:256, :2] = special[rng.integers(0, len(special), 256)]
    if kind.name == "IQ1_M":
        scatter_scales(data[:256, 48:56], special[rng.integers(0, len(special), 256)])
    every_byte(data[256:512])
    if kind.name == "MXFP4":
        data[:256, 0] = np.arange(256)
    if values == 1:
        data = np.arange(65536, dtype="<u2").view(np.uint8).reshape(-1, size)
    return data


def check_dequantise(library, rng):
    for name in ("F16", "BF16", *SCALES, "MXFP4", "NVFP4", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS",
                 "IQ3_S", "IQ1_S", "IQ1_M"):
        kind = GGMLQuantizationType[name]
        data = random_blocks(rng, kind)
        ours, theirs = library.dequantise(data, kind), quants.dequantize(data, kind)
        if name == "MXFP4":
            # NaN by the specification of E8M0; the package goes on to 2^128.
            assert np.isnan(ours[data[:, 0] == 255]).all()
            theirs[data[:, 0] == 255] = np.nan
        check_same(ours, theirs.reshape(ours.shape), f"dequantise {name}")


def check_quantise(library, rng, weights):
    heavy = rng.standard_t(3, (1024, 256)) * 2.0 ** rng.integers(-40, 24, (1024, 1))
    heavy[:32] = np.sign(heavy[:32]) * rng.integers(0, 3, (32, 256))
    for values, what in ((heavy.astype(np.float32), "heavy tails"), (weights[:8192], "weights")):
        for name in ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "TQ1_0", "TQ2_0"):
            kind = GGMLQuantizationType[name]
            theirs = quants.quantize(values, kind).view(np.uint8)
            ours = library.quantise(values, kind)
            if not np.array_equal(ours, theirs.reshape(ours.shape)):
                sys.exit(f"quantise {name}, {what}: bytes differ from the package's")
            print(f"quantise {name}, {what}: {ours.size} bytes equal")
    # The package takes the natural exponent, libmoe searches: no block may be worse.
    kind, values = GGMLQuantizationType.MXFP4, weights[:1024]
    errors = [np.sum((quants.dequantize(data, kind).astype(np.float64) - values).reshape(-1, 32) ** 2, axis=1)
              for data in (library.quantise(values, kind), quants.quantize(values, kind))]
    assert (errors[0] <= errors[1] * (1 + 1e-6)).all(), "quantise MXFP4: a block is worse than the package's"
    print(f"quantise MXFP4: error {np.sqrt(errors[0].sum() / errors[1].sum()):.4f} of the package's, no block worse")


def read_weights(model):
    """The bf16 matrices of the experts, as rows of 256 f32."""
    for path in sorted(pathlib.Path(model).glob("model-*.safetensors")):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, tensor in json.loads(data[8:start]).items():
            if ".experts." in name and tensor["dtype"] == "BF16":
                begin, end = tensor["data_offsets"]
                half = np.frombuffer(data, "<u2", (end - begin) // 2, start + begin)
                yield (half.astype(np.uint32) << 16).view(np.float32).reshape(-1, 256)


def check_errors(library, weights):
    norm = np.linalg.norm(weights.astype(np.float64))
    for name, limit in LIMITS.items():
        kind = GGMLQuantizationType[name]
        out = library.dequantise(library.quantise(weights, kind), kind)
        error = np.linalg.norm(out.astype(np.float64) - weights) / norm
        print(f"error on {weights.size} trained weights, {name}: {error:.6f} (limit {limit:.6f})")
        assert error <= limit, f"{name} loses more than it did"


def main():
    library, rng = Library(sys.argv[1]), np.random.default_rng(1)
    weights = np.concatenate(list(read_weights(sys.argv[2])))
    with np.errstate(all="ignore"):
        check_dequantise(library, rng)
        check_quantise(library, rng, weights)
    check_errors(library, weights)


main()
