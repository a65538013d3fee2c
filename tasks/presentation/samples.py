"""Sample rows of the probe as JSON values, for the examples of the report page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.records.signature import Signature, TensorSpec


def is_batched(spec: TensorSpec) -> bool:
    """Return True if the input's first dimension counts rows: unknown, as in a placeholder of shape [None, …]."""
    return spec.shape is None or (len(spec.shape) > 0 and spec.shape[0] is None)


def sample(signature: Signature, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Return the first row of each input, or its complete tensor where it has no rows. `inputs` are the probe's, by name.

    Strings are text where their bytes are UTF-8, else `{"b64": …}`, TensorFlow Serving's own notation
    (g3doc/api_rest.md, "Encoding binary values"). float32 keeps its shortest decimal form.
    """
    return {
        name: _json(inputs[name][0] if is_batched(spec) and inputs[name].ndim else inputs[name])
        for name, spec in signature.inputs.items()
        if name in inputs and inputs[name].size
    }


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return (
            _json(value.item())
            if value.ndim == 0 and value.dtype.kind in "OSU"
            else (_json(value[()]) if value.ndim == 0 else [_json(item) for item in value])
        )
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode()}
    if isinstance(value, np.floating):
        return float(str(value))
    return value.item() if isinstance(value, np.generic) else value
