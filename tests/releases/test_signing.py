"""Keys: a pair is made once and kept secret, and what cannot sign or verify is named before anything depends on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tasks.errors import EnvironmentFailure, ExitCode, UsageError
from tasks.releases import signing

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
PLAIN = serialization.NoEncryption()


def ours(folder: Path) -> tuple[Path, Path]:
    return signing.make_key_pair(folder)


def encrypted(folder: Path) -> Path:
    pair, secret = ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"xyzzy")
    return written(folder, pair.private_bytes(PEM, PKCS8, secret))


def of_another_curve(folder: Path) -> Path:
    return written(folder, ec.generate_private_key(ec.SECP256K1()).private_bytes(PEM, PKCS8, PLAIN))


def of_rsa(folder: Path) -> Path:
    return written(folder, rsa.generate_private_key(65537, 2048).private_bytes(PEM, PKCS8, PLAIN))


def written(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "given.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def seen(folder: Path) -> Path:
    return written(folder, ours(folder)[0].read_bytes(), 0o644)


WRONG: list[tuple[str, Callable[[Path], Path], str]] = [
    ("nothing there", lambda folder: folder / "given.key", "No such file"),
    ("a folder", lambda folder: folder, "Is a directory"),
    ("no key", lambda folder: written(folder, b"xyzzy"), "found something else"),
    ("half a key", lambda folder: written(folder, ours(folder)[0].read_bytes()[:100]), "found something else"),
    ("the public one", lambda folder: written(folder, ours(folder)[1].read_bytes()), "found something else"),
    ("encrypted", encrypted, "found an encrypted one"),
    ("another curve", of_another_curve, "a key of another kind"),
    ("another algorithm", of_rsa, "a key of another kind"),
    ("everybody reads it", seen, "found mode 0644"),
]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_pair_is_made_once_and_the_private_key_is_its_owners(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        private, public = ours(tmp_path / "new" / "keys")
    finally:
        os.umask(before)
    assert (private.name, public.name) == ("tfship.key", "tfship.pub")
    assert private.stat().st_mode & 0o777 == 0o600
    signing.require_usable(private, public)
    content = private.read_bytes(), public.read_bytes()
    for kept in (private, public):
        with pytest.raises(UsageError, match=r"no file tfship\."):
            ours(private.parent)
        assert (private.read_bytes(), public.read_bytes()) == content
        kept.rename(kept.with_suffix(".kept"))
        if kept is private:
            with pytest.raises(UsageError, match=r"no file tfship\.pub"):
                ours(private.parent)
            kept.with_suffix(".kept").rename(kept)


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "tfship.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"no file tfship\.key"):
        ours(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(("make", "said"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_what_is_no_private_key_is_named_and_never_shown(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    key = make(tmp_path)
    with pytest.raises(UsageError, match=said) as refused:
        signing.require_usable(key, None)
    shown = str(refused.value)
    assert refused.value.exit_code is ExitCode.USAGE and f"signing key {key}" in shown and "Remedy: " in shown
    assert "xyzzy" not in shown and "PRIVATE KEY" not in shown


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "No such file"), (b"-----BEGIN PUBLIC KEY-----", "something else"), ("private", "something else")],
)
def test_what_is_no_public_key_is_named(tmp_path: Path, content: bytes | str | None, said: str) -> None:
    private, _ = ours(tmp_path)
    key = private if isinstance(content, str) else tmp_path / "given.pub"
    if isinstance(content, bytes):
        key.write_bytes(content)
    with pytest.raises(UsageError, match=said) as refused:
        signing.require_usable(None, key)
    assert f"public key {key}" in str(refused.value)


def test_keys_of_two_pairs_are_refused(tmp_path: Path) -> None:
    (private, _), (_, public) = ours(tmp_path / "one"), ours(tmp_path / "two")
    with pytest.raises(UsageError, match="that of another key"):
        signing.require_usable(private, public)


def test_a_group_may_read_a_mounted_key(tmp_path: Path) -> None:
    private, _ = ours(tmp_path)
    private.chmod(0o440)
    signing.require_usable(private, None)


@pytest.mark.parametrize("missing", ["model_signing", "OpenSSL"])
def test_without_the_extra_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "model_signing"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EnvironmentFailure, match="python -m pip install model-signing"):
        ours(tmp_path)
    signing.require_usable(None, None)  # nobody asked for it
