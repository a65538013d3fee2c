"""Steps: a builder function becomes an idempotent step, and a Prefect task in a flow.

    @step(version=1)
    def freeze(checkpoint: Artifact, signature: str, out: Path) -> None: ...

    frozen = freeze(pinned, "serving_default")     # an Artifact: built now, or found in the store and verified

The key is the hash of the step's name and version, the digests of its input artifacts and its other arguments.
The store decides what is cached. Prefect only shows it: inside a flow run, a call is a task run, `Cached` on a hit.
"""

from __future__ import annotations

import contextvars
import functools
import hashlib
import importlib.metadata
import inspect
import json
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from pydantic import BaseModel

from tasks import isolate
from tasks.artifacts.staging import remove_tree
from tasks.artifacts.store import Artifact, Recipe, Store
from tasks.errors import ChildFailed, EnvironmentFailure, HeldError, PipelineError, UsageError
from tasks.isolate import Limits
from tasks.isolate.server import transferred
from tasks.records.cluster import Cluster
from tasks.records.cost import Cost
from tasks.records.run import Promotion, StepOutcome, StepState

P = ParamSpec("P")
T = TypeVar("T")

_WAIT_SECONDS = 0.1
_THREAD = "/proc/thread-self"


class Observer(Protocol):
    """Receiver of a run's progress."""

    def started(self, name: str) -> None:
        """Show that a step began."""
        ...

    def progress(self, name: str, facts: Mapping[str, Any]) -> None:
        """Show the progress of a step."""
        ...

    def ended(self, outcome: StepOutcome) -> None:
        """Show how a step ended."""
        ...


class Reached(Exception):  # noqa: N818 - no error: the run ends as requested
    """The run has reached its last step, and ends early."""


_A_WEEK = Limits(seconds=7 * 86400.0)


@dataclass
class Run:
    """State shared by the steps of one run.

    `refresh` holds names of steps to build anew, or `all`. `training` limits the training child; other children are held
    to `isolate.limits`. `until` is the step after which the run ends. A `planner` is called instead of the steps, and
    nothing is built. `cluster` holds the workers that train together. `artifacts` holds the committed artifact of each
    step, refused ones too; `failures` holds the errors of the others, by step. `stopped` is the interruption that is ending
    the run: an error of a step is then its consequence. `before_step` is called before each step, and may end the run.
    """

    run_id: str
    store: Store
    observer: Observer
    refresh: frozenset[str] = frozenset()
    training: Limits = _A_WEEK
    until: str | None = None
    planner: Callable[[Recipe, bool], Artifact] | None = None
    cluster: Cluster = field(default_factory=Cluster)
    outcomes: list[StepOutcome] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    failures: list[tuple[str, PipelineError]] = field(default_factory=list)
    promotion: Promotion | None = None
    stopped: BaseException | None = None
    before_step: Callable[[], None] = lambda: None

    def keep(self, name: str, artifact: Artifact) -> None:
        """Record the artifact of a step; under `NAME 2` and on where a run calls the step more than once."""
        others = sum(noted.partition(" ")[0] == name for noted in self.artifacts)
        self.artifacts[f"{name} {others + 1}" if others else name] = artifact

    def end(self, outcome: StepOutcome) -> None:
        """Record how a step ended and show it."""
        self.outcomes.append(outcome)
        self.observer.ended(outcome)


_current: contextvars.ContextVar[Run] = contextvars.ContextVar("run")
_step_name: contextvars.ContextVar[str] = contextvars.ContextVar("step_name", default="")


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Make steps that are called inside the block belong to this run."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)


def current() -> Run:
    """Return the run that the calling step belongs to."""
    return _current.get()


def progress(facts: Mapping[str, Any]) -> None:
    """Show the progress of the calling step: pass this to `isolate.call_with(on_progress=…)`."""
    current().observer.progress(_step_name.get(), facts)


class _Clock:
    """Measures what a step takes, in its own thread and in its children."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.own: Cost | None = None
        self.children: list[Cost] = []

    def __enter__(self) -> None:
        self.before = time.thread_time(), *transferred(_THREAD)
        self.collecting = isolate.costs()
        self.children = self.collecting.__enter__()

    def __exit__(self, *error: Any) -> None:
        self.collecting.__exit__(*error)
        after = time.thread_time(), *transferred(_THREAD)
        seconds, read, written = (now - then for now, then in zip(after, self.before, strict=True))
        self.own = Cost(process="flow", cpu_seconds=round(seconds, 3), read=int(read), written=int(written))

    def taken(self) -> dict[str, Any]:
        """Return the fields of a StepOutcome that tell what was taken until now."""
        own = [self.own] if self.own is not None else []
        return {"seconds": round(time.monotonic() - self.began, 3), "costs": (*own, *self.children)}


@dataclass(frozen=True)
class Facts:
    """Values that a key depends on besides the arguments.

    `digestible` is False where something cannot be digested; the step is then never taken from the store.
    """

    values: Mapping[str, Any]
    digestible: bool = True


def tensorflow_version() -> str:
    """Return the installed TensorFlow's version, without importing it."""
    return importlib.metadata.version("tensorflow")


class Step(Generic[P]):
    """A builder function as an idempotent step. A call returns the committed Artifact, or raises its refusal."""

    def __init__(
        self,
        builder: Callable[..., None],
        version: int,
        *,
        resumes: bool,
        verifies: bool,
        facts: Callable[..., Facts] | None,
    ) -> None:
        functools.update_wrapper(self, builder)
        self.name = builder.__name__
        self.builder, self.version, self.resumes, self.verifies, self.facts = builder, version, resumes, verifies, facts
        parameters = list(inspect.signature(builder).parameters.values())
        if parameters[-1].name != "out" or any(parameter.name == "facts" for parameter in parameters):
            raise TypeError(f"{self.name}: the last parameter is `out`, and none is called `facts`")
        self.signature = inspect.Signature(parameters[:-1])  # all but `out`

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Artifact:
        """Return the artifact, built now or found in the store and verified. Raises the refusal that the artifact records."""
        run = current()
        if run.planner is not None:
            return run.planner(*self.recipe(*args, **kwargs))
        artifact: Artifact = _shown_in_prefect(self.name, functools.partial(self._run, *args, **kwargs))
        if run.until == self.name:
            raise Reached
        return artifact

    def recipe(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Recipe, bool]:
        """Return the recipe of this call with its key, and True if its artifact may be taken from the store."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        inputs = {name: value.digest for name, value in bound.arguments.items() if isinstance(value, Artifact)}
        params = {name: _json(value) for name, value in bound.arguments.items() if not isinstance(value, Artifact)}
        facts = self.facts(**bound.arguments) if self.facts else Facts({})
        params["facts"] = _json(facts.values)
        if self.verifies:
            params["facts"]["tensorflow"] = tensorflow_version()
        try:
            identity = json.dumps([self.name, self.version, inputs, params], sort_keys=True, ensure_ascii=False)
            key = hashlib.sha256(identity.encode()).hexdigest()[:20]
        except UnicodeEncodeError as error:
            remedy = "rename it; manifests are UTF-8."
            raise UsageError(self.name, "text as parameters", repr(error.object), remedy) from None
        versions = {"python": platform.python_version(), "tensorflow": tensorflow_version()}
        recipe = Recipe(
            step=self.name, step_version=self.version, inputs=inputs, params=params, versions=versions, key=key
        )
        return recipe, facts.digestible

    def _run(self, *args: P.args, **kwargs: P.kwargs) -> tuple[Artifact, StepOutcome]:
        run = current()
        token = _step_name.set(self.name)
        clock = _Clock()
        try:
            run.before_step()
            run.observer.started(self.name)
            with clock:
                artifact, state = self._find_or_build(run, *args, **kwargs)
            run.keep(self.name, artifact)
            refusal = artifact.refusal()
        except BaseException as error:
            if isinstance(error, PipelineError) and not run.stopped:
                run.failures.append((self.name, error))
            run.end(_failure(self.name, clock, run.stopped or error))
            raise
        finally:
            _step_name.reset(token)
        outcome = StepOutcome(
            name=self.name,
            state=StepState.FAILED if refusal else state,
            **clock.taken(),
            artifact=str(artifact.path),
            digest=artifact.digest,
            message=str(refusal).splitlines()[0] if refusal else "",
        )
        run.end(outcome)
        if refusal:
            raise refusal
        return artifact, outcome

    def _find_or_build(self, run: Run, *args: P.args, **kwargs: P.kwargs) -> tuple[Artifact, StepState]:
        recipe, digestible = self.recipe(*args, **kwargs)
        refresh = bool({self.name, "all"} & run.refresh) or not digestible
        if not refresh and (hit := run.store.find(self.name, recipe.key)) and run.store.hold(hit):
            return hit, StepState.CACHED

        def waiting() -> None:
            if run.stopped:
                raise run.stopped
            run.observer.progress(self.name, {"waiting": f"another process builds {self.name} {recipe.key}"})

        with run.store.lock(self.name, recipe.key, waiting):
            if not refresh and (hit := run.store.find_locked(self.name, recipe.key)) and run.store.hold(hit):
                return hit, StepState.CACHED
            built = run.store.build(
                recipe,
                lambda out: self._build(recipe.key, out, *args, **kwargs),
                resumes=self.resumes,
                refresh=refresh,  # a build that cannot be digested cannot be resumed either
            )
            run.store.hold(built)
        return built, StepState.BUILT

    def _build(self, key: str, out: Path, *args: P.args, **kwargs: P.kwargs) -> None:
        """Build, and raise if the key has changed meanwhile: an edit during the build would be stored under a wrong key."""
        try:
            self.builder(*args, **kwargs, out=out)
        except (EnvironmentFailure, ChildFailed) as error:
            if error.function is None:
                raise
            # The child's error names a function; the user knows the step.
            raise error.changed(where=f"{self.name}, in {current().store.root}") from error
        if self.recipe(*args, **kwargs)[0].key != key:
            remove_tree(out)
            raise PipelineError(self.name, "sources and data that do not change", "a change while it ran", "run again.")


def step(
    *,
    version: int,
    resumes: bool = False,
    verifies: bool = False,
    facts: Callable[..., Facts] | None = None,
) -> Callable[[Callable[..., None]], Step[...]]:
    """Make a builder `(artifacts and records…, out: Path) -> None` a step.

    Args:
        version: Changes when the same inputs must give another output.
        resumes: Keep what an interrupted build left.
        verifies: Build again when TensorFlow's version changes.
        facts: Takes the builder's arguments and returns what else the key depends on.
    """

    # `Step[...]`: a ParamSpec cannot take the last parameter away, and callers do not give `out`.
    def wrap(builder: Callable[..., None]) -> Step[...]:
        return Step(builder, version, resumes=resumes, verifies=verifies, facts=facts)

    return wrap


def action(function: Callable[P, tuple[T, StepState]]) -> Callable[P, T]:
    """Make a function that acts on the world outside the store a step that always runs.

    The function returns its value and its state. It must be idempotent by checking what is already done.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if current().planner is not None:  # a plan changes nothing, and ends before what would
            raise Reached
        return _shown_in_prefect(function.__name__, functools.partial(perform, *args, **kwargs))

    def perform(*args: P.args, **kwargs: P.kwargs) -> tuple[T, StepOutcome]:
        run, name, clock = current(), function.__name__, _Clock()
        token = _step_name.set(name)
        try:
            run.before_step()
            run.observer.started(name)
            with clock:
                value, state = function(*args, **kwargs)
        except BaseException as error:
            run.end(_failure(name, clock, error))
            raise
        finally:
            _step_name.reset(token)
        outcome = StepOutcome(name=name, state=state, **clock.taken())
        run.end(outcome)
        return value, outcome

    return call


def together(*calls: Callable[[], T], at_once: int | None = None) -> list[T]:
    """Run independent steps concurrently, at most `at_once` of them. All end before the first error, in order, is raised.

    An interruption ends the children of every call at once.
    """
    run = _current.get(None)
    submitted = threading.Event()
    stopped: list[BaseException] = []

    def perform(call: Callable[[], T]) -> T:
        submitted.wait()
        if stopped:
            raise stopped[0]
        return call()

    with ThreadPoolExecutor(at_once or max(1, len(calls))) as pool:
        futures: list[Future[T]] = []
        try:
            for call in calls:
                futures.append(pool.submit(contextvars.copy_context().run, perform, call))
            submitted.set()
            # Not one wait without an end: the kernel may hand a signal to another thread, and this one would handle it only
            # when it wakes.
            while wait(futures, timeout=_WAIT_SECONDS).not_done:
                pass
            # Reached comes last, so that it hides no failure of another call.
            for error in sorted(filter(None, map(Future.exception, futures)), key=lambda e: isinstance(e, Reached)):
                raise error
            return [future.result() for future in futures]
        except Exception:
            raise
        except BaseException as error:
            stopped.append(error)
            if run is not None:
                run.stopped = error
            submitted.set()
            while wait(futures, timeout=_WAIT_SECONDS).not_done:
                isolate.shutdown()  # again: a call that was between two children starts the next one in a new server
            raise


def _failure(name: str, clock: _Clock, error: BaseException) -> StepOutcome:
    if isinstance(error, PipelineError):
        message = str(error).splitlines()[0]
    elif isinstance(error, Exception):
        message = type(error).__name__
    else:
        message = "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
    state = StepState.HELD if isinstance(error, HeldError) else StepState.FAILED
    return StepOutcome(name=name, state=state, message=message, **clock.taken())


def _json(value: Any) -> Any:
    """Return an argument as JSON. Raises TypeError for other types: their text may hold an address and change the key."""
    return json.loads(json.dumps(value, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, Artifact):
        return value.digest
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"a step's parameter is JSON, a path or a record, not {value!r}")


def _shown_in_prefect(name: str, work: Callable[[], tuple[T, StepOutcome]]) -> T:
    """Do the work, as a Prefect task run where a flow run is in progress."""
    if "prefect" not in sys.modules:
        return work()[0]
    from prefect import task
    from prefect.cache_policies import NO_CACHE
    from prefect.client.schemas.objects import State
    from prefect.context import FlowRunContext
    from prefect.states import Completed

    if FlowRunContext.get() is None:
        return work()[0]
    values: list[T] = []

    def body() -> State[None]:
        value, outcome = work()
        values.append(value)
        label = {StepState.BUILT: None, StepState.CACHED: "Cached"}.get(outcome.state, outcome.state.capitalize())
        return Completed(name=label, message=outcome.artifact or outcome.state)

    # Prefect's own cache hashes path strings and can hand back a path whose file is gone: it stays off.
    task(name=name, cache_policy=NO_CACHE, persist_result=False)(body)()
    return values[0]
