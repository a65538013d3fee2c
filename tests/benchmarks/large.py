"""What a run of a large model takes, by process, beside a script of TensorFlow's own calls.

    python -m tests.benchmarks.large [--tensors N] [--repeat N] [--out DIR] [MIB...]

Both convert the same Saver checkpoint, of 10, 100 and 1024 MiB in 16 variables unless told otherwise, one after the other
in one invocation. Bytes are those of read and write calls, from a cache or from a disk, as multiples of the checkpoint's
data. `--out` leaves `large.json` and `large.svg` there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks.isolate.server import transferred

MAKE = """
import sys
import numpy as np
import tensorflow.compat.v1 as tf
folder, mib, tensors = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
columns = 1024
rows = mib * 2**20 // tensors // 4 // columns
with tf.Graph().as_default(), tf.Session() as session:
    x = tf.placeholder(tf.float32, [None, rows], name="x")
    weights = [tf.Variable(tf.random.stateless_normal([rows, columns], [n, 1]), name=f"w{n}") for n in range(tensors)]
    y = tf.add_n([tf.matmul(x, w) for w in weights], name="y")
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, folder + "/model.ckpt", global_step=1)
"""
SCRIPT = """
import sys
import tensorflow.compat.v1 as tf
prefix, out, small = sys.argv[1:]
with tf.Session(graph=tf.Graph()) as session:
    saver = tf.train.import_meta_graph(prefix + ".meta", clear_devices=True)
    saver.restore(session, prefix)
    graph = session.graph
    if int(small):  # protobuf holds no message of 2 GiB
        frozen = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["y"])
        open(out + "/frozen_graph.pb", "wb").write(frozen.SerializeToString())
    tensors = [graph.get_tensor_by_name(name + ":0") for name in ("x", "y")]
    tf.saved_model.simple_save(session, out + "/saved_model", {"x": tensors[0]}, {"y": tensors[1]})
"""


IMPORT = """
import sys
import numpy as np
import tensorflow.compat.v1 as tf
graph_def = tf.GraphDef.FromString(open(sys.argv[1], "rb").read())
with tf.Graph().as_default() as graph:
    tf.import_graph_def(graph_def, name="")
del graph_def
with tf.Session(graph=graph) as session:
    x = graph.get_tensor_by_name("x:0")
    session.run("y:0", {x: np.zeros([1, x.shape[1]], np.float32)})
"""
SERVING = ("smoke_test", "promote")
FREEZABLE = 2047  # MiB


@dataclass
class Measured:
    """What a command took: wall seconds, the memory of its largest process, bytes read and written by all of them."""

    seconds: float
    peak: int
    read: int
    written: int
    output: str = ""

    def as_json(self) -> dict[str, float]:
        """The figures alone."""
        return {"seconds": self.seconds, "peak": self.peak, "read": self.read, "written": self.written}


def measure(command: Sequence[str], folder: Path) -> Measured:
    """Run a command that must succeed, and look at its processes every tenth of a second."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.PIPE, text=True)
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.append(child.stderr.read() if child.stderr else ""))
        reader.start()
        peak = 0
        while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            peak = max([peak, *(resident(pid) for pid in descendants(child.pid))])
            time.sleep(0.1)
        seconds = time.perf_counter() - started
        read, written = transferred(f"/proc/{child.pid}")  # it has ended, and still counts what it has waited for
        code = child.wait()
        reader.join()
        output.seek(0)
        text = output.read()
    if code:
        sys.exit(f"{' '.join(command)}\n{text}\n{''.join(said)}")
    return Measured(seconds, peak, read, written, text)


def descendants(root: int) -> list[int]:
    """Return a process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += parents.get(pid, [])
    return found


def resident(pid: int) -> int:
    """Return the largest resident memory of a process so far, in bytes; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


@dataclass
class Comparison:
    """One size: the script, the whole run, the run without the servers, TensorFlow's import of the frozen graph, the disk."""

    mib: int
    script: list[Measured]
    run: list[Measured]
    unserved: list[float]
    importing: list[Measured]
    disk_seconds: float

    def as_json(self) -> dict[str, Any]:
        """All figures of all repetitions, and the steps of the last run."""
        return {
            "mib": self.mib,
            "script": [one.as_json() for one in self.script],
            "run": [one.as_json() for one in self.run],
            "without_serving_seconds": self.unserved,
            "import_of_the_frozen_graph": [one.as_json() for one in self.importing],
            "disk_seconds": self.disk_seconds,
            "steps": json.loads(self.run[-1].output)["steps"],
        }


def main() -> None:
    """Make a model of each size, convert it both ways, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mib", nargs="*", type=int, default=[10, 100, 1024])
    parser.add_argument("--tensors", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = [compare(mib, options.tensors, options.repeat) for mib in options.mib]
    for one in found:
        print_processes(one)
        print_sides(one)
    if len(found) > 1:
        print_growth(found)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "large.json").write_text(json.dumps([one.as_json() for one in found], indent=1))
        plot(found, options.out / "large.svg")


def compare(mib: int, tensors: int, repeat: int) -> Comparison:
    """Convert a model of one size in both ways, `repeat` times in turn."""
    found = Comparison(mib, [], [], [], [], 0.0)
    small = mib <= FREEZABLE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        measure([sys.executable, "-c", MAKE, str(folder / "source"), str(mib), str(tensors)], folder)
        prefix = folder / "source" / "model.ckpt-1"
        found.disk_seconds = disk_seconds(folder / "disk", mib)
        for number in range(repeat):
            out, home = folder / f"script-{number}", folder / f"run-{number}"
            out.mkdir()
            home.mkdir()
            script = [sys.executable, "-c", SCRIPT, str(prefix), str(out), str(int(small))]
            found.script.append(measure(script, home))
            if small:
                found.importing.append(measure([sys.executable, "-c", IMPORT, str(out / "frozen_graph.pb")], home))
            shutil.rmtree(out)
            options = ["--no-server", "--runtime", "embedded", "--json", "--input", "x:0", "--output", "y:0"]
            options += ["--load-timeout", "600"]
            ran = measure([sys.executable, "-m", "flows.cli", "run", str(prefix), *options], home)
            served = sum(step["seconds"] for step in json.loads(ran.output)["steps"] if step["name"] in SERVING)
            found.run.append(ran)
            found.unserved.append(ran.seconds - served)
            shutil.rmtree(home)
    return found


def disk_seconds(file: Path, mib: int) -> float:
    """Return how long the disk takes for as many bytes, written and synced once."""
    block = os.urandom(1 << 20)
    started = time.perf_counter()
    with file.open("wb") as stream:
        for _ in range(mib):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())
    taken = time.perf_counter() - started
    file.unlink()
    return taken


def table_of(title: str, columns: Sequence[str], left: int = 1) -> Table:
    """Return a table whose first columns are words and whose others are numbers."""
    table = Table(title=title, title_justify="left", box=None)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < left else "right")
    return table


def print_processes(one: Comparison) -> None:
    """Print the last run by process: who read what."""
    columns = ("step", "process", "seconds", "CPU", "peak", "read", "written")
    table = table_of(f"A model of {one.mib} MiB, by process", columns, left=2)
    size = one.mib << 20
    for step in json.loads(one.run[-1].output)["steps"]:
        table.add_row(step["name"], step["state"], f"{step['seconds']:.1f}")
        for cost in step["costs"]:
            peak = f"{cost['peak'] / 2**30:.2f} GiB" if cost["peak"] else ""
            shares = [f"{cost[kind] / size:.2f}" for kind in ("read", "written")]
            table.add_row("", cost["process"].removeprefix("tasks."), "", f"{cost['cpu_seconds']:.1f}", peak, *shares)
    Console().print(table)


def spread(values: Sequence[float]) -> str:
    """Return the median, with the least and the most of several."""
    middle = statistics.median(values)
    return f"{middle:.2f}" if len(values) == 1 else f"{middle:.2f} ({min(values):.2f} to {max(values):.2f})"


def print_sides(one: Comparison) -> None:
    """Print both side by side, with ratios of medians."""
    table = table_of(f"{one.mib} MiB, side by side", ("", "script", "tfship", "ratio"))
    size = one.mib << 20
    rows: list[tuple[str, list[float], list[float]]] = [
        ("wall seconds", [m.seconds for m in one.script], [m.seconds for m in one.run]),
        ("wall seconds without the servers", [m.seconds for m in one.script], one.unserved),
        ("largest process, GiB", [m.peak / 2**30 for m in one.script], [m.peak / 2**30 for m in one.run]),
        ("read, of the model", [m.read / size for m in one.script], [m.read / size for m in one.run]),
        ("written, of the model", [m.written / size for m in one.script], [m.written / size for m in one.run]),
    ]
    for label, script, run in rows:
        table.add_row(label, spread(script), spread(run), f"{statistics.median(run) / statistics.median(script):.2f}")
    if one.importing:
        table.add_row("import of the frozen graph, seconds", spread([m.seconds for m in one.importing]), "", "")
        table.add_row("import of the frozen graph, GiB", spread([m.peak / 2**30 for m in one.importing]), "", "")
    table.add_row("the disk, for the model's bytes, seconds", f"{one.disk_seconds:.2f}", "", "")
    Console().print(table)


def print_growth(found: Sequence[Comparison]) -> None:
    """Print how a run grows with the model."""
    table = table_of(
        "growth of a run", ("MiB", "seconds", "without servers", "peak GiB", "read GiB", "written GiB"), left=0
    )
    for one in found:
        taken = [
            statistics.median(getattr(m, kind) for m in one.run) for kind in ("seconds", "peak", "read", "written")
        ]
        cells = [f"{taken[0]:.1f}", f"{statistics.median(one.unserved):.1f}", *(f"{v / 2**30:.2f}" for v in taken[1:])]
        table.add_row(str(one.mib), *cells)
    Console().print(table)


def plot(found: Sequence[Comparison], file: Path) -> None:
    """Draw time, memory and bytes over the size of the model, of the script and of the run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 4)
    for place, (label, kind, unit) in zip(
        axes,
        (
            ("wall seconds", "seconds", 1),
            ("largest process, GiB", "peak", 2**30),
            ("read, GiB", "read", 2**30),
            ("written, GiB", "written", 2**30),
        ),
        strict=True,
    ):
        for name, marker in (("script", "s"), ("run", "o")):
            values = [statistics.median(getattr(m, kind) / unit for m in getattr(one, name)) for one in found]
            place.plot([one.mib for one in found], values, marker=marker, label={"run": "tfship"}.get(name, name))
        place.set(xscale="log", yscale="log", xlabel="MiB of the model", title=label)
        place.grid(True, alpha=0.3)
    axes[0].legend()
    figure.savefig(file)


if __name__ == "__main__":
    main()
