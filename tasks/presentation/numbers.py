"""Numbers of the report page. NaN and infinities are always shown."""

from __future__ import annotations

import math

_MINUS = "\N{MINUS SIGN}"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits; integers in full, `NaN` and infinities by name."""
    if value is None:
        return "not known"
    if isinstance(value, int):
        return f"{value:,}".replace("-", _MINUS)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("inf" if value > 0 else f"{_MINUS}inf")
    return f"{value:.{digits}g}".replace("-", _MINUS)


def fixed(value: float, places: int = 2) -> str:
    """Return a number with a fixed number of decimal places, for columns."""
    return f"{value:.{places}f}".replace("-", _MINUS) if math.isfinite(value) else number(value)


def seconds(value: float) -> str:
    """Return a duration in its usual unit."""
    if not math.isfinite(value):
        return number(value)
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(value: int | None) -> str:
    """Return a number of bytes in binary units."""
    if value is None:
        return "not known"
    amount = float(value)
    for unit in _UNITS:
        if abs(amount) < 1000 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{value:,} B" if unit == "B" else f"{amount:.1f} {unit}"


def short(digest: str | None) -> str:
    """Return the first 12 hex digits of a digest, without repository and `sha256:`."""
    return (digest or "").rpartition("@")[2].removeprefix("sha256:")[:12]


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 form`, `6 forms`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
