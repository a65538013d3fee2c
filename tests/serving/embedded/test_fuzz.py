"""Any request body is refused or answered, soon, and the server keeps running."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.embedded.embedded_server import serving

_MANY = settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
_SECONDS = 60.0


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[httpx.Client]:
    directory = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(models / "two", directory / "two" / "1")
    with (
        serving([f"--model_base_path={directory}/two", "--model_name=two"], directory) as server,
        httpx.Client(base_url=server.url, timeout=_SECONDS) as opened,
    ):
        yield opened
        assert opened.post("/v1/models/two:predict", json={"instances": [1.0]}).json() == {"predictions": [2.5]}


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just({"b64": "AA=="})
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner), max_leaves=8
)
_BODIES = st.dictionaries(
    st.sampled_from(["instances", "inputs", "signature_name", "examples", "context"]), _VALUES, max_size=3
)


@_MANY
@given(
    verb=st.sampled_from(["predict", "classify", "regress"]),
    body=st.binary(max_size=60) | _BODIES.map(lambda value: json.dumps(value).encode()),
    cut=st.integers(0, 3),
)
def test_no_body_brings_a_server_error(client: httpx.Client, verb: str, body: bytes, cut: int) -> None:
    answer = client.post(f"/v1/models/two:{verb}", content=body[cut:])
    assert answer.status_code < 500, answer.text
    assert answer.status_code == 200 or "error" in answer.json()


@pytest.mark.parametrize("depth", [60, 300, 5_000, 200_000])
def test_deep_nesting_is_answered(client: httpx.Client, depth: int) -> None:
    body = b'{"instances":' + b"[" * depth + b"]" * depth + b"}"
    assert client.post("/v1/models/two:predict", content=body).status_code in (200, 400)
    assert client.post("/v1/models/two:predict", content=body[13:-1]).status_code == 400
