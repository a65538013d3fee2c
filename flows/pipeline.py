"""The order of the steps. Nothing here imports Prefect, so that a plan can be made without it."""

from __future__ import annotations

from functools import partial

from flows.config import PipelineConfig
from tasks.adopt import adopt
from tasks.artifact_views import Restored
from tasks.checkpoint import checkpoint
from tasks.convert import convert
from tasks.export import export
from tasks.freeze import freeze
from tasks.promote import promote
from tasks.rehearse import rehearse
from tasks.releases import signing
from tasks.restore_verify import restore_verify
from tasks.smoke_test import smoke_test
from tasks.step import Reached, Run, together
from tasks.train import assist, train


def pipeline(config: PipelineConfig, run: Run) -> None:
    """Call the steps of `run` in order; Reached ends them early."""
    if config.until is None:
        signing.require_for(config.promotion)  # not after days of training
    files = config.files
    start = config.training.start
    if run.cluster.index:
        assist(config.model if files is None else None, config.training, config.given, config.probe)
        raise Reached  # the chief goes on
    if files is None:
        trained = train(
            config.model, config.training, **({"given": config.given} if start or config.given.impure else {})
        )
    elif start is not None:
        trained = train(None, config.training, config.given, config.probe)
    else:
        trained = adopt(files, config.given, config.probe, config.training.session, config.code)
    pinned = checkpoint(trained, config.selection)
    verified = restore_verify(pinned, trained, config.tolerance, config.evaluate)
    limits = Restored(verified.path).limits(config.tolerance)
    if config.also:
        code = config.model if files is None else config.code
        convert(pinned, verified, trained, config.also, files, code, limits)
    forms = {
        "freeze": lambda: freeze(pinned, verified, trained, limits),
        "export": lambda: export(pinned, verified, trained, limits),
    }
    if config.until in forms:
        forms[config.until]()
    frozen, exported = together(forms["freeze"], forms["export"])
    test = partial(smoke_test, exported, pinned, trained, frozen)
    servers = [partial(test, serving, limits) for serving in config.servings]
    blessed, *_ = together(*servers, at_once=config.at_once)
    serving, served = config.servings[0], config.serving_root / config.model_name
    if config.rehearsal.wanted:
        rehearse(exported, blessed, pinned, trained, serving, served, config.rehearsal.window)
    run.promotion = promote(exported, blessed, pinned, trained, config.promotion, serving, limits, config.evaluate)
