"""A tensor file is read as it was written, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tasks.errors import DamagedError
from tasks.records.signature import OutputRef
from tasks.tensors import tensor_file
from tasks.tensors.tensor_file import Array, as_bytes, read_tensors, write_tensors

ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.complex64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
STRINGS = st.lists(st.binary(max_size=8), max_size=5).map(lambda items: np.array([*items, None], dtype=object)[:-1])


@given(st.dictionaries(st.text(max_size=12), ARRAYS | STRINGS, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(tmp_path: Path, named: dict[str, Array]) -> None:
    path = tmp_path / "t"
    write_tensors(path, named)
    content = path.read_bytes()
    found = read_tensors(path)
    assert list(found) == list(named)
    for name, array in named.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        assert as_bytes(found[name]) == as_bytes(array)
    write_tensors(path, found)
    assert path.read_bytes() == content


@given(st.binary(max_size=200) | st.integers(0, 400))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_other_bytes_are_damage_and_nothing_worse(tmp_path: Path, given_bytes: bytes | int) -> None:
    path = tmp_path / "t"
    write_tensors(path, {"a": np.arange(20, dtype=np.float32), "s": np.array([b"x", b"yz"], dtype=object)})
    whole = path.read_bytes()
    path.write_bytes(given_bytes if isinstance(given_bytes, bytes) else whole[:given_bytes])
    if path.read_bytes() == whole:
        return
    with pytest.raises(DamagedError):
        read_tensors(path)


@pytest.mark.parametrize(
    "ref",
    [
        OutputRef("s", "y"),
        OutputRef("s", "a/b"),
        OutputRef("tensorflow/serving/regress", "a/b"),
        OutputRef("", "y"),
        OutputRef("s", ""),
    ],
)
def test_the_name_of_an_output_is_taken_apart_as_it_was_put_together(ref: OutputRef) -> None:
    assert OutputRef.parse(str(ref)) == ref


def test_the_tensors_of_a_signature_are_selected_by_the_names_that_they_were_given() -> None:
    held = {name: np.zeros(1, np.float32) for name in ("y", "a/b")}
    both = tensor_file.keyed("s", held) | tensor_file.keyed("st", held)
    assert set(both) == {"s/y", "s/a/b", "st/y", "st/a/b"}
    assert set(tensor_file.select(both, "s")) == set(held)
