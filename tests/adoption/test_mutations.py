"""A graph with one thing in it that cannot be is damage, said in words, by whoever reads it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import isolate
from tasks.errors import DamagedError
from tasks.forms import inspection
from tasks.forms.detect import detect
from tasks.isolate import Limits
from tasks.models import adoption
from tasks.records.adoption import Given, ProbeSource
from tasks.records.settings import SessionOptions
from tests.adoption import mutations, ways
from tests.adoption.shipping import Shipyard

NAMED = Given(inputs=("x=net/x:0",), outputs=("y=net/y:0",))
SAVER = (ways.saver_v2, "model.ckpt-7.meta", "model.ckpt-7")
RESOURCES = (ways.saver_v2_resource_variables, "model.ckpt-7.meta", "model.ckpt-7")
FROZEN = (ways.frozen, "frozen.pb", "frozen.pb")
SAVED_MODEL = (ways.simple_save, "model/saved_model.pb", "model")
CASES = [
    *((SAVER, kind) for kind in mutations.MUTATIONS),
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
    isolate.call(mutations.mutate, kind, folder / file)
    given = Given() if "signature" in kind or way is ways.simple_save else NAMED
    (tmp_path / "out").mkdir()
    with isolate.limits(Limits(seconds=60.0, memory=3 * 2**30)):
        looked = isolate.call(inspection.inspect, folder / path, Given(), None, read=False, values=False)
        with pytest.raises(DamagedError) as refused:
            found = detect(folder / path)
            isolate.call(adoption.adopt, found, given, ProbeSource(rows=3), SessionOptions(), None, tmp_path / "out")
    assert looked.whole is False, "inspect tells of it too"
    assert "expected no error" not in str(refused.value)
