"""What a smoke test asks of a running server, of any runtime alike. Runs in a child: the protos import TensorFlow.

An order in which the first surprise is the most telling one: versions and signatures, then every answer, then what must
be refused, and after that the same answers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tasks.forms import parity
from tasks.forms.proof import Reference
from tasks.records.base import Record
from tasks.records.parity import ParityReport, ParityRow, Tolerance, worst_of
from tasks.records.serving import Cause, Check, Endpoint, Latency
from tasks.records.settings import Serving
from tasks.records.signature import Method, Signature
from tasks.serving import latency
from tasks.serving.asked import Asked, compared, questions
from tasks.serving.client import AnsweredError, GrpcPredictor, reaching, status
from tasks.serving.rest_client import RestPredictor

_CLIENTS_FAULT = ("INVALID_ARGUMENT", "FAILED_PRECONDITION", "NOT_FOUND")


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
                checks += [*asker.version_that_answered(), *asker.filtered(asked), *asker.must_be_refused()]
                rows = worst_of([*rows, *(row for one in asked for row in compared(one, tolerance))])
                measured, together = _measured(asker, asked, rows, serving, tolerance)
                rows += together
        return Findings(
            parity=ParityReport(baseline=reference.baseline.form, rows=tuple(rows)),
            checks=tuple(checks),
            latency=tuple(measured),
        )


def _measured(
    asker: Asker, asked: list[Asked], rows: list[ParityRow], serving: Serving, tolerance: Tolerance
) -> tuple[list[Latency], list[ParityRow]]:
    """Latency of `serving_default`, or of the first signature, at its smallest and largest batch; then all at once."""
    not_carried = {(row.candidate, row.signature) for row in rows if row.passed is None and row.output == "*"}
    asked = [one for one in asked if (one.form, one.signature.key) not in not_carried]
    keys = [signature.key for signature in asker.reference.names.signatures]
    key = "serving_default" if "serving_default" in keys else keys[0]
    measured: list[Latency] = []
    together: list[ParityRow] = []
    for protocol in asker.protocols:
        mine = [one for one in asked if one.predictor is protocol]
        sizes = {one.rows: one for one in mine if one.signature.key == key}
        chosen = [sizes[rows] for rows in sorted({min(sizes), max(sizes)})] if sizes else []
        measured += latency.one_at_a_time(chosen, serving.latency_requests)
        if mine:
            found, at_once = latency.at_once(mine, serving.latency_requests, tolerance)
            together += found
            measured.append(at_once)
    return measured, together


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
        with_inputs = [signature for signature in predicts.values() if signature.inputs]
        self.example: Signature | None = with_inputs[0] if with_inputs else None

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
            difference = parity.signature_difference(self.reference.names.signatures, reported)
            yield Check(
                protocol=protocol,
                case="metadata",
                expected="the signatures of the live model",
                answered=difference or "these",
                passed=not difference,
                cause=Cause.SIGNATURE_DIFFERS,
            )

    def version_that_answered(self) -> Iterator[Check]:
        """The served version in a Predict answer's `model_spec`."""
        if self.example is not None:
            yield Check(
                protocol="gRPC",
                case="model_spec of an answer",
                expected=f"version {self.version}",
                answered=f"version {self.grpc.version}",
                passed=self.grpc.version == self.version,
                cause=Cause.VERSION_DIFFERS,
            )

    def filtered(self, asked: list[Asked]) -> Iterator[Check]:
        """An `output_filter` brings the outputs that it names, and no other."""
        for one in asked:
            if self.example is None or one.signature.key != self.example.key or one.predictor is not self.grpc:
                continue
            request = self.grpc.request(one.signature.key, one.inputs)
            wanted = sorted(one.signature.outputs)[0]
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
            return

    def must_be_refused(self) -> Iterator[Check]:
        """Requests that no server may answer: each must get a client's error, over gRPC and over REST."""
        model = self.rest.model
        yield self._over_http("broken JSON", f"{model}:predict", '{"inputs": [')
        yield self._over_http("neither inputs nor instances", f"{model}:predict", "{}")
        yield self._over_http("unknown signature", f"{model}:predict", '{"signature_name": "no such", "inputs": [1.0]}')
        elsewhere = f"{self.endpoint.rest}/v1/models/no_such_model:predict"
        yield self._over_http("unknown model", elsewhere, '{"inputs": [1.0]}')
        another = f"{model}/versions/{self.version + 1}:predict"
        yield self._over_http("another version", another, '{"inputs": [1.0]}')
        if self.example is None:
            return
        signature = self.example
        inputs = parity.select(self.reference.probe, signature.key)
        name = next(iter(inputs))
        good = self.grpc.request(signature.key, inputs)

        def drop(request: Any) -> None:
            del request.inputs[name]

        yield self._over_grpc("unknown signature", good, lambda r: setattr(r.model_spec, "signature_name", "no such"))
        yield self._over_grpc("missing input", good, drop)
        yield self._over_grpc("wrong dtype", good, lambda request: _retype(request, name))
        yield self._over_grpc("unknown model", good, lambda r: setattr(r.model_spec, "name", "no_such_model"))
        yield self._over_grpc("another version", good, self._ask_for_another_version)
        yield self._over_grpc("wrong rank", good, lambda request: _add_a_dimension(request, name), may_answer=True)

    def _ask_for_another_version(self, request: Any) -> None:
        request.model_spec.version.value = self.version + 1

    def _over_grpc(self, case: str, good: Any, change: Callable[[Any], Any], *, may_answer: bool = False) -> Check:
        """A good request, changed. A rank is not looked at by the server: what the graph makes of it is its own
        affair, as long as the server does not fall over it."""
        request = type(good)()
        request.CopyFrom(good)
        change(request)
        try:
            with reaching("gRPC", self.seconds):
                self.grpc.service.Predict(request, timeout=self.seconds)
            answered, passed = "OK", may_answer
        except AnsweredError as error:
            answered = str(error).partition(":")[0]
            passed = answered in _CLIENTS_FAULT
        expected = "INVALID_ARGUMENT or an answer" if may_answer else "INVALID_ARGUMENT"
        return Check(
            protocol="gRPC", case=case, expected=expected, answered=answered, passed=passed, cause=Cause.NOT_REFUSED
        )

    def _over_http(self, case: str, url: str, body: str) -> Check:
        with reaching("REST", self.seconds):
            code = self.rest.client.post(url, content=body).status_code
        passed = 400 <= code < 500
        return Check(
            protocol="REST", case=case, expected="4xx", answered=str(code), passed=passed, cause=Cause.NOT_REFUSED
        )


def _retype(request: Any, name: str) -> None:
    import tensorflow as tf

    wrong = np.zeros((1,), dtype=bool)
    if request.inputs[name].dtype == tf.bool.as_datatype_enum:
        wrong = np.zeros((1,), dtype=np.int64)
    request.inputs[name].CopyFrom(tf.make_tensor_proto(wrong))


def _add_a_dimension(request: Any, name: str) -> None:
    request.inputs[name].tensor_shape.dim.add(size=1)
