"""The options by which a user says what a brought model does not: the same for every command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows.config import PipelineConfig
from tasks.errors import UsageError

_PANEL = "A brought model"

Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="[ALIAS=]NAME[:shape[:dtype]] of an input; may be repeated.", rich_help_panel=_PANEL),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option("--output", help="[ALIAS=]NAME of an output; may be repeated.", rich_help_panel=_PANEL),
]
Pins = Annotated[
    list[str] | None,
    typer.Option("--pin", help="NAME=VALUE for a placeholder that is no input; repeatable.", rich_help_panel=_PANEL),
]
SignatureKey = Annotated[
    str | None, typer.Option("--signature", help="The signature to take or to name.", rich_help_panel=_PANEL)
]
Tags = Annotated[
    str | None, typer.Option("--tags", help="A SavedModel's MetaGraph: tags with commas.", rich_help_panel=_PANEL)
]
GraphFile = Annotated[
    Path | None, typer.Option("--graph", help="The graph of a checkpoint without .meta.", rich_help_panel=_PANEL)
]
Code = Annotated[
    str | None, typer.Option("--model", help="Python code for the values: module:Model.", rich_help_panel=_PANEL)
]
VarMap = Annotated[
    Path | None, typer.Option("--var-map", help="YAML or JSON: variable's name to key.", rich_help_panel=_PANEL)
]
ProbeFile = Annotated[
    Path | None, typer.Option("--probe", help="Inputs: npz, npy, json, csv or TFRecord.", rich_help_panel=_PANEL)
]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """A command's options as settings. Raises UsageError for a pin without a value."""
    option: Callable[[str], Any] = options.get
    return {
        "inputs": option("inputs") or None,
        "outputs": option("outputs") or None,
        "pins": dict(map(_pin, option("pins"))) if option("pins") else None,
        "signature": option("signature"),
        "tags": option("tags").split(",") if option("tags") else None,
        "graph": option("graph"),
        "model": option("model"),
        "var_map": option("var_map"),
    }


def repeated(options: Mapping[str, Any]) -> list[str]:
    """The options by which the user said what the model is, as he typed them."""
    named = {"inputs": "--input", "outputs": "--output", "pins": "--pin"}
    named |= {"signature": "--signature", "tags": "--tags", "graph": "--graph", "model": "--model"}
    named |= {"var_map": "--var-map", "probe": "--probe", "config": "--config"}
    found: list[str] = []
    for name, option in named.items():
        given = options.get(name)
        values = given if isinstance(given, list) else [given] if given else []
        found += [part for value in values for part in (option, str(value))]
    return found


def require_files(settings: PipelineConfig) -> None:
    """Raise UsageError where a file that is given beside the model is not there, before anything starts."""
    for option, path, folders in (
        ("--graph", settings.given.graph, True),  # a SavedModel's is one
        ("--var-map", settings.given.var_map, False),
        ("--probe", settings.probe.file, False),
        ("--evaluate", settings.evaluate.file, False),
        ("--batches", settings.training.batches, False),
    ):
        if path is not None and not path.is_file() and not (folders and path.is_dir()):
            found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing there"
            raise UsageError(f"{option} {path}", "a file", found, "give the path of one that is there.")


def require_no_words(settings: PipelineConfig) -> None:
    """Raise UsageError where a model of Python code is given what only a brought model has use for."""
    given = settings.given
    said = {
        "--input": given.inputs,
        "--output": given.outputs,
        "--pin": given.pins,
        "--signature": given.signature,
        "--tags": given.tags,
        "--graph": given.graph,
        "--model": given.model,
        "--var-map": None if settings.training.start else given.var_map,
        "--probe": settings.probe.file,
    }
    if options := [option for option, value in said.items() if value]:
        remedy = f"leave {', '.join(options)} out, or give the path of a saved model."
        raise UsageError(", ".join(options), "a saved model as SOURCE", f"{settings.source}, which is code", remedy)


def _pin(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError("--pin", "NAME=VALUE", repr(text), "for example --pin keep_prob=1.0.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value
