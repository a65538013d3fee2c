"""The flow in Prefect: the states that its server shows, and the deployments of prefect.yaml on a process worker."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.exceptions import ParameterTypeError
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.promote import promote_release
from flows.rollback import rollback
from flows.train_to_serve import train_to_serve
from tasks import isolate
from tasks.artifacts.store import Store
from tasks.errors import PolicyRefused, UsageError
from tasks.records.release import Event
from tasks.releases.publish import Releases
from tests.flows.cli.process import BIN, STEPS, Shell, tfship
from tests.flows.prefect_api import PrefectApi, started
from tests.makers.half_plus_two import write_half_plus_two

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ("run", "half_plus_two", "--runtime", "embedded")

REFUSED = """
import numpy as np
from tasks.user_code.model import Graph, SignatureTensors

DATA = ()

class Dividing:
    hyperparameters = {}

    def build(self, hyperparameters):
        import tensorflow as tf
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        one = tf.compat.v1.get_variable("one", initializer=1.0)
        return Graph(signatures={"serving_default": SignatureTensors({"x": x}, {"y": one / x})})

    def batches(self, start, hyperparameters): return iter(())
    def validation(self): return {}
    def probe(self): return {"serving_default": {"x": np.zeros(2, np.float32)}}
"""


def test_a_server_shows_every_step_by_name_and_state(folder: Path, prefect_api: PrefectApi) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_api.url}):
        before = len(prefect_api.flow_runs("half_plus_two"))
        answers = [tfship(*COMMAND, "--json", "--name", "shown") for _ in range(2)]
    assert [answer.code for answer in answers] == [0, 0], answers
    first, second = prefect_api.flow_runs("half_plus_two")[before:]
    assert (first["state_name"], second["state_name"]) == ("Completed", "Unchanged")
    assert prefect_api.task_states(first["id"], len(STEPS)) == dict.fromkeys(STEPS, "Completed")
    cached = dict.fromkeys(STEPS, "Cached") | {"promote": "Unchanged", "report": "Completed"}
    assert prefect_api.task_states(second["id"], len(STEPS)) == cached


def test_a_refused_run_is_failed_there_too_and_a_refusal_is_cached(folder: Path, prefect_api: PrefectApi) -> None:
    (folder / "mine.py").write_text(REFUSED)
    for _ in range(2):
        with temporary_settings({PREFECT_API_URL: prefect_api.url}):
            answer = tfship("run", "mine:Dividing", "--runtime", "embedded", "--json")
        assert answer.code == 3 and "Remedy: " in answer.err and "Traceback" not in answer.err
    runs = prefect_api.flow_runs("mine:Dividing")
    assert [run["state_name"] for run in runs] == ["Failed", "Failed"]
    states = prefect_api.task_states(runs[-1]["id"], len(answer.states))
    assert [name for name, state in states.items() if state == "Failed"] == [
        name for name, state in answer.states.items() if state == "failed"
    ]
    assert states["train"] == "Cached" and "promote" not in states
    (event,) = prefect_api.happened(runs[-1]["id"], 1).items()
    assert event[0] == "tfship.model.refused" and event[1]["error"] == "ParityError"


def ignored(written: Any, understood: Any, path: str = "") -> list[str]:
    """Return the keys of a file that are missing in the settings read from it."""
    if isinstance(written, dict) and isinstance(understood, dict):
        return [
            found
            for key, value in written.items()
            for found in (
                [f"{path}{key}"] if key not in understood else ignored(value, understood[key], f"{path}{key}.")
            )
        ]
    if isinstance(written, list) and isinstance(understood, list):
        return [found for pair in zip(written, understood, strict=True) for found in ignored(*pair, path)]
    return []


def read_by_prefect(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that Prefect reads from a prefect.yaml: it ignores unknown keys."""
    return PrefectYamlModel.model_validate(settings).model_dump(mode="json", by_alias=True, exclude_unset=True)


def test_prefect_yaml_holds_nothing_that_prefect_ignores() -> None:
    settings = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert ignored(settings, read_by_prefect(settings)) == []
    assert {deployment["name"] for deployment in settings["deployments"]} == {"train-to-serve", "promote", "rollback"}
    for section, wrong in (("", "deploymnts"), ("deployments", "scheduls"), ("work_pool", "job_varaibles")):
        planted = copy.deepcopy(settings)
        first = planted["deployments"][0]
        {"": planted, "deployments": first, "work_pool": first["work_pool"]}[section][wrong] = {}
        assert [name.rpartition(".")[2] for name in ignored(planted, read_by_prefect(planted))] == [wrong]
    settings["deployments"][0]["schedules"][0]["crn"] = "* * * * *"
    with pytest.raises(ValueError, match="crn"):
        read_by_prefect(settings)


class Deployed:
    """The deployments, and a worker that runs them from a copy of the checkout."""

    def __init__(self, api: PrefectApi, checkout: Path) -> None:
        self.api, self.checkout = api, checkout
        own = {"PREFECT_WORKER_QUERY_SECONDS": "2", "TFSHIP_SERVING__RUNTIME": "embedded"}
        self.environment = api.environment | own
        self.run_cli("work-pool", "create", "tfship", "--type", "process")
        self.run_cli("deploy", "--all")
        arguments = ("worker", "start", "--pool", "tfship", "--type", "process")
        self.worker = Shell(
            "--no-prompt", *arguments, cwd=checkout, environment=self.environment, program=BIN / "prefect"
        )

    def run_cli(self, *arguments: str) -> str:
        """`prefect …`, in the checkout."""
        program = BIN / "prefect"
        process = Shell("--no-prompt", *arguments, cwd=self.checkout, environment=self.environment, program=program)
        answer = process.answer(400.0)
        assert answer.code == 0, answer
        return answer.out

    def ask(self, deployment: str, **parameters: Any) -> str:
        """Have the worker run it; the flow run's id."""
        (found,) = self.api.ask("deployments/filter", deployments={"name": {"any_": [deployment]}})
        made = self.api.call("POST", f"deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        run: str = made["id"]
        return run

    def state(self, run: str) -> str:
        """Return the name of a flow run's state."""
        name: str = self.api.call("GET", f"flow_runs/{run}")["state_name"]
        return name

    def wait(self, run: str, *states: str, seconds: float = 400.0) -> str:
        """Wait until the run is in one of the states."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run)) not in states:
            assert time.monotonic() < deadline and self.worker.process.poll() is None, (state, self.worker.said)
            time.sleep(0.2)
        return state

    def logged(self, run: str) -> set[str]:
        """Return the beginning of the run's log."""
        logs = self.api.ask("logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200)
        return {log["message"].partition(" ")[0] for log in logs}

    def children(self) -> dict[int, str]:
        """Return the processes that run under the worker."""
        return {pid: command for pid, command in self.worker.left().items() if pid != self.worker.process.pid}


@pytest.fixture(scope="module")
def deployed(prefect_api: PrefectApi, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("flows", "tasks"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "prefect.yaml", checkout)
    found = Deployed(prefect_api, checkout)
    yield found
    found.worker.end()


def test_the_schedule_is_off_until_it_is_switched_on(deployed: Deployed) -> None:
    (found,) = deployed.api.ask("deployments/filter", deployments={"name": {"any_": ["train-to-serve"]}})
    schedules = {one["slug"]: one for one in found["schedules"]}
    assert {slug: one["schedule"]["cron"] for slug, one in schedules.items()} == {
        "nightly": "0 3 * * *",
        "weekly": "0 6 * * 0",
    }
    assert not any(one["active"] for one in schedules.values())
    assert schedules["weekly"]["parameters"] == {"refresh": ["all"]}
    (trigger,) = deployed.api.ask("automations/filter")
    assert trigger["enabled"] is False and trigger["trigger"]["expect"] == ["tfship.model.blessed"]


def test_every_parameter_of_a_deployment_is_described_and_needs_no_nested_object(deployed: Deployed) -> None:
    for found in deployed.api.ask("deployments/filter"):
        schema = found["parameter_openapi_schema"]
        for name, field in schema["properties"].items():
            assert field.get("description", "").endswith("."), f"{found['name']}: {name}"
            assert name == "settings" or "object" not in json.dumps(field), f"{found['name']}: {name}"


def paths(folder: Path) -> dict[str, str]:
    return {name: str(folder / name) for name in ("store", "serving_root", "reports")}


def test_a_worker_runs_the_deployment(folder: Path, deployed: Deployed) -> None:
    given = {"source": "half_plus_two", "settings": {"serving": {"runtime": "embedded"}}, **paths(folder)}
    options = [word for name, value in given.items() for word in ("-p", f"{name}={json.dumps(value)}")]
    said = deployed.run_cli("deployment", "run", "train-to-serve/train-to-serve", *options)
    (run,) = [line.split()[-1] for line in said.splitlines() if "UUID" in line]
    assert deployed.wait(run, "Completed", "Failed", "Crashed", "Cancelled") == "Completed", deployed.worker.said
    assert deployed.api.task_states(run, len(STEPS)) == dict.fromkeys(STEPS, "Completed")
    assert (folder / "serving_root" / "half_plus_two" / "1" / "saved_model.pb").is_file()
    deadline = time.monotonic() + 90.0  # a log arrives when it arrives
    while missing := set(STEPS) - deployed.logged(run):
        assert time.monotonic() < deadline, missing
        time.sleep(0.2)
    happened = deployed.api.happened(run, 3)
    assert list(happened) == ["tfship.model.exported", "tfship.model.blessed", "tfship.model.promoted"]
    assert happened["tfship.model.blessed"]["verdict"] == "passed (stand-in)"
    assert happened["tfship.model.promoted"]["version"] == 1
    artifacts = {one["key"]: one for one in deployed.api.ask("artifacts/filter", flow_runs={"id": {"any_": [run]}})}
    assert set(artifacts) == {"half-plus-two-parity", "half-plus-two-page"}
    rows = json.loads(artifacts["half-plus-two-parity"]["data"])
    assert {row["form"] for row in rows} >= {"checkpoint", "frozen_graph", "served (gRPC)"} and all(
        row["verdict"] in ("equal", "same") for row in rows if row["checks"]
    )
    assert "version 1 promoted" in artifacts["half-plus-two-parity"]["description"]


def test_a_worker_promotes_what_was_blessed(deployed: Deployed) -> None:
    """The promotion is started by the event of a run that did not promote; both have the worker's own settings."""
    (trigger,) = deployed.api.ask("automations/filter")
    deployed.api.call("PATCH", f"automations/{trigger['id']}", {"enabled": True})
    try:
        run = deployed.ask("train-to-serve", source="half_plus_two", name="blessed", promote=False)
        assert deployed.wait(run, "Completed", "Failed", "Crashed") == "Completed", deployed.worker.said
        event = deployed.api.happened(run, 2)["tfship.model.blessed"]
        deadline = time.monotonic() + 120.0
        while not (started := deployed.api.flow_runs(event["run_id"])):
            assert time.monotonic() < deadline, "the event has started nothing"
            time.sleep(0.2)
        assert deployed.wait(started[0]["id"], "Completed", "Failed", "Crashed") == "Completed", deployed.worker.said
    finally:
        deployed.api.call("PATCH", f"automations/{trigger['id']}", {"enabled": False})
    assert (deployed.checkout / ".tfship/serving/blessed/1/saved_model.pb").is_file()


def test_a_worker_rolls_back(deployed: Deployed) -> None:
    served = deployed.checkout / ".tfship/serving/by-hand"
    for version in ("1", "2"):
        isolate.call(write_half_plus_two, served / version)
    back = deployed.ask("rollback", name="by-hand", reason="a test")
    assert deployed.wait(back, "Completed", "Failed", "Crashed") == "Completed", deployed.worker.said
    assert deployed.api.happened(back, 1)["tfship.model.rolled_back"]["version"] == 1
    assert sorted(path.name for path in served.iterdir()) == [".tfship", "1", "2.rolled-back"]


def test_promotion_and_rollback_are_flows_of_their_own(folder: Path, prefect_api: PrefectApi) -> None:
    settings = folder / "settings.yaml"
    settings.write_text("serving: {runtime: embedded}\n")
    ran = tfship(*COMMAND, "--no-server", "--no-promote", "--json").document
    with temporary_settings({PREFECT_API_URL: prefect_api.url}):
        promote_release(ran["run_id"], name="p", label="canary", config=settings)
        with pytest.raises(UsageError, match="a run in"):
            promote_release("nosuch", name="p", config=settings)
    assert [run["state_name"] for run in prefect_api.flow_runs(ran["run_id"])] == ["Completed"]
    assert (folder / ".tfship" / "serving" / "p" / "1" / "saved_model.pb").is_file()
    assert "canary" in (folder / ".tfship" / "serving" / "models.config").read_text()

    for version in ("1", "2"):
        isolate.call(write_half_plus_two, folder / "m" / version)
    with temporary_settings({PREFECT_API_URL: prefect_api.url}):
        assert rollback("m", "a test", serving_root=folder, config=settings).version == 1
        with pytest.raises(UsageError, match="a version before it"):
            rollback("m", "once more", serving_root=folder, config=settings)
    assert [run["state_name"] for run in prefect_api.flow_runs("m")] == ["Completed", "Failed"]
    assert sorted(path.name for path in (folder / "m").iterdir()) == [".tfship", "1", "2.rolled-back"]


APPROVED = {"approve": True, "by": "Ada", "reason": "looked at it"}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        pytest.param(APPROVED, None, id="yes"),
        pytest.param(APPROVED | {"approve": False, "reason": "no"}, "the answer no, of Ada: no", id="no"),
        pytest.param(None, "no answer within 1 s", id="none"),
    ],
)
def test_a_promotion_waits_for_a_persons_approval(
    copied: Path, prefect_api: PrefectApi, answer: dict[str, Any] | None, found: str | None
) -> None:
    settings = copied / "settings.yaml"
    settings.write_text("serving: {runtime: embedded}\nrelease: {policy: {approval: true}}\nname: p\n")
    (page,) = (copied / ".tfship" / "reports").glob("*/run.json")
    run = page.parent.name
    seconds = 1 if answer is None else 300

    def resume() -> str:
        """Answer as the UI does, with what the form asks for; return the question."""
        deadline = time.monotonic() + 120.0
        while not (paused := [one for one in prefect_api.flow_runs(run) if one["state_name"] == "Paused"]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        place, keys = f"flow_runs/{paused[-1]['id']}", paused[-1]["state"]["state_details"]["run_input_keyset"]
        schema = prefect_api.call("GET", f"{place}/input/{keys['schema']}")
        assert set(schema["properties"]) == set(APPROVED)
        refused = prefect_api.call("POST", f"{place}/resume", {"run_input": {"approve": True}})
        assert refused["status"] == "REJECT", "an answer without a name and a reason"
        assert prefect_api.call("POST", f"{place}/resume", {"run_input": answer})["status"] == "ACCEPT"
        return str(prefect_api.call("GET", f"{place}/input/{keys['description']}"))

    with temporary_settings({PREFECT_API_URL: prefect_api.url}), ThreadPoolExecutor(1) as pool:
        asked = pool.submit(resume) if answer is not None else None
        refused = contextlib.nullcontext() if found is None else pytest.raises(PolicyRefused, match=found)
        with refused:
            promote_release(run, config=settings, wait_for_approval=seconds)
        if asked is not None:
            assert "Is **p**" in asked.result() and "as version 1?" in asked.result()
    releases = Releases(copied / ".tfship" / "serving", "p")
    assert releases.served() == (1 if found is None else None)
    approvals = [(line.by, line.reason) for line in releases.journal() if line.event is Event.APPROVED]
    assert approvals == ([("Ada (in Prefect)", "looked at it")] if found is None else [])


def test_a_wrong_parameter_of_a_deployment_is_refused() -> None:
    with pytest.raises(ParameterTypeError, match=r"refresh.*restore_verify"):
        train_to_serve.validate_parameters({"source": "half_plus_two", "refresh": ["nosuch"]})
    with pytest.raises(UsageError, match="trainng"):
        train_to_serve.fn("half_plus_two", settings={"trainng": {}})


def test_a_run_that_is_cancelled_under_a_worker_leaves_nothing_running(folder: Path, deployed: Deployed) -> None:
    training = {"steps": 100_000, "saver": {"every_steps": 20}}
    run = deployed.ask("train-to-serve", source="sundaynet", settings={"training": training}, **paths(folder))
    deadline = time.monotonic() + 300.0
    while not list(folder.glob("store/.staging/train/*/checkpoints/*.index")):
        assert time.monotonic() < deadline and deployed.state(run) not in ("Completed", "Failed", "Crashed")
        time.sleep(0.1)
    assert deployed.children()
    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    deployed.api.call("POST", f"flow_runs/{run}/set_state", body)
    assert deployed.wait(run, "Cancelled", "Failed", "Crashed", seconds=180.0) == "Cancelled"
    deadline = time.monotonic() + 30.0
    while children := deployed.children():
        assert time.monotonic() < deadline, children
        time.sleep(0.05)
    assert Store(folder / "store").artifacts("train") == []
    assert list(folder.glob("store/.staging/train/*/checkpoints/*.index")), "what it had is kept"


@pytest.mark.parametrize(
    ("number", "code", "state"), [(signal.SIGINT, 130, "Crashed"), (signal.SIGTERM, 143, "Crashed")]
)
def test_a_signal_inside_prefects_own_handling(
    folder: Path, shell: Callable[..., Shell], prefect_api: PrefectApi, number: signal.Signals, code: int, state: str
) -> None:
    process = shell("run", "two_variables", "--runtime", "embedded", environment=prefect_api.environment)
    process.until(lambda: list(folder.glob(".tfship/store/.staging/train/*")))
    process.send(number)
    answer = process.answer(60.0)
    process.assert_nothing_left()
    assert answer.code == code and "Traceback" not in answer.err, answer
    lines = answer.err.splitlines()
    assert lines[-1].startswith("tfship: ") and lines[-1].endswith("; run again to go on from here.")
    assert len(lines) == 2 and lines[0].startswith("train           failed"), lines
    assert prefect_api.flow_runs("two_variables")[-1]["state_name"] == state


@pytest.mark.parametrize(("source", "code"), [("half_plus_two", 4), ("mine:Dividing", 3)])
def test_a_server_that_dies_in_the_middle_of_a_run_hides_no_verdict_and_costs_no_work(
    folder: Path, shell: Callable[..., Shell], prefect_home: Path, source: str, code: int
) -> None:
    (folder / "mine.py").write_text(REFUSED)
    shutil.copytree(prefect_home, folder / "prefect")
    command = ("run", source, "--runtime", "embedded")
    with started(folder / "prefect") as api:
        at_once = api.environment | {"PREFECT_CLIENT_MAX_RETRIES": "0"}  # Prefect would wait for minutes
        process = shell(*command, environment=at_once)
        process.until(lambda: list(folder.glob(".tfship/store/.staging/train/*")))
        api.server.end()
        answer = process.answer()
        process.assert_nothing_left()
    assert answer.code == code, answer
    lines = answer.err.splitlines()
    steps, said = lines[:-2], lines[-2:]
    assert all(line.split()[0] in STEPS for line in steps) and steps[-1].startswith("report "), lines
    assert said[0].startswith("tfship: ") and said[1].startswith("Remedy: "), lines
    if code == 4:
        assert api.url in said[0] and "--no-server" in said[1]
        assert len(steps) == len(STEPS), "the run itself went on to its end"
    again = tfship(*command, "--no-server", "--json")
    assert again.code == (0 if code == 4 else 3), again
    assert again.states["train"] == "cached"
