"""The checkpoint from which training began, if any."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import Form


class StartedFrom(Record):
    """The checkpoint from which training began: `started_from.json` in the training run.

    `step` is the global step of the checkpoint. Every variable of the graph is in `restored` or, with the reason, in
    `initialised`; `unused` are variables that this run does not read, `left_out` tensors of the checkpoint that no
    variable took. `pins` apply wherever training does not feed the placeholder.
    """

    form: Form
    checkpoint: str
    step: int | None
    restored: tuple[str, ...]
    initialised: dict[str, str] = Field(default_factory=dict)
    unused: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    pins: dict[str, Any] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def described(self) -> str:
        """Describe the start of training for a person, one line per variable."""
        lines = [f"from {self.checkpoint} ({self.form.value})"]
        lines += [f"  restored     {name}" for name in self.restored]
        lines += [f"  initialised  {name}: {why}" for name, why in self.initialised.items()]
        lines += [f"  unused       {name}" for name in self.unused]
        lines += [f"  left out     {name}" for name in self.left_out]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])
