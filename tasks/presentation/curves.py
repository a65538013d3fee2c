"""Training curves as inline SVG. The same lines give the same bytes; colours come from the style sheet."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

from tasks.presentation.numbers import counted, number

_NOT_METRICS = frozenset({"step", "of", "loss"})
_STYLES = ("solid", "dashed", "dotted", "dashdot")
_MARKERS = ("o", "s", "^", "D")
_INK, _RULE = "#010101", "#020202"
_SERIES = ("#030301", "#030302", "#030303", "#030304")
_VARIABLES = {_INK: "currentColor", _RULE: "var(--rule)"} | {c: f"var(--series-{i})" for i, c in enumerate(_SERIES, 1)}
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a name may hold dollar signs
}
_drawing = Lock()  # matplotlib's settings belong to the process


@dataclass(frozen=True)
class Series:
    """The key of one line of a panel: its `style` and `colour`, and its numbers in summary."""

    name: str
    style: str
    colour: int
    points: int
    first: str
    last: str
    lowest: str
    highest: str


@dataclass(frozen=True)
class Panel:
    """One plot. `svg` is trusted markup with no text but tick labels; `notes` name the values that are not drawn."""

    title: str
    svg: str
    series: tuple[Series, ...]
    notes: tuple[str, ...]


def panels(lines: Iterable[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """Return a panel for the loss and one for the other metrics, where they were logged."""
    logged: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        step = line.get("step")
        if not isinstance(step, int):
            continue
        for name, value in line.items():
            if name not in {"step", "of"} and isinstance(value, int | float) and not isinstance(value, bool):
                logged.setdefault(name, []).append((step, float(value)))
    loss = {name: points for name, points in logged.items() if name == "loss"}
    metrics = {name: points for name, points in logged.items() if name not in _NOT_METRICS}
    found = (("Loss", loss), ("Metrics", metrics))
    return tuple(_panel(title, series) for title, series in found if series)


def _panel(title: str, logged: Mapping[str, list[tuple[int, float]]]) -> Panel:
    notes, finite = [], {}
    for name, points in logged.items():
        finite[name] = [(step, value) for step, value in points if math.isfinite(value)]
        odd = [(step, value) for step, value in points if not math.isfinite(value)]
        if odd:
            kinds = ", ".join(sorted({number(value) for _, value in odd}))
            notes.append(f"{name} was {kinds} at {counted(len(odd), 'logged step')}, first at step {odd[0][0]}.")
    drawn = [points for points in finite.values() if points]
    logarithmic = title == "Loss" and bool(drawn) and all(value > 0 for points in drawn for _, value in points)
    if logarithmic:
        title = "Loss, logarithmic"
    series = tuple(_series(index, name, points) for index, (name, points) in enumerate(logged.items()))
    return Panel(title, _draw(title, finite, logarithmic) if drawn else "", series, tuple(notes))


def _series(index: int, name: str, points: list[tuple[int, float]]) -> Series:
    finite = [value for _, value in points if math.isfinite(value)]
    lowest, highest = (number(min(finite)), number(max(finite))) if finite else ("none", "none")
    style, colour = _STYLES[index % len(_STYLES)], index % len(_SERIES) + 1
    first, last = number(points[0][1]), number(points[-1][1])
    return Series(name, style, colour, len(points), first, last, lowest, highest)


def _draw(title: str, logged: Mapping[str, list[tuple[int, float]]], logarithmic: bool) -> str:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    with _axes(title, height=2.5) as (axes, drawn):
        for index, points in enumerate(logged.values()):
            axes.plot(
                [step for step, _ in points],
                [value for _, value in points],
                color=_SERIES[index % len(_SERIES)],
                linestyle=_STYLES[index % len(_STYLES)],
                linewidth=1.6,
                marker=_MARKERS[index % len(_MARKERS)] if len(points) <= 30 else None,
                markersize=4,
            )
        axes.set_yscale("log" if logarithmic else "linear")
        if logarithmic:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axes.yaxis.set_minor_formatter(NullFormatter())
            lowest, highest = axes.get_ylim()
            if highest < 10 * lowest:  # such a range may hold no power of ten, and would have no label
                axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.set_xlabel("global step", color=_INK)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.grid(True, axis="y", color=_RULE, linewidth=0.8)
    return drawn[0]


@contextmanager
def _axes(title: str, height: float) -> Iterator[tuple[Any, list[str]]]:
    """Provide the axes of one plot; afterwards the list holds its SVG."""
    import io

    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drawn: list[str] = []
    with _drawing, matplotlib.rc_context(_RC | {"svg.hashsalt": f"tfship {title}"}):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        yield axes, drawn
        axes.set_axisbelow(True)
        axes.tick_params(which="both", color=_RULE, labelcolor=_INK)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(_RULE)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True)
    drawn.append(_inlined(stream.getvalue()))


def _inlined(svg: str) -> str:
    """Return the `<svg>` element alone, without metadata, styles and ids that nothing refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()
