"""`tfship doctor` finds each planted fault and gives a remedy; what is not needed is no failure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.cli import doctor
from tests.flows.cli.process import Answer, Shell, tfship

NO_ENGINE = {"DOCKER_HOST": "unix:///no/engine.sock"}


def looked(folder: Path, *options: str, **environment: str) -> tuple[Answer, dict[str, dict[str, Any]]]:
    """Run doctor; return its answer, and its checks by name."""
    folders = ("--store", str(folder / "store"), "--serving-root", str(folder / "serving"))
    answer = tfship("doctor", "--json", *folders, *options, **{**NO_ENGINE, **environment})
    return answer, {one["check"]: one for one in answer.document["checks"]}


def failed(checks: dict[str, dict[str, Any]]) -> list[str]:
    found = [name for name, one in checks.items() if one["verdict"] == "failed"]
    assert all(checks[name]["remedy"] for name in found)
    return found


def test_a_host_without_an_engine_is_well_for_auto_and_not_for_docker(tmp_path: Path) -> None:
    answer, checks = looked(tmp_path)
    assert failed(checks) == [], checks
    assert answer.code == 0
    assert checks["docker engine"]["verdict"] == "unused"
    assert "no socket /no/engine.sock" in checks["docker engine"]["found"]
    assert "stand-in" in checks["runtime"]["found"] or checks["runtime"]["found"].startswith("binary")
    assert "answers" in checks["embedded server"]["found"]
    assert not list(tmp_path.iterdir()), "looking makes nothing"

    answer, checks = looked(tmp_path, "--runtime", "docker")
    assert (answer.code, failed(checks)) == (4, ["docker engine"])
    assert "embedded server" not in checks


def test_an_image_that_is_named_needs_an_engine(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("images: ['tensorflow/serving:of-nobody']\n")
    given = {
        "--image": ("--image", "tensorflow/serving:of-nobody"),
        "images": ("--config", str(tmp_path / "run.yaml")),
    }
    for name, options in given.items():
        answer, checks = looked(tmp_path, *options)
        assert (answer.code, failed(checks)) == (4, ["docker engine", "runtime"]), name
        assert "embedded server" not in checks, "nothing stands in"
    _, checks = looked(tmp_path, "--runtime", "embedded", *given["--image"])
    assert "runtime" in failed(checks) and "of-nobody" in checks["runtime"]["found"]


def test_every_image_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[str] = []

    class Engine:
        def info(self) -> dict[str, Any]:
            return {"MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True}

        def version(self) -> dict[str, str]:
            return {"Version": "1", "Os": "linux", "Arch": "amd64"}

        def close(self) -> None:
            pass

    def image(_: Any, reference: str, *__: Any) -> str:
        looked_at.append(reference)
        return reference

    monkeypatch.setattr("tasks.serving.runtimes.docker.engine.connect", Engine)
    monkeypatch.setattr(doctor, "look_at_image", image)
    _, checks = looked(tmp_path, "--runtime", "docker", "--image", "one:1", "--image", "two:2")
    assert looked_at == ["one:1", "two:2"]
    assert {"docker image one:1", "docker image two:2"} <= checks.keys()


def test_the_table_has_every_check_and_ends_with_the_next_command(tmp_path: Path) -> None:
    answer = tfship("doctor", "--runtime", "docker", "--store", tmp_path / "store", **NO_ENGINE)
    assert answer.code == 4
    lines = answer.out.splitlines()
    assert lines[0].split() == ["check", "found", "verdict", "remedy"]
    assert any("docker engine" in line and "failed" in line for line in lines)
    assert lines[-1] == "next    tfship doctor"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").touch()  # a file where a folder is needed
    answer, checks = looked(tmp_path, "--runtime", "docker")
    assert answer.code == 4
    assert "store" in failed(checks)
    assert str(tmp_path / "store") in checks["store"]["found"]


def test_a_full_disk_is_found_before_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    _, checks = looked(tmp_path, "--runtime", "docker")
    assert {"store", "serving root"} <= set(failed(checks))
    assert "tfship gc" in checks["store"]["remedy"]


def test_versions_that_disagree_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.19.1" if name == "tensorflow-serving-api" else version(name)
    )
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    _, checks = looked(tmp_path, "--runtime", "docker")
    assert {"python", "tensorflow"} <= set(failed(checks))
    assert f"tensorflow-serving-api=={version('tensorflow')}" in checks["tensorflow"]["remedy"]


def test_a_prefect_api_that_does_not_answer_is_found(tmp_path: Path) -> None:
    """In a process of its own: Prefect reads its settings once."""
    shell = Shell(
        *("doctor", "--json", "--runtime", "docker"),
        cwd=tmp_path,
        environment={**NO_ENGINE, "PREFECT_API_URL": "http://127.0.0.1:1/api"},
    )
    answer = shell.answer()
    checks = {one["check"]: one for one in answer.document["checks"]}
    assert "prefect" in failed(checks)
    assert "127.0.0.1:1" in checks["prefect"]["found"]


def test_a_small_machine_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MEMORY_BYTES", 1 << 60)
    _, checks = looked(tmp_path, "--runtime", "docker")
    assert "memory and cores" in failed(checks)


def test_a_server_that_cannot_start_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.serving.runtimes.embedded.free_ports", lambda _: (1, 70000))
    answer, checks = looked(tmp_path, "--runtime", "embedded")
    assert answer.code == 4
    assert failed(checks) == ["embedded server"]


@pytest.mark.engine
def test_an_image_that_cannot_be_had_fails_where_docker_is_asked_for(tmp_path: Path) -> None:
    engine = {"DOCKER_HOST": os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")}
    missing = ("--image", "127.0.0.1:1/nothing:0")
    _, checks = looked(tmp_path, "--runtime", "docker", *missing, **engine)
    assert failed(checks) == ["docker image"]
    assert "no answer from its registry" in checks["docker image"]["found"]
    assert "linux/" in checks["docker engine"]["found"]
    answer, checks = looked(tmp_path, *missing, **engine)
    assert (answer.code, failed(checks)) == (4, ["docker image", "runtime"]), "who names an image means it"
    several = (*missing, "--image", "127.0.0.1:1/another:0")
    _, checks = looked(tmp_path, "--runtime", "docker", *several, **engine)
    assert failed(checks) == [f"docker image {several[1]}", f"docker image {several[3]}"]
