#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Markdown tables of what moe-bench-cuda --json wrote: a table for each shape, a column for each number of tokens.

usage: table.py RESULTS.jsonl [VARIANT]

A cell is the median time of a layer in us, in brackets its ratio to the floor, then its ratio to the best other
implementation (below 1: libmoe is faster). VARIANT: logits, router, shared, router+shared; none: plain layers.
"""
import json
import sys


def cell(row):
    text = f"{row['median_us']:.0f} ({row['ratio_to_floor']:.2f})"
    if row.get("ratio_to_peer"):
        text += f" {row['ratio_to_peer']:.2f} x"
    return text


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    variant = sys.argv[2] if len(sys.argv) == 3 else ""
    with open(sys.argv[1], encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row.get("variant") == variant]
    for shape in dict.fromkeys(row["shape_name"] for row in rows):
        of_shape = [row for row in rows if row["shape_name"] == shape]
        tokens = sorted({row["tokens"] for row in of_shape})
        print(f"\n**{shape}** {','.join(map(str, of_shape[0]['shape']))}\n")
        print("| weights |" + "".join(f" {n} |" for n in tokens))
        print("|---" * (1 + len(tokens)) + "|")
        for kind in dict.fromkeys(row["type"] for row in of_shape):
            cells = {row["tokens"]: cell(row) for row in of_shape if row["type"] == kind}
            print(f"| {kind} |" + "".join(f" {cells.get(n, '')} |" for n in tokens))


if __name__ == "__main__":
    main()
