"""The difference between a Keras model made by code and the one that an archive describes.

Only what both configurations contain is compared, since versions of Keras add entries; names do not count, because Keras
numbers unnamed objects, nor does what only initialisation or training reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_NOT_COMPARED = frozenset({"name", "module", "registered_name", "build_config", "compile_config", "seed", "trainable"})
_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_SHORT = 60
_NAMING = ("keras_history", "input_layers", "output_layers")  # what names layers: by their place instead


@dataclass(frozen=True)
class Different:
    """An entry in which two configurations differ."""

    where: str
    theirs: str
    ours: str


def difference(theirs: Any, ours: Any) -> Different | None:
    """Return the first entry that both configurations have with different values."""
    return _first(_plain(theirs, {}), _plain(json.loads(json.dumps(ours, default=str)), {}), "the model")


def _plain(node: Any, places: Mapping[str, str], naming: bool = False) -> Any:
    """Return a configuration without what is not compared; the name of a layer in its wiring becomes its position."""
    if isinstance(node, list):
        return [_plain(item, places, naming) for item in node]
    if not isinstance(node, dict):
        return places.get(node, node) if naming and isinstance(node, str) else node
    layers = node.get("layers")
    if isinstance(layers, list):
        named = [
            layer.get("config", {}).get("name") or layer.get("name") for layer in layers if isinstance(layer, dict)
        ]
        places = {str(name): f"layer {number}" for number, name in enumerate(named)}
    policy = str(node.get("class_name", "")).endswith("Policy")
    return {
        key: value if key == "config" and policy else _plain(value, places, naming or key in _NAMING)
        for key, value in node.items()
        if key not in _NOT_COMPARED and not key.endswith(_ENDINGS)
    }


def _first(theirs: Any, ours: Any, where: str) -> Different | None:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        pairs = [(f"{where}, {key}" if key != "config" else where, key) for key in theirs if key in ours]
        found = (_first(theirs[key], ours[key], place) for place, key in pairs)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        numbered = enumerate(zip(theirs, ours, strict=True))
        found = (_first(one, other, f"{where}[{number}]") for number, (one, other) in numbered)
    elif theirs == ours or (isinstance(theirs, dict) != isinstance(ours, dict)):  # two spellings of a dtype, say
        return None
    else:
        return Different(where, _shown(theirs), _shown(ours))
    return next((one for one in found if one is not None), None)


def _shown(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) and len(repr(value)) > _SHORT else repr(value)
