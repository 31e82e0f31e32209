#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# The same layer by torch's grouped_mm in bf16, replayed in a CUDA graph with rotated weights and random routing, and
# cuBLAS' rates for large products in bf16 and fp8. Lines of JSON as moe-bench-cuda writes them.
import argparse
import json
import statistics

import torch
import torch.nn.functional as F

SHAPES = {
    "qwen3-30b": (2048, 768, 128, 8),
    "gptoss-120b": (2880, 2880, 128, 4),
    "mixtral": (4096, 14336, 8, 2),
    "olmoe": (2048, 1024, 64, 8),
    "dsv3": (7168, 2048, 256, 8),
}


def grouped():
    """torch's product of runs of rows with a matrix each; the name has changed."""
    return getattr(F, "grouped_mm", None) or torch._grouped_mm


def timed(run, replays=9, warm_ups=3):
    times = []
    for i in range(warm_ups + replays):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        if i >= warm_ups:
            times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times), min(times)


def layer(x, ids, weights, gate_up, down, experts):
    """Pairs sorted by expert, two grouped products, and the weighted sum: all of it on the device."""
    tokens, top_k = ids.shape
    order = torch.argsort(ids.flatten(), stable=True)
    counts = torch.zeros(experts, dtype=torch.int32, device=x.device)
    counts.scatter_add_(0, ids.flatten(), torch.ones_like(ids.flatten(), dtype=torch.int32))
    offsets = torch.cumsum(counts, 0, dtype=torch.int32)
    rows = order // top_k
    g, u = grouped()(x[rows], gate_up, offs=offsets).chunk(2, dim=-1)
    y = grouped()(F.silu(g) * u, down, offs=offsets)
    y = y * weights.flatten()[order].unsqueeze(1)
    out = torch.zeros(tokens, x.shape[1], dtype=torch.float32, device=x.device)
    return out.index_add_(0, rows, y.float())


def measure(name, tokens, memory):
    hidden, inner, experts, top_k = SHAPES[name]
    bytes_each = 6 * hidden * inner
    sets = max(1, min(8, int(memory / (bytes_each * experts))))
    layers = max(2, 4 if tokens <= 64 else 2, sets if tokens == 1 else 0)
    gate_up = [torch.randn(experts, 2 * inner, hidden, dtype=torch.bfloat16, device="cuda") * hidden ** -0.5
               for _ in range(sets)]
    down = [torch.randn(experts, hidden, inner, dtype=torch.bfloat16, device="cuda") * inner ** -0.5
            for _ in range(sets)]
    x = torch.randn(tokens, hidden, dtype=torch.bfloat16, device="cuda")
    ids = [torch.rand(tokens, experts, device="cuda").topk(top_k).indices for _ in range(layers)]
    weights = torch.full((tokens, top_k), 1 / top_k, dtype=torch.bfloat16, device="cuda")

    def run():
        for i in range(layers):
            out = layer(x, ids[i], weights, gate_up[i % sets].transpose(1, 2), down[i % sets].transpose(1, 2), experts)
        return out

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        out = run()
    median, least = timed(graph.replay)
    unique = sum(len(torch.unique(i)) for i in ids) / layers
    assert torch.isfinite(out).all()
    return {
        "library": "torch " + torch.__version__, "device": torch.cuda.get_device_name(), "shape_name": name,
        "shape": list(SHAPES[name]), "type": "bf16", "down": "bf16", "variant": "", "tokens": tokens,
        "median_us": round(1e6 * median / layers, 2), "min_us": round(1e6 * least / layers, 2),
        "unique_expert_bytes": int(unique * bytes_each),
        "floor_us": round(1e6 * max(unique * bytes_each / 4.3e12,
                                    6 * hidden * inner * tokens * top_k / 790e12), 2),
    }


def peaks(size=8192):
    a = torch.randn(size, size, dtype=torch.bfloat16, device="cuda")
    b = torch.randn(size, size, dtype=torch.bfloat16, device="cuda")
    rates = {"cublas_bf16_TFLOP_s": 2 * size ** 3 / timed(lambda: a @ b)[0] / 1e12}
    try:
        low, high, one = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t(), torch.ones((), device="cuda")
        rates["cublas_fp8_TFLOP_s"] = 2 * size ** 3 / timed(
            lambda: torch._scaled_mm(low, high, scale_a=one, scale_b=one, out_dtype=torch.bfloat16))[0] / 1e12
    except (RuntimeError, AttributeError, TypeError) as error:
        print("fp8: %s" % str(error).partition("\n")[0])
    return {key: round(value, 1) for key, value in rates.items()}


def main():
    parser = argparse.ArgumentParser(description="Time torch's grouped_mm as moe-bench-cuda times libmoe.")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--tokens", default="8,64,512,4096,16384")
    parser.add_argument("--memory", type=float, default=60, help="GB of weights (60)")
    parser.add_argument("--json", help="file to append to")
    args = parser.parse_args()
    lines = [{"library": "torch " + torch.__version__, "device": torch.cuda.get_device_name(), "calibration": True,
              **peaks()}]
    print(", ".join("%s %s" % pair for pair in lines[0].items()), flush=True)
    for name in args.shapes.split(","):
        for tokens in map(int, args.tokens.split(",")):
            try:
                line = measure(name, tokens, args.memory * 1e9)
            except (RuntimeError, AssertionError) as error:
                print("%-12s bf16 %6d failed: %s" % (name, tokens, str(error).partition("\n")[0]), flush=True)
                continue
            finally:
                torch.cuda.empty_cache()
            lines.append(line)
            print("%-12s bf16 %6d %10.2f us, %.2f of the floor" % (name, tokens, line["median_us"],
                                                                   line["median_us"] / line["floor_us"]), flush=True)
    if args.json:
        with open(args.json, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
