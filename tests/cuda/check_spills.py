# SPDX-License-Identifier: MIT
# No kernel of libmoe_cuda.so uses more of the stack than spills.txt allows: check_spills.py LIBRARY SPILLS.TXT. Fails
# too if a line of the list allows more than any kernel uses, so that the list says what is.
import glob
import re
import shutil
import subprocess
import sys

LINE = re.compile(r"arch = (\S+)|Function (\S+):|REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


def output(*command, text=None):
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def cuobjdump():
    """That of the Python package, next to this interpreter, or the one in the PATH."""
    found = glob.glob(f"{sys.prefix}/lib/python3*/site-packages/nvidia/*/bin/cuobjdump")
    found.append(shutil.which("cuobjdump"))
    if found[0] is None:
        sys.exit("there is no cuobjdump: pip install nvidia-cuda-cuobjdump")
    return found[0]


def kernels(library):
    """Rows (architecture, name, registers, bytes of the stack and of local memory)."""
    rows, arch, name = [], None, None
    for found in LINE.finditer(output(cuobjdump(), "--dump-resource-usage", library)):
        arch, name = found[1] or arch, found[2] or name
        if found[3]:
            rows.append((arch, name, int(found[3]), int(found[4]) + int(found[5])))
    names = output("c++filt", text="\n".join(row[1] for row in rows)).splitlines()
    return [(row[0], name, row[2], row[3]) for row, name in zip(rows, names, strict=True)]


def allowances(path):
    """Rows (bytes, pattern); the first that matches a kernel counts."""
    with open(path, encoding="utf-8") as lines:
        rows = [line.rstrip().split(maxsplit=1) for line in lines if not line.startswith("#") and line.strip()]
    return [(int(row[0]), row[1]) for row in rows]


def main(library, path):
    rows, allowed = kernels(library), allowances(path)
    if not rows:
        sys.exit(f"{library} has no kernels")
    most, wrong = dict.fromkeys(allowed, 0), []
    for arch, name, registers, size in rows:
        row = next((row for row in allowed if re.search(row[1], name)), None)
        if row is not None:
            most[row] = max(most[row], size)
        if size > (row[0] if row else 0):
            wrong.append(f"{arch} {name}: {size} bytes on the stack, {registers} registers")
    wrong += [f"{row[1]}: {row[0]} bytes allowed, {size} used" for row, size in most.items() if size != row[0]]
    print(*wrong, f"{len(rows)} kernels, {sum(row[3] > 0 for row in rows)} with a stack", sep="\n")
    sys.exit(1 if wrong else 0)


main(*sys.argv[1:])
