"""Cuts the time of a recording into train, valid and test, and keeps them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from spikedata.bounds import pairs
from spikedata.errors import IntervalError, did_you_mean
from spikedata.intervals import IntervalSet
from spikedata.recording import SPLITS

__all__ = [
    "chronological_split",
    "clip",
    "column_split",
    "leakage",
    "shuffled_rows",
    "split_table",
    "without_leakage",
]

ROUNDING = 1e-6  # s; far below a sample, far above what rounding does to times in seconds


def chronological_split(
    decodable: IntervalSet,
    train: float,
    valid: float,
    test: float,
    gap: float = 0.0,
    blocks: int = 1,
) -> IntervalSet:
    """Return `decodable` cut into train, valid and test, in that order of time.

    The cuts are placed by covered duration, so pauses count for nothing.

    Parameters
    ----------
    decodable : IntervalSet
        The time that can be trained and tested on: observed units and observed targets.
    train, valid, test : float
        Shares of the covered duration; together 1. A share of 0 leaves that split out.
    gap : float
        Seconds of the recording's clock left out after each cut.
    blocks : int
        Cut the time into this many equal blocks first, and each of them in three: for a
        recording whose last part is unlike the rest.

    Returns
    -------
    IntervalSet
        Disjoint intervals with the column ``"split"``.

    Raises
    ------
    IntervalError
        If the shares are negative or do not add up to 1, `gap` is negative, or there is no
        block.

    Examples
    --------
    >>> table = chronological_split(IntervalSet.single(0, 10), 0.7, 0.1, 0.2)
    >>> list(table), table.columns["split"].tolist()
    ([(0.0, 7.0), (7.0, 8.0), (8.0, 10.0)], ['train', 'valid', 'test'])
    """
    shares = (train, valid, test)
    if min(*shares, gap) < 0 or abs(sum(shares) - 1) > 1e-9 or blocks < 1:
        raise IntervalError(
            f"The shares {shares} and the gap {gap} s must not be negative, the shares must "
            f"add up to 1, and there must be at least one block (found {blocks})."
        )
    covered = decodable.coalesce()
    parts = {name: IntervalSet.empty() for name in SPLITS}
    begin = -np.inf
    for block in range(blocks):
        done = 0.0
        for name, share in zip(SPLITS, shares, strict=True):
            if share == 0:
                continue
            done = round(done + share, 12)  # 0.7 + 0.1 is to be the same cut as 0.8
            last = done == 1 and block == blocks - 1
            end = np.inf if last else _time_at(covered, (block + done) / blocks * covered.duration)
            parts[name] = parts[name].union(clip(covered, begin, end))
            begin = end + gap
    return split_table(parts)


def column_split(
    table: IntervalSet, column: str, values: Mapping[str, str], within: IntervalSet
) -> IntervalSet:
    """Return the splits that a column of an interval table assigns.

    Parameters
    ----------
    table : IntervalSet
        One row per trial.
    column : str
        The column to go by.
    values : mapping of str to str
        Value of the column (as text) to split name; rows with other values are left out.
    within : IntervalSet
        Time outside is left out.

    Returns
    -------
    IntervalSet
        Disjoint intervals with the column ``"split"``. One that ends less than 1 µs after the
        next begins, as times that were rounded do, ends with its begin.

    Raises
    ------
    IntervalError
        If there is no such column, no row has one of the values, or two splits share time.
    """
    if column not in table.columns:
        raise IntervalError(
            f"The table has no column '{column}' to split by; {did_you_mean(column, table.columns)}"
        )
    found = np.asarray(table.columns[column]).astype(str)
    wanted = np.array([values.get(value, "") for value in found.tolist()], str)
    if not np.isin(wanted, SPLITS).any():
        raise IntervalError(
            f"No row of the column '{column}' has one of the values {sorted(values)}: it holds "
            f"{', '.join(np.unique(found)[:8])}."
        )
    parts = {name: table.where(wanted == name).intersection(within) for name in SPLITS}
    result = split_table(parts)
    over = result.end[:-1] - result.start[1:]
    rounded = np.append((over > 0) & (over < ROUNDING), False)
    end = np.where(rounded, np.append(result.start[1:], np.inf), result.end)
    result = IntervalSet(result.start, end, result.columns)
    if not result.is_disjoint:
        row = int(np.argmax(result.start[1:] < result.end[:-1]))
        raise IntervalError(
            f"Rows of different splits share time near {result.end[row]:.3f} s: "
            f"the column '{column}' does not keep training and testing apart."
        )
    return result


def leakage(table: IntervalSet, reach: float) -> IntervalSet:
    """Return the valid and test time that lies within `reach` s of training time.

    A window of length L that is drawn around training time sees up to L beyond it: use that
    as `reach`. Empty means that nothing leaks.
    """
    names = np.asarray(table.columns["split"])
    train = table.where(names == "train").coalesce()
    held_out = table.where(names != "train").coalesce()
    return held_out.intersection(train.dilate(reach))


def without_leakage(table: IntervalSet, reach: float) -> IntervalSet:
    """Return the splits with training time closer than `reach` s to valid or test removed."""
    names = np.asarray(table.columns["split"])
    parts = {name: table.where(names == name).coalesce() for name in SPLITS}
    held_out = parts["valid"] | parts["test"]
    parts["train"] -= held_out.dilate(reach)
    return split_table(parts)


def _time_at(covered: IntervalSet, amount: float) -> float:
    """Return the time at which `amount` s of the covered time have passed."""
    if len(covered) == 0:
        return np.inf
    passed = np.concatenate([[0.0], np.cumsum(covered.end - covered.start)])
    row = min(int(np.searchsorted(passed, amount, "right")) - 1, len(covered) - 1)
    return float(covered.start[row] + (amount - passed[row]))


def clip(covered: IntervalSet, begin: float, end: float) -> IntervalSet:
    """Return the rows as far as they lie in ``[begin, end)``; the bounds may be infinite."""
    return IntervalSet(*pairs(np.maximum(covered.start, begin), np.minimum(covered.end, end)))


def shuffled_rows(count: int, shares: Sequence[float], seed: int) -> list[np.ndarray]:
    """Return the sorted row numbers of each share of `count` shuffled rows.

    Each share is rounded to whole rows; the largest takes what is left over.

    References
    ----------
    The rule by which torch_brain 0.2.1 splits trials (``Interval.split`` with ``shuffle=True``):
    the same numbers for the same seed.
    """
    sizes = [round(share * count) for share in shares]
    largest = int(np.argmax(sizes))
    sizes[largest] += count - sum(sizes)
    order = np.random.default_rng(seed).permutation(count)
    return [np.sort(part) for part in np.split(order, np.cumsum(sizes)[:-1])]


def split_table(parts: Mapping[str, IntervalSet]) -> IntervalSet:
    """Return the intervals of each split (by name, as in `SPLITS`) as one table of a scheme."""
    names = np.repeat(np.array(list(parts), "U5"), [len(part) for part in parts.values()])
    start = np.concatenate([part.start for part in parts.values()])
    end = np.concatenate([part.end for part in parts.values()])
    return IntervalSet.sorted(start, end, {"split": names})
