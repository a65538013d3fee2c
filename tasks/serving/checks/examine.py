"""What a smoke test asks of a running server, of any runtime alike. Runs in a child: the protos import TensorFlow.

An order in which the first surprise is the most telling one: versions and signatures, then every answer, then what must
be refused, and after that the same answers again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tasks.baseline.reference import Reference
from tasks.parity import compare
from tasks.records.base import Record
from tasks.records.parity import ParityReport, ParityRow, Tolerance, worst_of
from tasks.records.serving import Cause, Check, Endpoint, Latency
from tasks.records.settings import Serving
from tasks.records.signature import Method
from tasks.serving.checks import latency, refusals
from tasks.serving.checks.requests import Asked, compared, questions
from tasks.serving.clients.grpc import AnsweredError, GrpcPredictor, reaching, status
from tasks.serving.clients.rest import RestPredictor


class Findings(Record):
    """What the questions to a running server gave."""

    parity: ParityReport
    checks: tuple[Check, ...]
    latency: tuple[Latency, ...]


def examine(
    endpoint: Endpoint,
    name: str,
    version: int,
    reference: Reference,
    serving: Serving,
    tolerance: Tolerance,
    largest: int | None,
) -> Findings:
    """Ask everything; stop asking where an answer is wrong already.

    Raises:
        ChildFailed: the server did not answer.
    """
    with Asker(endpoint, name, version, reference, serving) as asker:
        checks = [*asker.versions(), *asker.signatures()]
        rows: list[ParityRow] = []
        measured: list[Latency] = []
        if all(check.passed for check in checks):
            asked = [one for protocol in asker.protocols for one in questions(protocol, reference, largest)]
            rows = worst_of(row for one in asked for row in compared(one, tolerance))
            if not ParityReport(rows=tuple(rows)).failures:
                checks += [*asker.filtered(asked), *asker.must_be_refused(asked)]
                rows = worst_of([*rows, *(row for one in asked for row in compared(one, tolerance))])
                measured, together, failed = _measured(asker, asked, rows, serving, tolerance)
                rows, checks = [*rows, *together], [*checks, *failed]
            checks += asker.versions_that_answered()
        return Findings(
            parity=ParityReport(baseline=reference.baseline.form, rows=tuple(rows)),
            checks=tuple(checks),
            latency=tuple(measured),
        )


def _measured(
    asker: Asker, asked: list[Asked], rows: list[ParityRow], serving: Serving, tolerance: Tolerance
) -> tuple[list[Latency], list[ParityRow], list[Check]]:
    """Latency of every signature at its smallest and largest batch, `serving_default` first; then all at once.

    An error after all these answers is one more answer, and a wrong one.
    """
    not_carried = {(row.candidate, row.signature) for row in rows if row.passed is None and row.output == "*"}
    asked = [one for one in asked if (one.form, one.signature.key) not in not_carried]
    measured: list[Latency] = []
    together: list[ParityRow] = []
    for protocol in asker.protocols:
        mine = [one for one in asked if one.predictor is protocol]
        try:
            measured += latency.one_at_a_time(list(_smallest_and_largest(mine)), serving.latency_requests)
        except AnsweredError as error:
            check = Check(
                protocol=protocol.form.removeprefix("served ").strip("()"),
                case="the same request again",
                expected="the same answer",
                answered=str(error)[:300],
                passed=False,
                cause=Cause.ANSWER_DIFFERS,
            )
            return measured, together, [check]
        if mine:
            found, at_once = latency.at_once(mine, serving.latency_requests, tolerance)
            together += found
            measured.append(at_once)
    return measured, together, []


def _smallest_and_largest(asked: Sequence[Asked]) -> Iterator[Asked]:
    for key in sorted({one.signature.key for one in asked}, key=lambda key: (key != "serving_default", key)):
        sizes = {one.rows: one for one in asked if one.signature.key == key}
        yield from (sizes[rows] for rows in sorted({min(sizes), max(sizes)}))


class Asker:
    """A server's address with a client for each protocol; closes them."""

    def __init__(self, endpoint: Endpoint, name: str, version: int, reference: Reference, serving: Serving) -> None:
        self.endpoint, self.name, self.version, self.reference = endpoint, name, version, reference
        self.seconds = serving.request_timeout
        signatures = {signature.key: signature for signature in reference.names.signatures}
        predicts = {key: signature for key, signature in signatures.items() if signature.method is Method.PREDICT}
        self.grpc = GrpcPredictor(endpoint, name, signatures, self.seconds)
        self.rest = RestPredictor(endpoint, name, signatures, self.seconds)
        self.rows = RestPredictor(endpoint, name, predicts, self.seconds, by_row=True)
        self.protocols = (self.grpc, self.rest, self.rows)

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        for protocol in self.protocols:
            protocol.close()

    def versions(self) -> Iterator[Check]:
        """The version under test is AVAILABLE, and no other one."""
        expected = f"version {self.version} AVAILABLE, no other"
        for protocol, states in (
            ("gRPC", self.grpc.status()),
            ("REST", {number: state for number, (state, _) in status(self.endpoint, self.name, self.seconds).items()}),
        ):
            answered = ", ".join(f"version {number} {state}" for number, state in sorted(states.items())) or "none"
            yield Check(
                protocol=protocol,
                case="status",
                expected=expected,
                answered=answered,
                passed=states == {self.version: "AVAILABLE"},
                cause=Cause.VERSION_DIFFERS,
            )

    def signatures(self) -> Iterator[Check]:
        """The signatures that the server reports are those of the live model."""
        for protocol, reported in (("gRPC", self.grpc.metadata()), ("REST", self.rest.metadata())):
            difference = compare.signature_difference(self.reference.names.signatures, reported)
            yield Check(
                protocol=protocol,
                case="metadata",
                expected="the signatures of the live model",
                answered=difference or "these",
                passed=not difference,
                cause=Cause.SIGNATURE_DIFFERS,
            )

    def versions_that_answered(self) -> Iterator[Check]:
        """The served version in the `model_spec` of every answer over gRPC, of any method; REST's answers have none."""
        if self.grpc.versions:
            yield Check(
                protocol="gRPC",
                case="model_spec of the answers",
                expected=f"version {self.version}",
                answered=", ".join(f"version {number}" for number in sorted(self.grpc.versions)),
                passed=self.grpc.versions == {self.version},
                cause=Cause.VERSION_DIFFERS,
            )

    def filtered(self, asked: Sequence[Asked]) -> Iterator[Check]:
        """An `output_filter` brings the output that it names, and no other; asked where there are others.

        Where no signature has several outputs, that a filter is looked at shows in the refusal of an unknown output.
        """
        predicts = [one for one in asked if one.predictor is self.grpc and one.signature.method is Method.PREDICT]
        one = max(predicts, key=lambda one: len(one.signature.outputs), default=None)
        if one is None or len(one.signature.outputs) == 1:
            return
        request = self.grpc.request(one.signature.key, one.inputs)
        wanted = min(one.signature.outputs)
        request.output_filter.append(wanted)
        try:
            with reaching("gRPC", self.seconds):
                answered = ", ".join(sorted(self.grpc.service.Predict(request, timeout=self.seconds).outputs))
        except AnsweredError as error:
            answered = str(error)[:200]
        yield Check(
            protocol="gRPC",
            case=f"output_filter {wanted}",
            expected=wanted,
            answered=answered,
            passed=answered == wanted,
            cause=Cause.ANSWER_DIFFERS,
        )

    def must_be_refused(self, asked: Sequence[Asked]) -> Iterator[Check]:
        """What no server may answer, made from a good request: to a Predict signature with inputs where there is one."""
        good = min(
            (one for one in asked if one.predictor is self.grpc),
            key=lambda one: (one.signature.method is not Method.PREDICT, not one.signature.inputs, one.rows),
        )
        yield from refusals.over_rest(self.rest, good, self.version)
        yield from refusals.over_grpc(self.grpc, good, self.version)
