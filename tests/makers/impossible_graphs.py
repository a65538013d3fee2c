"""Graphs with one impossible value, as a flipped bit makes it, but where it hurts. Run in children."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_VARIABLES = ("VariableV2", "VarHandleOp")
_NO_DTYPE = 77


@contextmanager
def edited(path: Path) -> Iterator[Any]:
    """The MetaGraphDef of a `.meta` or `saved_model.pb`, or one around the GraphDef of a `.pb`, to be written back."""
    from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

    if path.name == "saved_model.pb":
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
        yield model.meta_graphs[0]
        path.write_bytes(model.SerializeToString())
        return
    whole = path.suffix == ".meta"
    meta = meta_graph_pb2.MetaGraphDef()
    (meta if whole else meta.graph_def).ParseFromString(path.read_bytes())
    yield meta
    path.write_bytes((meta if whole else meta.graph_def).SerializeToString())


def mutate(kind: str, path: Path) -> None:
    """Make `path` into what `kind` says."""
    with edited(path) as meta:
        MUTATIONS[kind](meta)


def _node(meta: Any, *ops: str) -> Any:
    return next(node for node in meta.graph_def.node if node.op in ops)


def _named(meta: Any, ending: str) -> Any:
    return next(node for node in meta.graph_def.node if node.name.endswith(ending))


def _variable_of_no_dtype(meta: Any) -> None:
    _node(meta, *_VARIABLES).attr["dtype"].type = _NO_DTYPE


def _variable_without_dtype(meta: Any) -> None:
    del _node(meta, *_VARIABLES).attr["dtype"]


def _placeholder_of_no_dtype(meta: Any) -> None:
    _node(meta, "Placeholder").attr["dtype"].type = _NO_DTYPE


def _empty_constant(meta: Any) -> None:
    _node(meta, "Const").attr["value"].Clear()


def _constant_of_another_dtype(meta: Any) -> None:
    _node(meta, "Const").attr["dtype"].type = 9


def _output_that_is_not_there(meta: Any) -> None:
    _node(meta, "MatMul").input[0] = "net/x:7"


def _output_that_is_no_number(meta: Any) -> None:
    _node(meta, "MatMul").input[0] = "net/x:abc"


def _restore_of_nothing(meta: Any) -> None:
    del _node(meta, "RestoreV2").input[1:]


def _restore_of_what_is_fed(meta: Any) -> None:
    _node(meta, "RestoreV2").input[1] = "net/x"


def _restore_of_no_slice(meta: Any) -> None:
    _named(meta, "RestoreV2/shape_and_slices").attr["value"].tensor.string_val[0] = b"9 9 x,1:-"


def _restore_of_too_few(meta: Any) -> None:
    names = _named(meta, "RestoreV2/tensor_names").attr["value"].tensor
    del names.string_val[1:]
    names.tensor_shape.dim[0].size = 1


def _restore_of_no_text(meta: Any) -> None:
    _named(meta, "RestoreV2/tensor_names").attr["value"].tensor.string_val[0] = b"\xff\xfe"


def _saver_of_no_file(meta: Any) -> None:
    meta.saver_def.filename_tensor_name = "ghost:0"


def _garbage_in(collection: str) -> Callable[[Any], None]:
    def garbage(meta: Any) -> None:
        if collection == "saved_model_assets":
            meta.collection_def[collection].any_list.value.add().value = b"\xff\xff"
        else:
            meta.collection_def[collection].bytes_list.value.append(b"\xff\xff")

    return garbage


def _signature_of(x: str, dtype: int) -> Callable[[Any], None]:
    def signature(meta: Any) -> None:
        held = meta.signature_def["serving_default"]
        held.method_name = "tensorflow/serving/predict"
        for side, alias, name in ((held.inputs, "x", x), (held.outputs, "y", "net/y:0")):
            side[alias].name, side[alias].dtype = name, dtype

    return signature


MUTATIONS: dict[str, Callable[[Any], None]] = {
    "a variable of no dtype": _variable_of_no_dtype,
    "a variable without dtype": _variable_without_dtype,
    "a placeholder of no dtype": _placeholder_of_no_dtype,
    "an empty constant": _empty_constant,
    "a constant of another dtype": _constant_of_another_dtype,
    "an output that is not there": _output_that_is_not_there,
    "an output that is no number": _output_that_is_no_number,
    "a restore of nothing": _restore_of_nothing,
    "a restore of what is fed": _restore_of_what_is_fed,
    "a restore of no slice": _restore_of_no_slice,
    "a restore of too few": _restore_of_too_few,
    "a restore of no text": _restore_of_no_text,
    "a saver of no file": _saver_of_no_file,
    "a signature of no output": _signature_of("net/x:9", 1),
    "a signature of no dtype": _signature_of("net/x:0", _NO_DTYPE),
    **{
        f"garbage in {name}": _garbage_in(name)
        for name in ("variables", "trainable_variables", "savers", "global_step", "cond_context", "saved_model_assets")
    },
}
