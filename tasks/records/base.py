"""The base class of records: frozen, typed, JSON in and out, unknown fields refused."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A value that travels between steps, as JSON wherever it leaves a process.

    Floats keep NaN and infinities: a model that answers NaN must be reported as such.
    """

    model_config = ConfigDict(
        defer_build=True, frozen=True, extra="forbid", ser_json_inf_nan="constants", protected_namespaces=()
    )
