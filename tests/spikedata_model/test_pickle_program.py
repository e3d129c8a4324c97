from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.pickle_program import KNOWN, Inert, full_name, read_program

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
        | st.lists(inner).map(tuple)
    ),
    max_leaves=30,
)  # fmt: skip


def read(program: bytes, names: list[str] | None = None) -> object:
    """Return what a pickle holds, with stand-ins for whatever it calls; collect the names."""
    asked = [] if names is None else names
    return read_program(program, asked.append, Inert, lambda pid: ("outside", pid))


@given(VALUES)
def test_plain_values_are_read_as_pickle_reads_them_and_ask_for_no_name(value):
    program, names = pickle.dumps(value, protocol=2), []

    assert {one.name for one, _, _ in pickletools.genops(program)} <= KNOWN | {"LONG4"}
    if b"LONG4" not in {one.name.encode() for one, _, _ in pickletools.genops(program)}:
        assert read(program, names) == value
        assert names == []


@given(st.lists(st.sampled_from([OrderedDict, torch.Size, torch.float32, len, set]), max_size=9))
def test_every_name_is_found_and_stands_for_itself(objects):
    names = []
    made = read(pickle.dumps([(one, {"x": one}) for one in objects], protocol=2), names)
    expected = {
        OrderedDict: "collections.OrderedDict", torch.Size: "torch.Size", len: "builtins.len",
        set: "builtins.set", torch.float32: "torch.float32",
    }  # fmt: skip

    assert set(names) == {expected[one] for one in objects}
    assert [pair[0].name for pair in made] == [expected[one] for one in objects]


def test_names_of_python_2_are_those_of_today():
    assert full_name("__builtin__", "eval") == "builtins.eval"
    assert full_name("torch", "Size") == "torch.Size"


def test_what_a_stand_in_was_given_is_kept():
    program = (
        b"\x80\x02cnumpy\narray\nK\x01\x85R}X\x01\x00\x00\x00aK\x02sbX\x01\x00\x00\x00bK\x03s."
    )
    made = read(program)

    assert isinstance(made, Inert)
    assert (made.name, made.args) == ("numpy.array", (1,))
    assert (made.state, made.pairs) == ({"a": 2}, {"b": 3})


def test_a_name_that_is_refused_stops_the_reading():
    def refuse(name: str) -> None:
        raise PermissionError(name)

    with pytest.raises(PermissionError, match=r"posix\.system"):
        read_program(b"\x80\x02cposix\nsystem\n", refuse, Inert, id)


@given(st.integers(0, 60), st.binary(min_size=1, max_size=3))
def test_any_bytes_give_a_value_or_a_plain_error(at, noise):
    """Whatever is written over the program, following it ends."""
    program = bytearray(pickle.dumps({"a": (1, [2.5, OrderedDict(x=None)])}, protocol=2))
    program[at : at + len(noise)] = noise
    with suppress(ValueError, LookupError, TypeError):
        read(bytes(program))


DOUBLED = b"q\x00h\x00\x86"  # what is on the stack becomes a pair of itself


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (b"", "has no end"),
        (b"\x80\x02K\x01", "has no end"),
        (b"\x80\x02\x85.", "takes values that it did not make"),
        (b"\x80\x02h\x05.", "5"),
        (b"\x80\x02t.", "pop from empty list"),
        (b"\x80\x02]2.", "uses the instruction DUP"),
        (b"\x80\x02K\x01)R.", "calls what is no name"),
        (b"\x80\x02clen\nlen\nK\x01R.", "calls what is no name"),
        (b"\x80\x02K\x01}b.", "puts values into a int"),
        (b"\x80\x02]}b.", "puts values into a list"),
        (b"\x80\x02)K\x01a.", "puts values into a tuple"),
        (b"\x80\x02]K\x01K\x02s.", "puts values into a list"),
        (b"\x80\x02}(K\x01u.", "zip"),
        (b"\x80\x02}]K\x01s.", "a list as a key"),
        (b"\x80\x02})" + DOUBLED * 100 + b"K\x01s.", "a tuple as a key"),  # hash of 2**100 parts
        (b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.", "a tuple as a key"),
        (b"\x80\x02X\x03\x00\x00\x00\xed\xa0\x80.", "surrogates not allowed"),
    ],
)
def test_a_program_that_makes_no_sense_is_refused(program, says):
    with pytest.raises((ValueError, LookupError), match=says):
        read(program)


def test_a_value_may_have_any_number():
    """Python's reader makes room for all numbers before it: 16 GB here."""
    assert read(b"\x80\x02]r\xff\xff\xff\x7f.") == []
