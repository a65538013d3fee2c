"""`tfship keygen` and `verify-release`: the keys that sign releases, and a release checked against its evidence, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli import termination
from flows.cli.options import Options, command
from flows.cli.serving.versions import settings_of, where
from tasks.presentation.terminal import say
from tasks.releases.publish import Releases


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "keygen", keygen)
    command(app, "verify-release", verify_release)


def keygen(
    options: Options,
    folder: Annotated[Path, typer.Argument(help="The folder for tfship.key and tfship.pub.")] = Path(),
) -> int:
    """Make a key pair that signs releases. A key that exists is never overwritten."""
    from tasks.releases import signing

    private, public = signing.make_key_pair(folder)
    if options["as_json"]:
        import json

        termination.show(json.dumps({"signing_key": str(private), "public_key": str(public)}, indent=1))
        return 0
    say(f"private {private}: keep it secret; it signs (--signing-key)")
    say(f"public  {public}: give it to whoever verifies (--public-key)")
    say(f"next    tfship run --signing-key {private} --public-key {public}")
    return 0


def verify_release(
    name: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[int, typer.Argument(help="The version.")],
    options: Options,
) -> int:
    """Check a release against its evidence, offline: files, the chain from its sources, and with a key the signatures."""
    from tasks.releases import evidence_check, signing

    settings = settings_of(options, name)
    key = settings.release.public_key
    signing.require_usable(None, key)
    releases = Releases(settings.serving_root, name)
    proof = evidence_check.check(releases, version, key)
    if options["as_json"]:
        termination.show(proof.model_dump_json(indent=1))
        return 0
    say(f"whole   {name} version {version}: {len(proof.files)} files, {proof.digest[:12]}")
    say(f"sources {', '.join(proof.sources) or 'none that has a digest'}")
    say(f"chain   {', '.join(proof.chain)}")
    journalled = "as the journal has it" if proof.journalled else "which is not in the journal: it was never confirmed"
    say(f"evidence {releases.evidence(version)}, {journalled}")
    said = {
        "verified": f"by {key}",
        "not checked": "by whom, was not checked: --public-key FILE",
        "none": "not: who can write here could have changed all of it",
    }
    say(f"signed  {said[proof.signature]}")
    say(f"next    tfship releases {where(name, settings)}")
    return 0
