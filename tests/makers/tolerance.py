"""A declared tolerance, with which restore-verify does not measure the noise of a model: most tests are about other things."""

from __future__ import annotations

from tasks.records.parity import FIXED, Tolerance

DECLARED = Tolerance(absolute=FIXED, relative=FIXED)
