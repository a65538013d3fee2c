"""The report page: what it must state, what it must never state, and that it loads nothing."""

from __future__ import annotations

import ast
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from tasks.presentation import curves, samples, usage
from tasks.presentation.facts import FileFact, ReportFacts
from tasks.presentation.page import render
from tasks.records.coverage import VariableStatus
from tasks.records.parity import Difference, ParityRow, ParityTest
from tasks.records.run import Promotion, StepState
from tasks.records.serving import Cause
from tasks.records.signature import TensorSpec
from tests.presentation.report_facts import (
    DEFAULT,
    HOSTILE,
    check,
    complete,
    complete_chain,
    outcome,
    pinned,
    refused_early,
    refused_output,
    restored,
    row,
    smoke,
    untrained,
)

VOID = {"meta", "br", "wbr", "link", "img", "hr", "input"}
OTHER_SIGNATURES = check(
    "gRPC", "metadata", "these", "signature classify is missing", passed=False, cause=Cause.SIGNATURE_DIFFERS
)
LOADERS = {"script", "link", "img", "iframe", "object", "embed", "audio", "video", "source", "base", "form", "image"}


class Page(HTMLParser):
    """A parsed page: its text by section, its attributes, and every tag that does not balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.headline = ""
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.unbalanced += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "h1" in self.open:
            self.headline += data
        if "td" in self.open or "th" in self.open:
            self.cells[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


RUNS = {
    "complete": complete(),
    "refused_early": refused_early(),
    "refused_output": refused_output(),
    "untrained": untrained(),
    "nothing": ReportFacts(run_id="r", name="m", created_at="now", tensorflow="2.21.0"),
}


@pytest.fixture(params=list(RUNS.values()), ids=list(RUNS))
def facts(request: pytest.FixtureRequest) -> ReportFacts:
    """Facts of every kind of run."""
    found: ReportFacts = request.param
    return found


def test_every_page_is_balanced_html(facts: ReportFacts) -> None:
    page = Page(render(facts))
    assert page.unbalanced == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_no_page_loads_anything(facts: ReportFacts) -> None:
    text = render(facts)
    page = Page(text)
    assert not LOADERS & {tag for tag, _ in page.tags}
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert all(link and link.startswith("#") for link in links)
    assert all(target.startswith(("#", "data:")) for target in re.findall(r"url\(\s*['\"]?([^)]*)", text))
    assert "@import" not in text
    policies = [attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_reference_has_its_target(facts: ReportFacts) -> None:
    text = render(facts)
    page = Page(text)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    wanted = set(re.findall(r"(?:href=\"|url\()#([^\")]*)", text))
    wanted |= {a[name] or "" for _, a in page.tags for name in ("aria-labelledby", "aria-describedby") if name in a}
    assert wanted <= ids


def test_the_same_facts_give_the_same_bytes() -> None:
    assert render(complete()) == render(ReportFacts.model_validate_json(complete().model_dump_json()))


def test_every_header_cell_has_a_scope(facts: ReportFacts) -> None:
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in Page(render(facts)).tags if tag == "th")


@pytest.mark.parametrize(
    ("facts", "headline"),
    [
        (complete(), "Promoted as version 3"),
        (refused_output(), "Refused: frozen_graph differs from the live session at serving_default/logits"),
        (refused_early(), "Refused at restore_verify"),
        (refused_early().model_copy(update={"against_model": False}), "Failed at restore_verify"),
        (complete(promotion=None), "Finished, not promoted"),
        (
            complete(promotion=Promotion(name="m", version=2, outcome="unchanged")),
            "Unchanged: version 2 already holds this model",
        ),
        (complete(promotion=Promotion(name="m", outcome="held")), "Held: this model was rolled back before"),
        (complete(promotion=Promotion(name="m", outcome="skipped")), "Finished, not promoted"),
        (complete(steps=(outcome("train", StepState.FAILED),), promotion=None, parity=()), "Failed at train"),
        (
            complete(
                restore=restored(
                    VariableStatus(name="w", key=None, status="missing", needed=True, expected="float32[]", found=None)
                )
            ),
            "Refused: the checkpoint does not restore w (missing)",
        ),
        (
            complete(smokes=(smoke(passed=False, checks=(OTHER_SIGNATURES,)),)),
            "Refused: signature differs: metadata over gRPC, signature classify is missing",
        ),
        (
            complete(
                smokes=(smoke(), smoke(passed=False, checks=(check("REST", "no body", "4xx", "200", passed=False),)))
            ),
            "Refused: answered what it must refuse: no body over REST, 200",
        ),
        (
            complete(parity=(row("live session", "logits", passed=False, note="not finite"),)),
            "Refused: the live session itself at serving_default/logits (not finite)",
        ),
    ],
)
def test_the_headline(facts: ReportFacts, headline: str) -> None:
    assert Page(render(facts)).headline == headline


@pytest.mark.parametrize(
    ("first", "named"),
    [
        (
            row("checkpoint", "conv1/kernel", "", passed=False),
            "checkpoint differs from the live session at variable conv1/kernel",
        ),
        (
            row("checkpoint", "asset labels.txt", "", passed=False),
            "checkpoint differs from the live session at asset labels.txt",
        ),
        (
            row("frozen_graph", "*", "classify", passed=False),
            "frozen_graph differs from the live session at every output of classify",
        ),
        (
            row("served (REST)", "class", passed=False),
            "served (REST) differs from the live session at serving_default/class",
        ),
    ],
    ids=["variable", "asset", "no answer", "served"],
)
def test_the_first_divergent_form_is_named_whatever_the_order_of_the_rows(first: ParityRow, named: str) -> None:
    later = row("somebody else's form", "logits", passed=False)
    parity = (
        later,
        first,
        *(one for one in complete_chain() if (one.candidate, one.output) != (first.candidate, first.output)),
    )
    page = Page(render(complete(parity=parity, refusal="it differs.\nRemedy: look.")))
    assert page.headline == f"Refused: {named}"
    assert f"First divergence: {named}." in page.text
    marked = [cell for cell in page.cells if "first to diverge" in cell]
    assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in marked] == [f"first to diverge{first.candidate}"]


def test_a_difference_outweighs_a_claimed_promotion() -> None:
    page = Page(render(refused_output().model_copy(update={"refusal": None, "promotion": complete().promotion})))
    assert page.headline.startswith("Refused: frozen_graph differs")


def test_the_refusal_and_its_remedy_stand_at_the_top() -> None:
    text = Page(render(refused_output())).text
    assert (
        text.index("expected 1.25, found 1.2921")
        < text.index("Remedy: look for dropout")
        < text.index("Parity of every form")
    )


def test_a_stand_in_never_plainly_passes() -> None:
    for promotion in (None, complete().promotion):
        facts = complete(smokes=(smoke(stand_in=True),), promotion=promotion, parity=(), restore=None)
        text = Page(render(facts)).text
        assert text.count("passed") == text.count("passed (stand-in)") == 3
        assert "A stand-in for TensorFlow Serving answered" in text


def test_a_real_servers_pass_is_called_passed() -> None:
    text = Page(render(complete())).text
    assert "passed, docker 2.20.0" in text
    assert "stand-in" not in text


def test_an_unmade_comparison_is_never_called_passed() -> None:
    parity = (row("checkpoint", "logits"), row("frozen_graph", "*", "", passed=None, note="not made: 2.3 GiB > 2 GiB"))
    page = Page(render(complete(parity=parity)))
    assert "equal in 1 form, 1 comparison, 1 not made" in page.text
    assert page.cells.count("\N{EN DASH} not made: 2.3 GiB > 2 GiB") == 2
    assert not any("frozen" in cell and "=" in cell for cell in page.cells)


def test_nothing_compared_is_not_equal() -> None:
    page = Page(render(refused_early()))
    assert "nothing was compared" in page.text
    assert not any(cell.startswith("=") for cell in page.cells)
    assert "\N{EN DASH} not reached" in page.cells


def test_a_differing_variable_is_not_hidden_behind_those_that_agree() -> None:
    agreed = row("checkpoint", "variables", "", compared=11, note="11 of 12 equal byte for byte")
    page = Page(render(complete(parity=(agreed, row("checkpoint", "conv1/kernel", "", passed=False)))))
    assert any(cell.startswith("≠ conv1/kernel") for cell in page.cells)
    assert not any(cell.startswith("= byte for byte") for cell in page.cells)


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({}, "= bit for bitexact"),
        ({"test": ParityTest.SERVED}, "= no differenceserved"),
        ({"test": ParityTest.SERVED, "max_abs": 3.8e-6}, "≈ 3.8e\N{MINUS SIGN}06served, within tolerance"),
        (
            {"test": ParityTest.SERVED, "mismatched": 2, "note": "2 ties within the tolerance of logits"},
            "≈ tiesserved, 2 of 500 mismatched, 2 ties within the tolerance of logits",
        ),
        ({"passed": False, "mismatched": 3, "max_abs": 0.5}, "≠ 0.5exact, 3 of 500 mismatched"),
        ({"passed": False, "mismatched": 3, "max_abs": float("nan")}, "≠ NaNexact, 3 of 500 mismatched"),
        ({"passed": False, "mismatched": 3, "max_abs": float("inf")}, "≠ infexact, 3 of 500 mismatched"),
        (
            {"passed": False, "worst": Difference(expected="float32[2]", got="float32[3]")},
            "≠ float32[3]exact, expected float32[2]",
        ),
        ({"passed": None, "note": "empty"}, "\N{EN DASH} not made: empty"),
    ],
)
def test_a_cell(changes: dict[str, Any], cell: str) -> None:
    assert cell in Page(render(complete(parity=(row("checkpoint", "logits", **changes),)))).cells


def test_nan_and_infinities_are_shown_as_such() -> None:
    odd = float("nan"), float("inf"), -float("inf")
    training = tuple({"step": step, "of": 5, "loss": value} for step, value in enumerate((1.0, *odd, 0.5)))
    parity = (row("checkpoint", "logits", passed=False, max_abs=odd[0], max_rel=odd[1]),)
    page = Page(render(complete(parity=parity, training=training, smokes=(smoke(load_seconds=odd[0]),))))
    assert {"NaN", "inf"} <= set(page.cells)
    assert "loss was NaN, inf, \N{MINUS SIGN}inf at 3 logged steps, first at step 1." in page.text
    assert "Load, until AVAILABLE NaN" in page.text
    assert page.unbalanced == []


@pytest.mark.parametrize("loss", [(float("nan"),), (0.0, -1.0), (1.0,)], ids=["only NaN", "not positive", "one line"])
def test_a_loss_that_no_logarithm_takes(loss: tuple[float, ...]) -> None:
    training = tuple({"step": step, "of": 2, "loss": value} for step, value in enumerate(loss))
    page = Page(render(complete(training=training, smokes=())))
    assert page.unbalanced == []
    assert ("Loss, logarithmic" in page.text) == (loss == (1.0,))
    assert [tag for tag, _ in page.tags].count("svg") == (0 if loss[0] != loss[0] else 1)


def test_what_comes_from_a_model_is_inert() -> None:
    spec = TensorSpec(tensor=HOSTILE, dtype=HOSTILE, shape=(None,))
    signature = DEFAULT.model_copy(update={"key": HOSTILE, "inputs": {HOSTILE: spec}, "outputs": {HOSTILE: spec}})
    wrong = row(HOSTILE, HOSTILE, HOSTILE, passed=False, note=HOSTILE, worst=Difference(expected=HOSTILE, got=HOSTILE))
    facts = complete(
        run_id=HOSTILE,
        name=HOSTILE,
        created_at=HOSTILE,
        outcome=HOSTILE,
        tensorflow=HOSTILE,
        steps=(
            outcome(HOSTILE, artifact=HOSTILE, digest=HOSTILE, message=HOSTILE),
            outcome("freeze", artifact=HOSTILE),
        ),
        parity=(wrong, row("checkpoint", HOSTILE, HOSTILE)),
        training=({"step": 1, "of": 2, "loss": 1.0, HOSTILE: 0.5, "$x_{": 0.5, "_hidden": 0.25}, {"step": "x"}),
        signatures=(signature,),
        sample_inputs={HOSTILE: {HOSTILE: HOSTILE}},
        hyperparameters={HOSTILE: HOSTILE},
        refusal=f"{HOSTILE}\nRemedy: {HOSTILE}",
        promotion=Promotion(
            name=HOSTILE, outcome="promoted", version=1, path=f"/srv/{HOSTILE}/1", confirmed_by=HOSTILE
        ),
        smokes=(smoke(warmup=HOSTILE),),
        files=(FileFact(step="freeze", path="frozen_graph.pb", size=1, sha256=HOSTILE),),
    )
    text = render(facts)
    page = Page(text)
    assert "<script" not in text
    assert HOSTILE in page.text
    assert page.unbalanced == []
    assert not LOADERS & {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_missing_parts_are_said_to_be_missing() -> None:
    text = Page(render(refused_early())).text
    for sentence in (
        "Not run: no server has loaded this model.",
        "Nothing was trained in this run, or nothing was logged.",
        "No checkpoint was pinned.",
        "Nothing of this run was published.",
        "No artifact was committed.",
    ):
        assert sentence in text


def test_a_form_that_was_not_part_of_the_run_is_named() -> None:
    assert "Not compared in this run: checkpoint." in Page(render(untrained())).text
    assert "Not compared in this run" not in Page(render(complete())).text


def test_only_a_run_that_was_stopped_did_not_reach_a_form() -> None:
    parity = tuple(one for one in complete_chain() if not one.candidate.startswith("served"))
    text = Page(render(complete(parity=parity, smokes=(), promotion=None))).text
    assert "Not compared in this run: served (gRPC), served (REST)." in text
    assert "not reached" not in text
    assert "not reached" in Page(render(complete(parity=parity, smokes=(), promotion=None, refusal="no server"))).text


def test_a_loss_within_one_decade_still_has_labels() -> None:
    (panel,) = curves.panels([{"step": 1, "loss": 0.45}, {"step": 2, "loss": 0.31}])
    assert {">0.32<", ">0.44<"} <= set(re.findall(r">[\d.]+<", panel.svg))


@pytest.mark.parametrize(("tensors", "folded"), [(12, False), (13, True)])
def test_a_long_list_of_tensors_is_folded(tensors: int, folded: bool) -> None:
    text = render(complete(pinned=pinned(tensors), restore=None))
    opened = re.search(r"<details( open)?>\s*<summary>\d+ tensors", text)
    assert opened
    assert (opened[1] is None) == folded


def _body(curl: str) -> dict[str, object]:
    words = shlex.split(curl)
    assert words[:4] == ["curl", "-sS", "-X", "POST"]
    found: dict[str, object] = json.loads(words[words.index("-d") + 1])
    return found


def test_the_rest_example_is_a_predict_request_with_the_sample_row() -> None:
    (example,) = usage.examples(complete(name="a model's"))
    assert "http://127.0.0.1:8501/v1/models/a%20model%27s:predict" in shlex.split(example.curl)
    assert _body(example.curl) == {
        "signature_name": "serving_default",
        "instances": [{"images": [[0.0, 0.5], [1.0, 0.25]]}],
    }


def test_an_input_without_rows_makes_the_request_columnar() -> None:
    specs = {
        "x": TensorSpec(tensor="x:0", dtype="float32", shape=(None, 2)),
        "keep": TensorSpec(tensor="k:0", dtype="float32", shape=()),
    }
    signature = DEFAULT.model_copy(update={"inputs": specs})
    facts = complete(signatures=(signature,), sample_inputs={"serving_default": {"x": [1.0, 2.0], "keep": 1.0}})
    (example,) = usage.examples(facts)
    assert _body(example.curl) == {"signature_name": "serving_default", "inputs": {"x": [[1.0, 2.0]], "keep": 1.0}}


@pytest.mark.parametrize("value", [[0.5], float("nan"), "quo'te", {"b64": "/w=="}, [[0.25] * 5000]], ids=str)
def test_the_python_examples_are_python(value: object) -> None:
    files = (FileFact(step="freeze", path="frozen_graph.pb", size=1, sha256="0"),)
    facts = complete(name="it's", sample_inputs={"serving_default": {"images": value}}, files=files)
    (example,) = usage.examples(facts)
    for source in (example.grpc, usage.frozen(facts)):
        ast.parse(source)
        assert len(source) < 2000
    assert "init_all_tables" in usage.frozen(facts)


def test_a_dtype_that_json_cannot_carry_has_no_rest_example() -> None:
    specs = {"images": TensorSpec(tensor="images:0", dtype="bfloat16", shape=(None, 2))}
    (example,) = usage.examples(complete(signatures=(DEFAULT.model_copy(update={"inputs": specs}),)))
    assert example.curl == ""
    assert example.note == "REST's JSON cannot carry bfloat16: use gRPC."


def test_a_sample_is_the_first_row_as_json() -> None:
    specs = {
        "rows": TensorSpec(tensor="a:0", dtype="float32", shape=(None, 2)),
        "rate": TensorSpec(tensor="b:0", dtype="float32", shape=()),
        "text": TensorSpec(tensor="c:0", dtype="string", shape=(None,)),
        "blob": TensorSpec(tensor="d:0", dtype="string", shape=None),
        "fixed": TensorSpec(tensor="e:0", dtype="int64", shape=(2,)),
    }
    arrays = {
        "rows": np.array([[0.1, 1], [2, 3]], np.float32),
        "rate": np.array(0.5, np.float32),
        "text": np.array([b"one", b"two"], dtype=object),
        "blob": np.array([b"\xff", b""], dtype=object),
        "fixed": np.array([7, 8]),
    }
    found = samples.sample(DEFAULT.model_copy(update={"inputs": specs}), arrays)
    assert json.loads(json.dumps(found)) == {
        "rows": [0.1, 1.0],
        "rate": 0.5,
        "text": "one",
        "blob": {"b64": "/w=="},
        "fixed": [7, 8],
    }


def test_commands_name_the_serving_root_and_the_version_to_go_back_to() -> None:
    releases, rollback, serve = (shlex.split(command.line) for command in usage.commands(complete()))
    assert releases == ["tfship", "releases", "sundaynet", "--serving-root", "/srv/models"]
    assert rollback[:5] == ["tfship", "rollback", "sundaynet", "--to", "2"]
    assert "--reason" in rollback
    assert serve[3:] == [
        "--port=8500",
        "--rest_api_port=8501",
        "--model_name=sundaynet",
        "--model_base_path=/srv/models/sundaynet",
    ]


@pytest.mark.parametrize("facts", [refused_output(), complete(promotion=None)], ids=["refused", "not promoted"])
def test_what_was_not_published_is_neither_rolled_back_nor_served(facts: ReportFacts) -> None:
    assert [command.line for command in usage.commands(facts)] == ["tfship releases sundaynet"]
