#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Times the CPU layer over shapes, formats, batch sizes and threads with `moe bench`, appends its lines to a file in
# results/, and writes the tables of cpu.md from that file. Python's standard library only.
import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import time

import cpu_table

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

# hidden, intermediate, experts, top-k
SHAPES = {
    "a": "2048,768,128,8",
    "e": "2048,1024,64,8",
    "b": "4096,14336,8,2",
    "c": "2880,2880,32,4",
    "d": "7168,2048,32,8",
}
FORMATS = "q4_K,q5_K,q6_K,q8_0,q4_0,iq4_xs,mxfp4,bf16,f16"

EPILOG = """
A format may end in +exact: a layer that keeps activations in f32. q4_K has down q6_K, as in files of the kind Q4_K_M.
Formats whose blocks do not fit a shape are left out.

  bench/cpu.py                                            everything: about an hour
  bench/cpu.py --shapes a,e --formats q4_K,bf16 --tokens 1,512 --threads 2 --seconds 0.5
  bench/cpu.py --shapes a --formats q2_K,q3_K,iq2_xs,iq3_s --tokens 1,4 --out bench/results/low.jsonl --no-table
  bench/cpu.py --backend cpu:avx2 --out bench/results/avx2.jsonl --no-table
  bench/cpu.py --only-table bench/results/A.jsonl --peers B.jsonl
"""


def arguments():
    parser = argparse.ArgumentParser(description="Time the CPU layer and write the tables of bench/cpu.md.",
                                     epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moe", default=os.path.join(ROOT, "build/bin/moe"), help="the command (build/bin/moe)")
    parser.add_argument("--shapes", default="a,e,b,c,d", help="of a b c d e, or H,I,E,K with ; between (a,e,b,c,d)")
    parser.add_argument("--formats", default=FORMATS, help="weights (%s)" % FORMATS)
    parser.add_argument("--tokens", default="1,4,32,128,512")
    parser.add_argument("--threads", default="1,2", help="numbers of threads (1,2)")
    parser.add_argument("--backend", default="cpu", help="cpu, or cpu:LEVEL")
    parser.add_argument("--seconds", default="1", help="of timing a cell (1)")
    parser.add_argument("--rounds", type=int, default=1, help="measure all of it so often; tables have medians")
    parser.add_argument("--no-error", action="store_true", help="leave the comparison with double precision out")
    parser.add_argument("--no-wait", action="store_true", help="do not wait for an idle machine")
    parser.add_argument("--out", help="file to append to (results/<date>-<processor>.jsonl)")
    parser.add_argument("--peers", action="append", default=[], metavar="FILE",
                        help="JSON lines of other libraries with the same fields; their times stand beside ours")
    parser.add_argument("--no-table", action="store_true", help="leave cpu.md alone")
    parser.add_argument("--only-table", action="append", metavar="FILE", help="measure nothing")
    parser.add_argument("--document", default=os.path.join(HERE, "cpu.md"), help=argparse.SUPPRESS)
    return parser.parse_args()


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def processor():
    """Model name, family and model number, as far as the system tells."""
    fields = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                key, _, value = line.partition(":")
                fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = re.sub(r"\((R|TM)\)|CPU @.*|Processor", "", fields.get("model name", os.uname().machine))
    name = re.sub(r"\s+", " ", name).strip()
    if "cpu family" in fields:
        name += " (family %s model %s)" % (fields["cpu family"], fields.get("model", "?"))
    return name


def compiler(moe):
    """Of the build folder that the command lies in."""
    try:
        with open(os.path.join(os.path.dirname(os.path.abspath(moe)), "../CMakeCache.txt"), encoding="utf-8") as file:
            found = re.search(r"^CMAKE_C_COMPILER:\w+=(.*)$", file.read(), re.M)
    except OSError:
        found = None
    return output_of(found.group(1), "--version").partition("\n")[0] if found else ""


def machine(moe):
    commit = output_of("git", "rev-parse", "--short", "HEAD")
    if output_of("git", "status", "--porcelain", "--", "src", "tools", "include", "CMakeLists.txt"):
        commit += " with changes"
    caches = re.findall(r"^(L[123]\w*) cache:\s*(.*)$", output_of("lscpu"), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": processor(), "cpus": os.cpu_count(), "memory_GB": round(memory / 1e9, 1),
        "caches": ", ".join("%s %s" % (name, size) for name, size in caches),
        "system": "%s %s" % (os.uname().sysname, os.uname().release), "compiler": compiler(moe),
        "commit": commit, "date": datetime.date.today().isoformat(),
    }


def busy_share():
    """Of all CPUs over one second, with what the host took away."""
    def read():
        with open("/proc/stat", encoding="utf-8") as file:
            ticks = [int(value) for value in file.readline().split()[1:9]]
        return ticks[3] + ticks[4], sum(ticks)
    idle, total = read()
    time.sleep(1)
    idle_then, total_then = read()
    return 1 - (idle_then - idle) / max(1, total_then - total)


def wait_until_idle():
    for _ in range(60):
        try:
            if busy_share() < 0.04:
                return
        except OSError:
            return
    print("the machine is not idle; going on", file=sys.stderr)


def measure(options, shape, name, form, threads, file):
    """One process of the command: all batch sizes of one format."""
    form, _, exact = form.partition("+")
    command = [options.moe, "bench", "--shape", shape, "--type", form, "--tokens", options.tokens, "--threads", threads,
               "--backend", options.backend, "--seconds", options.seconds, "--json"]
    command += [] if options.no_error else ["--error"]
    command += ["--exact"] if exact else []
    if not options.no_wait:
        wait_until_idle()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, err = process.communicate()
    if process.returncode == 2 and "whole blocks" in err:
        return True
    sys.stderr.write(err)
    for line in out.splitlines():
        cell = json.loads(line)
        cell["shape_name"] = name
        file.write(json.dumps(cell) + "\n")
    file.flush()
    return process.returncode == 0


def shapes_of(text):
    if ";" in text or text.count(",") == 3 and text[0].isdigit():
        return [(shape, shape) for shape in text.split(";") if shape]
    return [(name, SHAPES[name]) for name in text.split(",")]


def run(options, path):
    try:
        shapes = shapes_of(options.shapes)
    except KeyError as error:
        sys.exit("there is no shape %s; shapes are %s, or H,I,E,K" % (error, " ".join(SHAPES)))
    if not os.access(options.moe, os.X_OK):
        sys.exit("%s is not there: build it, or name another with --moe" % options.moe)
    work = [(name, shape, form, threads) for _ in range(options.rounds) for name, shape in shapes
            for form in options.formats.split(",") for threads in options.threads.split(",")]
    start = time.monotonic()
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(machine(options.moe)) + "\n")
        for i, (name, shape, form, threads) in enumerate(work):
            left = (time.monotonic() - start) / i * (len(work) - i) / 60 if i else 0
            print("%d of %d: shape %s, %s, %s threads%s" %
                  (i + 1, len(work), name, form, threads, ", %.0f minutes left" % left if i else ""), file=sys.stderr)
            if not measure(options, shape, name, form, threads, file):
                sys.exit("moe bench failed; what was measured is in %s" % path)


def main():
    options = arguments()
    paths = options.only_table
    if not paths:
        slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
        name = "%s-%s.jsonl" % (datetime.date.today().isoformat(), slug)
        paths = [options.out or os.path.join(HERE, "results", name)]
        run(options, paths[0])
        print(paths[0])
    if not options.no_table or options.only_table:
        cpu_table.write(options.document, paths, options.peers)
        print(options.document)


if __name__ == "__main__":
    main()
