# SPDX-License-Identifier: MIT
"""Quantised matrices as files hold them, defined in numpy: each function makes the tensors of one random matrix
[rows, cols] and its values in f32. A value is (q - zero) * (scale * factor), each step rounded to f32."""
import numpy as np


def e4m3_table():
    """s eeee mmm, bias 7, no infinities; the codes 0x7f and 0xff are NaN."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), np.ldexp(8.0 + mantissa, exponent - 10))
    value = np.where(code & 127 == 127, np.nan, value)
    return np.where(code & 128, -value, value).astype(np.float32)


def e2m1_table():
    """s ee m: a sign, and 0 to 6."""
    positive = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    return np.array(positive + [-float(v) for v in positive], np.float32)


E4M3, E2M1 = e4m3_table(), e2m1_table()


def bf16_bits(x):
    """The upper half of an f32, rounded to even."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7fff + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def bf16_values(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Tensor:
    """A tensor of a safetensors file: its dtype there, and an array of its bits."""

    def __init__(self, dtype, array):
        self.dtype, self.array = dtype, np.ascontiguousarray(array)

    @staticmethod
    def stack(tensors):
        return Tensor(tensors[0].dtype, np.stack([t.array for t in tensors]))


def random_e4m3(rng, shape):
    code = rng.integers(0, 256, shape).astype(np.uint8)
    return np.where(code & 127 == 127, 0, code).astype(np.uint8)


def random_scale(rng, shape, dtype, low=-12, high=-4):
    """A tensor of positive scales, and their values."""
    if dtype in ("F8_E8M0", "U8"):
        code = rng.integers(127 + low, 127 + high, shape).astype(np.uint8)
        return Tensor(dtype, code), np.ldexp(np.float32(1), code.astype(int) - 127).astype(np.float32)
    if dtype == "F8_E4M3":
        code = rng.integers(1, 127, shape).astype(np.uint8)
        return Tensor(dtype, code), E4M3[code]
    x = np.exp2(rng.uniform(low, high, shape)).astype(np.float32)
    if dtype == "BF16":
        bits = bf16_bits(x)
        return Tensor(dtype, bits), bf16_values(bits)
    if dtype == "F16":
        return Tensor(dtype, x.astype(np.float16)), x.astype(np.float16).astype(np.float32)
    return Tensor("F32", x), x


def spread(scale, rows, cols, block_rows, block_cols):
    """The scale of each value: blocks at the edges may be partial."""
    return np.repeat(np.repeat(scale, block_rows, 0), block_cols, 1)[:rows, :cols]


def ceil(a, b):
    return -(-a // b)


def pack_nibbles(q):
    """Two values a byte, the first in the low half."""
    return (q[..., 0::2] | q[..., 1::2] << 4).astype(np.uint8)


def pack_words(q, bits, order=None):
    """Values of the last dimension in 32-bit words, the first in the lowest bits, or in the order given."""
    n = 32 // bits
    pad = -q.shape[-1] % n
    q = np.concatenate([q, np.zeros(q.shape[:-1] + (pad,), q.dtype)], -1).astype(np.uint32)
    q = q.reshape(q.shape[:-1] + (-1, n))
    order = range(n) if order is None else order
    words = np.zeros(q.shape[:-1], np.uint32)
    for place, value in enumerate(order):
        words |= q[..., value] << np.uint32(bits * place)
    return words.view(np.int32)


# ---- fp8 ----

def fp8_block(rng, rows, cols, block=(128, 128), dtype="F32", name="_scale_inv"):
    q = random_e4m3(rng, (rows, cols))
    scale, s = random_scale(rng, (ceil(rows, block[0]), ceil(cols, block[1])), dtype)
    return {"": Tensor("F8_E4M3", q), name: scale}, E4M3[q] * spread(s, rows, cols, *block)


def fp8_row(rng, rows, cols, dtype="F32", shape=2, name="_scale"):
    q = random_e4m3(rng, (rows, cols))
    scale, s = random_scale(rng, (rows, 1), dtype)
    scale.array = scale.array.reshape((rows, 1) if shape == 2 else (rows,))
    return {"": Tensor("F8_E4M3", q), name: scale}, E4M3[q] * s


def fp8_tensor(rng, rows, cols, dtype="F32", shape=(1,), name="_scale"):
    q = random_e4m3(rng, (rows, cols))
    scale, s = random_scale(rng, (1, 1), dtype)
    scale.array = scale.array.reshape(shape)
    return {"": Tensor("F8_E4M3", q), name: scale}, E4M3[q] * s


def mxfp8(rng, rows, cols, dtype="U8", name="_scale"):
    return fp8_block(rng, rows, cols, (1, 32), dtype, name)


# ---- 4-bit floats ----

def fp4(rng, rows, cols, group, dtype, values="", scales="_scale", stored="U8", factor=None, divides=False):
    q = rng.integers(0, 16, (rows, cols)).astype(np.uint8)
    scale, s = random_scale(rng, (rows, ceil(cols, group)), dtype)
    tensors = {values: Tensor(stored, pack_nibbles(q)), scales: scale}
    f = np.float32(1)
    if factor is not None:
        g = np.float32(rng.uniform(900, 3000) if divides else rng.uniform(1, 9) * 1e-4)
        f = np.float32(1) / g if divides else g
        tensors[factor] = Tensor("F32", np.array(g if factor.endswith("_2") else [g], np.float32))
    return tensors, E2M1[q] * spread(s * f, rows, cols, 1, group)


def mxfp4_blocks(rng, rows, cols):
    """[rows, cols / 32, 16] bytes."""
    tensors, values = fp4(rng, rows, cols, 32, "U8", "_blocks", "_scales")
    tensors["_blocks"].array = tensors["_blocks"].array.reshape(rows, cols // 32, 16)
    return tensors, values


# ---- integers ----

def int8(rng, rows, cols, zeros=False, dtype="F32"):
    """A scale, and a zero, for each row; all as they are."""
    q = rng.integers(-128, 128, (rows, cols))
    scale, s = random_scale(rng, (rows, 1), dtype)
    tensors = {"": Tensor("I8", q.astype(np.int8)), "_scale": scale}
    z = np.zeros((rows, 1))
    if zeros:
        z = rng.integers(-128, 128, (rows, 1))
        tensors["_zero_point"] = Tensor("I8", z.astype(np.int8))
    return tensors, (q - z).astype(np.float32) * s


def pack_quantized(rng, rows, cols, bits=4, group=32, zeros=False, ordered=False, dtype="BF16", plain_zeros=False):
    """Signed integers with half their range added, packed along the columns; zeros likewise, along the rows."""
    half, group = 1 << bits - 1, cols if group is None else group
    q = rng.integers(-half, half, (rows, cols))
    groups = ceil(cols, group)
    scale, s = random_scale(rng, (rows, groups), dtype)
    index = np.arange(cols) // group
    tensors = {"_packed": Tensor("I32", pack_words(q + half, bits)), "_scale": scale,
               "_shape": Tensor("I64", np.array([rows, cols], np.int64))}
    z = np.zeros((rows, groups), int)
    if zeros:
        z = rng.integers(-half, half, (rows, groups))
        tensors["_zero_point"] = (Tensor("I8", z.astype(np.int8)) if plain_zeros
                                  else Tensor("I32", pack_words((z + half).T, bits).T))
    if ordered:
        index = rng.permutation(index)
        tensors["_g_idx"] = Tensor("I32", index.astype(np.int32))
    return tensors, (q - z[:, index]).astype(np.float32) * s[:, index]


def gptq(rng, rows, cols, bits=4, group=32, sym=False, ordered=False, v2=False, wraps=False, index=True):
    """Stored [in, out]: values packed along in, zeros along out; the first version takes 1 off each word's zeros."""
    top, group = 1 << bits, cols if group < 0 else group
    groups = ceil(cols, group)
    q = rng.integers(0, top, (rows, cols))
    z = np.full((rows, groups), top // 2) if sym else rng.integers(0 if wraps else 1, top, (rows, groups))
    scale, s = random_scale(rng, (rows, groups), "F16")
    order = np.arange(cols) // group
    if ordered:
        order = rng.permutation(order)
    words = pack_words(z.T, bits).view(np.uint32)
    if not v2:
        words = words - np.uint32(0x11111111 if bits == 4 else 0x01010101)   # one subtraction: it borrows
    tensors = {".qweight": Tensor("I32", pack_words(q, bits).T), ".scales": Tensor("F16", scale.array.T),
               ".qzeros": Tensor("I32", words.view(np.int32))}
    if index:
        tensors[".g_idx"] = Tensor("I32", order.astype(np.int32))
    return tensors, (q - z[:, order]).astype(np.float32) * s[:, order]


def awq(rng, rows, cols, group=16):
    """Stored [in, out], values and zeros packed along out in the order 0 2 4 6 1 3 5 7."""
    order, groups = (0, 2, 4, 6, 1, 3, 5, 7), ceil(cols, group)
    q, z = rng.integers(0, 16, (rows, cols)), rng.integers(0, 16, (rows, groups))
    scale, s = random_scale(rng, (rows, groups), "F16")
    index = np.arange(cols) // group
    tensors = {".qweight": Tensor("I32", pack_words(q.T, 4, order)), ".scales": Tensor("F16", scale.array.T),
               ".qzeros": Tensor("I32", pack_words(z.T, 4, order))}
    return tensors, (q - z[:, index]).astype(np.float32) * s[:, index]
