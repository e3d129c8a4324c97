"""Axes of a chart: where a number lies in pixels, and which numbers are written beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from spikedata_model.leaderboard.site_markup import Markup, decimal, tag

__all__ = ["Axis", "Frame", "Scale", "fitted", "frame_of", "ticks"]

MOST_TICKS = 7


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis says.

    Parameters
    ----------
    label : str
        With the unit.
    log : bool
        Whether equal ratios have equal lengths; numbers of 0 and below then have no place.
    show : callable
        The text of a number.
    floor : float
        Lower numbers do not stretch the axis: they are drawn at its end, as what they are.
    """

    label: str
    log: bool = False
    show: Callable[[float], str] = lambda value: decimal(value, 2)
    floor: float = -math.inf

    def places(self, value: float) -> bool:
        """Return whether a number has a place on the axis."""
        return math.isfinite(value) and (value > 0 or not self.log)


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`, drawn from pixel `start` to pixel `end`."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Return the pixel of a number; beyond the ends, that of the end."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.axis.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    @property
    def ticks(self) -> list[float]:
        """The numbers that are written."""
        return ticks(self.low, self.high, self.axis.log)


def ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Return round numbers in an interval, at most `MOST_TICKS` and at least two.

    Examples
    --------
    >>> ticks(0.03, 0.97)
    [0.2, 0.4, 0.6, 0.8]
    >>> ticks(0.5, 2000, log=True)
    [1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]
    """
    if log:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for among in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
            found = [float(f"{m}e{d}") for d in decades for m in among]
            found = [one for one in found if low <= one <= high]
            if 2 <= len(found) <= MOST_TICKS:
                return found
        if len(found) > MOST_TICKS:
            return found[:: math.ceil(len(found) / MOST_TICKS)]
    power = math.floor(math.log10((high - low) / MOST_TICKS))
    for step in (10.0**power * m for m in (1, 2, 5, 10, 20, 50)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < MOST_TICKS:
            digits = max(0, -math.floor(math.log10(step)))
            return [round(k * step, digits) + 0.0 for k in range(first, last + 1)]
    return [low, high]


def fitted(values: Iterable[float], axis: Axis, start: float, end: float) -> Scale:
    """Return the scale on which all values have a place, with a little room at both ends."""
    found = [max(one, axis.floor) for one in values if axis.places(one)] or [1.0]
    low, high = min(found), max(found)
    if axis.log:
        room = max((high / low) ** 0.06, 1.3)
        return Scale(axis, max(low / room, 1e-300), min(high * room, 1e300), start, end)
    room = max((high - low) * 0.06, abs(high) * 1e-6, 0.01 if high - low < 0.01 else 0)
    # A floor ends the axis, so that what lies below it is seen to.
    low = low if low == axis.floor else low - room
    return Scale(axis, low, high + room, start, end)


@dataclass(frozen=True, slots=True)
class Frame:
    """A pair of scales in a picture of `width` x `height` pixels."""

    x: Scale
    y: Scale
    width: float
    height: float

    def drawn(self, *, rows: tuple[str, ...] = ()) -> list[Markup]:
        """Return grid, ticks and labels; with `rows`, names take the place of numbers on y."""
        left, right = self.x.start, self.x.end
        top, bottom = sorted((self.y.start, self.y.end))
        parts = []
        for value in self.x.ticks:
            at = f"{self.x.at(value):.1f}"
            parts.append(tag("line", class_="grid", x1=at, x2=at, y1=top, y2=bottom))
            parts.append(
                tag("text", self.x.axis.show(value), x=at, y=bottom + 17, text_anchor="middle")
            )
        names = [(float(k), name) for k, name in enumerate(rows)] or [
            (value, self.y.axis.show(value)) for value in self.y.ticks
        ]
        for value, name in names:
            at = self.y.at(value)
            parts.append(
                tag("line", class_="grid", x1=left, x2=right, y1=f"{at:.1f}", y2=f"{at:.1f}")
            )
            parts.append(tag("text", name, x=left - 8, y=f"{at + 4:.1f}", text_anchor="end"))
        middle = f"{(left + right) / 2:.1f}"
        parts.append(tag("line", class_="axis", x1=left, x2=right, y1=bottom, y2=bottom))
        parts.append(
            tag("text", self.x.axis.label, class_="label", x=middle, y=self.height - 4,
                text_anchor="middle")
        )  # fmt: skip
        if self.y.axis.label:
            parts.append(tag("text", self.y.axis.label, class_="label", x=0, y=12))
        return parts


def frame_of(
    x: tuple[Axis, Iterable[float]],
    y: tuple[Axis, Iterable[float]],
    width: float = 460,
    height: float = 300,
    left: float = 48,
) -> Frame:
    """Return the frame on which points fit."""
    return Frame(
        fitted(x[1], x[0], left, width - 14),
        fitted(y[1], y[0], height - 44, 26),
        width,
        height,
    )
