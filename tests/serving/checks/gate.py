"""Judging mutants: by the smoke_test step, and by a validator that only loads and queries, as TFX's InfraValidator does.

(tfx/components/infra_validator/executor.py: a model is blessed that becomes AVAILABLE and answers one request of each
kind without an error.)
"""

from __future__ import annotations

import ctypes
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tasks import isolate
from tasks.artifact_views import Smoked
from tasks.artifacts.store import Artifact, Recipe
from tasks.errors import DamagedError, ParityError, PipelineError, UnsafeGraph
from tasks.records.parity import ParityReport
from tasks.records.serving import Endpoint
from tasks.records.settings import Serving
from tasks.serving.checks import lifecycle
from tasks.serving.runtimes.embedded import EmbeddedRuntime, serve
from tasks.smoke_test import smoke_test
from tasks.step import Run, running
from tasks.tensors import tensor_file
from tests.makers.chain import TOLERANCE, Chain, make
from tests.makers.mutants import BY_NAME, HARMLESS, LEAK_BYTES, MUTANTS, PASSED, Mutant
from tests.silent import Silent

QUIET = {"runtime": "embedded", "latency_requests": 2}
GOOD = "good"
ASK_SECONDS = 30.0
AT_ONCE = 2


@dataclass(frozen=True)
class Verdict:
    """The gate's result for a mutant: `error` is the class, None if it passed; `said` the complete message."""

    error: str | None
    cause: str
    said: str
    seconds: float
    report: ParityReport | None


@dataclass
class Gate:
    """The smoke_test step over one exported model and its mutants, each judged once."""

    chain: Chain
    folder: Path
    verdicts: dict[str, Future[Verdict]] = field(default_factory=dict)
    asked: Future[dict[str, str]] | None = None

    @contextmanager
    def at_work(self, mutants: Iterable[Mutant]) -> Iterator[None]:
        """Judge these meanwhile, two at once: most of a verdict is waiting for a server."""
        assert self.original.refusal() is None
        assert self.spoiled
        with ThreadPoolExecutor(AT_ONCE) as pool:
            chosen = list(mutants)
            if len(chosen) == len(BY_NAME):
                self.asked = pool.submit(self._ask_all)
            for mutant in chosen:
                self.verdicts[mutant.name] = pool.submit(self._judged, mutant)
            try:
                yield
            finally:
                pool.shutdown(cancel_futures=True)

    @cached_property
    def run(self) -> Run:
        """The run that every step here belongs to."""
        return Run("mutants", self.chain.store, Silent())

    @cached_property
    def original(self) -> Artifact:
        """The smoke test of the model itself, which it passes."""
        with running(self.run):
            return smoke_test(
                self.chain.exported,
                self.chain.pinned,
                self.chain.trained,
                self.chain.frozen,
                Serving.model_validate(QUIET),
                TOLERANCE,
            )

    @cached_property
    def spoiled(self) -> dict[str, Path]:
        """Every mutant's SavedModel, as version 1 of a base path of its own."""
        older = self.folder / "older"
        shutil.copytree(
            self.chain.trained.path / "checkpoints",
            older,
            ignore=shutil.ignore_patterns(f"*-{self.chain.step}.*", "checkpoint"),
        )
        places = {name: self.folder / f"{number:03d}" / "1" for number, name in enumerate(BY_NAME)}
        for place in places.values():
            shutil.copytree(self.chain.exported.path / "saved_model", place, copy_function=shutil.copyfile)
        isolate.call(spoil, places)
        return places

    def exported(self, mutant: Mutant) -> Artifact:
        """The mutant as an export, committed with a correct manifest: hashing is not what finds it."""
        manifest = self.chain.exported.manifest
        key = f"{list(BY_NAME).index(mutant.name):020x}"
        recipe = Recipe(
            step="export", step_version=1, inputs=manifest.inputs, params={"mutant": mutant.name}, versions={}, key=key
        )
        model = self.spoiled[mutant.name]

        def build(out: Path) -> None:
            for path in self.chain.exported.path.iterdir():
                if path.name not in ("saved_model", "manifest.json"):
                    shutil.copyfile(path, out / path.name)
            shutil.copytree(model, out / "saved_model", symlinks=True, copy_function=copy_as_owner)

        return self.chain.store.build(recipe, build)

    def verdict(self, mutant: Mutant) -> Verdict:
        """Run the gate on the mutant."""
        if mutant.name not in self.verdicts:
            self.verdicts[mutant.name] = Future()
            self.verdicts[mutant.name].set_result(self._judged(mutant))
        return self.verdicts[mutant.name].result()

    def _judged(self, mutant: Mutant) -> Verdict:
        started = time.monotonic()
        error = self._judge(mutant)
        name, said = (type(error).__name__, str(error)) if error else (None, PASSED)
        report = error.report if isinstance(error, ParityError) else None
        return Verdict(name, cause_of(error), said, time.monotonic() - started, report)

    def _judge(self, mutant: Mutant) -> PipelineError | None:
        serving = Serving.model_validate(QUIET | dict(mutant.serving))
        if serving.gates.max_rss_bytes == LEAK_BYTES:  # so much more than the model itself takes
            report = Smoked(self.original.path).report()
            assert report
            peak = report.rounds[0].peak_memory
            assert peak is not None
            gates = serving.gates.model_copy(update={"max_rss_bytes": peak + LEAK_BYTES})
            serving = serving.model_copy(update={"gates": gates})
        try:
            with running(self.run):
                exported = self.exported(mutant)
                smoke_test(exported, self.chain.pinned, self.chain.trained, self.chain.frozen, serving, TOLERANCE)
        except PipelineError as error:
            return error
        return None

    @property
    def load_and_query(self) -> dict[str, str]:
        """Return what a validator finds that loads each mutant and sends one valid request."""
        if self.asked is None:
            self.asked = Future()
            self.asked.set_result(self._ask_all())
        return self.asked.result()

    def _ask_all(self) -> dict[str, str]:
        waiting = list(self.spoiled)
        said: dict[str, str] = {}
        while waiting:
            runtime = EmbeddedRuntime(("--max_num_load_retries=0",))
            base = self.chain.exported.path / "saved_model"
            home = self.folder / f"{GOOD}-{len(waiting)}"
            shutil.copytree(base, home / "1", copy_function=shutil.copyfile)
            with lifecycle.serving(runtime, GOOD, home, 1, 60.0) as (endpoint, _):
                places = {name: self.spoiled[name].parent for name in waiting}
                found = isolate.call(ask, endpoint, home, places, self.chain.trained.path, self.chain.step)
            said |= found
            waiting = [name for name in waiting if name not in said]
        return said

    def table(self) -> str:
        """A line for each mutant: ours, theirs, and in the end how many were found."""
        rows = [f"{'mutant':48} {'load and query':16} {'s':>5}  the gate: cause"]
        for mutant in (*MUTANTS, *HARMLESS):
            verdict = self.verdict(mutant)
            theirs = "passed" if self.load_and_query[mutant.name] == PASSED else "refused"
            ours = f"{verdict.error}: {verdict.cause}" if verdict.error else PASSED
            rows.append(f"{mutant.name:48} {theirs:16} {verdict.seconds:5.1f}  {ours}")
        return "\n".join([*rows, self.summary()])

    def summary(self) -> str:
        """The kill rate, and that of a validator that only loads and queries."""
        killed = sum(self.verdict(mutant).error is not None for mutant in MUTANTS)
        theirs = sum(self.load_and_query[mutant.name] != PASSED for mutant in MUTANTS)
        passed = sum(self.verdict(mutant).error is None for mutant in HARMLESS)
        return (
            f"kill rate {killed}/{len(MUTANTS)}, load-and-query {theirs}/{len(MUTANTS)};"
            f" harmless changes passed {passed}/{len(HARMLESS)}"
        )


def cause_of(error: PipelineError | None) -> str:
    """Why, in the words that a Mutant's `cause` is written in."""
    if error is None:
        return PASSED
    if isinstance(error, ParityError) and error.report.failures:
        first = error.report.failures[0]
        what = f"{first.signature}/{first.output}" if first.signature else first.output
        return f"{first.candidate} {what} {first.test.value}"
    if isinstance(error, (UnsafeGraph, DamagedError)):  # what needed no server
        return error.found
    return error.cause.value if error.cause else error.found


def copy_as_owner(source: str, target: str) -> None:
    """Copy a file and its mode, as its owner can even where nobody may read it."""
    mode = Path(source).lstat().st_mode
    if not Path(source).is_symlink():
        Path(source).chmod(mode | 0o400)
    shutil.copy2(source, target, follow_symlinks=False)
    for path in (Path(source), Path(target)):
        if not path.is_symlink():
            path.chmod(mode)


def spoil(places: dict[str, Path]) -> None:
    """In a child: make each mutant in its place."""
    for name, place in places.items():
        try:
            BY_NAME[name].spoil(place)
        except Exception as error:
            raise AssertionError(f"the mutant {name!r} was not made: {error!r}") from error


def ask(endpoint: Endpoint, home: Path, places: dict[str, Path], run: Path, step: int) -> dict[str, str]:
    """In a child: load each and send the probe's first row; all that was found until the server ended."""
    import grpc
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    from tasks.baseline.reference import Reference
    from tasks.parity import compare
    from tasks.serving.clients.grpc import AnsweredError, GrpcPredictor

    reference = Reference.read(run, step)
    signatures = {signature.key: signature for signature in reference.names.signatures}
    row = compare.first_rows(tensor_file.select(reference.probe, "serving_default"), 1)
    said: dict[str, str] = {}
    for name, place in places.items():
        request = model_management_pb2.ReloadConfigRequest()
        served = f"mutant-{place.name}"  # a name that was served before would keep its version 1
        for called, base in ((GOOD, home), (served, place)):
            request.config.model_config_list.config.add(name=called, base_path=str(base), model_platform="tensorflow")
        predictor = GrpcPredictor(endpoint, served, signatures, ASK_SECONDS)
        try:
            service = model_service_pb2_grpc.ModelServiceStub(predictor.channel)
            answer = service.HandleReloadConfigRequest(request, timeout=ASK_SECONDS)
            if answer.status.error_code:
                said[name] = answer.status.error_message
            else:
                predictor.predict("serving_default", row)
                said[name] = PASSED
        except AnsweredError as error:
            said[name] = str(error)
        except grpc.RpcError as error:
            said[name] = f"{error.code().name}: {error.details()}"
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                return said  # the server is gone, or will be busy for ever
        except PipelineError as error:
            said[name] = str(error)
            return said
        finally:
            predictor.close()
    return said


def serve_unprivileged(arguments: list[str]) -> int:
    """In a child: the embedded server without root's leave to read every file (capset(2), version 3: 64 bits)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
    return serve(arguments)


def main() -> None:
    """Judge all and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            gate = Gate(make(Path(folder) / "chain"), Path(folder))
            with gate.at_work((*MUTANTS, *HARMLESS)):
                print(gate.table())
        finally:
            isolate.shutdown()
