from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.cut import Span, add_up, cut, shares, sums
from spikedata_model.workers import PIECES, Workers

WINDOWS, RANKS, AT_ONCE = st.integers(0, 300), st.integers(1, 20), st.integers(1, 40)


def leaves(n_windows: int, n_ranks: int, at_once: int) -> list[Span]:
    return [one for share in shares(n_windows, n_ranks) for one in cut(share, at_once)]


def naive(first: int, last: int, n_ranks: int, at_once: int) -> str:
    """Return the sum of some windows as it is defined: by halves, from the top down."""
    n_windows = last - first
    if n_windows == 0:
        return ""
    if n_ranks == 1 and n_windows <= at_once:
        return f"{first}"
    n_left = math.ceil(n_ranks / 2)
    share = n_left / n_ranks if n_ranks > 1 else 1 / 2
    middle = first + math.ceil(round(n_windows * share, 9))
    left = naive(first, middle, n_left, at_once)
    right = naive(middle, last, max(1, n_ranks - n_left), at_once)
    return f"({left}+{right})" if left and right else left or right


@given(n_windows=WINDOWS, n_ranks=RANKS, at_once=AT_ONCE)
def test_every_window_is_in_one_piece_and_pieces_are_in_order(n_windows, n_ranks, at_once):
    pieces = leaves(n_windows, n_ranks, at_once)

    assert [row for one in pieces for row in range(one.first, one.last)] == list(range(n_windows))
    assert all(0 < len(one) <= at_once for one in pieces)


@given(n_windows=WINDOWS, n_ranks=RANKS)
def test_shares_follow_one_another_and_differ_by_little(n_windows, n_ranks):
    found = shares(n_windows, n_ranks)

    assert [one.first for one in found] == [0, *(one.last for one in found[:-1])]
    assert (len(found), found[-1].last) == (n_ranks, n_windows)
    assert max(map(len, found)) - min(map(len, found)) <= math.ceil(math.log2(n_ranks + 1))


@given(n_windows=WINDOWS, n_ranks=RANKS, at_once=AT_ONCE)
def test_sums_follow_the_tree(n_windows, n_ranks, at_once):
    assert sums(n_windows, n_ranks, at_once) == naive(0, n_windows, n_ranks, at_once)


@given(n_windows=WINDOWS, doublings=st.integers(0, 5), at_once=AT_ONCE)
def test_the_order_is_that_of_one_process_where_a_piece_is_no_more_than_a_share(
    n_windows, doublings, at_once
):
    n_ranks = 2**doublings
    if at_once > 1:
        n_windows += n_ranks * at_once  # so that the smallest share holds a piece

    assert sums(n_windows, n_ranks, at_once) == sums(n_windows, 1, at_once)


@given(n_windows=WINDOWS, precision=st.sampled_from(["float32", "bfloat16"]))
def test_up_to_four_processes_add_as_one_does_unless_told_otherwise(n_windows, precision):
    at_once = Workers(torch.device("cpu"), precision, 1).most(n_windows)

    assert at_once <= math.ceil(max(1, n_windows) / PIECES)
    for n_ranks in (2, 4):
        assert sums(n_windows, n_ranks, at_once) == sums(n_windows, 1, at_once)


def test_three_processes_cut_in_another_place():
    assert sums(32, 3, 8) != sums(32, 1, 8)


@given(n_windows=st.integers(1, 300), at_once=AT_ONCE)
def test_few_sums_are_held_at_a_time(n_windows, at_once):
    held, most = 0, 0
    pieces = cut(Span(0, n_windows), at_once)

    def count(start: int) -> None:
        nonlocal held, most
        held += start
        most = max(most, held)

    def parts():
        for one in pieces:
            count(1)
            yield one.depth, len(one)

    def add(left: int, right: int) -> int:
        count(-1)
        return left + right

    assert add_up(parts(), add) == n_windows
    assert most <= math.ceil(math.log2(len(pieces))) + 1


def test_the_sum_of_nothing_is_nothing():
    assert add_up([], lambda left, right: pytest.fail(f"{left} and {right}")) is None
