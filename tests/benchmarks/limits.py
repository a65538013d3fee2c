"""Measured limits beside the fixed one, and the weight faults that each notices in the outputs alone.

    python -m tests.benchmarks.limits [CORPUS]

Every model goes through `tfship run`: SundayNet, a network whose large terms cancel, and the models of a folder like
$TFSHIP_CORPUS. Numbers are those at the scale of an output's largest column.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tasks import isolate
from tasks.records.parity import FIXED, Noise
from tests.makers import cancelling, weight_faults

CORPUS = {
    "puzzle15": ["puzzle15/modeldir", "--input", "input", "--output", "result"],
    "lenet": ["lenet-traffic", "--input", "Placeholder", "--output", "add_4", "--pin", "Placeholder_2=1.0"],
    "v1-neo": ["v1-neo", "--input", "Placeholder", "--output", "Softmax"],
    "charrnn": ["frozen-charrnn/frozen_model_mobile.pb", "--input", "input_data", "--output", "probs"],
    "rossman": ["sm-rossman"],
    "taxi": ["taxi-estimator/export/chicago-taxi/1646034756"],
}


def run(name: str, source: list[str], folder: Path) -> Mapping[str, Any]:
    """Ship a model, and return what `tfship run --json` says."""
    command = [sys.executable, "-m", "flows.cli", "run", *source, "--name", name, "--json", "--no-server"]
    place = ["--store", str(folder / "store"), "--serving-root", str(folder / "serving")]
    done = subprocess.run([*command, *place, "--runtime", "embedded"], check=True, capture_output=True, cwd=folder)
    document: Mapping[str, Any] = json.loads(done.stdout)
    return document


def limits(name: str, document: Mapping[str, Any], measured: Sequence[Noise]) -> Iterator[list[str]]:
    """Yield a line for each float output of a run, whose model has this noise."""
    for one in measured:
        scale = max(one.scale)
        at = one.scale.index(scale)
        noise, limit = (
            part.absolute[at] + part.relative[at] * scale for part in (one, one.limit)
        )  # both have a number for each column
        served = max(
            (
                row["max_abs"]
                for row in document["parity"]
                if (row["test"], row["signature"], row["output"]) == ("served", one.signature, one.output)
            ),
            default=0.0,
        )
        fixed = FIXED + FIXED * scale
        numbers = (scale, noise, limit, fixed, fixed / limit, served)
        yield [name, f"{one.signature}/{one.output}", *(f"{number:.2g}" for number in numbers)]


def artifact(document: Mapping[str, Any], *steps: str) -> Path:
    """The folder of a step of a run, the first of several that it has."""
    return next(Path(step["artifact"]) for step in document["steps"] if step["name"] in steps)


def main() -> None:
    """Print both tables."""
    corpus = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TFSHIP_CORPUS", "")
    measured = Table("model", "output", "scale", "noise", "limit", "fixed", "fixed / limit", "served", box=None)
    counts: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        isolate.call(cancelling.write, folder)
        models = {"sundaynet": ["sundaynet", "--steps", "100"]}
        models["cancelling"] = [str(folder / "mlp.pb"), "--input", "x", "--output", "y"]
        models |= {key: [f"{corpus}/{path}", *given] for key, (path, *given) in CORPUS.items() if corpus}
        for key, source in models.items():
            document = run(key, source, folder)
            places = [artifact(document, *steps) for steps in (("checkpoint",), ("train", "adopt"))]
            noise = weight_faults.noise_of(*places).noise
            for line in limits(key, document, noise):
                measured.add_row(*line)
            for one in isolate.call(weight_faults.noticed, noise, *places):
                found = (one.planted, one.fixed, one.measured, one.lost)
                counts[one.kind] = [a + b for a, b in zip(counts.get(one.kind, (0,) * 4), found, strict=True)]
    faults = Table("weight fault", "planted", "by fixed limits", "by measured", "by fixed only", box=None)
    for kind, numbers in counts.items():
        faults.add_row(kind, *map(str, numbers))
    for table in (measured, faults):
        Console(width=140).print(table)


if __name__ == "__main__":
    main()
