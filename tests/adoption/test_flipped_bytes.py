"""Any form with a byte changed or its end cut off: a message, or the complete model's answers; no traceback, no hang.

Never another answer, where the format lets anybody know: tensor bundles and V1 checkpoints carry a checksum for every
block and tensor, the members of a `.keras` archive one for each. A GraphDef, a `.meta`, a `saved_model.pb`, an HDF5 file
and a vocabulary carry none: in them a changed weight, constant or word is another model, as whole as the first, and only
whoever kept the first one's digest (as our store does of what it adopted) can tell. For those the law is that nothing
crashes, hangs or ends in an exception that nobody foresaw.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks import isolate
from tasks.adoption import adopt
from tasks.errors import PipelineError
from tasks.forms.detect import detect
from tasks.isolate import Limits
from tasks.records.adoption import ModelOptions, ProbeSource
from tasks.records.settings import SessionOptions
from tasks.tensors import tensor_file
from tasks.user_code.source import ModelSource
from tests.adoption.pipeline import Shipyard
from tests.makers import one_network_in_every_form

NAMED = ModelOptions(inputs=("x=net/x:0",), outputs=("y=net/y:0",))
GRAPH = ModelOptions(inputs=("x=net/x:0",), outputs=("y=net/y:0",), graph=Path("graph.pb"))


@dataclass(frozen=True)
class Victim:
    """One file of a written model; `checked` where its format carries checksums."""

    way: Callable[[Path], None]
    path: str
    file: str
    given: ModelOptions
    checked: bool = False


VICTIMS = {
    "saver v2 index": Victim(one_network_in_every_form.saver_v2, "", "model.ckpt-7.index", NAMED, checked=True),
    "saver v2 data": Victim(
        one_network_in_every_form.saver_v2, "", "model.ckpt-7.data-00000-of-00001", NAMED, checked=True
    ),
    "saver v2 meta": Victim(one_network_in_every_form.saver_v2, "model.ckpt-7", "model.ckpt-7.meta", NAMED),
    "saver v2 state": Victim(one_network_in_every_form.saver_v2, "", "checkpoint", NAMED, checked=True),
    "a shard": Victim(
        one_network_in_every_form.saver_v2_two_shards, "", "model.ckpt-7.data-00001-of-00002", NAMED, checked=True
    ),
    "a partitioned index": Victim(
        one_network_in_every_form.saver_v2_partitioned, "", "model.ckpt-7.index", NAMED, checked=True
    ),
    "saver v1": Victim(one_network_in_every_form.saver_v1, "", "model.ckpt-7", NAMED, checked=True),
    "a v1 shard": Victim(
        one_network_in_every_form.saver_v1_two_shards, "", "model.ckpt-7-00000-of-00002", NAMED, checked=True
    ),
    "graph .pb": Victim(one_network_in_every_form.without_meta, "model.ckpt-7", "graph.pb", GRAPH),
    "frozen .pb": Victim(one_network_in_every_form.frozen, "frozen.pb", "frozen.pb", NAMED),
    "frozen .pbtxt": Victim(one_network_in_every_form.frozen, "frozen.pbtxt", "frozen.pbtxt", NAMED),
    "TF1 saved_model.pb": Victim(
        one_network_in_every_form.simple_save, "model", "model/saved_model.pb", ModelOptions()
    ),
    "TF1 variables.index": Victim(
        one_network_in_every_form.simple_save, "model", "model/variables/variables.index", ModelOptions(), checked=True
    ),
    "TF1 variables.data": Victim(
        one_network_in_every_form.simple_save,
        "model",
        "model/variables/variables.data-00000-of-00001",
        ModelOptions(),
        checked=True,
    ),
    "TF2 saved_model.pb": Victim(
        one_network_in_every_form.module_with_a_table, "model", "model/saved_model.pb", ModelOptions()
    ),
    "TF2 variables.data": Victim(
        one_network_in_every_form.module_with_a_table,
        "model",
        "model/variables/variables.data-00000-of-00001",
        ModelOptions(),
        checked=True,
    ),
    "TF2 vocabulary": Victim(
        one_network_in_every_form.module_with_a_table, "model", "model/assets/words.txt", ModelOptions()
    ),
    "keras archive": Victim(
        one_network_in_every_form.keras_archive, "model.keras", "model.keras", ModelOptions(), checked=True
    ),
    "keras hdf5": Victim(one_network_in_every_form.keras_hdf5, "model.h5", "model.h5", ModelOptions()),
    "object checkpoint index": Victim(
        one_network_in_every_form.object_checkpoint, "ckpt-7", "ckpt-7.index", ModelOptions(), checked=True
    ),
    "object checkpoint data": Victim(
        one_network_in_every_form.object_checkpoint,
        "ckpt-7",
        "ckpt-7.data-00000-of-00001",
        ModelOptions(),
        checked=True,
    ),
}
ATTEMPTS = 3  # each; with the one that is written out, and in another place for every form
_answers: dict[str, dict[str, np.ndarray]] = {}


def adopted(folder: Path, victim: Victim, out: Path) -> dict[str, np.ndarray]:
    """The original's answers to the probe that was written with it."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    code = ModelSource(name="mine", module="mine", attribute="Mine", folder=folder)
    asked = victim.given
    if asked.graph is not None:
        asked = asked.model_copy(update={"graph": folder / asked.graph})
    probe = ProbeSource(file=folder / "probe.npz")
    found = detect(folder / victim.path)
    own = code if victim.way is one_network_in_every_form.object_checkpoint else None
    with isolate.limits(Limits(seconds=30.0, memory=3 * 2**30)):
        isolate.call(adopt.adopt, found, asked, probe, SessionOptions(), own, out)
    (baseline,) = (out / "baselines").glob("*.tensors")
    return {name: rows for name, rows in tensor_file.read_tensors(baseline).items() if not name.startswith("/")}


@pytest.mark.sweep
@pytest.mark.parametrize("name", VICTIMS)
@settings(
    max_examples=ATTEMPTS,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.sampled_from([False, False, False, True]))
@example(where=0.0, bit=0, cut=False)
def test_it_is_refused_in_words_or_answers_as_the_whole_one(
    yard: Shipyard, tmp_path: Path, name: str, where: float, bit: int, cut: bool
) -> None:
    victim = VICTIMS[name]
    written = yard.written(victim.way)
    if name not in _answers:
        _answers[name] = adopted(written, victim, tmp_path / "out")
    folder = tmp_path / "hurt"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(written, folder)
    content = bytearray((folder / victim.file).read_bytes())
    place = int(where * len(content))
    if cut:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    (folder / victim.file).write_bytes(content)
    try:
        answers = adopted(folder, victim, tmp_path / "out")
    except PipelineError as error:
        assert "Traceback" not in str(error)
        assert "expected no error" not in str(error), error
        assert "an answer within" not in str(error), "it hangs"
        return
    if victim.checked:
        assert answers.keys() == _answers[name].keys()
        for output, expected in _answers[name].items():
            np.testing.assert_array_equal(answers[output], expected)


def test_a_changed_weight_in_a_frozen_graph_is_another_model_that_nobody_can_tell(
    yard: Shipyard, tmp_path: Path
) -> None:
    """Why the law leaves these forms out; and that the comparison above would see a difference."""
    victim = VICTIMS["frozen .pb"]
    written = yard.written(victim.way)
    whole = adopted(written, victim, tmp_path / "out")
    shutil.copytree(written, tmp_path / "hurt")
    content = (written / victim.file).read_bytes()
    weight = isolate.call(one_network_in_every_form.bytes_of_constant, written / victim.file, "net/out")
    place = content.index(bytes.fromhex(weight))
    hurt = bytearray(content)
    hurt[place + 2] ^= 1 << 6
    (tmp_path / "hurt" / victim.file).write_bytes(hurt)
    changed = adopted(tmp_path / "hurt", victim, tmp_path / "out")
    assert (changed["serving_default/y"] != whole["serving_default/y"]).any()
