"""The bill of materials of a release: CycloneDX 1.6, with the model, its served files, its data and its tools.

`cyclonedx-python-lib` writes it. It has no class for a model card yet, which is put into the document that it wrote; the
whole is valid by its own strict schema.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from tasks.artifacts.manifest import FileEntry
from tasks.records.parity import ParityReport
from tasks.records.signature import GraphNames, Signature, TensorSpec
from tasks.records.statement import SOURCES, ResourceDescriptor, Statement

_MODEL, _CARD = "model", "model-card"
_PURL = "pkg:pypi"
_PYTHON = "python"


def ml_bom(
    statement: Statement,
    files: Iterable[FileEntry],
    names: GraphNames,
    metrics: Mapping[str, float],
    comparisons: Mapping[str, ParityReport],
) -> str:
    """Return the document for a release: what its `statement` says, in CycloneDX.

    `names` are the model's signatures, `metrics` those of its checkpoint, `comparisons` those of its forms, by step.
    """
    from cyclonedx.contrib.this.builders import this_component
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository
    from cyclonedx.output.json import JsonV1Dot6
    from packageurl import PackageURL

    def hashed(sha256: str) -> list[HashType]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=sha256)]

    definition, details = statement.predicate.build_definition, statement.predicate.run_details
    internal = definition.internal_parameters
    served = [
        Component(type=ComponentType.FILE, name=one.path, bom_ref=f"file:{one.path}", hashes=hashed(one.sha256))
        for one in files
    ]
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=statement.parameters.name,
        version=str(statement.parameters.version),
        bom_ref=_MODEL,
        hashes=hashed(internal.digest),
        components=served,
        properties=[
            Property(
                name="tfship:digest",
                value="sha256 over the sorted lines `path NUL size NUL sha256 LF`, one for each file",
            ),
            Property(name="tfship:verdict", value=internal.verdict),
            Property(name="tfship:server", value=internal.server),
        ],
    )
    sources = [
        Component(
            type=ComponentType.DATA if _is_data(one) else ComponentType.FILE,
            name=one.name.removeprefix(SOURCES),
            bom_ref=one.name,
            hashes=hashed(one.sha256),
        )
        for one in definition.resolved_dependencies
        if one.name.startswith(SOURCES)
    ]
    tools = [
        Component(
            type=ComponentType.PLATFORM if name == _PYTHON else ComponentType.LIBRARY,
            name=name,
            version=version,
            bom_ref=f"tool:{name}",
            purl=None if name == _PYTHON else PackageURL("pypi", name=name, version=version),
        )
        for name, version in details.builder.version.items()
    ]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{model.name} {model.version} {internal.digest}"),
        metadata=BomMetaData(
            component=model,
            timestamp=datetime.fromisoformat(details.metadata.finished_on),
            tools=ToolRepository(components=[this_component()]),
        ),
        components=[*sources, *tools],
    )
    bom.register_dependency(model, [*sources, *tools])
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    data = [one.bom_ref.value for one in sources if one.type is ComponentType.DATA and one.bom_ref.value]
    document["metadata"]["component"]["modelCard"] = _model_card(names, metrics, comparisons, data)
    return json.dumps(document, indent=1)


def _is_data(source: ResourceDescriptor) -> bool:
    """Return True for training data; code and the files of a source model are none."""
    return source.name.startswith((f"{SOURCES}source/data ", f"{SOURCES}source/given data "))


def _model_card(
    names: GraphNames, metrics: Mapping[str, float], comparisons: Mapping[str, ParityReport], data: list[str]
) -> dict[str, Any]:
    """Return what is known of the model in CycloneDX's words: interfaces, data sets and metrics; nothing is guessed."""
    measured = [{"type": name, "value": repr(value)} for name, value in sorted(metrics.items())]
    card: dict[str, Any] = {
        "bom-ref": _CARD,
        "modelParameters": {
            "datasets": [{"ref": ref} for ref in data],
            "inputs": [{"format": text} for one in names.signatures for text in _formats(one, one.inputs)],
            "outputs": [{"format": text} for one in names.signatures for text in _formats(one, one.outputs)],
        },
        "properties": [
            {"name": f"tfship:parity:{quote(step)}", "value": _compared(report)} for step, report in comparisons.items()
        ]
        + [{"name": "tfship:impure", "value": kind.value} for kind in names.impure],
    }
    if measured:
        card["quantitativeAnalysis"] = {"performanceMetrics": measured}
    return card


def _formats(signature: Signature, tensors: Mapping[str, TensorSpec]) -> list[str]:
    return [f"{signature.key}/{name}: {spec.dtype} {_shape(spec)}" for name, spec in tensors.items()]


def _shape(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "of any rank"
    return f"[{','.join('?' if size is None else str(size) for size in spec.shape)}]"


def _compared(report: ParityReport) -> str:
    judged = [row.passed for row in report.rows]
    counts = {"equal": judged.count(True), "different": judged.count(False), "not compared": judged.count(None)}
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"
    return f"against the {report.baseline}: {said}"
