"""Shell completion, in a real bash: commands, options and values are offered, and nothing heavy is imported for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.flows.cli.process import BIN

BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

PRESS_TAB = r"""
COMP_WORDS=({words}); COMP_CWORD={at}; COMP_LINE="${{COMP_WORDS[*]}}"; COMP_POINT=${{#COMP_LINE}}
_tfship_completion tfship "${{COMP_WORDS[COMP_CWORD]}}" "${{COMP_WORDS[COMP_CWORD-1]}}"
printf '%s\n' "${{COMPREPLY[@]}}"
"""


def bash(home: Path, script: str) -> str:
    """Return what an interactive bash with this HOME prints."""
    assert BASH is not None
    environment = {**os.environ, "HOME": str(home), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PS1": "$ "}
    script += "\nexit $?"  # or bash would become the last command, which would find no shell above it
    found = subprocess.run([BASH, "-i", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with completion installed."""
    folder = tmp_path_factory.mktemp("home")
    assert "completion installed" in bash(folder, "tfship --install-completion bash")
    return folder


def offered(home: Path, *words: str) -> list[str]:
    script = PRESS_TAB.format(words=" ".join(f"'{word}'" for word in ("tfship", *words)), at=len(words))
    return bash(home, script).split()


def test_it_is_installed_for_new_shells(home: Path) -> None:
    assert "_tfship_completion" in bash(home, "complete -p tfship")


def test_commands_options_and_values_are_offered(home: Path) -> None:
    assert set(offered(home, "re")) == {"restore-verify", "releases"}
    assert offered(home, "run", "--max-p") == ["--max-p99-ms"]
    assert {"docker", "binary", "embedded"} <= set(offered(home, "run", "--runtime", ""))
    assert {"saved_model", "frozen", "keras"} <= set(offered(home, "convert", "a", "b", "--to", ""))


def test_nothing_heavy_is_imported_for_it(home: Path) -> None:
    script = "COMP_WORDS='tfship ru' COMP_CWORD=1 _TFSHIP_COMPLETE=complete_bash PYTHONPROFILEIMPORTTIME=1 tfship 2>&1"
    printed = bash(home, script)
    assert "run" in printed.split() and "typer" in printed
    assert not {line.rpartition("|")[2].strip() for line in printed.splitlines()} & {
        "tensorflow",
        "prefect",
    }
