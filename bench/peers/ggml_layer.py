#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Times one MoE layer in ggml's CPU backend, as `moe bench` times ours, and prints the same JSON lines. ggml comes from
# the package llama-cpp-python; its public C functions are called through ctypes. Optional: nothing else needs it.
import argparse
import ctypes
import importlib.util
import json
import os
import statistics
import sys
import time
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p

MISSING = """ggml_layer.py needs the package llama-cpp-python (which brings numpy and ggml's libraries):
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install llama-cpp-python
    /tmp/peers/bin/python bench/peers/ggml_layer.py --help"""
POOL = 1 << 20              # values of a matrix that are quantised; experts take their rows from them
COLD_TOKENS, WARM_BYTES = 32, 128e6
NUM_ROUTINGS = 16
F32, I32 = 0, 26            # ggml's numbers of these types
MOST_TYPES = 64


class InitParams(ctypes.Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


class TypeTraits(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("block", c_int64), ("interleave", c_int64), ("size", c_size_t),
                ("is_quantized", c_bool), ("to_float", ctypes.CFUNCTYPE(None, c_void_p, POINTER(c_float), c_int64))]


# Results, arguments: p pointer, i int, l int64, z size_t, s text, b bool, - nothing
SIGNATURES = {
    "ggml_init": "p:P", "ggml_tensor_overhead": "z:", "ggml_graph_overhead": "z:", "ggml_type_name": "s:i",
    "ggml_row_size": "z:il", "ggml_blck_size": "l:i", "ggml_get_type_traits": "T:i",
    "ggml_quantize_chunk": "z:ipplllp", "ggml_get_data": "p:p", "ggml_free": "-:p",
    "ggml_new_tensor_2d": "p:pill", "ggml_new_tensor_3d": "p:pilll", "ggml_mul_mat_id": "p:pppp",
    "ggml_swiglu_split": "p:ppp", "ggml_mul": "p:ppp", "ggml_add": "p:ppp", "ggml_view_2d": "p:ppllzz",
    "ggml_new_graph": "p:p", "ggml_build_forward_expand": "-:pp", "ggml_cpu_init": "-:",
    "ggml_backend_cpu_init": "p:", "ggml_backend_cpu_set_n_threads": "-:pi", "ggml_backend_graph_compute": "i:pp",
    "ggml_backend_alloc_ctx_tensors": "p:pp", "ggml_backend_buffer_free": "-:p", "ggml_gallocr_new": "p:p",
    "ggml_backend_get_default_buffer_type": "p:p", "ggml_gallocr_alloc_graph": "b:pp", "ggml_gallocr_free": "-:p",
    "ggml_set_output": "-:p",
}
TYPES = {"p": c_void_p, "i": c_int, "l": c_int64, "z": c_size_t, "s": c_char_p, "b": c_bool, "P": InitParams,
         "T": POINTER(TypeTraits), "-": None}


class Library:
    """ggml's functions by their names without the prefix."""

    def __init__(self, folder):
        parts = []
        for name in ("base", "cpu", ""):
            path = os.path.join(folder, "libggml%s%s.so" % ("-" if name else "", name))
            parts.append(ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL))
        for name, signature in SIGNATURES.items():
            result, _, arguments = signature.partition(":")
            function = next((getattr(part, name) for part in parts if hasattr(part, name)), None)
            if function is None:
                sys.exit("this ggml has no function %s; llama-cpp-python 0.3.36 is known to work" % name)
            function.restype = TYPES[result]
            function.argtypes = [TYPES[letter] for letter in arguments]
            setattr(self, name.removeprefix("ggml_"), function)
        self.commit = ""
        for part in parts:
            if hasattr(part, "ggml_commit"):
                part.ggml_commit.restype = c_char_p
                self.commit = part.ggml_commit().decode()
        self.cpu_init()

    def type_of(self, name):
        for number in range(MOST_TYPES):
            found = self.type_name(number)
            if found and found.decode().lower() == name.lower():
                return number
        sys.exit("ggml has no type %s" % name)

    def context(self, tensors, graph=False):
        bytes_ = self.tensor_overhead() * tensors + (self.graph_overhead() if graph else 0)
        return self.init(InitParams(bytes_, None, True))


class Matrix:
    """A pool of quantised Gaussian rows, and a stack of experts in each layer whose rows come from it."""

    def __init__(self, g, np, kind, rows, cols, seed):
        self.g, self.np, self.kind, self.rows, self.cols = g, np, kind, rows, cols
        self.row_bytes = g.row_size(kind, cols)
        self.pool_rows = max(1, POOL // cols)
        values = np.random.default_rng(seed).standard_normal((self.pool_rows, cols), np.float32) / cols ** 0.5
        values = np.ascontiguousarray(values, np.float32)
        self.pool = np.empty(self.pool_rows * self.row_bytes, np.uint8)
        if kind == F32:
            self.pool[:] = values.view(np.uint8).reshape(-1)
        else:
            g.quantize_chunk(kind, values.ctypes.data, self.pool.ctypes.data, 0, self.pool_rows, cols, None)

    def fill(self, tensor, num_experts, seed):
        """The first expert's rows begin at the returned row of the pool, and so on."""
        np, base = self.np, self.g.get_data(tensor)
        starts = np.random.default_rng(seed).integers(0, self.pool_rows, num_experts)
        size = self.rows * self.row_bytes
        for e, start in enumerate(starts):
            index, done = int(start) * self.row_bytes, 0
            while done < size:
                now = min(size - done, self.pool.size - index)
                ctypes.memmove(base + e * size + done, self.pool.ctypes.data + index, now)
                done, index = done + now, 0
        return starts

    def dequantised(self, start):
        rows = (self.np.arange(self.rows) + start) % self.pool_rows
        packed = self.np.ascontiguousarray(self.pool.reshape(self.pool_rows, -1)[rows])
        if self.kind == F32:
            return packed.view(self.np.float32).astype(self.np.float64)
        out = self.np.empty((self.rows, self.cols), self.np.float32)
        convert = self.g.get_type_traits(self.kind).contents.to_float
        convert(packed.ctypes.data, out.ctypes.data_as(POINTER(c_float)), self.rows * self.cols)
        return out.astype(self.np.float64)


class Weights:
    def __init__(self, g, np, options, kind, down):
        hidden, inter, self.experts, _ = options.sizes
        self.parts = [Matrix(g, np, kind, inter, hidden, 1), Matrix(g, np, kind, inter, hidden, 2),
                      Matrix(g, np, down, hidden, inter, 3)]
        self.expert_bytes = sum(part.rows * part.row_bytes for part in self.parts)
        cold = options.cold_bytes if min(options.tokens) <= COLD_TOKENS else WARM_BYTES
        self.count = max(1, -(-int(cold) // (self.expert_bytes * self.experts)))
        self.backend = g.backend_cpu_init()
        g.backend_cpu_set_n_threads(self.backend, options.threads)
        context = g.context(3 * self.count)
        self.layers = [[g.new_tensor_3d(context, part.kind, part.cols, part.rows, self.experts) for part in self.parts]
                       for _ in range(self.count)]
        self.buffer = g.backend_alloc_ctx_tensors(context, self.backend)
        if not self.buffer:
            sys.exit("no memory for the weights")
        self.starts = [[part.fill(tensor, self.experts, 10 * i + p)
                        for p, (part, tensor) in enumerate(zip(self.parts, layer))]
                       for i, layer in enumerate(self.layers)]


def layers_of(weights, tokens):
    if tokens <= COLD_TOKENS:
        return weights.count
    return max(1, min(weights.count, int(WARM_BYTES // (weights.expert_bytes * weights.experts))))


class Call:
    """The graphs of a number of tokens, one for each layer, with inputs that they share."""

    def __init__(self, g, np, weights, options, tokens):
        hidden, _, experts, top_k = options.sizes
        self.g, self.weights, self.tokens = g, weights, tokens
        inputs = g.context(3)
        x = g.new_tensor_3d(inputs, F32, hidden, 1, tokens)
        self.ids = g.new_tensor_2d(inputs, I32, top_k, tokens)
        scale = g.new_tensor_3d(inputs, F32, 1, top_k, tokens)
        self.buffer = g.backend_alloc_ctx_tensors(inputs, weights.backend)
        rng = np.random.default_rng(7)
        self.x = rng.standard_normal((tokens, hidden), np.float32)
        self.routings = [np.ascontiguousarray(np.argsort(rng.random((tokens, experts)), axis=1)[:, :top_k], np.int32)
                         for _ in range(NUM_ROUTINGS)]
        self.scale = np.full((tokens, top_k), 1 / top_k, np.float32)
        ctypes.memmove(g.get_data(x), self.x.ctypes.data, self.x.nbytes)
        ctypes.memmove(g.get_data(scale), self.scale.ctypes.data, self.scale.nbytes)
        self.allocator = g.gallocr_new(g.backend_get_default_buffer_type(weights.backend))
        self.graphs, self.outs = [], []
        for gate, up, down in weights.layers[:layers_of(weights, tokens)]:
            context = g.context(8 + 2 * top_k, graph=True)
            h = g.swiglu_split(context, g.mul_mat_id(context, gate, x, self.ids),
                               g.mul_mat_id(context, up, x, self.ids))
            y = g.mul(context, g.mul_mat_id(context, down, h, self.ids), scale)
            slots = [g.view_2d(context, y, hidden, tokens, 4 * hidden * top_k, 4 * hidden * k) for k in range(top_k)]
            out = slots[0]
            for slot in slots[1:]:
                out = g.add(context, out, slot)
            g.set_output(out)
            graph = g.new_graph(context)
            g.build_forward_expand(graph, out)
            if not g.gallocr_alloc_graph(self.allocator, graph):
                sys.exit("no memory for the graph")
            self.graphs.append(graph)
            self.outs.append(out)

    def run(self, i):
        ids = self.routings[i % NUM_ROUTINGS]
        ctypes.memmove(self.g.get_data(self.ids), ids.ctypes.data, ids.nbytes)
        start = time.perf_counter()
        if self.g.backend_graph_compute(self.weights.backend, self.graphs[i % len(self.graphs)]):
            sys.exit("ggml could not compute the graph")
        return time.perf_counter() - start

    def time(self, np, seconds):
        """Times of calls, and the mean number of experts in use."""
        start, i = time.perf_counter(), 0
        while i == 0 or time.perf_counter() - start < 0.1:
            self.run(i)
            i += 1
        times, used, start = [], [], time.perf_counter()
        while len(times) < 7 or time.perf_counter() - start < seconds:
            used.append(np.unique(self.routings[i % NUM_ROUTINGS]).size)
            times.append(self.run(i))
            i += 1
        return times, statistics.mean(used)

    def close(self):
        self.g.gallocr_free(self.allocator)
        self.g.backend_buffer_free(self.buffer)

    def error(self, np):
        """Against double precision on the dequantised weights, of the first tokens of layer 0."""
        self.run(0)
        count, hidden = min(self.tokens, 4), self.x.shape[1]
        out = np.empty((count, hidden), np.float32)
        ctypes.memmove(out.ctypes.data, self.g.get_data(self.outs[0]), out.nbytes)
        exact = np.zeros((count, hidden))
        for t in range(count):
            for k, e in enumerate(self.routings[0][t]):
                gate, up, down = (part.dequantised(starts[e])
                                  for part, starts in zip(self.weights.parts, self.weights.starts[0]))
                g = gate @ self.x[t]
                exact[t] += self.scale[t, k] * (down @ (g / (1 + np.exp(-g)) * (up @ self.x[t])))
        return float(np.linalg.norm(out - exact) / np.linalg.norm(exact))


def parse():
    parser = argparse.ArgumentParser(description="Time a MoE layer in ggml's CPU backend; JSON lines as moe bench's.")
    parser.add_argument("--shape", default="2048,768,128,8", help="hidden,intermediate,experts,top-k")
    parser.add_argument("--type", default="q4_K", help="types; q4_K has down q6_K, as in Q4_K_M files")
    parser.add_argument("--tokens", default="1,32,512")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--cold-bytes", type=float, default=2e9)
    parser.add_argument("--error", action="store_true", help="compare with double precision")
    parser.add_argument("--library", help="folder of libggml.so (that of the package llama-cpp-python)")
    parser.add_argument("--json", action="store_true", help="the default, and all there is")
    options = parser.parse_args()
    options.sizes = [int(n) for n in options.shape.split(",")]
    options.tokens = [int(n) for n in options.tokens.split(",")]
    return options


def report(g, options, name, down, tokens, times, unique, error):
    hidden, inter, _, top_k = options.sizes
    median = statistics.median(times)
    line = {"library": "ggml", "commit": g.commit, "path": "plain", "shape": options.sizes, "type": name,
            "down": g.type_name(down).decode(), "tokens": tokens, "threads": options.threads,
            "median_ms": 1e3 * median, "min_ms": 1e3 * min(times), "calls": len(times),
            "unique_expert_bytes": int(unique), "GB_s": unique / median / 1e9,
            "GFLOP_s": 6e-9 * hidden * inter * top_k * tokens / median, "rel_error": error}
    for key, value in line.items():
        if isinstance(value, float):
            line[key] = float("%.6g" % value)
    print(json.dumps(line), flush=True)


def main():
    options = parse()
    spec = importlib.util.find_spec("llama_cpp")
    if importlib.util.find_spec("numpy") is None or (spec is None and not options.library):
        sys.exit(MISSING)
    import numpy as np
    g = Library(options.library or os.path.join(os.path.dirname(spec.origin), "lib"))
    hidden, inter, _, _ = options.sizes
    for name in options.type.split(","):
        kind = g.type_of(name)
        down = g.type_of("q6_K" if name.lower() == "q4_k" else name)
        if hidden % g.blck_size(kind) or inter % g.blck_size(down):
            print("%s does not fit the shape, skipped" % name, file=sys.stderr)
            continue
        weights = Weights(g, np, options, kind, down)
        for tokens in options.tokens:
            call = Call(g, np, weights, options, tokens)
            times, used = call.time(np, options.seconds)
            report(g, options, name, down, tokens, times, used * weights.expert_bytes,
                   call.error(np) if options.error else None)
            call.close()
        g.backend_buffer_free(weights.buffer)


if __name__ == "__main__":
    main()
