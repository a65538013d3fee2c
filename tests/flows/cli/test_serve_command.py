"""`tfship serve`: its output, its answers, its exit codes."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.cli.process import Shell, tfship

PORTS = ("--port", "0", "--rest-port", "0")


def said(process: Shell) -> dict[str, str]:
    """Return the lines of stdout by their first word, once the server is ready."""
    process.until(lambda: "end     Ctrl-C\n" in process.out.read_text())
    return dict(line.split(maxsplit=1) for line in process.out.read_text().splitlines())  # type: ignore[misc]


def typed(line: str) -> dict[str, Any]:
    """Return the answer to a line for curl, typed into a shell; without curl, that to the request which it spells."""
    if shutil.which("curl"):
        asked = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True).stdout
    else:
        program, option, body, url = shlex.split(line)
        assert (program, option) == ("curl", "-d")
        asked = httpx.post(url, content=body, timeout=30).raise_for_status().text
    answer: dict[str, Any] = json.loads(asked)
    return answer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_answers_follows_its_versions_and_ends(
    copied: Path, shell: Callable[..., Shell], number: signal.Signals, code: int
) -> None:
    (copied / "tasks.py").write_text("raise SystemExit('not ours')")
    process = shell("serve", "half_plus_two", *PORTS)
    lines = said(process)
    assert lines["REST"].startswith("http://127.0.0.1:") and lines["gRPC"].startswith("127.0.0.1:")
    assert typed(lines["try"])["outputs"], "the line that is printed works"
    assert "/v1/models/half_plus_two:predict" in lines["try"]

    base = copied / ".tfship" / "serving" / "half_plus_two"
    (base / "2").mkdir()  # a bad one, beside what serves
    process.until(lambda: "does not appear to contain a SavedModel bundle" in process.said)

    def states() -> dict[str, str]:
        found = httpx.get(lines["REST"], timeout=60.0).json()["model_version_status"]
        return {entry["version"]: entry["state"] for entry in found}

    process.until(lambda: states() == {"2": "END", "1": "AVAILABLE"})

    process.send(number)
    answer = process.answer(60.0)
    assert answer.code == code
    assert "Traceback" not in answer.err and "warning" not in answer.err
    process.assert_nothing_left()


def test_a_model_that_does_not_load_is_refused_with_the_servers_words(
    folder: Path, shell: Callable[..., Shell]
) -> None:
    (folder / "root" / "empty" / "3").mkdir(parents=True)
    process = shell("serve", "empty", "--serving-root", "root", *PORTS)
    answer = process.answer()
    assert (answer.code, answer.out) == (3, "")
    assert "tfship: serving empty: expected a version that loads" in answer.err
    assert "does not appear to contain a SavedModel bundle" in answer.err
    assert "Remedy: run `tfship inspect" in answer.err and "Traceback" not in answer.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_while_it_starts(copied: Path, shell: Callable[..., Shell], number: signal.Signals) -> None:
    process = shell("serve", "half_plus_two", *PORTS)
    process.until(lambda: "Adding/updating models" in process.said)
    process.send(number)
    answer = process.answer(60.0)
    assert answer.code == 128 + number
    assert "Traceback" not in answer.err


def test_an_unknown_name_is_a_usage_error(folder: Path) -> None:
    (folder / "root" / "known" / "1").mkdir(parents=True)
    (folder / "root" / "nothing").mkdir()
    for name in ("unknown", "nothing", "..", "known/1"):
        answer = tfship("serve", name, "--serving-root", "root", *PORTS)
        assert answer.code == 2, answer
        assert "found known" in answer.err and "tfship run" in answer.err
    assert tfship("serve", "x", "--serving-root", "nowhere").code == 2


@contextmanager
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


@pytest.mark.parametrize("option", ["--port", "--rest-port"])
def test_a_taken_port_is_the_environments_fault(folder: Path, option: str) -> None:
    (folder / "root" / "known" / "1").mkdir(parents=True)
    with taken() as port:
        options = {"--port": "0", "--rest-port": "0"} | {option: str(port)}
        arguments = [word for pair in options.items() for word in pair]
        answer = tfship("serve", "known", "--serving-root", "root", *arguments)
    assert answer.code == 4
    assert f"port {port} of 127.0.0.1: expected a free port, found Address already in use" in answer.err
    assert "--rest-port" in answer.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--port", "9001", "--rest-port", "9001"), "two different ports"),
        (("--bind", "no.such.host.invalid"), "an address of this machine"),
        (("--port", "70000"), "65535"),
    ],
)
def test_options_that_cannot_be(folder: Path, options: tuple[str, ...], words: str) -> None:
    (folder / "root" / "known" / "1").mkdir(parents=True)
    answer = tfship("serve", "known", "--serving-root", "root", *options)
    assert answer.code == 2
    assert words in answer.err


def test_other_addresses_than_loopback_are_warned_of(copied: Path, shell: Callable[..., Shell]) -> None:
    process = shell("serve", "half_plus_two", "--bind", "0.0.0.0", *PORTS)
    lines: dict[str, Any] = said(process)
    assert process.said.startswith("warning: listening on 0.0.0.0")
    assert httpx.get(lines["REST"]).status_code == 200, "the address that is printed can be asked"
    process.send(signal.SIGTERM)
    process.answer(60.0)


def test_the_served_model_may_have_any_name(copied: Path, shell: Callable[..., Shell]) -> None:
    root = copied / "ro ot"
    shutil.copytree(copied / ".tfship" / "serving" / "half_plus_two", root / "a b'ü")
    process = shell("serve", "a b'ü", "--serving-root", root, *PORTS)
    assert typed(said(process)["try"])["outputs"]
