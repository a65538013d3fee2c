"""Graphs whose lookup tables are filled from files, honestly and otherwise; made and examined in children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.errors import PipelineError
from tasks.graphs import lookup_tables, scan

HONEST = ("direct", "identity", "function", "function of a function", "if", "case", "variable")
SECRET = "/etc/passwd"


def filled(kind: str, path: str) -> Any:
    """A SavedModel's MetaGraphDef: `x` looked up in a table that its main op fills from the tensor `path`."""
    import tensorflow as tf

    v1, raw = tf.compat.v1, tf.raw_ops
    with tf.Graph().as_default() as graph:
        names = {one: tf.constant(text, name=one) for one, text in (("asset", "words.txt"), ("secret", SECRET))}
        name, true = names[path], tf.constant(True)
        x = v1.placeholder(tf.string, [None], name="x")
        table = raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="table")

        def fill(filename: Any, handle: Any = table) -> Any:
            return raw.InitializeTableFromTextFileV2(
                table_handle=handle, filename=filename, key_index=-2, value_index=-1
            )

        def function(body: Any) -> Any:
            made = tf.function(body, autograph=False).get_concrete_function(
                tf.TensorSpec([], tf.resource), tf.TensorSpec([], tf.string)
            )
            made.add_to_graph(graph)
            return made

        def body(handle: Any, filename: Any) -> Any:
            fill(filename, handle)
            return tf.identity(filename)

        def call(called: Any, filename: Any) -> Any:
            return raw.StatefulPartitionedCall(args=[table, filename], Tout=[tf.string], f=called)[0].op

        if kind == "direct":
            init = fill(name)
        elif kind == "identity":
            init = fill(tf.identity(tf.identity(name)))
        elif kind == "function":
            init = call(function(body), name)
        elif kind == "function of a function":
            inner = function(body)
            outer = function(
                lambda handle, filename: raw.StatefulPartitionedCall(
                    args=[handle, filename], Tout=[tf.string], f=inner
                )[0]
            )
            init = call(outer, name)
        elif kind in ("if", "case"):
            branch = function(body)
            made = (
                raw.If(cond=true, input=[table, name], Tout=[tf.string], then_branch=branch, else_branch=branch)
                if kind == "if"
                else raw.Case(branch_index=0, input=[table, name], Tout=[tf.string], branches=[branch, branch])
            )
            init = made[0].op
        elif kind == "inside":
            init = call(function(lambda handle, _: body(handle, tf.constant(SECRET))), name)
        elif kind == "two callers":
            both = function(body)
            init = tf.group(call(both, names["asset"]), call(both, names["secret"]))
        elif kind == "made of it":
            init = fill(tf.strings.join([name, "/../../../etc/passwd"]))
        elif kind in ("variable", "assigned twice", "given away", "shared"):
            variable = raw.VarHandleOp(dtype=tf.string, shape=[], shared_name="path")
            with tf.control_dependencies([raw.AssignVariableOp(resource=variable, value=name)]):
                init = fill(raw.ReadVariableOp(resource=variable, dtype=tf.string))
            if kind == "assigned twice":
                raw.AssignVariableOp(resource=variable, value=names["secret"])
            elif kind == "given away":
                assigning = function(
                    lambda handle, value: (raw.AssignVariableOp(resource=handle, value=value), value)[1]
                )
                raw.StatefulPartitionedCall(args=[variable, names["secret"]], Tout=[tf.string], f=assigning)
            elif kind == "shared":
                again = raw.VarHandleOp(dtype=tf.string, shape=[], shared_name="path")
                raw.AssignVariableOp(resource=again, value=names["secret"])
        else:
            assert kind == "in the outputs"
            init = fill(name)
        with tf.control_dependencies([init] if kind == "in the outputs" else []):
            raw.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(-1, tf.int64), name="y")
        meta = v1.train.export_meta_graph(graph=graph)
    meta.collection_def["saved_model_main_op"].node_list.value.append(init.name)
    entry = meta.asset_file_def.add(filename="words.txt")
    entry.tensor_info.name = "asset:0"
    return meta


def judged(kinds: list[tuple[str, str]], folder: Path) -> dict[str, tuple[str, str]]:
    """What loading each would be refused for, and what finding its tables."""
    return {
        f"{kind}, {path}": (_loading(filled(kind, path)), _finding(filled(kind, path), folder)) for kind, path in kinds
    }


def _loading(meta: Any) -> str:
    try:
        scan.require_loadable(meta, "model")
    except PipelineError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _finding(meta: Any, folder: Path) -> str:
    try:
        _, assets, _ = lookup_tables.find(meta, ["y:0"], folder)
    except PipelineError as error:
        return f"{type(error).__name__}: {error}"
    return "" if [(one.filename, one.tensor) for one in assets] == [("words.txt", "asset:0")] else str(assets)


def of_two(written: tuple[str, str], folder: Path, *, declared: bool) -> dict[str, str]:
    """A graph with two tables, of files that were written as these: asset's name -> what its file says."""
    import tensorflow as tf

    v1, raw = tf.compat.v1, tf.raw_ops
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.string, [None], name="x")
        answers, filling = [], []
        for number, path in enumerate(written):
            table = raw.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name=f"table{number}")
            name = tf.constant(path, name=f"path{number}")
            filling.append(
                raw.InitializeTableFromTextFileV2(table_handle=table, filename=name, key_index=-2, value_index=-1)
            )
            answers.append(raw.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(-1, tf.int64)))
        tf.stack(answers, name="y")
        if not declared:
            v1.add_to_collection("table_initializer", tf.group(*filling))
        main = tf.group(*filling, name="main")
        meta = v1.train.export_meta_graph(graph=graph)
    if declared:
        meta.collection_def["saved_model_main_op"].node_list.value.append(main.name)
        for number, path in enumerate(written):
            meta.asset_file_def.add(filename=path).tensor_info.name = f"path{number}:0"
    scan.require_loadable(meta, "model")
    _, assets, places = lookup_tables.find(meta, ["y:0"], folder)
    assert [asset.tensor for asset in assets] == ["path0:0", "path1:0"]
    return {asset.filename: places[asset.filename].read_text() for asset in assets}


def grouped() -> tuple[str | None, list[str], str | None]:
    """What fills the table of a graph whose collection names one group, of a variable's initialiser too; and then again."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.string, [None], name="x")
        w = v1.get_variable("w", initializer=1.0, use_resource=False)
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a", "b"], [1.0, 2.0]), -1.0)
        tf.multiply(table.lookup(x), w, name="y")
        every = tf.group(v1.tables_initializer(), v1.global_variables_initializer())
        graph.clear_collection("table_initializer")
        v1.add_to_collection("table_initializer", every)
        meta = v1.train.export_meta_graph(graph=graph)
    operation, _, _ = lookup_tables.find(meta, ["y:0"], Path("nowhere"))
    (node,) = [node for node in meta.graph_def.node if node.name == operation]
    scan.require_loadable(meta, "model")
    filling = {node.name: node.op for node in meta.graph_def.node}
    return (
        operation,
        [filling[name.lstrip("^")] for name in node.input],
        lookup_tables.find(meta, ["y:0"], Path("nowhere"))[0],
    )
