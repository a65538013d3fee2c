"""The rollback flow: serves an earlier version again, and holds the later ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows import config as configuration
from tasks import rollback as releases
from tasks.records.release import JournalLine
from tasks.releases.publish import require_promoted


@flow(name="rollback", flow_run_name="{name}", validate_parameters=True)
def rollback(
    name: Annotated[str, Field(description="The model.")],
    reason: Annotated[str, Field(description="The reason, for the journal.")],
    to: Annotated[int | None, Field(description="The version to serve again; by default the previous one.")] = None,
    servers: Annotated[
        list[str] | None,
        Field(description="Running servers to see it served in: HOST:PORT of gRPC, or HOST:PORT,REST_PORT."),
    ] = None,
    serving_root: Annotated[Path | None, Field(description="The folder that model servers read.")] = None,
    config: Annotated[Path | None, Field(description="A YAML file of settings, as of tfship run --config.")] = None,
) -> JournalLine:
    """Serve an earlier version of a model again, once it is shown to be whole and to load; hold the later ones."""
    release = {"reason": reason, "servers": servers}
    settings = configuration.load(config, {"name": name, "serving_root": serving_root, "release": release})
    require_promoted(settings.serving_root, name)
    return releases.rollback(settings.promotion, to, settings.servings[0], f"rollback-{settings.name}")
