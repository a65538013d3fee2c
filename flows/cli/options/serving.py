"""The options that say how a model is served in its test, shared by the commands that serve it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks.records.settings import RuntimeChoice

_PANEL = "The server of the smoke test"
OPTIONS = (
    "runtime",
    "image",
    "load_timeout",
    "max_p99_ms",
    "max_load_s",
    "max_rss_mb",
    "model_config_file",
    "batching_parameters_file",
    "monitoring_config_file",
    "rehearse",
)

Runtime = Annotated[RuntimeChoice | None, typer.Option(help="Which server to test in.", rich_help_panel=_PANEL)]
Images = Annotated[
    list[str] | None, typer.Option("--image", help="A docker image to test in; repeatable.", rich_help_panel=_PANEL)
]
LoadTimeout = Annotated[float | None, typer.Option(help="Seconds until it must be AVAILABLE.", rich_help_panel=_PANEL)]
MaxP99 = Annotated[float | None, typer.Option("--max-p99-ms", help="Refuse a p99 above this.", rich_help_panel=_PANEL)]
MaxLoad = Annotated[
    float | None, typer.Option("--max-load-s", help="Refuse a load that takes longer.", rich_help_panel=_PANEL)
]
MaxRss = Annotated[
    float | None, typer.Option("--max-rss-mb", help="Refuse a server that grows beyond (MiB).", rich_help_panel=_PANEL)
]
ModelConfig = Annotated[Path | None, typer.Option(help="Production's file of models.", rich_help_panel=_PANEL)]
Batching = Annotated[
    Path | None, typer.Option(help="Production's batching; tested with and without.", rich_help_panel=_PANEL)
]
Monitoring = Annotated[Path | None, typer.Option(help="Production's monitoring.", rich_help_panel=_PANEL)]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="Change to the new version under traffic, beside production.", rich_help_panel=_PANEL
    ),
]


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the options say, nested as the configuration is.

    Raises:
        UsageError: an image is named for a runtime that has none.
    """
    option = given.get
    for image in option("image") or ():
        from tasks.serving.runtimes import choose

        choose.require_docker_for(image, option("runtime"))
    megabytes = option("max_rss_mb")
    return {
        "serving": {
            "runtime": option("runtime"),
            "load_timeout": option("load_timeout"),
            "model_config_file": option("model_config_file"),
            "batching_parameters_file": option("batching_parameters_file"),
            "monitoring_config_file": option("monitoring_config_file"),
            "gates": {
                "max_p99_ms": option("max_p99_ms"),
                "max_load_seconds": option("max_load_s"),
                "max_rss_bytes": None if megabytes is None else int(megabytes * 2**20),
            },
        },
        "images": option("image") or None,
        "rehearsal": {"wanted": option("rehearse") or None},
    }
