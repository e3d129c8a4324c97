"""Follows the instructions of a pickle by our own reading of them, so that nothing it names is run.

A pickle is a program: Python's reader imports and calls whatever it names. This one knows the
instructions that ``torch.save`` writes and no others; a call makes an `Inert`, or what the caller
of `read_program` makes of a name.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

__all__ = ["KNOWN", "Inert", "full_name", "read_program"]

CONSTANTS: dict[str, Callable[[], object]] = {
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "NONE": lambda: None,
    "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
}  # fmt: skip
GIVEN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
TAKES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "BUILD": 1, "APPEND": 1,
         "SETITEM": 2, "BINPERSID": 1}  # fmt: skip
TAKES_TO_MARK = {"TUPLE", "APPENDS", "SETITEMS"}
KNOWN = frozenset(
    {"PROTO", "STOP", "MARK", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL"}
    | CONSTANTS.keys() | GIVEN | TAKES.keys() | TAKES_TO_MARK
)  # fmt: skip
"""Instructions of pickle protocol 2 that ``torch.save`` writes."""
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "commands": "subprocess"}
_BY_CODE = {one.code: one for one in pickletools.opcodes}


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """Stands for a class or function that is not imported, or for what it would have made.

    Parameters
    ----------
    name : str
        Full name of the class or function in the file.
    args : tuple
        What it was called with.
    state : object
        What its attributes were to be set from.
    pairs : dict
        What was put into it by key.
    """

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    pairs: dict[object, object] = field(default_factory=dict)


def read_program(
    program: bytes,
    find: Callable[[str], object],
    call: Callable[[str, tuple[object, ...]], object],
    refer: Callable[[object], object],
) -> object:
    """Return the value that a pickle describes.

    Parameters
    ----------
    program : bytes
        The pickle.
    find : callable
        Given every name that it asks for, before anything is made of it; may refuse it.
    call : callable
        Returns what calling a name with arguments makes.
    refer : callable
        Returns what it refers to outside of itself.

    Raises
    ------
    ValueError, LookupError, TypeError
        If it has an instruction that ``torch.save`` does not write, or cannot be followed.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, object] = {}
    for kind, argument in _instructions(program):
        if kind in CONSTANTS:
            stack.append(CONSTANTS[kind]())
        elif kind in GIVEN:
            stack.append(argument)
        elif kind == "GLOBAL":
            find(argument)
            stack.append(Inert(argument))
        elif kind in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif kind in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif kind == "MARK":
            marks.append(len(stack))
        elif kind == "STOP":
            return stack.pop()
        elif kind != "PROTO":
            first = marks.pop() if kind in TAKES_TO_MARK else len(stack) - TAKES[kind]
            if first < 0:
                raise ValueError("its pickle takes values that it did not make")
            taken = stack[first:]
            del stack[first:]
            if kind.startswith("TUPLE"):
                stack.append(tuple(taken))
            elif kind == "BINPERSID":
                stack.append(refer(taken[0]))
            elif kind in ("REDUCE", "NEWOBJ"):
                stack.append(_called(taken[0], taken[1], call))
            else:
                _put(kind, stack[-1], taken)
    raise ValueError("its pickle has no end")


def _called(what: object, given: object, call: Callable) -> object:
    if not isinstance(what, Inert) or not isinstance(given, tuple):
        raise ValueError("its pickle calls what is no name")
    return call(what.name, given)


def _put(kind: str, owner: object, values: list[Any]) -> None:
    """Put items or attributes into a value; no value but lists, dicts and `Inert` takes any."""
    if kind in ("APPEND", "APPENDS") and isinstance(owner, list | Inert):
        if isinstance(owner, list):  # no list of a framework is needed
            owner.extend(values)
    elif kind in ("SETITEM", "SETITEMS") and isinstance(owner, dict | Inert):
        for key, value in zip(values[::2], values[1::2], strict=True):
            # A tuple's hash is worked out anew each time: of nested ones without an end.
            if not isinstance(key, str | int | float | Inert | None):
                raise ValueError(f"its pickle has a {type(key).__name__} as a key")
            (owner.pairs if isinstance(owner, Inert) else owner)[key] = value
    elif kind == "BUILD" and isinstance(owner, Inert):
        owner.state = values[0]
    elif kind != "BUILD" or not isinstance(owner, dict):  # torch hangs versions on a state's dict
        raise ValueError(f"its pickle puts values into a {type(owner).__name__}")


def _instructions(program: bytes) -> Iterator[tuple[str, Any]]:
    """Yield name and argument of each instruction; only those that are known are read."""
    file = BytesIO(program)
    while code := file.read(1):
        opcode = _BY_CODE.get(code.decode("latin-1"))
        if opcode is None or opcode.name not in KNOWN:
            raise ValueError(f"its pickle uses the instruction {opcode.name if opcode else code}")
        if opcode.name == "GLOBAL":  # the reader of pickletools would resolve escapes
            yield opcode.name, full_name(*(file.readline()[:-1].decode() for _ in range(2)))
        else:
            argument = opcode.arg.reader(file) if opcode.arg else None
            if isinstance(argument, str):
                argument.encode()  # refuse half of a character, which no file can hold
            yield opcode.name, argument


def full_name(module: str, name: str) -> str:
    """Return a dotted name; protocol 2 writes the modules that Python 2 had."""
    return f"{PYTHON_2.get(module, module)}.{name}"
