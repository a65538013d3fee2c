"""Signatures of releases, with OpenSSF `model-signing`: key pairs on the local disk, and nothing that needs a network.

`model-signing` is an extra, for its dependencies are many, and is imported where it is first needed, which takes a second.
"""

from __future__ import annotations

import ast
import contextlib
import os
import stat
import sys
from pathlib import Path
from typing import Any

from tasks.errors import EnvironmentFailure, EvidenceError, UsageError
from tasks.records.settings import Release

MODEL_SIGNATURE, EVIDENCE_SIGNATURE = "model.sig", "evidence.sig"
PRIVATE, PUBLIC = "tfship.key", "tfship.pub"
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}  # those that model-signing supports
_FORBIDDEN = stat.S_IRWXO | stat.S_IWGRP  # a group may read: that is how a secret is mounted for one


def make_key_pair(folder: Path) -> tuple[Path, Path]:
    """Write a private key, readable to its owner alone, and its public key into a folder; return both paths.

    Raises:
        UsageError: one of the files exists, for a key is never overwritten; or the folder is a file.
        EnvironmentFailure: they cannot be written, or what makes them is not installed.
    """
    _library()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private, public = folder / PRIVATE, folder / PUBLIC
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"keygen {folder}", "a folder", "a file", "name a folder for the two keys.")
    for place in (private, public):
        if place.exists() or place.is_symlink():
            remedy = (
                "choose another folder, or move it away; what it signed can be verified by its own public key alone."
            )
            raise UsageError(f"keygen {folder}", f"no file {place.name}", "one", remedy)
    pair = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    shared = serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(private, pair.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain), 0o600)
        _write_new(public, pair.public_key().public_bytes(pem, shared), 0o644)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, f"keygen {folder}") from None
    return private, public


def require_usable(signing_key: Path | None, public_key: Path | None) -> None:
    """Check keys before anything depends on them. Their contents are never part of a message.

    Raises:
        UsageError: one is missing, encrypted, no such key, or open to others; or they are no pair.
        EnvironmentFailure: what signs and verifies is not installed.
    """
    if signing_key is None and public_key is None:
        return
    _library()
    private = _private(signing_key) if signing_key is not None else None
    public = _public(public_key) if public_key is not None else None
    if private is not None and public is not None and private.public_key() != public:
        remedy = "give the two files of one pair: what is signed could not be verified otherwise."
        raise UsageError(f"public key {public_key}", f"the public key of {signing_key}", "that of another key", remedy)


def require_for(release: Release) -> None:
    """Check the keys of a promotion before anything depends on them. Raises as `require_usable`."""
    if release.promote and release.public_key is not None and release.signing_key is None:
        remedy = "give the private key of the same pair too (--signing-key FILE), or leave the public key out."
        expected = "a key to sign with, where a public key is to verify what is published"
        raise UsageError(f"promote {release.name}", expected, f"{release.public_key} alone", remedy)
    if release.promote:
        require_usable(release.signing_key, release.public_key)


def sign(folder: Path, signature: Path, key: Path) -> None:
    """Sign all files below a folder; the signature may lie among them, and does not sign itself."""
    signing, _, hashing = _library()
    _private(key)
    config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(_hashing(hashing, folder, signature)).sign(folder, signature)


def verify(folder: Path, signature: Path, key: Path) -> None:
    """Check that `signature` is one of exactly the files below a folder, by this key.

    Raises:
        EvidenceError: it is not.
        UsageError: the key is no public key.
        EnvironmentFailure: a file cannot be read, or what verifies is not installed.
    """
    _, verifying, hashing = _library()
    _public(key)
    config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    config.set_hashing_config(_hashing(hashing, folder, signature))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where it warns of old signatures; our stdout is one document
            config.verify(folder, signature)
    except OSError as error:
        raise EnvironmentFailure.from_os(error, str(signature)) from None
    except Exception as error:  # whatever a stranger's bytes make of the parsers below
        remedy = "do not serve it: restore the release from where it was signed, or give the public key that it was signed for."
        expected = f"a signature of {folder} by {key}"
        raise EvidenceError(str(signature), expected, _found(error), remedy) from None


def _found(error: Exception) -> str:
    text = str(error)
    if type(error).__name__ == "InvalidSignature":
        return "one that was edited, or that another key made"
    if text.startswith("Key mismatch"):
        return "one by another key"
    if text.startswith("Signature mismatch"):
        try:
            differences = ast.literal_eval(text.removeprefix("Signature mismatch: "))
        except (ValueError, SyntaxError):  # another wording of the library
            differences = [text]
        return f"one of other files: {'; '.join(one.partition(': Expected')[0] for one in differences)}"
    return f"what is no signature ({type(error).__name__})"


def _hashing(hashing: Any, folder: Path, signature: Path) -> Any:
    """Return the choice of files: all of them, and also those that git knows."""
    own = [signature.name] if signature.parent == folder else []
    return hashing.Config().set_ignored_paths(paths=own, ignore_git_paths=False)


def _private(key: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    where, expected = f"signing key {key}", "an EC private key in PEM, not encrypted"
    remedy = "make a pair with `tfship keygen`."
    content = _read(key, where, expected)
    if stat.S_IMODE(key.stat().st_mode) & _FORBIDDEN:
        mode = f"mode {stat.S_IMODE(key.stat().st_mode):04o}"
        raise UsageError(
            where,
            "a file that only its owner and group read",
            mode,
            f"chmod 600 {key}; make another pair if it was seen.",
        )
    try:
        found = load_pem_private_key(content, None)
    except TypeError:
        remedy = (
            "give the key without its password, from a place that keeps secrets, or make a pair with `tfship keygen`."
        )
        raise UsageError(where, expected, "an encrypted one", remedy) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(where, expected, "something else", remedy) from None
    if not isinstance(found, ec.EllipticCurvePrivateKey) or found.curve.name not in _CURVES:
        raise UsageError(where, f"a key on {', '.join(sorted(_CURVES))}", "a key of another kind", remedy)
    return found


def _public(key: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    where, expected = f"public key {key}", "an EC public key in PEM"
    remedy = f"give the public key of the pair, such as {PUBLIC} of `tfship keygen`."
    try:
        found = load_pem_public_key(_read(key, where, expected))
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(where, expected, "something else", remedy) from None
    if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name not in _CURVES:
        raise UsageError(where, f"a key on {', '.join(sorted(_CURVES))}", "a key of another kind", remedy)
    return found


def _read(key: Path, where: str, expected: str) -> bytes:
    try:
        return key.read_bytes()
    except OSError as error:
        remedy = "give the path of the key; `tfship keygen` makes a pair."
        raise UsageError(where, expected, error.strerror or type(error).__name__, remedy) from None


def _write_new(place: Path, content: bytes, mode: int) -> None:
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _library() -> tuple[Any, Any, Any]:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError as error:
        remedy = "install what it needs: python -m pip install model-signing pyopenssl."
        raise EnvironmentFailure(
            "signatures of releases", "model-signing, the extra `signing` of tfship", f"no module {error.name}", remedy
        ) from None
    return signing, verifying, hashing
