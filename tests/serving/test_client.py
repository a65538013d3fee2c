"""What REST's JSON is taken for: the dtype that was declared, or something that differs from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.forms import parity
from tasks.forms.tensors import Array
from tasks.records.parity import ParityTest
from tasks.records.settings import Serving
from tasks.records.signature import TensorSpec
from tasks.serving.rest_client import _parsed, jsonable


def read(value: Any, dtype: str) -> Array:
    return _parsed(value, TensorSpec(tensor="y:0", dtype=dtype, shape=None))


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -0.0], [1e30, 2.0]], np.float32),
        np.array([2**63 - 1, -(2**63)], np.int64),
        np.array([2**64 - 1, 1], np.uint64),
        np.array([True, False]),
        np.array([255, 0], np.uint8),
        np.array([b"a\0", b""], object),
        np.float32(0.5).reshape(()),
    ],
    ids=lambda array: str(array.dtype),
)
def test_every_dtype_comes_back_as_it_went(array: Array) -> None:
    found = read(jsonable(array), "string" if array.dtype == object else array.dtype.name)
    assert parity.compare("f", "s", "y", ParityTest.EXACT, array, found, (0, 0)).passed


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        ([1.0], "int64"),
        ([1], "float32"),
        ([True], "int32"),
        ([-1, 263], "uint8"),
        ([2**32 + 5], "int32"),
        ([5], "string"),
        ([[1, 2], [3]], "int32"),
        ([[{"b64": "YQ=="}], [{"b64": "YQ=="}, {"b64": "YQ=="}]], "string"),
        (None, "float32"),
        ({"y": 1.0}, "float32"),
    ],
    ids=str,
)
def test_other_json_is_not_made_to_fit(value: Any, dtype: str) -> None:
    found = read(value, dtype)
    expected = np.array([b"5"], object) if dtype == "string" else np.array([1], dtype=dtype)
    for wanted in (expected, np.array([255, 7], np.uint8), np.array([5], np.int32)):
        row = parity.compare("f", "s", "y", ParityTest.SERVED, wanted, found, (1e-5, 1e-5))
        assert row.passed is False


@pytest.mark.parametrize("flag", ["--model_base_path=/elsewhere", "--port=1", "-model_name=other"])
def test_the_flags_that_say_what_is_tested_are_ours(flag: str) -> None:
    with pytest.raises(ValueError, match="neither what is served nor where"):
        Serving(flags=(flag,))
