"""Fine-tuning, in a child: some variables of a graph from user code are restored from a checkpoint.

The others keep their initial values. Every variable is listed in `started_from.json`, and shown as progress.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tasks.adoption import source_loader
from tasks.baseline.training_run import TrainingRun
from tasks.errors import CoverageError, UsageError
from tasks.forms import checkpoint_files, saver
from tasks.forms.detect import detect
from tasks.graphs import graph as graphs
from tasks.graphs.variables import Slice
from tasks.isolate import progress
from tasks.records.adoption import Found, ModelOptions
from tasks.records.coverage import VariableStatus
from tasks.records.settings import Training
from tasks.records.signature import GraphNames
from tasks.records.start import StartedFrom


def begin(
    session: Any, names: GraphNames, sources: Mapping[str, Slice], training: Training, given: ModelOptions, out: Path
) -> None:
    """Restore into an initialised session the variables that `training.restore` selects of `training.start`.

    `sources` are the checkpoint keys of the graph's own Saver; `given.var_map` takes precedence.

    Raises:
        UsageError: the start is no Saver checkpoint, or a pattern matches no variable of the graph.
        CoverageError: a selected variable is not in the checkpoint, or has another dtype or shape there.
        DamagedError: a file of it cannot be read.
    """
    assert training.start is not None
    found = detect(training.start, training.start_step)
    if not found.form.of_saver:
        remedy = "read other forms in the model's own build()."
        raise UsageError(str(training.start), "a Saver checkpoint", found.form.value, remedy)
    graph_def = session.graph.as_graph_def()
    variables = {variable.op.name for variable in session.graph.get_collection("variables")}
    keys = set(saver.reader(found.path).get_variable_to_shape_map())
    mapped = _mapped(given, variables, keys)
    wanted = {name: mapped.get(name, sources.get(name, Slice(name))) for name in variables}
    covered = saver.compared(graph_def, wanted, found.path, ())
    statuses = {status.name: status for status in covered.variables if status.name in variables}
    step = graphs.node_name(names.global_step) if names.global_step else None
    chosen = set(_named(statuses, (*(training.restore or ()), *mapped), step, found))
    if training.restore is None:
        chosen |= _matching(statuses, {*names.needed, *_trainable(session.graph)} - {step}, found)
    load(session, {name: wanted[name] for name in chosen}, found.path)
    started = StartedFrom(
        form=found.form,
        checkpoint=found.path.name,
        step=checkpoint_files.step_of(found.path),
        restored=tuple(sorted(chosen)),
        initialised={name: _why(status, step) for name, status in statuses.items() if name not in chosen},
        left_out=tuple(sorted(keys - {wanted[name].key for name in chosen})),
        notes=found.notes,
    )
    record(started, out)


def load(session: Any, sources: Mapping[str, Slice], prefix: Path) -> None:
    """Load variables from a checkpoint, one at a time.

    Raises:
        DamagedError: a tensor cannot be read.
    """
    checkpoint = saver.reader(prefix)
    variables = {variable.op.name: variable for variable in session.graph.get_collection("variables")}
    with session.graph.as_default():
        for name, source in sorted(sources.items()):
            variables[name].load(saver.read_slice(checkpoint, source, prefix), session)


def record(started: StartedFrom, out: Path) -> None:
    """Write where training began, and show it as progress."""
    TrainingRun(out).write_started(started)
    progress({"started": started.described()})


def _mapped(given: ModelOptions, variables: set[str], keys: set[str]) -> dict[str, Slice]:
    renamed = source_loader.renamed(given.var_map)
    for variable, key in renamed.items():
        if variable not in variables or key not in keys:
            wrong, known = (variable, variables) if variable not in variables else (key, keys)
            expected = "variables of the graph, and keys of the checkpoint"
            raise UsageError("--var-map", expected, wrong, f"among {', '.join(sorted(known)[:8])}.")
    return {variable: Slice(key) for variable, key in renamed.items()}


def _matching(statuses: Mapping[str, VariableStatus], model: set[str], found: Found) -> set[str]:
    chosen = {name for name in model if name in statuses and statuses[name].status == "matched"}
    if not chosen:
        remedy = "name the variables with --restore, or map their names with --var-map."
        some = ", ".join(sorted(model)[:5])
        raise UsageError(str(found.path), f"some of the model's variables ({some})", "none of them", remedy)
    return chosen


def _named(
    statuses: Mapping[str, VariableStatus], patterns: Iterable[str], step: str | None, found: Found
) -> list[str]:
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matched = [name for name in statuses if name == pattern or fnmatchcase(name, pattern)]
        if not matched:
            known = ", ".join(sorted(statuses)[:10])
            raise UsageError(f"--restore {pattern}", "variables of the graph", "none of that name", f"among {known}.")
        if step == pattern:
            remedy = "leave it out: fine-tuning counts its own steps, from 0."
            raise UsageError(f"--restore {pattern}", "variables of the model", "the global step", remedy)
        chosen |= dict.fromkeys(name for name in matched if name != step)
    wrong = [statuses[name] for name in chosen if statuses[name].status != "matched"]
    if wrong:
        first = wrong[0]
        more = f" (and {len(wrong) - 1} more: {', '.join(one.name for one in wrong[1:6])})" if len(wrong) > 1 else ""
        raise CoverageError(
            f"{found.path.name}: variable {first.name}, which is to be restored",
            f"a tensor {first.expected} under the key {first.key!r}",
            (first.found or "none") + more,
            "name only what the checkpoint holds as the graph wants it (--restore), or map its name with --var-map.",
        )
    return list(chosen)


def _why(status: VariableStatus, step: str | None) -> str:
    if status.name == step:
        return "fine-tuning counts its own steps"
    if status.status == "matched":
        return "not selected; the checkpoint holds it"
    return f"the checkpoint holds {status.found}, not {status.expected}" if status.found else "not in the checkpoint"


def _trainable(graph: Any) -> list[str]:
    return [variable.op.name for variable in graph.get_collection("trainable_variables")]
