"""Shapes of tensors: print them, and tell whether two agree."""

from __future__ import annotations

Shape = tuple[int | None, ...] | None
"""A size is None where any goes; the whole is None where any rank goes."""


def agree(one: Shape, other: Shape) -> bool:
    """Tell whether some tensor has both shapes."""
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def written(shape: Shape) -> str:
    """Return a shape as the options take it: `[?,784]`, or `any` where any rank goes."""
    return "any" if shape is None else f"[{','.join('?' if size is None else str(size) for size in shape)}]"
