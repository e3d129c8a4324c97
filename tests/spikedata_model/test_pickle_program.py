from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikedata_model.pickle_program import KNOWN, MAX_NESTING, full_name, names_in

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner)
        | st.lists(inner).map(tuple)
    ),
    max_leaves=30,
)  # fmt: skip


@given(VALUES)
def test_plain_values_ask_for_no_name(value):
    program = pickle.dumps(value, protocol=2)

    assert {one.name for one, _, _ in pickletools.genops(program)} <= KNOWN | {"LONG4"}
    if b"LONG4" not in program:
        assert names_in(program) == set()


@given(st.lists(st.sampled_from([OrderedDict, torch.Size, torch.float32, len, set]), max_size=9))
def test_every_name_is_found(objects):
    program = pickle.dumps([(one, {"x": one}) for one in objects], protocol=2)
    expected = {
        OrderedDict: "collections.OrderedDict", torch.Size: "torch.Size", len: "builtins.len",
        set: "builtins.set", torch.float32: "torch.float32",
    }  # fmt: skip

    assert names_in(program) == {expected[one] for one in objects}


def test_names_of_python_2_are_those_of_today():
    assert full_name("__builtin__", "eval") == "builtins.eval"
    assert full_name("torch", "Size") == "torch.Size"


def nested(depth: int, through: bytes = b"") -> bytes:
    """Return a pickle of tuples in tuples, each built in a way that is given."""
    return b"\x80\x02)" + (b"\x85" + through) * (depth - 1) + b"."


@pytest.mark.parametrize("through", [b"", b"q\x01", b"q\x00h\x00\x86"])
def test_tuples_may_be_nested_so_deep_and_no_deeper(through):
    per_step = 2 if b"\x86" in through else 1

    assert names_in(nested(MAX_NESTING // per_step, through)) == set()
    with pytest.raises(ValueError, match="nests more than 100 tuples"):
        names_in(nested(MAX_NESTING // per_step + 2, through))


@given(st.integers(0, 60), st.binary(min_size=1, max_size=3))
def test_any_bytes_give_names_or_a_plain_error(at, noise):
    """Whatever is written over the program, looking through it ends."""
    program = bytearray(pickle.dumps({"a": (1, [2.5, OrderedDict(x=None)])}, protocol=2))
    program[at : at + len(noise)] = noise
    with suppress(ValueError, LookupError):
        assert isinstance(names_in(bytes(program)), set)


@pytest.mark.parametrize(
    "program",
    [b"", b"\x80\x02\x85.", b"\x80\x02h\x05.", b"\x80\x02t.", b"\x80\x02]r\xff\xff\xff\x7f."],
)
def test_a_program_that_takes_what_it_did_not_make_is_refused(program):
    with pytest.raises((ValueError, LookupError)):
        names_in(program)
