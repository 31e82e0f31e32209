# SPDX-License-Identifier: MIT
# The tables of cpu.md, from lines that cpu.py has collected, with other libraries' times beside them.
import json
import os

BEGIN, END = "<!-- tables: written by bench/cpu.py -->", "<!-- end of tables -->"
MOST_RATIO_CHANGE = 0.1     # of a peer's read bandwidth from ours, beyond which a comparison is marked


def load(paths):
    """All objects of files of JSON lines; what is no object is left out."""
    lines = []
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for text in file:
                if text.startswith("{"):
                    lines.append(json.loads(text))
    return lines


def median(values):
    values = sorted(values)
    n = len(values)
    return (values[(n - 1) // 2] + values[n // 2]) / 2


def key(cell):
    return (tuple(cell["shape"]), cell["type"].lower(), cell["threads"], cell["tokens"], cell["path"])


def gather(lines):
    """Cells by key; of those measured several times the medians over what was not disturbed."""
    runs = {}
    for cell in lines:
        if "median_ms" in cell:
            runs.setdefault(key(cell), []).append(cell)
    cells = {}
    for name, found in runs.items():
        quiet = [cell for cell in found if not cell.get("disturbed")]
        used = quiet or found
        merged = dict(used[0])
        for field in ("median_ms", "GB_s", "read_GB_s", "GFLOP_s", "ideal_ms", "ratio_to_ideal", "ratio_to_amx"):
            values = [cell[field] for cell in used if cell.get(field) is not None]
            merged[field] = median(values) if values else None
        merged["disturbed"] = not quiet
        cells[name] = merged
    return cells


def peer_times(lines):
    """{(shape, type, threads, tokens): {(library, path): cell}}"""
    peers = {}
    for name, cell in gather(line for line in lines if line.get("library") != "libmoe").items():
        peers.setdefault(name[:4], {})[(cell["library"], cell["path"])] = cell
    return peers


def figure(value):
    """Three digits."""
    return "%.0f" % value if value >= 99.95 else "%.1f" % value if value >= 9.995 else "%.2f" % value \
        if value >= 0.9995 else "%.3f" % value


def cell_text(cell, peers):
    if cell is None:
        return ""
    text = figure(cell["median_ms"])
    if cell.get("ratio_to_ideal") is not None:
        text += ", %.0f %% %s" % (100 * cell["ratio_to_ideal"], cell["bound"])
        tiles = cell.get("ratio_to_amx")
        if cell["bound"] != "read" and tiles is not None and tiles < 0.99 * cell["ratio_to_ideal"]:
            text += ", %.0f %% AMX" % (100 * cell["ratio_to_amx"])
    for (library, path), peer in sorted(peers.items()):
        known = peer.get("read_GB_s") and cell.get("read_GB_s")
        shift = abs(peer["read_GB_s"] / cell["read_GB_s"] - 1) if known else 0
        label = path if sum(name[1] == path for name in peers) == 1 else library + " " + path
        text += ", **%.2f** %s%s" % (cell["median_ms"] / peer["median_ms"], label,
                                     "?" if shift > MOST_RATIO_CHANGE else "")
    return text + (" !" if cell["disturbed"] else "")


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def names(cells, field):
    """Values of a field in the order in which they were measured."""
    return list(dict.fromkeys(cell[field] if field != "shape" else tuple(cell["shape"]) for cell in cells))


def shape_tables(cells, peers):
    lines = []
    every = list(cells.values())
    for path in names(every, "path"):
        for threads in sorted(names(every, "threads")):
            for shape in names(every, "shape"):
                some = [c for c in every if (c["path"], c["threads"], tuple(c["shape"])) == (path, threads, shape)]
                if not some:
                    continue
                tokens = sorted(names(some, "tokens"))
                label = some[0].get("shape_name", "")
                lines += ["", "### %s%s: %s, %d thread%s" % (label + " " if "," not in label else "",
                          ",".join(map(str, shape)), path, threads, "" if threads == 1 else "s"), ""]
                rows = []
                for kind in names(some, "type"):
                    row = [kind]
                    for n in tokens:
                        name = (shape, kind.lower(), threads, n, path)
                        row.append(cell_text(cells.get(name), peers.get(name[:4], {})))
                    rows.append(row)
                lines += table(["weights"] + ["%d token%s" % (n, "" if n == 1 else "s") for n in tokens], rows)
    return lines


def scaling_table(cells):
    """Times of one thread over those of more, at the largest batch."""
    rows = []
    for name, cell in cells.items():
        shape, kind, threads, tokens, path = name
        one = cells.get((shape, kind, 1, tokens, path))
        largest = max(n[3] for n in cells if n[:3] == name[:3] and n[4] == path)
        if threads > 1 and one and tokens == largest:
            rows.append([",".join(map(str, shape)), cell["type"], path, str(tokens), str(threads),
                         "%.2f" % (one["median_ms"] / cell["median_ms"])])
    return ["", "### Threads", ""] + table(["shape", "weights", "path", "tokens", "threads", "speed-up"], rows) \
        if rows else []


def error_table(cells):
    worst = {}
    for cell in cells.values():
        if cell.get("rel_error") is not None:
            name = (cell["type"], cell["path"])
            worst[name] = max(worst.get(name, 0), cell["rel_error"])
    rows = [[kind, path, "%.1e" % error] for (kind, path), error in worst.items()]
    return ["", "### Errors", ""] + table(["weights", "path", "largest error"], rows) if rows else []


def limits(cells):
    """Read bandwidth and peaks: the spread over the cells, by threads."""
    lines = []
    for threads in sorted({cell["threads"] for cell in cells.values()}):
        some = [cell for cell in cells.values() if cell["threads"] == threads]
        reads = [cell["read_GB_s"] for cell in some if cell.get("read_GB_s")]
        text = "- %d thread%s: read %.0f GB/s (%.0f to %.0f over the cells)" % (
            threads, "" if threads == 1 else "s", median(reads), min(reads), max(reads)) if reads else "- "
        for field in ("f32", "bf16", "int8", "amx_bf16", "amx_int8"):
            peaks = [cell["peak_%s_GFLOP_s" % field] for cell in some if cell.get("peak_%s_GFLOP_s" % field)]
            if peaks:
                text += ", %s %.0f GFLOP/s" % (field.replace("amx_", "AMX "), max(peaks))
        lines.append(text)
    return lines


def write(document, paths, peer_paths):
    """Replace what stands between the marks of the document."""
    lines = load(paths)
    cells = gather(line for line in lines if line.get("library") == "libmoe")
    peers = peer_times(load(peer_paths))
    out = [BEGIN, ""]
    for about in {json.dumps(line): line for line in lines if "machine" in line}.values():
        out.append("%(machine)s, %(cpus)d CPUs, %(memory_GB)s GB, %(caches)s; %(system)s; %(compiler)s; "
                   "commit %(commit)s, %(date)s." % about)
    out += ["", "Limits, measured in the same runs:", ""] + limits(cells)
    commits = sorted({"%s %s" % (line["library"], line["commit"]) for line in load(peer_paths) if "commit" in line})
    if commits:
        out += ["", "Beside them, in the same hour: %s." % ", ".join(commits)]
    out += shape_tables(cells, peers) + scaling_table(cells) + error_table(cells) + [""]
    files = [os.path.basename(path) for path in paths]
    out += ["Lines: %s." % ", ".join("[%s](results/%s)" % (name, name) for name in files), "", END]
    with open(document, encoding="utf-8") as file:
        text = file.read()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    with open(document, "w", encoding="utf-8") as file:
        file.write(head + "\n".join(out) + tail)
