"""What a run of a large model takes, by step, beside a script of TensorFlow's own calls.

    python -m tests.benchmarks.large [MIB [TENSORS]]

Both convert the same Saver checkpoint, of 1 GiB in 16 variables unless told otherwise, in one invocation. Bytes are those
of read and write calls, from a cache or from a disk, as multiples of the checkpoint's data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
prefix, out = sys.argv[1:]
with tf.Session(graph=tf.Graph()) as session:
    saver = tf.train.import_meta_graph(prefix + ".meta", clear_devices=True)
    saver.restore(session, prefix)
    graph = session.graph
    frozen = tf.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["y"])
    open(out + "/frozen_graph.pb", "wb").write(frozen.SerializeToString())
    tensors = [graph.get_tensor_by_name(name + ":0") for name in ("x", "y")]
    tf.saved_model.simple_save(session, out + "/saved_model", {"x": tensors[0]}, {"y": tensors[1]})
"""


@dataclass
class Measured:
    """What a command took: wall seconds, the memory of its largest process, bytes read and written by all of them."""

    seconds: float
    peak: int
    read: int
    written: int
    output: str


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


def main() -> None:
    """Make the model, convert it both ways, and print the tables."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    tensors = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_FOLDER")) as name:
        folder = Path(name)
        (folder / "source").mkdir()
        (folder / "script").mkdir()
        measure([sys.executable, "-c", MAKE, str(folder / "source"), str(mib), str(tensors)], folder)
        prefix = folder / "source" / "model.ckpt-1"
        script = measure([sys.executable, "-c", SCRIPT, str(prefix), str(folder / "script")], folder)
        command = [
            sys.executable,
            "-m",
            "flows.cli",
            "run",
            str(prefix),
            "--no-server",
            "--runtime",
            "embedded",
            "--json",
        ]
        run = measure([*command, "--input", "x:0", "--output", "y:0"], folder)
        # What a command of one step takes, beside TensorFlow's own conversion.
        print_tables(mib * 2**20, script, run)


def print_tables(size: int, script: Measured, run: Measured) -> None:
    """Print the run by process, and both side by side."""
    console = Console()
    steps = json.loads(run.output)["steps"]
    table = Table(title=f"A model of {size >> 20} MiB, by process", title_justify="left", box=None)
    for column in ("step", "process", "seconds", "CPU", "peak", "read", "written"):
        table.add_column(column, justify="left" if column in ("step", "process") else "right")
    for step in steps:
        table.add_row(step["name"], step["state"], f"{step['seconds']:.1f}")
        for cost in step["costs"]:
            peak = f"{cost['peak'] / 2**30:.2f} GiB" if cost["peak"] else ""
            shares = [f"{cost[kind] / size:.2f}" for kind in ("read", "written")]
            table.add_row("", cost["process"].removeprefix("tasks."), "", f"{cost['cpu_seconds']:.1f}", peak, *shares)
    console.print(table)
    table = Table(title="side by side", title_justify="left", box=None)
    for column in ("", "script", "tfship", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for label, of in (
        ("wall seconds", lambda one: one.seconds),
        ("largest process, GiB", lambda one: one.peak / 2**30),
        ("read, of the model", lambda one: one.read / size),
        ("written, of the model", lambda one: one.written / size),
    ):
        table.add_row(label, f"{of(script):.2f}", f"{of(run):.2f}", f"{of(run) / of(script):.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
