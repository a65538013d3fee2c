"""What every record shares: frozen, typed, JSON in and out, nothing unknown accepted."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A value that travels between steps, as JSON wherever it leaves a process.

    Floats keep NaN and infinities, because a model that answers NaN must be reported as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants", protected_namespaces=())
