# SPDX-License-Identifier: MIT
# usage: make_iq_grids.py > src/format/iq_grids.c
# Write the code books of GGUF's IQ formats as C tables, from the constants of the gguf package (PyPI, MIT; 0.19.0).
from gguf import quants

HEAD = """\
// SPDX-License-Identifier: MIT
// The code books of the IQ formats, as the GGUF format defines them in ggml (MIT; see NOTICE). Made by
// scripts/make_iq_grids.py; iq_grids.h says how a row is packed.
#include "format/iq_grids.h"
"""
# Table, class of the package, bits that a value of a row takes here and there.
GRIDS = (
    ("iq1", quants.IQ1_S, 2),
    ("iq2_xxs", quants.IQ2_XXS, 2),
    ("iq2_xs", quants.IQ2_XS, 2),
    ("iq2_s", quants.IQ2_S, 2),
    ("iq3_xxs", quants.IQ3_XXS, 4),
    ("iq3_s", quants.IQ3_S, 4),
)
COLUMNS = 14


def rows_of(kind, bits):
    """Each row as one number, value i in bits bits * i and up: the index of the value in the format's list."""
    kind.init_grid()
    indices = {value: index for index, value in enumerate(kind.grid_map)}
    grid = kind.grid.reshape(kind.grid_shape)
    return [sum(indices[int(value)] << bits * i for i, value in enumerate(row)) for row in grid]


def main():
    print(HEAD, end="")
    for name, kind, bits in GRIDS:
        rows = rows_of(kind, bits)
        assert max(rows) < 65536
        print(f"\nMOE_IQ_GRID moe_iq_grids_{name}[{len(rows)} + 1] = {{")
        for i in range(0, len(rows), COLUMNS):
            print("    " + " ".join(f"0x{row:04x}," for row in rows[i:i + COLUMNS]))
        print("};")


main()
