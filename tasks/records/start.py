"""Where training began, if not at initial values."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from tasks.records.base import Record
from tasks.records.forms import Form


class StartedFrom(Record):
    """The checkpoint that training began from: `started_from.json` in the run that it leaves.

    `step` is where the checkpoint stands. Every variable of the graph is in `restored` or, with the reason, in
    `initialised`; `unused` are those that nothing of this run reads, `left_out` the checkpoint's tensors that no
    variable took. `pins` are in force wherever training does not feed the placeholder.
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
        """All of it, for whoever watches: one line a variable."""
        lines = [f"from {self.checkpoint} ({self.form.value})"]
        lines += [f"  restored     {name}" for name in self.restored]
        lines += [f"  initialised  {name}: {why}" for name, why in self.initialised.items()]
        lines += [f"  unused       {name}" for name in self.unused]
        lines += [f"  left out     {name}" for name in self.left_out]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])
