"""An invalid graph is reported as damage, in words, by whichever reader meets it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import isolate
from tasks.adoption import adopt
from tasks.errors import DamagedError
from tasks.forms.detect import detect
from tasks.inspection import inspect
from tasks.isolate import Limits
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.settings import SessionOptions
from tests.adoption.pipeline import Shipyard
from tests.makers import impossible_graphs, one_network_in_every_form

NAMED = ModelOptions(inputs=("x=net/x:0",), outputs=("y=net/y:0",))
SAVER = (one_network_in_every_form.saver_v2, "model.ckpt-7.meta", "model.ckpt-7")
RESOURCES = (one_network_in_every_form.saver_v2_resource_variables, "model.ckpt-7.meta", "model.ckpt-7")
FROZEN = (one_network_in_every_form.frozen, "frozen.pb", "frozen.pb")
SAVED_MODEL = (one_network_in_every_form.simple_save, "model/saved_model.pb", "model")
CASES = [
    *((SAVER, kind) for kind in impossible_graphs.MUTATIONS),
    (RESOURCES, "a variable of no dtype"),
    *((FROZEN, kind) for kind in ("a placeholder of no dtype", "an empty constant")),
    *(
        (SAVED_MODEL, kind)
        for kind in ("garbage in variables", "garbage in saved_model_assets", "a signature of no output")
    ),
]


@pytest.mark.parametrize(
    ("written", "kind"), CASES, ids=[f"{case[0][0].__name__}: {case[1]}" for case in CASES]
)  # fmt: skip
def test_it_is_damage_and_no_traceback(
    yard: Shipyard, tmp_path: Path, written: tuple[Callable[[Path], None], str, str], kind: str
) -> None:
    way, file, path = written
    folder = Path(shutil.copytree(yard.written(way), tmp_path / "hurt"))
    isolate.call(impossible_graphs.mutate, kind, folder / file)
    given = ModelOptions() if "signature" in kind or way is one_network_in_every_form.simple_save else NAMED
    (tmp_path / "out").mkdir()
    with isolate.limits(Limits(seconds=60.0, memory=3 * 2**30)):
        looked = isolate.call(inspect.inspect, folder / path, ModelOptions(), None, read=False, values=False)
        with pytest.raises(DamagedError) as refused:
            found = detect(folder / path)
            isolate.call(adopt.adopt, found, given, ProbeSource(rows=3), SessionOptions(), None, tmp_path / "out")
    assert looked.whole is False, "inspect tells of it too"
    assert "expected no error" not in str(refused.value)
