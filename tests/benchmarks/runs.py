"""What commands cost, side by side: those that only look, a run that builds, a run that is cached, and what they import.

    python -m tests.benchmarks.runs [--repeat N] [--out DIR] [SOURCE]

Every line is measured in this one invocation: the median of wall seconds and of seconds of a CPU, all processes of the
command together, with the least and the most. The last column is the CPU's ratio to importing TensorFlow once. `--out`
leaves `runs.json` there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

CHECKPOINT = """
import tensorflow.compat.v1 as tf
with tf.Graph().as_default(), tf.Session() as session:
    x = tf.placeholder(tf.float32, [None, 4096], name="x")
    tf.matmul(x, tf.Variable(tf.random.stateless_normal([4096, 4096], [1, 1])), name="y")
    session.run(tf.global_variables_initializer())
    tf.train.Saver().save(session, "model.ckpt", global_step=1)
"""


def measured(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Return wall and CPU seconds of one command that must succeed."""
    started = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)}: exit code {child.returncode}\n{said}")
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


def spread(values: Sequence[float]) -> str:
    """Return the median, with the least and the most of several."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure each command, after the imports once, whose files must be in memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", default="half_plus_two")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tfship = [sys.executable, "-m", "flows.cli"]
    run = [*tfship, "run", options.source, "--runtime", "embedded"]
    imports = {
        "import prefect": [sys.executable, "-c", "from prefect import flow, task"],
        "import tensorflow": [sys.executable, "-c", "import tensorflow"],
    }
    commands = imports | {
        "--help": [*tfship, "--help"],
        "releases": [*tfship, "releases", options.source, "--serving-root", ".tfship/serving"],
        "inspect --quick, 64 MiB": [*tfship, "inspect", "model.ckpt-1", "--quick"],
        "plan": [*tfship, "plan", options.source, "--runtime", "embedded"],
        "run, cached, --no-server": [*run, "--no-server"],
        "run, cached, own Prefect server": run,
    }
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured([sys.executable, "-c", CHECKPOINT], folder)
        built = []
        for number in range(options.repeat):
            (home := folder / f"home-{number}").mkdir()
            built.append(measured([*run, "--no-server"], home))
        found["run, built, --no-server"] = built
        measured([*run, "--no-server"], folder)
        for _ in range(options.repeat):
            for label, command in commands.items():
                found.setdefault(label, []).append(measured(command, folder))
    unit = statistics.median(cpu for _, cpu in found["import tensorflow"])
    table = Table(title=options.source, title_justify="left", box=None)
    for column in ("", "wall seconds", "CPU seconds", "of import tensorflow"):
        table.add_column(column, justify="left" if not column else "right")
    for label in [*imports, *(label for label in found if label not in imports)]:
        wall, cpu = ([one[place] for one in found[label]] for place in (0, 1))
        table.add_row(label, spread(wall), spread(cpu), f"{statistics.median(cpu) / unit:.2f}")
    Console().print(table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "runs.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
