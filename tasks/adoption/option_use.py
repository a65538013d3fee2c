"""What a user gives beside a brought model: whether a model of its form has any use for it, and the graph's own file."""

from __future__ import annotations

from tasks.errors import EnvironmentFailure, UsageError
from tasks.forms import detect
from tasks.records.adoption import Found, ModelOptions
from tasks.records.forms import Form

_CHECKPOINTS = (Form.SAVER_V1, Form.SAVER_V2)
_CODED = (*_CHECKPOINTS, Form.OBJECT_CHECKPOINT, Form.KERAS, Form.HDF5)
_GRAPHS = (Form.META_GRAPH, Form.GRAPH_DEF)


def require_used(found: Found, given: ModelOptions, *, coded: bool) -> None:
    """Raise UsageError where an option is for models of another form: ignored in silence, it would be taken for done.

    `coded` says that there is Python code. Raises as `graph_of`, too.
    """
    checkpoint = found.form in _CHECKPOINTS
    if given.graph is not None and not (checkpoint and not coded):
        what = "a checkpoint and --model, which builds its graph" if checkpoint else found.form.value
        raise _useless(f"--graph {given.graph}", "a Saver checkpoint, to be its graph", what)
    if given.var_map is not None and not checkpoint:
        raise _useless(f"--var-map {given.var_map}", "a Saver checkpoint, whose keys it names", found.form.value)
    if coded and found.form not in _CODED:
        raise _useless(
            "--model", "a checkpoint or a Keras file, whose values the code has a graph for", found.form.value
        )
    if given.tags is not None and Form.SAVED_MODEL not in (found.form, graph_of(found, given).form):
        raise _useless(
            f"--tags {','.join(given.tags)}", "a SavedModel, one of whose graphs they name", found.form.value
        )


def _useless(option: str, expected: str, found: str) -> UsageError:
    return UsageError(option, expected, found, f"leave {option.partition(' ')[0]} out: nothing here has use for it.")


def graph_of(found: Found, given: ModelOptions) -> Found:
    """What holds a model's graph: itself, or for a checkpoint the file of `--graph`, by its content wherever it lies.

    Raises:
        As `detect`.
    """
    if found.form not in _CHECKPOINTS or given.graph is None:
        return found
    try:
        form = detect.sniff(given.graph) if given.graph.is_file() else None
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"--graph {given.graph}") from None
    if form in _GRAPHS:  # a `.meta` beside data files is a graph all the same
        return Found(form=form, path=given.graph, files=(given.graph,))
    return detect.detect(given.graph)
