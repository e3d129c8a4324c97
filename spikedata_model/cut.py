"""How the windows of a batch are shared, and the fixed order in which what they give is added.

A batch is halved, its halves are halved, and so on down to pieces that are small enough. Sums
follow the same tree upwards, so that they do not depend on who computed which piece: as many
processes as the tree has nodes at some depth each take one of these, and their sums are added as
one process would have added them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Span", "add_up", "cut", "shares", "sums"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span:
    """A node of the tree: windows that follow one another, and how often the batch was cut.

    Parameters
    ----------
    first, last : int
        Its windows, the last not included; none where they are equal.
    depth : int
        0 for the whole batch.
    """

    first: int
    last: int
    depth: int = 0

    def __len__(self) -> int:
        return self.last - self.first

    def cut(self, left: int, parts: int) -> tuple[Span, Span]:
        """Return what `left` of `parts` equal parts hold, rounded up, and the rest."""
        middle = self.first - (-len(self) * left // parts)
        depth = self.depth + 1
        return Span(self.first, middle, depth), Span(middle, self.last, depth)


def shares(n_windows: int, n_ranks: int) -> list[Span]:
    """Return the windows of every rank, in order; some have none if there are fewer windows.

    Examples
    --------
    >>> [(one.first, one.last, one.depth) for one in shares(8, 3)]
    [(0, 3, 2), (3, 6, 2), (6, 8, 1)]
    """
    return _share(Span(0, n_windows), n_ranks)


def _share(span: Span, n_ranks: int) -> list[Span]:
    if n_ranks == 1:
        return [span]
    n_left = -(-n_ranks // 2)
    left, right = span.cut(n_left, n_ranks)
    return _share(left, n_left) + _share(right, n_ranks - n_left)


def cut(span: Span, at_once: int) -> list[Span]:
    """Return pieces of at most `at_once` windows, in order; none of a span without windows.

    Examples
    --------
    >>> [(one.first, one.last, one.depth) for one in cut(Span(0, 7), 3)]
    [(0, 2, 2), (2, 4, 2), (4, 7, 1)]
    """
    if len(span) == 0:
        return []
    if len(span) <= max(1, at_once):
        return [span]
    left, right = span.cut(1, 2)
    return cut(left, at_once) + cut(right, at_once)


def add_up(parts: Iterable[tuple[int, T]], add: Callable[[T, T], T]) -> T | None:
    """Return the sum of parts in the order of their tree, or nothing of no parts.

    Parameters
    ----------
    parts : iterable of (int, T)
        Depth and value of the leaves of a node, from left to right.
    add : callable
        Returns the sum of a left and a right value; it may change either.

    Notes
    -----
    The depths alone decide the tree: two sums that follow one another at the same depth are the
    halves of a node. No more values than that depth plus one are held at a time.

    Examples
    --------
    >>> add_up([(2, "a"), (2, "b"), (1, "c")], lambda left, right: f"({left}+{right})")
    '((a+b)+c)'
    """
    held: list[tuple[int, T]] = []
    for depth, value in parts:
        while held and held[-1][0] == depth:
            value = add(held.pop()[1], value)
            depth -= 1
        held.append((depth, value))
    return held[0][1] if held else None


def sums(n_windows: int, n_ranks: int, at_once: int) -> str:
    """Return in which order ranks add up a batch: as a text that is the same for the same order.

    Examples
    --------
    >>> sums(4, 1, 1), sums(4, 2, 1), sums(4, 3, 1)
    ('((0+1)+(2+3))', '((0+1)+(2+3))', '(((0+1)+2)+3)')
    """

    def add(left: str, right: str) -> str:
        return f"({left}+{right})" if left and right else left or right

    parts = []
    for share in shares(n_windows, n_ranks):
        leaves = [(one.depth, f"{one.first}") for one in cut(share, at_once)]
        parts += leaves or [(share.depth, "")]
    return add_up(parts, add) or ""
