"""Message classes that the installed Python packages lack, made from their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_SCALARS = ("bool", "int32", "int64", "string")


class Field(NamedTuple):
    """One field; `kind` is a scalar's name or the name of another message of the same package.

    An enum whose value is only passed on may be an int32: the wire format is the same.
    """

    name: str
    number: int
    kind: str
    repeated: bool = False


def message_classes(package: str, definitions: Mapping[str, Sequence[Field]]) -> dict[str, Any]:
    """Return the proto3 message classes by name."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto3")
    for name, fields in definitions.items():
        message = file.message_type.add(name=name)
        for field in fields:
            scalar = field.kind in _SCALARS
            message.field.add(
                name=field.name,
                number=field.number,
                label=types.LABEL_REPEATED if field.repeated else types.LABEL_OPTIONAL,
                type=types.Type.Value(f"TYPE_{field.kind.upper()}") if scalar else types.TYPE_MESSAGE,
                type_name=None if scalar else f".{package}.{field.kind}",
            )
    pool = descriptor_pool.DescriptorPool()  # its own, so that the real definitions do not conflict
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in definitions
    }
