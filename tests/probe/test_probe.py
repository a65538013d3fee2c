"""The probe: read from any kind of file without loss or guess, taken from warmup requests, or drawn to fit the graph."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks import isolate
from tasks.errors import PipelineError, UsageError
from tasks.probe import establish, tfrecords
from tasks.records.signature import Method, Signature, TensorSpec
from tasks.tensors.tensor_file import Tensors
from tests.makers import models_with_odd_inputs
from tests.probe import tfrecord_calls

FILES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def signature(key: str = "serving_default", **inputs: tuple[str, tuple[int | None, ...] | None]) -> Signature:
    specs = {name: TensorSpec(tensor=f"{name}:0", dtype=dtype, shape=shape) for name, (dtype, shape) in inputs.items()}
    return Signature(key=key, method=Method.PREDICT, inputs=specs, outputs={})


ROWS = signature(x=("float32", (None, 3)))
MIXED = signature(x=("float32", (None, 2)), n=("int32", (None,)), s=("string", (None,)))
X = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.5]]


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


X32 = np.array(X, dtype=np.float32)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(npz(x=X32), id="npz"),
        pytest.param(npz(**{"serving_default/x": X32, "x": X32 * 0}), id="npz by signature, which counts more"),
        pytest.param(npz(arr_0=X32.astype(np.float64)), id="npz without a name, float64 that fits"),
        pytest.param(npy(X32.astype(">f4")), id="npy, big-endian"),
        pytest.param(json.dumps({"instances": X}), id="REST rows"),
        pytest.param(json.dumps({"instances": [{"x": row} for row in X]}), id="REST named rows"),
        pytest.param(json.dumps({"inputs": {"x": X}}), id="REST columns"),
        pytest.param(json.dumps({"signature_name": "serving_default", "inputs": X}), id="REST columns, one input"),
        pytest.param(json.dumps(X), id="list"),
        pytest.param("\ufeff" + json.dumps({"serving_default": {"x": X}}), id="by signature, with a byte order mark"),
        pytest.param("x.0,x.2,x.1\n1,3,2\n4,6.5,5\n", id="CSV, numbered columns"),
        pytest.param("a;b;c\n1;2;3\n4;5;6.5\n", id="CSV, the only input's columns"),
        pytest.param("id,a,b,c\nu,1,2,3\nv,4,5,6.5\n", id="CSV with a column that is no number"),
    ],
)
def test_every_kind_of_file_is_read_whatever_it_is_called(tmp_path: Path, content: bytes | str) -> None:
    for name in ("probe", "probe.npz", "probe.csv"):
        found = establish.read(written(tmp_path / name, content), [ROWS])
        assert list(found) == ["serving_default/x"]
        assert found["serving_default/x"].dtype == np.float32
        assert found["serving_default/x"].tolist() == X


def test_strings_and_integers_come_as_the_signature_has_them(tmp_path: Path) -> None:
    rows = [{"x": [1, 2.5], "n": 3, "s": {"b64": "/wA="}}, {"x": [0, -1], "n": 4.0, "s": "naïve"}]
    found = establish.read(written(tmp_path / "p", json.dumps({"instances": rows})), [MIXED])
    assert found["serving_default/s"].tolist() == [b"\xff\x00", "naïve".encode()]
    assert found["serving_default/n"].dtype == np.int32
    assert found["serving_default/n"].tolist() == [3, 4]
    found = establish.read(written(tmp_path / "p", "x.0,x.1,n,s\n1,2.5,3,a b\n0,-1,4,\n"), [MIXED])
    assert found["serving_default/s"].tolist() == [b"a b", b""]
    assert found["serving_default/x"].tolist() == [[1, 2.5], [0, -1]]


def test_a_scalar_and_a_flat_image_get_the_shape_of_the_input(tmp_path: Path) -> None:
    wanted = signature(image=("uint8", (None, 2, 2, 1)), rate=("float32", ()))
    document = {"inputs": {"image": [[[[1], [2]], [[3], [4]]]], "rate": 0.5}}
    found = establish.read(written(tmp_path / "p", json.dumps(document)), [wanted])
    assert found["serving_default/rate"].shape == ()
    image = signature(image=("uint8", (None, 2, 2, 1)))
    found = establish.read(written(tmp_path / "p", "image.0,image.1,image.2,image.3\n1,2,3,4\n"), [image])
    assert found["serving_default/image"].tolist() == [[[[1], [2]], [[3], [4]]]]


@pytest.mark.parametrize(
    ("content", "wanted", "said"),
    [
        pytest.param("", ROWS, "an empty file", id="empty"),
        pytest.param(b"\x80\x04\x95", ROWS, "80 04 95", id="a pickle"),
        pytest.param(npz(x=X32)[:-30], ROWS, "BadZipFile", id="cut npz"),
        pytest.param(npy(X32)[:-4], ROWS, "ValueError", id="cut npy"),
        pytest.param(npz(z=X32), ROWS, "a npz file with 'z'", id="another name"),
        pytest.param(json.dumps({"instances": []}), ROWS, "an empty list", id="no rows"),
        pytest.param(npz(x=X32[:0]), ROWS, "at least one row", id="no rows in an array"),
        pytest.param(json.dumps([[1, 2, 3], [4, 5]]), ROWS, "x, row 1: expected a list of 3", id="ragged"),
        pytest.param(
            json.dumps([[1, 2, "3"]]), ROWS, r"x, row 0, element \[2\]: expected a float32, found '3'", id="text"
        ),
        pytest.param(json.dumps([[1, 2, None]]), ROWS, "found null", id="null"),
        pytest.param(json.dumps([[1, 2, True]]), ROWS, "found True", id="a bool is no number"),
        pytest.param(json.dumps([[1, 2, 1e300]]), ROWS, r"found 1e\+300", id="a finite number made infinite"),
        pytest.param(json.dumps([1, 2, 3]), ROWS, r"float32\[\?, 3\], found float32\[3\]", id="no batch dimension"),
        pytest.param(npz(x=X32[:, :2]), ROWS, r"found float32\[2, 2\]", id="another size, never broadcast"),
        pytest.param(npz(x=X32[:, :1]), ROWS, r"found float32\[2, 1\]", id="size one, never broadcast"),
        pytest.param(npz(x=np.array([[0.1, 0, 0]])), ROWS, r"found 0.1 \(float64\)", id="digits lost"),
        pytest.param(npz(x=X32.astype(complex)), signature(x=("int32", (None, 3))), "6.5", id="complex to int"),
        pytest.param("x\n1\n1.5\n", signature(x=("int32", (None,))), "x, row 1: expected a int32, found 1.5", id="1.5"),
        pytest.param(json.dumps([300]), signature(x=("uint8", (None,))), "found 300", id="too large"),
        pytest.param(json.dumps([2**70]), signature(x=("int64", (None,))), "found 1.18", id="beyond 64 bits"),
        pytest.param(npz(x=np.array([2.0**63])), signature(x=("int64", (None,))), "9.2233", id="2**63"),
        pytest.param("x\n1\n\n2,3\n", signature(x=("int32", (None,))), "row 1: expected 1 cells", id="uneven CSV"),
        pytest.param("x\n1_0\n", signature(x=("int32", (None,))), "'1_0'", id="underscore"),
        pytest.param("x.0,x.2\n1,2\n", ROWS, r"columns x.0 to x.1", id="gap in numbers"),
        pytest.param("a,b\n1,2\n", ROWS, "2 values a row", id="too few columns"),
        pytest.param(
            json.dumps([{"x": [1, 2, 3]}, {"y": 1}]), ROWS, "row 1: expected an object with 'x'", id="names differ"
        ),
        pytest.param("[" * 100_000, ROWS, "JSON", id="deep"),
        pytest.param('{"x": {"b64": "?"}}', ROWS, "JSON", id="bad base64"),
        pytest.param(npz(x=X32), MIXED, "'n' being int32", id="an input without values"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, content: bytes | str, wanted: Signature, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        establish.read(written(tmp_path / "given.bin", content), [wanted])
    assert "given.bin" in caught.value.where


def test_a_header_that_lies_about_its_size_is_refused_without_the_memory(tmp_path: Path) -> None:
    honest = npy(np.zeros(4))
    lying = honest.replace(b"(4,)", b"(4" + b"0" * 13 + b",)").replace(b" " * 13 + b"\n", b"\n")
    assert len(lying) == len(honest)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as stream:
        stream.writestr("x.npy", lying)
    for content in (lying, archive.getvalue()):
        with pytest.raises(UsageError, match=r"MemoryError|ValueError"):
            establish.read(written(tmp_path / "p", content), [ROWS])


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    objects = np.array([Evil(trap)], dtype=object)
    stream = io.BytesIO()
    np.savez(stream, x=objects)
    for content in (stream.getvalue(), npy(objects, allow_pickle=True), pickle.dumps(Evil(trap))):
        with pytest.raises(UsageError):
            establish.read(written(tmp_path / "p", content), [ROWS])
        assert not trap.exists()


def test_a_folder_and_nothing_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            establish.read(path, [ROWS])


def test_more_rows_than_a_fixed_batch_are_cut_and_it_is_said(tmp_path: Path) -> None:
    fixed = signature(x=("float32", (1, 3)))
    source = models_with_odd_inputs.source(written(tmp_path / "probe.npz", npz(x=X32)))
    found, words = establish.establish(source, None, [fixed], None)
    assert found["serving_default/x"].tolist() == X[:1]
    assert words == "probe.npz, 1 row; serving_default takes batches of 1: x is the first 1 of 2"
    with pytest.raises(UsageError, match=r"float32\[3, 3\], found float32\[2, 3\]"):
        establish.read(source.file, [signature(x=("float32", (3, 3)))])


def test_of_two_signatures_the_one_without_values_is_named(tmp_path: Path) -> None:
    other = signature("other", y=("float32", (None, 3)))
    second = signature("second", y=("float32", (None, 2)))
    path = written(tmp_path / "p", json.dumps({"other/y": X, "second": {"y": [[1, 2]]}, "x": X}))
    assert sorted(establish.read(path, [ROWS, other, second])) == ["other/y", "second/y", "serving_default/x"]
    with pytest.raises(UsageError, match="'z' for the signature third"):
        establish.read(path, [ROWS, signature("third", z=("float32", None))])


SEEDS = [
    npz(x=X32, y=np.array(["a", "b"])),
    npy(X32),
    json.dumps({"instances": [{"x": [1, 2, 3], "s": {"b64": "YQ=="}}]}).encode(),
    json.dumps({"signature_name": "serving_default", "inputs": {"x": X}}).encode(),
    b"x.0,x.1,x.2\n1,2,3\n",
    b'a,"b\n1,2\n',
]


@st.composite
def spoiled(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    content = bytearray(draw(st.sampled_from(seeds)))
    for position, byte in draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=4)):
        content[position] = byte
    return bytes(content[: draw(st.integers(0, len(content)))]) + draw(st.binary(max_size=8))


@given(st.binary(max_size=100) | st.text(max_size=60).map(str.encode) | spoiled(SEEDS))
@settings(FILES, max_examples=600)
def test_any_bytes_are_read_or_refused_and_nothing_worse(tmp_path: Path, content: bytes) -> None:
    if tfrecords.looks_like_records(content[:16], len(content)):
        return  # records: in a child, below
    for wanted in (ROWS, MIXED, signature(x=("string", None)), signature(x=("int64", (None,)))):
        try:
            found = establish.read(written(tmp_path / "p", content), [wanted])
        except PipelineError as error:
            assert str(error)
        else:
            fits(found, wanted)


def fits(found: Tensors, wanted: Signature) -> None:
    for name, spec in wanted.inputs.items():
        array = found[f"{wanted.key}/{name}"]
        assert array.dtype == (object if spec.dtype == "string" else spec.dtype)
        if spec.shape is not None:
            assert len(array.shape) == len(spec.shape)
            assert all(size in (None, got) for size, got in zip(spec.shape, array.shape, strict=True))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda i: (
            st.lists(i)
            | st.dictionaries(st.sampled_from(["x", "b64", "inputs", "instances", "examples", "signature_name"]), i)
        ),
    )
)
@FILES
def test_any_json_is_read_or_refused(tmp_path: Path, document: Any) -> None:
    if isinstance(document, dict) and "examples" in document:
        return  # features become protos: in a child, below
    for wanted in (ROWS, signature(x=("string", None)), signature(x=("bool", ())), signature(x=("float16", (None,)))):
        with contextlib.suppress(UsageError):
            fits(establish.read(written(tmp_path / "p", json.dumps(document)), [wanted]), wanted)


# Records, in a child ----------------------------------------------------------------------------------------------------


def test_records_of_every_kind_are_read(tmp_path: Path) -> None:
    isolate.call(tfrecord_calls.every_kind, tmp_path)


def test_broken_and_mixed_records_are_named(tmp_path: Path) -> None:
    said = isolate.call(tfrecord_calls.refusals, tmp_path)
    assert re.search("record 1: expected a record whose checksum holds", said["flipped"])
    assert re.search("record 2: expected a record whose checksum holds", said["cut"])
    assert re.search("record 1: expected a tf.Example, as the first", said["mixed"])
    assert re.search("row 1", said["feature missing"])
    assert re.search("elements, found the shape", said["a tensor that claims terabytes"])
    assert re.search("rows have one shape", said["shapes differ"])
    assert re.search("give 'x'|'x' for the signature", said["an input missing"])


def test_any_records_and_warmup_files_are_read_or_refused(tmp_path: Path) -> None:
    assert isolate.call(tfrecord_calls.fuzz, tmp_path) > 200


def test_warmup_requests_are_taken_and_what_they_leave_out_is_drawn(tmp_path: Path) -> None:
    words = isolate.call(tfrecord_calls.warm, tmp_path)
    assert words["both"] == "5 rows from warmup requests; for classify 4 rows drawn with seed 0"
    assert words["none"] == "4 rows drawn with seed 0"
    assert re.search("warmup_requests.*float32", words["wrong"])


# Drawn, in a child --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [name for name in vars(models_with_odd_inputs) if name.startswith("draws_")])
def test_what_is_drawn_runs_and_is_drawn_again_alike(tmp_path: Path, model: str) -> None:
    isolate.call(getattr(models_with_odd_inputs, model), tmp_path)


@pytest.mark.skipif("TFSHIP_CORPUS" not in os.environ, reason="TFSHIP_CORPUS does not name the folder of real models")
def test_examples_are_drawn_for_an_estimator_from_the_wild() -> None:
    folder = Path(os.environ["TFSHIP_CORPUS"]).resolve() / "taxi-estimator" / "export" / "chicago-taxi" / "1646034756"
    isolate.call(models_with_odd_inputs.of_a_saved_model, folder)
