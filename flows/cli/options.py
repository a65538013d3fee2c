"""The options of the command line: one table, and the loops over it.

Each option is spelled once, with its flag, its type, the setting that it sets and the commands that take it. Parameters
of commands, settings, refusals and the repetition of options in a next command are derived from the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer
import yaml

from flows import config as configuration
from flows.config import PipelineConfig
from tasks.errors import UsageError
from tasks.records.forms import Target
from tasks.records.release import Rule
from tasks.records.settings import RuntimeChoice
from tasks.records.signature import Impurity

MODEL, SERVER, TRAINING = "Source model", "Server of the smoke test", "Training from a checkpoint"

STEPS = frozenset({"train", "adopt", "checkpoint", "restore-verify", "freeze", "export", "smoke-test"})
_SHIPPING = frozenset({"run", "plan", "schedule"})
_PIPELINE = STEPS | _SHIPPING | {"convert"}
_SERVING = _SHIPPING | {"smoke-test"}
_PROMOTING = _SHIPPING | {"promote"}
_OPERATING = frozenset({"promote", "label", "rollback"})
_APPROVING = frozenset({"approve", "rollback", "pin"})
_QUALITY = _PIPELINE - {"train", "adopt", "checkpoint"}
_SIGNATURES = _PIPELINE | {"verify", "predict", "probe"}
_RELEASES = frozenset(
    {"serve", "promote", "approve", "label", "rollback", "pin", "releases", "status", "diff", "verify-release"}
)
_RUNNING = (_PIPELINE - {"plan", "schedule"}) | {"promote"}
_PRINTING = _PIPELINE - {"schedule"} | _RELEASES - {"serve"} | {"verify", "inspect", "doctor", "gc", "keygen"}
_CONFIGURED = _SIGNATURES | _RELEASES | {"inspect", "doctor", "gc"}


Source = Annotated[
    str | None, typer.Argument(help="An example's name, module:Model, or the path of anything TensorFlow saved.")
]
"""The argument of the commands that run the pipeline or a part of it."""


class Option(NamedTuple):
    """One option of the command line.

    `setting` is the path of the setting that it sets, "" where the command reads the option itself; `read` turns the
    value into the setting's. `file` marks a path that must be a file, or a folder too. `source_model` marks an option
    that applies only to a source model, `repeated` one that belongs into a next command.
    """

    name: str
    flag: str
    type: Any
    help: str
    commands: frozenset[str]
    setting: str = ""
    read: Callable[[Any], Any] = lambda value: value
    panel: str | None = None
    default: Any = None
    required: bool = False
    source_model: bool = False
    repeated: bool = False
    file: str = ""
    hidden: bool = False
    range: tuple[int | None, int | None] = (None, None)


def _pins(texts: list[str]) -> dict[str, Any]:
    return dict(_pin(text) for text in texts)


def _pin(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError("--pin", "NAME=VALUE", repr(text), "for example --pin keep_prob=1.0.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def _tolerance(text: str) -> dict[str, float]:
    absolute, _, relative = text.partition(",")
    try:
        return {"absolute": float(absolute), "relative": float(relative) if relative else 0.0}
    except ValueError:
        remedy = "for example --tolerance 1e-5, or --tolerance 1e-5,1e-4."
        raise UsageError("--tolerance", "ABSOLUTE[,RELATIVE], two numbers", repr(text), remedy) from None


def _only(*commands: str) -> frozenset[str]:
    return frozenset(commands)


_HIGHEST_PORT = 65535
_model = partial(Option, commands=_SIGNATURES, panel=MODEL, source_model=True, repeated=True)
_server = partial(Option, commands=_SERVING, panel=SERVER)
_training = partial(Option, commands=_only("train"), panel=TRAINING)

TABLE: tuple[Option, ...] = (
    Option("config", "--config", Path, "A YAML file of settings.", _CONFIGURED, repeated=True),
    Option(
        "store",
        "--store",
        Path,
        "The folder of artifacts.",
        _PIPELINE | {"promote", "approve", "doctor", "gc"},
        "store",
    ),
    Option(
        "serving_root",
        "--serving-root",
        Path,
        "The folder that model servers read.",
        _SERVING | _RELEASES | {"doctor", "gc"},
        "serving_root",
    ),
    Option(
        "name", "--name", str, "The name under which to serve the model.", _SERVING | {"promote", "approve"}, "name"
    ),
    _server(
        "runtime",
        "--runtime",
        RuntimeChoice,
        "The kind of server to test in.",
        commands=_SERVING | {"promote", "rollback", "doctor"},
        setting="serving.runtime",
    ),
    _server(
        "image",
        "--image",
        list[str],
        "A docker image to test in; repeatable.",
        commands=_SERVING | {"promote", "rollback", "doctor"},
        setting="images",
    ),
    _server(
        "load_timeout",
        "--load-timeout",
        float,
        "Seconds until the model must be AVAILABLE.",
        commands=_SERVING | _OPERATING,
        setting="serving.load_timeout",
    ),
    _server(
        "max_p99_ms", "--max-p99-ms", float, "Refuse a p99 latency above this.", setting="serving.gates.max_p99_ms"
    ),
    _server(
        "max_load_s",
        "--max-load-s",
        float,
        "Refuse a load that takes longer.",
        setting="serving.gates.max_load_seconds",
    ),
    _server(
        "max_rss_mb",
        "--max-rss-mb",
        float,
        "Refuse a server that uses more memory (MiB).",
        setting="serving.gates.max_rss_bytes",
        read=lambda megabytes: int(megabytes * 2**20),
    ),
    _server(
        "max_rejected",
        "--max-rejected",
        float,
        "Refuse a server that turns away more than this percentage of attempts because it is full.",
        setting="serving.gates.max_rejected",
    ),
    _server(
        "model_config_file",
        "--model-config-file",
        Path,
        "Production's model configuration file.",
        setting="serving.model_config_file",
    ),
    _server(
        "batching_parameters_file",
        "--batching-parameters-file",
        Path,
        "Production's batching parameters; tested with and without.",
        setting="serving.batching_parameters_file",
    ),
    _server(
        "monitoring_config_file",
        "--monitoring-config-file",
        Path,
        "Production's monitoring configuration.",
        setting="serving.monitoring_config_file",
    ),
    _server(
        "rehearse",
        "--rehearse",
        bool,
        "Change to the new version under traffic, beside production.",
        setting="rehearsal.wanted",
    ),
    _model(
        "inputs",
        "--input",
        list[str],
        "[ALIAS=]NAME[:shape[:dtype]] of an input; repeatable.",
        setting="given.inputs",
    ),
    _model("outputs", "--output", list[str], "[ALIAS=]NAME of an output; repeatable.", setting="given.outputs"),
    _model(
        "pins",
        "--pin",
        list[str],
        "NAME=VALUE of a placeholder that is not an input; repeatable.",
        setting="given.pins",
        read=_pins,
    ),
    _model("signature", "--signature", str, "The signature to take, or its name.", setting="given.signature"),
    _model(
        "tags",
        "--tags",
        str,
        "The MetaGraph of a SavedModel: tags, separated by commas.",
        commands=_SIGNATURES | {"inspect"},
        setting="given.tags",
        read=lambda text: text.split(",") if text else None,
    ),
    _model(
        "graph",
        "--graph",
        Path,
        "The graph of a checkpoint without .meta.",
        commands=_SIGNATURES | {"inspect"},
        setting="given.graph",
        file="file or folder",  # a SavedModel is a folder
    ),
    _model("model", "--model", str, "Python code that builds the model: module:Model.", setting="given.model"),
    _model(
        "var_map",
        "--var-map",
        Path,
        "YAML or JSON that maps names of variables to keys.",
        setting="given.var_map",
        file="file",
    ),
    _model(
        "probe",
        "--probe",
        Path,
        "The inputs to compare on: npz, npy, json, csv or TFRecord.",
        commands=_SIGNATURES - {"predict", "probe"} | {"diff"},
        setting="probe.file",
        file="file",
    ),
    Option(
        "impure",
        "--allow-impure",
        list[Impurity],
        "What outputs may depend on besides the inputs; repeatable.",
        _PIPELINE | {"verify"},
        "given.impure",
        panel=MODEL,
        repeated=True,
    ),
    Option(
        "evaluate",
        "--evaluate",
        Path,
        "Labelled rows to measure quality on.",
        _QUALITY | {"promote"},
        "evaluate.file",
        file="file",
    ),
    Option("label", "--label", str, "The name of the labels in that file.", _QUALITY, "evaluate.label"),
    Option("steps", "--steps", int, "The final global step of training.", _PIPELINE, "training.steps"),
    Option(
        "select",
        "--select",
        str,
        "The checkpoint to ship: latest, best, or a step.",
        _PIPELINE,
        "selection.which",
        read=lambda text: int(text) if text.isdigit() else text,
    ),
    Option("refresh", "--refresh", list[str], "A step to run again, or all; repeatable.", _PIPELINE, "refresh"),
    Option(
        "also",
        "--also",
        list[Target],
        "Another form to write: saver_v2, saver_v1, keras or object_checkpoint; repeatable.",
        _SHIPPING,
        "also",
    ),
    Option(
        "no_promote",
        "--no-promote",
        bool,
        "Prove the model, but do not promote it.",
        _SHIPPING,
        "release.promote",
        read=lambda given: not given,
    ),
    Option("force", "--force", bool, "Promote a model that was rolled back.", _PROMOTING, "release.force"),
    Option(
        "waive",
        "--waive",
        list[Rule],
        "A rule of release.policy to waive, for a reason; repeatable.",
        _PROMOTING,
        "release.waive",
    ),
    Option("reason", "--reason", str, "The reason, for the journal.", _PROMOTING | {"label"}, "release.reason"),
    Option(
        "version_label",
        "--version-label",
        str,
        "The version label to move to the new version, such as canary.",
        _SHIPPING,
        "release.label",
    ),
    Option(
        "version_label",
        "--label",
        str,
        "The version label to move to the new version, such as canary.",
        _only("promote"),
        "release.label",
    ),
    Option(
        "servers",
        "--server",
        list[str],
        "A running server to confirm it in: HOST:PORT of gRPC, or HOST:PORT,REST_PORT; repeatable.",
        _SHIPPING | _OPERATING | {"status"},
        "release.servers",
    ),
    Option(
        "server_root",
        "--server-root",
        Path,
        "The serving root's path in running servers, where it is another.",
        _SHIPPING | _OPERATING,
        "release.server_root",
    ),
    Option(
        "servers",
        "--server",
        list[str],
        "A running server, whose loaded versions are kept: HOST:PORT of gRPC; repeatable.",
        _only("gc"),
        "release.servers",
    ),
    Option(
        "signing_key",
        "--signing-key",
        Path,
        "The private key (PEM) that signs the version and its evidence.",
        _PROMOTING,
        "release.signing_key",
        file="file",
    ),
    Option(
        "public_key",
        "--public-key",
        Path,
        "The public key (PEM) that must have signed what is published, or served by another command.",
        _PROMOTING | {"label", "rollback", "status", "verify-release"},
        "release.public_key",
        file="file",
    ),
    Option("remove", "--remove", bool, "Remove the label.", _only("label")),
    Option("remove", "--remove", bool, "Remove the pin.", _only("pin")),
    Option("full", "--full", bool, "Read every file, and compare it with what was promoted.", _only("status")),
    _training("start", "--from", Path, "The checkpoint to start from.", setting="training.start"),
    _training("start_step", "--from-step", int, "The step of that checkpoint.", setting="training.start_step"),
    _training(
        "batches",
        "--batches",
        Path,
        "An npz with rows for the graph's train op.",
        setting="training.batches",
        file="file",
    ),
    _training("batch_size", "--batch-size", int, "The rows of that file per step.", setting="training.batch_size"),
    _training("train_op", "--train-op", str, "The train op of the checkpoint's graph.", setting="training.train_op"),
    _training("loss", "--loss", str, "The loss of the checkpoint's graph.", setting="training.loss"),
    _training(
        "restore", "--restore", list[str], "A variable to restore, * for any; repeatable.", setting="training.restore"
    ),
    Option("to", "--to", Target, "The form to write.", _only("convert"), required=True),
    Option(
        "tolerance",
        "--tolerance",
        str,
        "ABSOLUTE[,RELATIVE]: |a-b| <= ABSOLUTE + RELATIVE*|a| for floats; RELATIVE is 0 by default.",
        _only("verify"),
        "tolerance",
        read=_tolerance,
    ),
    Option("explain", "--explain", bool, "Find the first tensor inside the graph that differs.", _only("verify")),
    Option("reproduce", "--reproduce", Path, "A folder to repeat the first difference in.", _only("verify")),
    Option("rows", "--rows", int, "The number of rows.", _only("probe"), "probe.rows", range=(1, None)),
    Option("seed", "--seed", int, "The seed to draw them with.", _only("probe"), "probe.seed", range=(0, None)),
    Option("file", "--inputs", Path, "Inputs: npz, npy, json, csv or TFRecord.", _only("predict"), required=True),
    Option("out", "--out", Path, "An npz file to write instead of JSON on stdout.", _only("predict")),
    Option(
        "quick",
        "--quick",
        bool,
        "List tensors and signatures from indexes and headers alone, at once: no guesses.",
        _only("inspect"),
    ),
    Option("tensors", "--tensors", bool, "Show the minimum, mean and maximum of each tensor.", _only("inspect")),
    Option("ops", "--ops", bool, "Show the ops by count.", _only("inspect")),
    Option("step", "--step", int, "The checkpoint of this step.", _only("inspect", "init")),
    Option("out", "--out", Path, "The file to write; must not exist.", _only("init"), default=Path("tfship.yaml")),
    Option(
        "port",
        "--port",
        int,
        "The gRPC port; 0 takes a free one.",
        _only("serve"),
        default=8500,
        range=(0, _HIGHEST_PORT),
    ),
    Option(
        "rest_port",
        "--rest-port",
        int,
        "The REST port; 0 takes a free one.",
        _only("serve"),
        default=8501,
        range=(0, _HIGHEST_PORT),
    ),
    Option("bind", "--bind", str, "The address to listen on.", _only("serve"), default="127.0.0.1"),
    Option("reason", "--reason", str, "The reason, for the journal.", _APPROVING, "release.reason", required=True),
    Option("to", "--to", int, "The version to serve again; by default the previous one.", _only("rollback")),
    Option("yes", "--yes", bool, "Delete what is shown; without it nothing is changed.", _only("gc")),
    Option(
        "keep_versions",
        "--keep-versions",
        int,
        "Delete versions of a model that are not among so many newest ones, nor in use.",
        _only("gc"),
        "retention.versions",
        range=(0, None),
    ),
    Option(
        "keep_runs",
        "--keep-runs",
        int,
        "Delete artifacts that belong neither to so many newest runs of a model nor to a version.",
        _only("gc"),
        "retention.runs",
        range=(0, None),
    ),
    Option(
        "older_than",
        "--older-than",
        str,
        "The minimum age of what is deleted from the store: 90m, 12h, 7d.",
        _only("gc"),
        default="7d",
    ),
    Option(
        "metrics",
        "--metrics",
        Path,
        "A folder for the metrics of the last run, as a Prometheus text file.",
        _PROMOTING,
        "metrics",
    ),
    Option("no_server", "--no-server", bool, "Run without any Prefect server.", _RUNNING),
    Option("as_json", "--json", bool, "Print one JSON document.", _PRINTING),
    Option("as_json", "--json", bool, "Print JSON, as without it.", _only("predict", "probe"), hidden=True),
    Option("verbose", "--verbose", bool, "Show Prefect's log and the output of child processes.", _RUNNING),
)


def of(command: str) -> list[Option]:
    """Return the options of a command."""
    return [option for option in TABLE if command in option.commands]


class Options:
    """The values of one command's options, by name; an option that the command does not take is None."""

    def __init__(self, table: Sequence[Option], values: Mapping[str, Any]) -> None:
        self._table, self._values = table, values

    def __getitem__(self, name: str) -> Any:
        return self._values.get(name)

    def settings(self, **more: Any) -> PipelineConfig:
        """Load the configuration: defaults, `--config`, the environment, these options, and `more` settings over them.

        Raises:
            UsageError: a setting or an option has a wrong value.
        """
        nested = self.nested()
        configuration.merge(nested, more)
        return configuration.load(self["config"], nested)

    def nested(self) -> dict[str, Any]:
        """Return the settings of these options alone, nested as the file is."""
        nested: dict[str, Any] = {}
        for option, value in self._given():
            if option.setting:
                *parents, last = option.setting.split(".")
                into = nested
                for parent in parents:
                    into = into.setdefault(parent, {})
                into[last] = option.read(value)
        return nested

    def repeated(self) -> list[str]:
        """Return the options that describe the source model, as words of a command line."""
        return [
            word
            for option, value in self._given()
            if option.repeated
            for one in (value if isinstance(value, list) else [value])
            for word in (option.flag, str(one))
        ]

    def _given(self) -> Iterator[tuple[Option, Any]]:
        for option in self._table:
            value = self[option.name]
            if value is not None and value is not False and value != []:
                yield option, value


def require_files(settings: PipelineConfig) -> None:
    """Raise UsageError where an option or setting names a file that does not exist, before anything starts."""
    for option in TABLE:
        path = _value(settings, option.setting) if option.file else None
        if path is not None and not path.is_file() and not (option.file == "file or folder" and path.is_dir()):
            found = "a folder" if path.is_dir() else "something else" if path.exists() else "nothing there"
            raise UsageError(f"{option.flag} {path}", "a file", found, "give the path of an existing file.")


def require_no_model_options(settings: PipelineConfig) -> None:
    """Raise UsageError where a model of Python code has options that apply only to a source model."""
    given = [
        option.flag
        for option in TABLE
        if option.source_model
        and _value(settings, option.setting)
        # Fine-tuning maps names of the checkpoint that it starts from.
        and not (option.name == "var_map" and settings.training.start)
    ]
    if given:
        remedy = f"leave {', '.join(given)} out, or give the path of a saved model."
        raise UsageError(", ".join(given), "a saved model as SOURCE", f"{settings.source}, which is code", remedy)


def _value(settings: PipelineConfig, path: str) -> Any:
    value: Any = settings
    for part in path.split("."):
        value = getattr(value, part)
    return value


def command(app: typer.Typer, name: str, function: Callable[..., int], text: str | None = None) -> None:
    """Register `function(…, options: Options)` as a command that takes its own arguments and the table's options."""
    table = of(name)
    hints = get_type_hints(function, include_extras=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "options"
    ]

    def called(**values: Any) -> int:
        given = Options(table, {option.name: values[option.name] for option in table})
        return function(**{one.name: values[one.name] for one in own}, options=given)

    parameters = own + [_parameter(option) for option in table]
    called.__doc__ = text or function.__doc__
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(name)(called)


def _parameter(option: Option) -> inspect.Parameter:
    least, most = option.range
    declared = typer.Option(
        option.flag, help=option.help, rich_help_panel=option.panel, hidden=option.hidden, min=least, max=most
    )
    flag = option.type is bool
    annotation = option.type if flag or option.required or option.default is not None else option.type | None
    default = inspect.Parameter.empty if option.required else False if flag else option.default
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, declared]
    )
