"""Settings come from several sources, the later over the earlier; a wrong one is refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flows import config as configuration
from tasks.records.settings import RuntimeChoice
from tests.flows.cli.process import tfship


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(folder: Path) -> None:
    file = folder / "tfship.yaml"
    file.write_text("serving: {runtime: docker, cpus: 1.5, image: a}\ntraining: {steps: 7, saver: {max_to_keep: 2}}\n")
    environment = {"TFSHIP_SERVING__RUNTIME": "binary", "TFSHIP_SERVING__IMAGE": "b", "TFSHIP_GOLDEN": "a test's own"}
    options = {"serving": {"runtime": "embedded", "image": None}, "training": {"steps": None}}
    found = configuration.load(file, options, environment)
    assert found.serving.runtime is RuntimeChoice.EMBEDDED
    assert found.serving.image == "b", "an option that was not given says nothing"
    assert found.serving.cpus == 1.5
    assert (found.training.steps, found.training.saver.max_to_keep) == (7, 2)
    assert configuration.load(file, {}, {}).serving.runtime is RuntimeChoice.DOCKER
    assert configuration.load(None, {}, {}).serving.runtime is RuntimeChoice.AUTO


def test_values_in_the_environment_are_yaml() -> None:
    environment = {
        "TFSHIP_TRAINING": "{steps: 3, hyperparameters: {filters: 4}}",
        "TFSHIP_TRAINING__SAVER__SHARDED": "yes",
        "TFSHIP_REFRESH": "[train, freeze]",
        "TFSHIP_STORE": "/somewhere",
    }
    found = configuration.load(None, {}, environment)
    assert found.training.steps == 3 and found.training.saver.sharded is True
    assert found.training.hyperparameters == {"filters": 4}
    assert found.refresh == {"train", "freeze"} and found.store == Path("/somewhere")


def test_prefects_own_word_for_a_refresh_is_honoured() -> None:
    assert configuration.load(None, {}, {"PREFECT_TASKS_REFRESH_CACHE": "true"}).refresh == {"all"}


def test_a_section_left_empty_says_nothing(folder: Path) -> None:
    (folder / "tfship.yaml").write_text("serving:\ntraining:\n  steps: 5\n")
    found = configuration.load(folder / "tfship.yaml", {"serving": {"cpus": 1.0}}, {})
    assert found.serving.cpus == 1.0 and found.training.steps == 5


WRONG = {
    "unknown example": (["nosuch"], {}, "", ["SOURCE", "sundaynet", "'nosuch'"]),
    "unknown setting": ([], {}, "trainng: {steps: 3}", ["setting trainng", "one of source, name"]),
    "unknown nested setting": ([], {}, "training: {saver: {keep: 3}}", ["setting training.saver.keep", "max_to_keep"]),
    "unknown nested setting of a table": ([], {}, "tolerance: {x: 1}", ["setting tolerance.x"]),
    "unknown in the environment": (
        [],
        {"TFSHIP_SERVING__FOO": "1"},
        "",
        ["setting serving.foo (environment variable TFSHIP_SERVING__FOO)", "cpus"],
    ),
    "wrong value in the environment": ([], {"TFSHIP_SERVING__RUNTIME": "x"}, "", ["setting serving.runtime", "'x'"]),
    "wrong type": ([], {}, "training: {steps: many}", ["setting training.steps", "a valid integer", "'many'"]),
    "a number for a section": ([], {}, "serving: 5", ["setting serving", "settings by name", "5"]),
    "a section for a number": ([], {}, "training: {steps: {a: 1}}", ["setting training.steps"]),
    "out of range": (["--steps", "-1"], {}, "", ["setting training.steps", "-1"]),
    "not a list": ([], {}, "refresh: train", ["setting refresh", "a list", "'train'"]),
    "unknown step": (["--refresh", "nosuch"], {}, "", ["setting refresh", "restore_verify", "nosuch"]),
    "unknown checkpoint": (
        ["--select", "first"],
        {},
        "",
        ["setting selection.which:", "'latest' or 'best'", "'first'"],
    ),
    "a name that is a path": (["--name", "../x"], {}, "", ["setting name", "'../x'"]),
    "force without a reason": (["--force"], {}, "", ["a reason", "--reason"]),
    "not YAML": ([], {}, "serving: [1", ["tfship.yaml", "line 1"]),
    "not YAML in the environment": ([], {"TFSHIP_TRAINING": "{a: ["}, "", ["TFSHIP_TRAINING", "YAML"]),
    "a list of settings": ([], {}, "- 1", ["tfship.yaml", "list"]),
    "not text": ([], {}, b"\xff\xfe\x00", ["tfship.yaml", "UTF-8"]),
    "no such file": (["--config", "missing.yaml"], {}, "", ["missing.yaml", "No such file"]),
    "a folder": (["--config", "."], {}, "", ["--config .", "directory"]),
    "no such runtime": (["--runtime", "nosuch"], {}, "", ["--runtime", "'nosuch'", "embedded"]),
    "no such option": (["--nosuch"], {}, "", ["--nosuch"]),
    "an argument too many": (["half_plus_two", "two_variables"], {}, "", ["two_variables"]),
}


@pytest.mark.parametrize(("arguments", "environment", "file", "named"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_setting_is_named_in_one_message(
    folder: Path, arguments: list[str], environment: dict[str, str], file: str | bytes, named: list[str]
) -> None:
    if file:
        (folder / "tfship.yaml").write_bytes(file if isinstance(file, bytes) else file.encode())
        arguments = [*arguments, "--config", "tfship.yaml"]
    answer = tfship("run", *arguments, **environment)
    assert (answer.code, answer.out) == (2, ""), answer
    assert answer.err.startswith("tfship: ") and answer.err.count("tfship: ") == 1
    assert answer.err.count("\nRemedy: ") == 1 and "Traceback" not in answer.err
    assert len(answer.err.strip().splitlines()) == 2, answer.err
    for part in named:
        assert part in answer.err
    assert not (folder / ".tfship").exists(), "nothing was started"


def test_only_the_modules_that_the_configuration_names_ask_the_environment() -> None:
    root = Path(configuration.__file__).parents[1]
    asks = re.compile(r"environ\.get\(|environ\[[^]]*\](?! =)|getenv\(|kwargs_from_env\(\)|= os\.environ\)")
    asking = {
        ".".join(path.relative_to(root).with_suffix("").parts)
        for folder in ("flows", "tasks")
        for path in (root / folder).rglob("*.py")
        if asks.search(path.read_text())
    }
    assert configuration.__doc__
    assert asking == {"flows.config", *re.findall(r"`([a-z_.]+)`", configuration.__doc__)}


@pytest.mark.parametrize("arguments", [["nosuch"], ["status"], ["rollback", "x"]], ids=" ".join)
def test_a_command_that_is_not_complete(arguments: list[str]) -> None:
    answer = tfship(*arguments)
    assert answer.code == 2 and answer.err.count("Remedy: ") == 1


def test_no_command_shows_the_help() -> None:
    answer = tfship()
    assert answer.code == 2 and "Remedy" not in answer.err
    assert all(command in answer.out + answer.err for command in ("run", "rollback", "releases"))
