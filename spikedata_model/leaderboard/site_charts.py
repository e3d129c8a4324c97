"""Charts as SVG, each with its words, a legend and a table of the same numbers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from spikedata_model.leaderboard.site_axes import Axis, Frame, Scale, frame_of
from spikedata_model.leaderboard.site_markup import Markup, decimal, tag

__all__ = [
    "Line",
    "Look",
    "Point",
    "dots_chart",
    "figure",
    "legend",
    "lines_chart",
    "numbers",
    "swatch",
]

N_LOOKS = 8  # colours of Okabe & Ito, Color Universal Design (2008), see style.css
MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
    "M-4 -4h8v8h-8z",
    "M0 -5.4l5 9h-10z",
    "M0 -5.6l5.6 5.6l-5.6 5.6l-5.6 -5.6z",
    "M0 5.4l5 -9h-10z",
    "M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3z",
)
BELOW = "M0 6l-4 -6h8z"  # a number below the end of the axis


@dataclass(frozen=True, slots=True)
class Look:
    """How one decoder is drawn everywhere on a page: colour and mark `index`; grey without one."""

    index: int | None = None

    @property
    def colour(self) -> str:
        """The class that colours it."""
        return "sx" if self.index is None else f"s{self.index % N_LOOKS}"

    @property
    def mark(self) -> str:
        """The path of its mark, around 0, 0."""
        return MARKS[0 if self.index is None else self.index % len(MARKS)]


@dataclass(frozen=True, slots=True)
class Point:
    """A score: its place, its interval if known, and what else its table says of it."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan
    note: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """The points of one decoder."""

    name: str
    page: str | None
    look: Look
    points: tuple[Point, ...]


def figure(
    ident: str,
    title: str,
    words: str,
    svg: Sequence[Markup],
    box: tuple[float, float],
    *rest: Markup | None,
    wide: bool = False,
    linked: bool = True,
) -> Markup:
    """Return a chart in its figure: the caption says what is seen, `rest` follows below it."""
    width, height = box
    picture = tag(
        "svg",
        tag("title", title, id=f"{ident}-t"),
        tag("desc", words, id=f"{ident}-d"),
        *svg,
        viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}",
        height=f"{height:g}",
        # An image hides what is inside it, and a link must not be hidden.
        role="group" if linked else "img",
        aria_labelledby=f"{ident}-t {ident}-d",
    )
    caption = tag("figcaption", tag("strong", title), " ", tag("span", words))
    scroller = tag("div", picture, class_="scroll chart", tabindex="0", role="region",
                   aria_label=title)  # fmt: skip
    return tag("figure", caption, scroller, *rest, class_="wide" if wide else None)


def swatch(look: Look) -> Markup:
    """Return the mark of a decoder for a legend or a table."""
    mark = tag("path", d=look.mark, class_=f"mark {look.colour}")
    return tag("svg", mark, viewBox="-7 -7 14 14", width=14, height=14, class_="swatch",
               aria_hidden="true")  # fmt: skip


def legend(lines: Sequence[Line]) -> Markup:
    """Return the marks with their names; those in grey share an entry."""
    shown = [one for one in lines if one.look.index is not None]
    items = [tag("li", swatch(one.look), _linked(one)) for one in shown]
    rest = len(lines) - len(shown)
    if rest:
        items.append(tag("li", swatch(Look()), f"{rest} more, in grey"))
    return tag("ul", items, class_="legend")


def _linked(line: Line) -> Markup:
    return tag("a", line.name, href=line.page) if line.page else tag("span", line.name)


def _mark(frame: Frame, point: Point, look: Look) -> list[Markup]:
    """Return the mark of a point with its whisker."""
    x, y = frame.x.at(point.x), frame.y.at(point.y)
    parts = []
    if math.isfinite(point.low) and math.isfinite(point.high):
        low, high = frame.y.at(point.low), frame.y.at(point.high)
        parts.append(
            tag("path", class_=f"whisker {look.colour}",
                d=f"M{x:.1f} {low:.1f}V{high:.1f}M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6")
        )  # fmt: skip
    shape = BELOW if point.y < frame.y.low else look.mark
    parts.append(
        tag("path", d=shape, class_=f"mark {look.colour}", transform=f"translate({x:.1f} {y:.1f})")
    )
    return parts


def _drawn(frame: Frame, line: Line, joined: bool) -> Markup:
    parts = [tag("title", line.name)]
    if joined and len(line.points) > 1:
        path = "L".join(f"{frame.x.at(p.x):.1f} {frame.y.at(p.y):.1f}" for p in line.points)
        parts.append(tag("path", d=f"M{path}", class_=f"line {line.look.colour}"))
    for point in line.points:
        parts += _mark(frame, point, line.look)
    if line.page is None:
        return tag("g", parts)
    return tag("a", parts, href=line.page, aria_label=line.name)


def lines_chart(
    ident: str,
    title: str,
    words: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    of: str = "Decoder",
) -> Markup | None:
    """Return scores against something, a line for each decoder (`of`) of more than one point.

    Points without a place on the axes are left out of the picture and counted below it; the table
    has them. None where no point has a place.
    """
    placed = [
        Line(one.name, one.page, one.look,
             tuple(sorted((p for p in one.points if x.places(p.x) and y.places(p.y)),
                          key=lambda p: p.x)))
        for one in lines
    ]  # fmt: skip
    points = [p for one in placed for p in one.points]
    if not points:
        return None
    ends = [v for p in points for v in (p.low, p.y, p.high) if math.isfinite(v)]
    frame = frame_of((x, [p.x for p in points]), (y, ends))
    shown = [one for one in placed if one.points]
    svg = frame.drawn()
    for one in sorted(shown, key=lambda line: line.look.index is not None):  # colours above grey
        svg.append(_drawn(frame, one, joined=True))
    notes = _notes(sum(len(one.points) for one in lines) - len(points), points, frame.y)
    return figure(ident, title, words, svg, (frame.width, frame.height), legend(shown), notes,
                  _table(title, lines, x, y, of))  # fmt: skip


def _notes(missing: int, points: Sequence[Point], y: Scale) -> Markup | None:
    said = []
    if missing:
        said.append(f"{missing} without a place on these axes: see the numbers.")
    below = sum(p.y < y.low for p in points)
    if below:
        said.append(f"{below} below {decimal(y.low, 2)}, drawn as an arrow at the lower end.")
    return tag("p", " ".join(said), class_="note") if said else None


def _table(title: str, lines: Sequence[Line], x: Axis, y: Axis, of: str) -> Markup:
    heads = (of, x.label, y.label, "95 % from", "to", "Of")
    rows = [
        tag("tr", tag("th", _linked(one), scope="row"),
            tag("td", x.show(p.x) if math.isfinite(p.x) else decimal(p.x), class_="n"),
            *(tag("td", decimal(v), class_="n") for v in (p.y, p.low, p.high)),
            tag("td", p.note))
        for one in lines for p in one.points
    ]  # fmt: skip
    return numbers(title, heads, rows)


def numbers(title: str, heads: Sequence[str], rows: Sequence[Markup]) -> Markup:
    """Return the folded table of a chart's numbers."""
    table = tag(
        "table",
        tag("caption", tag("span", f"Numbers of: {title}")),
        tag("thead", tag("tr", (tag("th", one, scope="col") for one in heads))),
        tag("tbody", rows),
    )
    scroller = tag("div", table, class_="scroll", tabindex="0", role="region",
                   aria_label=f"Numbers of: {title}")  # fmt: skip
    return tag("details", tag("summary", "The numbers"), scroller)


def dots_chart(
    ident: str,
    title: str,
    words: str,
    names: Sequence[str],
    lines: Sequence[Line],
    x: Axis,
    of: str = "Decoder",
) -> Markup | None:
    """Return a row for every name with the score of each decoder (`of`) in it.

    ``point.y`` is the row; ``point.x`` the score, ``low`` and ``high`` its extent along the row.
    """
    points = [p for one in lines for p in one.points if x.places(p.x)]
    if not points:
        return None
    ends = [v for p in points for v in (p.low, p.x, p.high) if math.isfinite(v)]
    short = tuple(_short(name) for name in names)
    left = 16 + 7.3 * max(len(one) for one in short)
    step = 16 + 3 * min(len(lines), 4)
    frame = frame_of((x, ends), (Axis(""), [0.0]), 720, 70 + step * len(names), left)
    rows = Scale(Axis(""), -0.5, len(names) - 0.5, 14, frame.height - 44)  # first name on top
    frame = Frame(frame.x, rows, frame.width, frame.height)
    svg = frame.drawn(rows=short)
    in_row = Counter(p.y for one in lines for p in one.points)
    done: Counter[float] = Counter()
    for one in lines:
        parts = [tag("title", one.name)]
        for p in one.points:
            lift = (done[p.y] - (in_row[p.y] - 1) / 2) * 0.5 / in_row[p.y]
            done[p.y] += 1
            if x.places(p.x):
                parts += _along(frame, p, lift, one.look)
        svg.append(tag("a", parts, href=one.page, aria_label=one.name) if one.page
                   else tag("g", parts))  # fmt: skip
    heads = (of, "Recording", x.label, "Lowest", "Highest")
    table = numbers(title, heads, [
        tag("tr", tag("th", _linked(one), scope="row"), tag("td", names[int(p.y)]),
            *(tag("td", decimal(v), class_="n") for v in (p.x, p.low, p.high)))
        for one in lines for p in one.points
    ])  # fmt: skip
    below = sum(p.x < frame.x.low for p in points)
    note = tag("p", f"{below} below {decimal(frame.x.low, 2)}, drawn at the left end.",
               class_="note") if below else None  # fmt: skip
    return figure(ident, title, words, svg, (frame.width, frame.height), legend(lines), note,
                  table, wide=True)  # fmt: skip


def _short(name: str) -> str:
    tail = name.rpartition("/")[2] or name
    return tail if len(tail) <= 26 else f"{tail[:12]}…{tail[-12:]}"


def _along(frame: Frame, point: Point, lift: float, look: Look) -> list[Markup]:
    x, y = frame.x.at(point.x), frame.y.at(point.y + lift)
    parts = []
    if math.isfinite(point.low) and math.isfinite(point.high) and point.high > point.low:
        low, high = frame.x.at(point.low), frame.x.at(point.high)
        parts.append(tag("path", d=f"M{low:.1f} {y:.1f}H{high:.1f}",
                         class_=f"whisker {look.colour}"))  # fmt: skip
    parts.append(tag("path", d=look.mark, class_=f"mark {look.colour}",
                     transform=f"translate({x:.1f} {y:.1f})"))  # fmt: skip
    return parts
