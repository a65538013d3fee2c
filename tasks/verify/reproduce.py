"""Repeat one comparison of two forms of a model, without the tool that made it. Needs TensorFlow and numpy alone.

    python reproduce.py                        both forms, here
    python reproduce.py http://HOST:PORT       where the second form is one that a server answers for: that server's REST port

Prints what each form gives, and the difference; exits with 1 if they differ, with 0 if they agree. What is compared stands in
reproduce.json beside this file: an output for one row of the probe, or the value of one variable.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

HERE = Path(__file__).resolve().parent
v1 = tf.compat.v1


def main(arguments: list[str]) -> int:
    """Compare, print, and return the exit code."""
    facts = json.loads((HERE / "reproduce.json").read_text())
    source, other = facts["source"], facts["candidate"]
    for side in (source, other):
        print(f"{side['name']}: {side['form']}, {side['path']}")
    if facts["variable"]:
        return compared(facts, value(source, facts["variable"]), value(other, facts["variable"]))
    with np.load(HERE / "probe.npz") as held:
        probe = {name: held[name] for name in held.files}
    for name, texts in facts["strings"].items():
        probe[name] = np.array([base64.b64decode(text) for text in texts], object).reshape(facts["shapes"][name])
    row = facts["row"]
    alone = {name: rows[row : row + 1] for name, rows in probe.items()} if row is not None else probe
    for rows, words, at in ((alone, f"row {row} alone", 0), (probe, f"row {row} of all {facts['rows']}", row)):
        expected = answer(source, facts, rows)
        if other["form"] == "served":
            if not arguments:
                print(f"start a server with {other['path']}, then: python reproduce.py http://HOST:PORT")
                return 2
            found = served(arguments[0], facts, rows)
        else:
            found = answer(other, facts, rows)
        if row is not None and expected.ndim and found.shape == expected.shape:
            expected, found = expected[at], found[at]
        print(f"\n{facts['signature']}/{facts['output']}, {words if row is not None else 'all of the probe'}")
        if code := compared(facts, expected, found):
            return code
        if row is None:
            break
    return 0


def compared(facts: dict[str, Any], expected: Any, found: Any) -> int:
    """Print both and their difference, and return 1 if they differ by more than the tolerance."""
    print(f"{facts['source']['name']}:\n{expected}\n{facts['candidate']['name']}:\n{found}")
    if expected.dtype != found.dtype or expected.shape != found.shape:
        print(f"DIFFERS: {expected.dtype}{list(expected.shape)} and {found.dtype}{list(found.shape)}")
        return 1
    if expected.dtype.kind != "f":
        differ = expected != found
    else:
        absolute, relative = (np.asarray(one if len(one) > 1 else one[0]) for one in facts["tolerance"])
        difference = np.abs(expected.astype(np.float64) - found.astype(np.float64))
        print(f"difference, at most: {difference.max(initial=0.0):.9g}")
        differ = ~((difference <= absolute + relative * np.abs(expected)) | (np.isnan(expected) & np.isnan(found)))
    print(f"DIFFERS in {np.count_nonzero(differ)} of {np.size(differ)}" if np.any(differ) else "equal")
    return int(bool(np.any(differ)))


def answer(side: dict[str, Any], facts: dict[str, Any], rows: dict[str, Any]) -> Any:
    """Return what a form answers, in a session of its own."""
    where = path_of(side)
    if side["form"] == "keras":
        import keras

        given = [rows[name] for name in side["inputs"]]
        return np.asarray(keras.saving.load_model(where)(given[0] if len(given) == 1 else given))
    config = v1.ConfigProto()  # without Grappler: what differs is the form
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default() as graph, v1.Session(graph=graph, config=config) as session:
        if side["form"] == "saver":
            saver = v1.train.import_meta_graph(str(HERE / side["graph"]), clear_devices=True)
            saver.restore(session, str(where))
        elif side["form"] == "saved_model":
            v1.saved_model.load(session, side["tags"], str(where))
        else:
            graph_def = v1.GraphDef()
            graph_def.ParseFromString(where.read_bytes())
            tf.import_graph_def(graph_def, name="")
        if side["table_init"]:
            assets = {tensor: str(HERE / file) for tensor, file in side["assets"].items()}
            session.run(graph.get_operation_by_name(side["table_init"]), assets)
        elif side["form"] == "saver":
            session.run(v1.tables_initializer())
        feeds: dict[str, Any] = {tensor: rows[alias] for alias, tensor in side["inputs"].items()}
        there = {operation.name for operation in graph.get_operations()}
        pins = side["pins"].items()
        feeds |= {tensor: np.asarray(pinned) for tensor, pinned in pins if tensor.partition(":")[0] in there}
        return np.asarray(session.run(side["outputs"][facts["output"]], feeds))


def value(side: dict[str, Any], name: str) -> Any:
    """Return the value of a variable in a form's files."""
    where, key = path_of(side), side["keys"].get(name, name)
    if side["form"] in ("saver", "saved_model"):
        prefix = where if side["form"] == "saver" else where / "variables" / "variables"
        return np.asarray(tf.train.load_checkpoint(str(prefix)).get_tensor(key))
    graph_def = v1.GraphDef()
    graph_def.ParseFromString(where.read_bytes())
    return np.asarray(tf.make_ndarray(next(node for node in graph_def.node if node.name == name).attr["value"].tensor))


def served(address: str, facts: dict[str, Any], rows: dict[str, Any]) -> Any:
    """Return what a server answers over REST."""
    inputs = {name: encoded(given.tolist()) for name, given in rows.items()}
    body = json.dumps({"signature_name": facts["signature"], "inputs": inputs}).encode()
    with urllib.request.urlopen(f"{address}/v1/models/{facts['candidate']['model']}:predict", body) as reply:
        outputs = json.load(reply)["outputs"]
    found = outputs[facts["output"]] if isinstance(outputs, dict) and facts["output"] in outputs else outputs
    if facts["dtype"] == "string":
        return np.vectorize(lambda one: base64.b64decode(one["b64"]) if isinstance(one, dict) else one.encode())(found)
    return np.asarray(found, dtype=facts["dtype"])


def encoded(rows: Any) -> Any:
    """Return rows as JSON for TensorFlow Serving, which takes bytes as base64."""
    if isinstance(rows, list):
        return [encoded(one) for one in rows]
    return {"b64": base64.b64encode(rows).decode()} if isinstance(rows, bytes) else rows


def path_of(side: dict[str, Any]) -> Path:
    """Return where a form lies: beside this file, or where it was, if it is too large to be copied."""
    return HERE / str(side["path"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
