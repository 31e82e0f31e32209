# SPDX-License-Identifier: MIT
# usage: make_iq_books.py < src/format/iq_grids.c > src/cpu/x86/iq_books.h
# Write the code books of the IQ2 and IQ3 formats as AVX-512 looks them up, from the tables of rows.
import re
import sys

HEAD = """\
// SPDX-License-Identifier: MIT
// Code books as AVX-512 looks them up (iq_grids.h has them packed). iq2: the 8 magnitudes of a row plus 128, a byte
// each. iq3: bytes with two values, the first in the lower bits, of iq3_xxs c, of iq3_s 2 c + 1; first bytes of all
// rows, then the others. Made by scripts/make_iq_books.py.
#ifndef MOE_IQ_BOOKS_H
#define MOE_IQ_BOOKS_H

#include <stdint.h>
"""
MAGNITUDES = (8, 25, 43)


def print_values(values, digits, indent):
    columns = (120 - indent) // (digits + 4)
    for i in range(0, len(values), columns):
        print(" " * indent + " ".join(f"0x{value:0{digits}x}," for value in values[i:i + columns]))


def main():
    text = sys.stdin.read()

    def rows_of(name):
        body = re.search(r"moe_iq_grids_" + name + r"\[.*?\{(.*?)\}", text, re.DOTALL).group(1)
        return [int(row, 16) for row in body.replace("\n", " ").split(",") if row.strip()]

    print(HEAD, end="")
    for name in ("iq2_xxs", "iq2_xs", "iq2_s"):
        rows = [sum(128 + MAGNITUDES[row >> 2 * i & 3] << 8 * i for i in range(8)) for row in rows_of(name)]
        print(f"\nstatic const _Alignas(64) uint64_t {name}_book[{len(rows)}] = {{")
        print_values(rows, 16, 4)
        print("};")
    for name, step, first in (("iq3_xxs", 1, 0), ("iq3_s", 2, 0x1111)):
        rows = [step * row + first for row in rows_of(name)]
        print(f"\nstatic const _Alignas(64) uint8_t {name}_book[2][{len(rows)}] = {{")
        for shift in (0, 8):
            print("    {")
            print_values([row >> shift & 255 for row in rows], 2, 8)
            print("    },")
        print("};")
    print("\n#endif")


main()
