"""The README is true: its commands and options exist, its settings load, its model runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest
import typer.main
import yaml

from flows.cli.app import app
from flows.config import PipelineConfig
from tasks.checkpoint import checkpoint
from tasks.records.settings import Selection, Training
from tasks.restore_verify import restore_verify
from tasks.step import Run
from tasks.train import train
from tasks.user_code import source as sources
from tests.makers.tolerance import DECLARED

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = typer.main.get_command(app)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def options_of(command: str) -> set[str]:
    assert isinstance(COMMANDS, click.Group) or hasattr(COMMANDS, "commands")
    return {option for parameter in COMMANDS.commands[command].params for option in parameter.opts}


def test_every_command_it_names_exists_and_every_command_is_named() -> None:
    named = set(re.findall(r"(?<!create )tfship ([a-z][a-z-]*)", README))
    assert named == set(COMMANDS.commands)  # type: ignore[attr-defined]


def test_its_table_of_options_is_the_command_lines_own() -> None:
    table = README.split("Options of `tfship run`:")[1].split("Exit codes:")[0]
    listed = set(re.findall(r"--[a-z][a-z0-9-]*", table))
    assert listed == {option for option in options_of("run") if option.startswith("--")} - {"--help"}


@pytest.mark.parametrize("command", sorted(COMMANDS.commands))  # type: ignore[attr-defined]
def test_the_options_in_its_examples_exist(command: str) -> None:
    for line in README.splitlines():
        if re.search(rf"tfship {command}(?![\w-])", line):
            assert set(re.findall(r"--[a-z][a-z0-9-]*", line)) <= options_of(command) | {"--to", "--reason"}


def test_its_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) <= targets
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))


def test_its_settings_are_settings() -> None:
    (block,) = blocks("yaml")
    PipelineConfig.model_validate(yaml.safe_load(block))


def test_its_model_trains_and_restores(run: Run, tmp_path: Path) -> None:
    block, _ = blocks("python")
    (tmp_path / "line.py").write_text(block)
    trained = train(sources.resolve("line:Line", tmp_path), Training(steps=20))
    verified = restore_verify(checkpoint(trained, Selection()), trained, DECLARED)
    assert verified.refusal() is None


def test_its_keras_model_trains_and_restores(run: Run, tmp_path: Path) -> None:
    _, block = blocks("python")
    (tmp_path / "flowers.py").write_text(block)
    trained = train(sources.resolve("flowers:Flowers", tmp_path), Training(steps=20))
    verified = restore_verify(checkpoint(trained, Selection()), trained, DECLARED)
    assert verified.refusal() is None


def test_every_path_it_names_is_there() -> None:
    table = README.split("## Where things are")[1]
    for path in re.findall(r"`((?:flows|tasks|deploy|tests)/[a-z_/.]*)`", README + table):
        assert (ROOT / path).exists(), path


def test_nothing_committed_names_a_registry_or_this_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    if not tracked:
        pytest.fail("git lists no file")
    suspects = re.compile(r"https?://[^/\s]*(?:pypi|pythonhosted|npmjs|registry)|/root/|/work/(?:main|shared)")
    for name in tracked:
        path = ROOT / name
        if name != "tests/test_readme.py" and path.is_file():
            found = suspects.search(path.read_text(errors="ignore"))
            assert found is None, f"{name}: {found and found[0]}"
