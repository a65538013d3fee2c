"""The statement of a release's evidence: an in-toto Statement v1 with a SLSA provenance v1 predicate.

The names are those of https://in-toto.io/Statement/v1 and https://slsa.dev/provenance/v1. `subject` are the served files,
`resolved_dependencies` what the release was made from, `byproducts` the other files of the evidence.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field
from pydantic.alias_generators import to_camel

from tasks.records.base import Record

SHA256 = "sha256"
ARTIFACT = "tfshipArtifact"
"""The name of the digest of a committed directory: sha256 over one line for each file, see `tasks/artifacts/manifest.py`."""

MANIFESTS, SOURCES = "manifests/", "facts/"
"""How the names of dependencies begin: of the manifests, which are files of the evidence, and of sources, which are not."""


class _Camel(Record):
    model_config = ConfigDict(**(Record.model_config | {"alias_generator": to_camel, "populate_by_name": True}))


class ResourceDescriptor(_Camel):
    """A file, or another thing that has a digest."""

    name: str
    digest: dict[str, str]
    annotations: dict[str, Any] = {}

    @property
    def sha256(self) -> str:
        """Return the sha256 of a file in hex, empty for what is no file."""
        return self.digest.get(SHA256, "")


class ExternalParameters(_Camel):
    """What the user chose: the name, the number that it was given, and the parameters of the source."""

    name: str
    version: int
    source: dict[str, Any]


class InternalParameters(_Camel):
    """The digests of the version, of what it computes and of its smoke test; `signed` promises signatures beside this."""

    digest: str
    model: str
    blessing: str
    verdict: str
    server: str
    signed: bool


class BuildDefinition(_Camel):
    """What was done, and with what."""

    build_type: str
    external_parameters: ExternalParameters
    internal_parameters: InternalParameters
    resolved_dependencies: tuple[ResourceDescriptor, ...]


class Builder(_Camel):
    """Who did it, in which versions."""

    id: str
    version: dict[str, str]


class Metadata(_Camel):
    """The run, and when it published the release."""

    invocation_id: str
    finished_on: str


class RunDetails(_Camel):
    """How it was done."""

    builder: Builder
    metadata: Metadata
    byproducts: tuple[ResourceDescriptor, ...]


class Provenance(_Camel):
    """The predicate."""

    build_definition: BuildDefinition
    run_details: RunDetails


class Statement(_Camel):
    """The statement."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field("https://in-toto.io/Statement/v1", alias="_type")
    subject: tuple[ResourceDescriptor, ...]
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = "https://slsa.dev/provenance/v1"
    predicate: Provenance

    @property
    def parameters(self) -> ExternalParameters:
        """Return the name and the number of the release."""
        return self.predicate.build_definition.external_parameters

    @property
    def signed(self) -> bool:
        """Return True if the evidence was signed."""
        return self.predicate.build_definition.internal_parameters.signed

    def files(self) -> dict[str, str]:
        """Map each file of the evidence, besides this statement and the signatures, to its sha256."""
        made_from = self.predicate.build_definition.resolved_dependencies
        listed = (*(one for one in made_from if one.name.startswith(MANIFESTS)), *self.predicate.run_details.byproducts)
        return {one.name: one.sha256 for one in listed}
