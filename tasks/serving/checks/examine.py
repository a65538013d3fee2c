"""Check a running server, of any runtime. Runs in a child: the protos import TensorFlow.

The order makes the first failure the most telling one: versions and signatures, then every answer, then requests that
must be refused, and after these the same answers again.
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
from tasks.serving.checks.requests import KnownRequest, compare_answers, known_requests
from tasks.serving.clients.grpc import AnsweredError, GrpcPredictor, status
from tasks.serving.clients.rest import RestPredictor


class Findings(Record):
    """Results of the checks of a running server."""

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
    clients: int,
) -> Findings:
    """Run every check, stopping after the first group with a wrong answer.

    `largest` is the most rows of a request (None: no limit), `clients` the number of requests in flight at once.

    Raises:
        ChildFailed: the server did not answer.
    """
    with ServerChecks(endpoint, name, version, reference, serving) as server:
        checks = [*server.versions(), *server.signatures()]
        rows: list[ParityRow] = []
        measured: list[Latency] = []
        if all(check.passed for check in checks):
            requests = [one for protocol in server.protocols for one in known_requests(protocol, reference, largest)]
            rows = worst_of(row for one in requests for row in compare_answers(one, tolerance))
            if not ParityReport(rows=tuple(rows)).failures:
                checks += [*server.filtered(requests), *server.must_be_refused(requests)]
                rows = worst_of([*rows, *(row for one in requests for row in compare_answers(one, tolerance))])
                measured, together, failed = _measured(server, requests, rows, serving, tolerance, clients)
                rows, checks = [*rows, *together], [*checks, *failed]
            checks += server.versions_that_answered()
        return Findings(
            parity=ParityReport(baseline=reference.baseline.form, rows=tuple(rows)),
            checks=tuple(checks),
            latency=tuple(measured),
        )


def _measured(
    server: ServerChecks,
    requests: list[KnownRequest],
    rows: list[ParityRow],
    serving: Serving,
    tolerance: Tolerance,
    clients: int,
) -> tuple[list[Latency], list[ParityRow], list[Check]]:
    """Measure every signature at its smallest and largest batch, `serving_default` first; then all at once.

    An error to a request that was answered before is a failed check.
    """
    not_carried = {(row.candidate, row.signature) for row in rows if row.passed is None and row.output == "*"}
    requests = [one for one in requests if (one.form, one.signature.key) not in not_carried]
    measured: list[Latency] = []
    together: list[ParityRow] = []
    of_protocol = {protocol: [one for one in requests if one.predictor is protocol] for protocol in server.protocols}
    alone = {protocol: list(_smallest_and_largest(mine)) for protocol, mine in of_protocol.items()}
    budget = latency.Budget(serving.latency_seconds, sum(len(one) + bool(one) for one in alone.values()))
    for protocol, mine in of_protocol.items():
        try:
            measured += latency.one_at_a_time(alone[protocol], serving.latency_requests, budget)
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
            found, at_once = latency.at_once(mine, serving.latency_requests, tolerance, clients, budget)
            together += found
            measured.append(at_once)
    return measured, together, []


def _smallest_and_largest(requests: Sequence[KnownRequest]) -> Iterator[KnownRequest]:
    for key in sorted({one.signature.key for one in requests}, key=lambda key: (key != "serving_default", key)):
        sizes = {one.rows: one for one in requests if one.signature.key == key}
        yield from (sizes[rows] for rows in sorted({min(sizes), max(sizes)}))


class ServerChecks:
    """Checks of one server, with a client for each protocol. A context manager that closes the clients."""

    def __init__(self, endpoint: Endpoint, name: str, version: int, reference: Reference, serving: Serving) -> None:
        self.endpoint, self.name, self.version, self.reference = endpoint, name, version, reference
        self.seconds = serving.request_timeout
        signatures = {signature.key: signature for signature in reference.names.signatures}
        predicts = {key: signature for key, signature in signatures.items() if signature.called_by is Method.PREDICT}
        self.grpc = GrpcPredictor(endpoint, name, signatures, self.seconds)
        self.rest = RestPredictor(endpoint, name, signatures, self.seconds)
        self.rows = RestPredictor(endpoint, name, predicts, self.seconds, by_row=True)
        self.protocols = (self.grpc, self.rest, self.rows)

    def __enter__(self) -> ServerChecks:
        return self

    def __exit__(self, *_: object) -> None:
        for protocol in self.protocols:
            protocol.close()

    def versions(self) -> Iterator[Check]:
        """Check that the version under test is AVAILABLE, and no other."""
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
        """Check that the server reports the signatures of the live model."""
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
        """Check the version in the `model_spec` of every gRPC answer; REST answers have none."""
        if self.grpc.versions:
            yield Check(
                protocol="gRPC",
                case="model_spec of the answers",
                expected=f"version {self.version}",
                answered=", ".join(f"version {number}" for number in sorted(self.grpc.versions)),
                passed=self.grpc.versions == {self.version},
                cause=Cause.VERSION_DIFFERS,
            )

    def filtered(self, requests: Sequence[KnownRequest]) -> Iterator[Check]:
        """Check that an `output_filter` returns the output that it names and no other, for a signature with several.

        If no signature has several outputs, the refusal of an unknown output shows that filters are read.
        """
        predicts = [one for one in requests if one.predictor is self.grpc and one.signature.called_by is Method.PREDICT]
        one = max(predicts, key=lambda one: len(one.signature.outputs), default=None)
        if one is None or len(one.signature.outputs) == 1:
            return
        request = self.grpc.request(one.signature.key, one.inputs)
        wanted = min(one.signature.outputs)
        request.output_filter.append(wanted)
        try:
            answered = ", ".join(sorted(self.grpc.send(self.grpc.service.Predict, request).outputs))
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

    def must_be_refused(self, requests: Sequence[KnownRequest]) -> Iterator[Check]:
        """Check requests that must be refused, made from a valid one: of a Predict signature with inputs if there is one."""
        good = min(
            (one for one in requests if one.predictor is self.grpc),
            key=lambda one: (one.signature.called_by is not Method.PREDICT, not one.signature.inputs, one.rows),
        )
        yield from refusals.over_rest(self.rest, good, self.version)
        yield from refusals.over_grpc(self.grpc, good, self.version)
