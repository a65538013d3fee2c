"""The rollback flow: serves an earlier version again, and holds the later ones."""

from pathlib import Path

from prefect import flow

from flows import config as configuration
from flows import events
from tasks import rollback as releases
from tasks.records.release import JournalLine
from tasks.releases.publish import require_promoted


# What Prefect shows of each parameter is from the docstring; it resolves no annotation that is text (PEP 563).
@flow(name="rollback", flow_run_name="{name}", validate_parameters=True)
def rollback(
    name: str,
    reason: str,
    to: int | None = None,
    servers: list[str] | None = None,
    serving_root: Path | None = None,
    config: Path | None = None,
) -> JournalLine:
    """Serve an earlier version of a model again, once it is shown to be whole and to load; hold the later ones.

    Args:
        name: The model.
        reason: The reason, for the journal.
        to: The version to serve again; by default the previous one.
        servers: Running servers to see it served in: HOST:PORT of gRPC, or HOST:PORT,REST_PORT.
        serving_root: The folder that model servers read.
        config: A YAML file of settings, as of tfship run --config.
    """
    release = {"reason": reason, "servers": servers}
    settings = configuration.load(config, {"name": name, "serving_root": serving_root, "release": release})
    require_promoted(settings.serving_root, name)
    line = releases.rollback(settings.promotion, to, settings.servings[0], f"rollback-{settings.name}")
    events.rolled_back(name, line)
    return line
