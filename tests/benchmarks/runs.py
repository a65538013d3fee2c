"""What a run costs, side by side: built, cached, and what Python needs to import what it stands on.

    python -m tests.benchmarks.runs [SOURCE]

Every line is timed in this one invocation; the last column is the ratio to importing TensorFlow once.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def seconds(command: list[str], folder: Path) -> float:
    """Wall seconds of one command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Time each command once, the second time for the imports, whose files must be in memory."""
    source = sys.argv[1] if len(sys.argv) > 1 else "half_plus_two"
    run = [sys.executable, "-m", "flows.cli", "run", source, "--runtime", "embedded"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = {
            "import prefect": [sys.executable, "-c", "from prefect import flow, task"],
            "import tensorflow": [sys.executable, "-c", "import tensorflow"],
            "run, built, --no-server": [*run, "--no-server"],
            "run, cached, --no-server": [*run, "--no-server"],
            "run, cached, own Prefect server": run,
        }
        for label in ("import prefect", "import tensorflow"):
            seconds(commands[label], folder)
        times = {label: seconds(command, folder) for label, command in commands.items()}
    table = Table(title=f"{source}, wall seconds", title_justify="left", box=None)
    for column in ("", "seconds", "of import tensorflow"):
        table.add_column(column, justify="left" if not column else "right")
    for label, taken in times.items():
        table.add_row(label, f"{taken:.2f}", f"{taken / times['import tensorflow']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
