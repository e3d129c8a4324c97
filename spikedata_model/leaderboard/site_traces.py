"""A few seconds of truth and estimate, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from spikedata_model.leaderboard.result import Trace
from spikedata_model.leaderboard.site_axes import Axis, Frame, Scale, fitted
from spikedata_model.leaderboard.site_charts import figure, numbers
from spikedata_model.leaderboard.site_markup import Markup, decimal, tag

__all__ = ["trace_chart"]

WIDTH, LEFT, PANEL = 720, 56, 110
MOST_PANELS = 8
GAP = 5  # so many usual steps without a sample are a gap, and no line is drawn across
MOST_PARTS = 360  # of a line: two samples in each are what a screen can show


def trace_chart(ident: str, trace: Trace) -> Markup | None:
    """Return a panel for each channel with truth and estimate; None where there is no sample."""
    n = len(trace.time)
    channels = [
        (name, truth, predicted)
        for name, truth, predicted in zip(trace.columns, trace.truth, trace.predicted, strict=False)
        if len(truth) == len(predicted) == n
    ]
    if n == 0 or not channels or not all(math.isfinite(one) for one in trace.time):
        return None
    shown = channels[:MOST_PANELS]
    start, length = trace.time[0], trace.time[-1] - trace.time[0]
    seconds = [one - start for one in trace.time]
    time = Axis(f"seconds from {decimal(start, 2)} s", show=lambda v: f"{v:.10g}")
    height = PANEL * len(shown) + 44
    x = Scale(time, 0.0, length or 1.0, LEFT, WIDTH - 12)
    svg = _time_axis(x, height)
    for k, (name, truth, predicted) in enumerate(shown):
        label = f"{name} ({trace.unit})" if trace.unit else name
        top = PANEL * k
        y = fitted([*truth, *predicted], Axis(label), top + PANEL - 12, top + 20)
        svg += _panel(Frame(x, y, WIDTH, height), seconds, truth, predicted)
    left_out = len(channels) - len(shown)
    words = f"{decimal(length, 1)} s of test time: the truth in grey, the estimate in blue, dashed."
    if left_out:
        words += f" {left_out} more channels are in the JSON."
    heads = ("Channel", "True from", "to", "Estimated from", "to", "Root mean square error")
    rows = [_row(*one) for one in channels]
    title = f"Decoded {trace.recording_id}"
    return figure(ident, title, words, svg, (WIDTH, height), _legend(), numbers(title, heads, rows),
                  wide=True, linked=False)  # fmt: skip


def _legend() -> Markup:
    keys = (("truth", "truth"), ("estimate", "estimate"))
    return tag("ul", (
        tag("li", tag("svg", tag("path", d="M0 7H24", class_=f"trace {name}"), viewBox="0 0 24 14",
                      width=24, height=14, class_="swatch", aria_hidden="true"), words)
        for name, words in keys), class_="legend")  # fmt: skip


def _row(name: str, truth: Sequence[float], predicted: Sequence[float]) -> Markup:
    both = [(t, p) for t, p in zip(truth, predicted, strict=True) if math.isfinite(t + p)]
    error = math.sqrt(sum((t - p) ** 2 for t, p in both) / len(both)) if both else math.nan
    ends = []
    for values in (truth, predicted):
        finite = [one for one in values if math.isfinite(one)] or [math.nan]
        ends += [min(finite), max(finite)]
    cells = (tag("td", decimal(one, 2), class_="n") for one in (*ends, error))
    return tag("tr", tag("th", name, scope="row"), cells)


def _time_axis(x: Scale, height: float) -> list[Markup]:
    bottom = height - 40
    parts = [tag("line", class_="axis", x1=x.start, x2=x.end, y1=bottom, y2=bottom)]
    for value in x.ticks:
        at = f"{x.at(value):.1f}"
        parts.append(tag("line", class_="grid", x1=at, x2=at, y1=6, y2=bottom))
        parts.append(tag("text", x.axis.show(value), x=at, y=bottom + 16, text_anchor="middle"))
    parts.append(tag("text", x.axis.label, class_="label", x=f"{(x.start + x.end) / 2:.1f}",
                     y=height - 4, text_anchor="middle"))  # fmt: skip
    return parts


def _panel(
    frame: Frame, time: Sequence[float], truth: Sequence[float], predicted: Sequence[float]
) -> list[Markup]:
    y = frame.y
    parts = [tag("text", y.axis.label, class_="label", x=frame.x.start, y=f"{y.end - 6:.1f}")]
    marks = y.ticks
    for value in marks[:: max(1, math.ceil(len(marks) / 3))]:
        at = y.at(value)
        parts.append(tag("line", class_="grid", x1=frame.x.start, x2=frame.x.end, y1=f"{at:.1f}",
                         y2=f"{at:.1f}"))  # fmt: skip
        parts.append(tag("text", f"{value:.10g}".replace("-", "−"), x=frame.x.start - 8,
                         y=f"{at + 4:.1f}", text_anchor="end"))  # fmt: skip
    for name, values in (("truth", truth), ("estimate", predicted)):
        parts.append(tag("path", class_=f"trace {name}", d=_path(frame, time, values)))
    return parts


def _path(frame: Frame, time: Sequence[float], values: Sequence[float]) -> str:
    """Return the line through the finite samples, broken at gaps."""
    steps = [later - earlier for earlier, later in pairwise(time)]
    longest = GAP * median(steps) if steps else math.inf
    pieces: list[list[tuple[float, float]]] = []
    before = -math.inf
    for t, value in zip(time, values, strict=True):
        if not math.isfinite(value):
            before = -math.inf
            continue
        if t - before > longest or not pieces or before == -math.inf:
            pieces.append([])
        pieces[-1].append((t, value))
        before = t
    part = max(1, math.ceil(len(time) / MOST_PARTS))
    return "".join(_drawn(frame, _thinned(one, part)) for one in pieces)


def _thinned(piece: list[tuple[float, float]], part: int) -> list[tuple[float, float]]:
    """Return the lowest and the highest of every `part` samples, in order of time."""
    if part <= 2:
        return piece
    kept = []
    for k in range(0, len(piece), part):
        some = piece[k : k + part]
        ends = {min(some, key=lambda one: one[1]), max(some, key=lambda one: one[1])}
        kept += sorted(ends)
    return kept


def _drawn(frame: Frame, piece: list[tuple[float, float]]) -> str:
    text = "L".join(f"{frame.x.at(t):.1f} {frame.y.at(v):.1f}" for t, v in piece)
    return f"M{text}" if len(piece) > 1 else f"M{text}h.1"
