from __future__ import annotations

import copy
import gc
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spikedata import mapping
from spikedata.mapping import HUGE, Lazy, map_file

LINUX = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def counted(calls: list[str], names: str = "ab") -> Lazy[list[str]]:
    """Return a mapping whose values are lists, and note in `calls` which were made."""

    def maker(name: str) -> Callable[[], list[str]]:
        return lambda: calls.append(name) or [name]  # type: ignore[func-returns-value]

    return Lazy({name: maker(name) for name in names})


# ------------------------------------------------------------------ lazy mappings


def test_a_value_is_made_at_its_first_use_and_kept():
    calls: list[str] = []
    lazy = counted(calls)

    assert (list(lazy), len(lazy), "a" in lazy, "z" in lazy, lazy.get("z")) == (
        ["a", "b"], 2, True, False, None,
    )  # fmt: skip
    assert calls == []
    assert lazy["b"] is lazy["b"]
    assert calls == ["b"]
    assert lazy == {"a": ["a"], "b": ["b"]}
    with pytest.raises(KeyError, match="z"):
        lazy["z"]


def test_names_may_be_lazy_too():
    calls: list[int] = []
    lazy = Lazy(lambda: calls.append(1) or {"a": lambda: 1})  # type: ignore[func-returns-value]

    assert calls == []
    assert dict(lazy) == {"a": 1}
    assert list(lazy) == ["a"]
    assert calls == [1]


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_copies_are_dicts_of_all_values(again):
    lazy = counted([])

    assert type(again(lazy)) is dict
    assert again(lazy) == dict(lazy)


def test_an_error_is_raised_at_every_use():
    def fail() -> int:
        raise OSError("damaged")

    lazy = Lazy({"a": fail, "b": lambda: 2})
    for _ in range(2):
        with pytest.raises(OSError, match="damaged"):
            lazy.get("a", 7)
    assert lazy["b"] == 2


# ------------------------------------------------------------------ mapped files


def test_a_mapped_file_is_its_bytes_and_outlives_its_name(tmp_path):
    path = tmp_path / "file"
    data = np.random.default_rng(0).bytes(10_007)
    path.write_bytes(data)
    view = np.frombuffer(map_file(str(path)), np.uint8)
    path.unlink()
    gc.collect()

    assert view.tobytes() == data
    assert not view.flags.writeable


def test_an_empty_file_has_no_bytes(tmp_path):
    (tmp_path / "file").touch()

    assert map_file(str(tmp_path / "file")).size == 0


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_what_is_no_file_is_an_os_error_and_is_not_waited_for(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    if kind == "pipe":
        os.mkfifo(path)

    with pytest.raises(OSError, match=r"x|seek"):
        map_file(str(path))


@LINUX
def test_mappings_hold_no_descriptor_and_end_with_their_last_view(tmp_path):
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(tmp_path))

    (tmp_path / "file").write_bytes(b"x" * 5000)
    opened = len(os.listdir("/proc/self/fd"))
    views = [np.frombuffer(map_file(str(tmp_path / "file")), np.uint8) for _ in range(50)]

    assert len(os.listdir("/proc/self/fd")) == opened
    assert mapped() >= 1
    kept = views[7][100:200]
    del views
    gc.collect()
    assert bytes(kept) == b"x" * 100
    assert mapped() == 1
    del kept
    gc.collect()
    assert mapped() == 0


def test_without_a_posix_library_files_are_mapped_by_python(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "_LIBC", None)
    (tmp_path / "file").write_bytes(b"abc")

    assert map_file(str(tmp_path / "file"), huge_pages=True).to_pybytes() == b"abc"


@LINUX
@pytest.mark.parametrize(("size", "wanted", "asked"), [
    (HUGE, True, True), (HUGE, False, False), (HUGE - 1, True, False),
])  # fmt: skip
def test_huge_pages_are_asked_for_where_there_can_be_one(tmp_path, size, wanted, asked):
    """The flag `hg` of the mapping says that MADV_HUGEPAGE was taken."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * size)
    buffer = map_file(str(path), huge_pages=wanted)
    blocks = Path("/proc/self/smaps").read_text().split(str(path))
    flags = blocks[1].split("VmFlags:")[1].splitlines()[0].split()

    assert ("hg" in flags) in ((asked, False) if asked else (False,))  # a kernel may have none
    assert buffer.size == size
