"""Looks through the instructions of a pickle without following them."""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from io import BytesIO
from typing import Any

__all__ = ["KNOWN", "full_name", "names_in"]

KNOWN = frozenset(
    {"PROTO", "STOP", "MARK", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
     "TUPLE2", "TUPLE3", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
     "BINFLOAT", "BINUNICODE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "APPEND",
     "APPENDS", "SETITEM", "SETITEMS", "GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"}
)  # fmt: skip
"""Instructions of pickle protocol 2 that ``torch.save`` writes."""

MAX_NESTING = 100  # of tuples; Python computes the hash of a key by a recursion without an end
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "commands": "subprocess"}

_BY_CODE = {one.code: one for one in pickletools.opcodes}
_TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "BUILD": 1, "APPEND": 1,
          "SETITEM": 2, "BINPERSID": 1}  # fmt: skip
_TO_MARK = {"TUPLE", "APPENDS", "SETITEMS"}
_LEAVES_NOTHING = {"BUILD", "APPEND", "SETITEM", "APPENDS", "SETITEMS"}


def names_in(program: bytes) -> set[str]:
    """Return the full names of modules' members that a pickle asks for.

    Raises
    ------
    ValueError, LookupError
        If it has an instruction that ``torch.save`` does not write, cannot be followed, or would
        need memory or a recursion that no checkpoint needs.
    """
    names: set[str] = set()
    stack: list[int] = []  # of every value how deep tuples are nested in it
    marks: list[int] = []
    memo: dict[int, int] = {}
    for kind, argument, position in _instructions(program):
        if kind == "GLOBAL":
            names.add(full_name(*argument))
        if kind in ("BINPUT", "LONG_BINPUT"):
            if int(argument) > position:  # room is made for as many values
                raise ValueError("its pickle numbers more values than it has")
            memo[argument] = stack[-1]
        elif kind in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif kind == "MARK":
            marks.append(len(stack))
        elif kind in _TAKES or kind in _TO_MARK:
            first = marks.pop() if kind in _TO_MARK else len(stack) - _TAKES[kind]
            if first < 0:
                raise ValueError("its pickle takes values that it did not make")
            depth = max(stack[first:], default=0) + kind.startswith("TUPLE")
            if depth > MAX_NESTING:
                raise ValueError(f"its pickle nests more than {MAX_NESTING} tuples")
            del stack[first:]
            if kind not in _LEAVES_NOTHING:
                stack.append(depth)
        elif kind not in ("PROTO", "STOP"):
            stack.append(0)
    return names


def _instructions(program: bytes) -> Iterator[tuple[str, Any, int]]:
    """Yield name, argument and place of each instruction; only those that are known are read."""
    file = BytesIO(program)
    while True:
        position, code = file.tell(), file.read(1)
        opcode = _BY_CODE.get(code.decode("latin-1"))
        if opcode is None or opcode.name not in KNOWN:
            raise ValueError(f"its pickle uses the instruction {opcode.name if opcode else code}")
        if opcode.name == "GLOBAL":  # the reader of pickletools would resolve escapes
            argument = [file.readline()[:-1].decode() for _ in range(2)]
        else:
            argument = opcode.arg.reader(file) if opcode.arg else None
        yield opcode.name, argument, position
        if opcode.name == "STOP":
            return


def full_name(module: str, name: str) -> str:
    """Return a dotted name; protocol 2 writes the modules that Python 2 had."""
    return f"{PYTHON_2.get(module, module)}.{name}"
