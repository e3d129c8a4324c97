from __future__ import annotations

import errno
import fcntl
import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spikedata import part as part_module
from spikedata.part import Part, open_part

SIZE = 1000
DATA = bytes(offset % 255 + 1 for offset in range(SIZE))  # no zeros: a hole reads as zeros


def never() -> None:
    raise AssertionError("nobody else holds the lock")


def opened(folder: Path, size: int = SIZE) -> Part:
    return open_part(folder / "a.part", size, never)


def kill(part: Part) -> None:
    """Let go of a part as the end of a process does: nothing more is written."""
    os.close(part.fd)


def said(part: Part) -> set[int]:
    """Return the offsets that a part says are here, one by one."""
    gone = {at for piece in part.pieces for at in range(piece.at, piece.end)}
    return set(range(part.size)) - gone


def first_hole(here: set[int], size: int) -> int:
    return next((at for at in range(size) if at not in here), size)


def begin_in_pieces(folder: Path) -> None:
    """Leave a part that has the first 100 bytes of its third piece and no others."""
    with opened(folder) as part:
        part.split(250)
        part.write(part.pieces[2], DATA[500:600])


# ------------------------------------------------------------------ against a naive model

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 99), st.integers(0, 300)),
        st.tuples(st.just("split"), st.integers(1, 400)),
        st.tuples(st.just("restart"), st.integers(0, 99)),
        st.tuples(st.just("reopen")),
        st.tuples(st.just("kill")),
        st.tuples(st.just("join")),
    ),
    max_size=30,
)


@settings(max_examples=150)
@given(size=st.integers(1, SIZE), prefix=st.integers(0, SIZE), steps=steps)
def test_a_part_says_of_each_byte_what_a_set_of_offsets_says(size, prefix, steps):
    """Closing loses nothing; a kill loses less of a piece than is written between two saves."""
    prefix = min(prefix, size)
    here = set(range(prefix))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(part_module, "SAVE_EVERY", 64)
        path = Path(folder) / "a.part"
        path.write_bytes(DATA[:prefix])
        part = open_part(path, size, never)
        ever = set(here)  # also what was given up: its bytes are still in the file
        for name, *values in steps:
            pieces = part.missing
            if name == "write" and pieces:
                piece = pieces[values[0] % len(pieces)]
                end = min(piece.at + values[1], piece.end)
                here.update(range(piece.at, end))
                part.write(piece, DATA[piece.at : piece.at + values[1]])
            elif name == "split":
                part.split(values[0])
            elif name == "restart" and pieces:
                piece = pieces[values[0] % len(pieces)]
                here -= set(range(piece.start, piece.end))
                part.restart(piece)
            elif name == "join":
                here, ever = set(), set()
                part.join()
            elif name == "reopen":
                part.__exit__()
                part = open_part(path, size, never)
            elif name == "kill":
                n_pieces, in_order = len(part.pieces), part.in_order
                kill(part)
                part = open_part(path, size, never)
                assert len(here - said(part)) <= (0 if in_order else 63 * n_pieces)
                here = said(part)
            ever |= here
            holes = set(range(size)) - here
            found = path.read_bytes().ljust(size, b"\0")

            assert said(part) == here <= ever
            assert part.here == len(here)
            assert part.prefix == first_hole(here, size)
            assert {at for one in part.missing for at in range(one.at, one.end)} == holes
            assert all(found[at] == DATA[at] for at in here)
        part.__exit__()


@given(size=st.integers(1, SIZE), prefix=st.integers(0, SIZE), length=st.integers(1, SIZE))
def test_a_split_covers_the_asset_without_overlap_in_pieces_of_no_more_than_its_length(
    size, prefix, length
):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.part"
        path.write_bytes(DATA[: min(prefix, size)])
        with open_part(path, size, never) as part:
            part.split(length)

            bounds = [(piece.start, piece.end) for piece in part.pieces]
            assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
            assert bounds[-1][1] == size
            assert all(end % length == 0 for _, end in bounds[:-1])
            assert all(0 < end - start <= length for start, end in bounds)


# ------------------------------------------------------------------ in order, without a journal


def test_a_new_part_has_nothing(tmp_path):
    with opened(tmp_path) as part:
        assert (part.here, part.prefix, part.in_order) == (0, 0, True)


def test_an_empty_asset_is_whole_at_once(tmp_path):
    with opened(tmp_path, size=0) as part:
        assert (part.missing, part.here, part.prefix) == ([], 0, 0)


def test_a_part_in_order_needs_no_journal(tmp_path):
    with opened(tmp_path) as part:
        part.write(part.pieces[0], DATA[:700])

    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]
    with opened(tmp_path) as part:
        assert part.here == 700


def test_a_part_longer_than_the_asset_begins_anew(tmp_path):
    (tmp_path / "a.part").write_bytes(DATA + b"x")

    with opened(tmp_path) as part:
        assert part.here == 0
        assert (tmp_path / "a.part").stat().st_size == 0


def test_bytes_beyond_the_end_of_a_piece_are_not_written(tmp_path):
    with opened(tmp_path) as part:
        part.split(250)
        part.write(part.pieces[1], b"x" * 400)

        assert part.pieces[1].at == 500
        assert (tmp_path / "a.part").stat().st_size == 500


# ------------------------------------------------------------------ the journal


def test_the_journal_is_there_before_the_first_byte_out_of_order(tmp_path):
    part = opened(tmp_path)
    part.split(250)

    assert json.loads((tmp_path / "a.pieces").read_text())[2] == [500, 500, 750]
    kill(part)


def test_pieces_are_known_when_a_part_is_opened_again(tmp_path):
    begin_in_pieces(tmp_path)

    with opened(tmp_path) as part:
        assert said(part) == set(range(500, 600))


def test_a_killed_part_loses_less_of_a_piece_than_is_written_between_two_saves(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(part_module, "SAVE_EVERY", 64)
    part = opened(tmp_path)
    part.split(500)
    for at in range(500, 800, 10):
        part.write(part.pieces[1], DATA[at : at + 10])
    kill(part)

    with opened(tmp_path) as part:
        assert 300 - 64 < part.here <= 300


def test_a_split_in_other_lengths_ends_at_their_multiples_and_at_the_old_ends(tmp_path):
    with opened(tmp_path) as part:
        part.split(400)
        part.split(300)

        assert [piece.end for piece in part.pieces] == [300, 400, 600, 800, 900, 1000]


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"\0" * 64,
        b"\xff\xfe",
        b"[[0, 0, 25",
        b"null",
        b"5",
        b"[5]",
        b"[null]",
        b'"abc"',
        b'{"abc": 1}',
        b"[[0, 250]]",
        b"[[0, 100.0, 250]]",
        b"[[0, true, 250]]",
        b'[["0", "0", "250"]]',
        b"[[-1, 0, 250]]",
        b"[[0, 300, 250]]",
        b"[[100, 0, 250]]",
        b"[[0, 0, 250], [200, 200, 500]]",
        b"[[500, 500, 750], [0, 0, 250]]",
        b"[[750, 750, 1001]]",
    ],
    ids=str,
)
def test_an_unsound_journal_makes_the_part_begin_anew(tmp_path, journal):
    begin_in_pieces(tmp_path)
    (tmp_path / "a.pieces").write_bytes(journal)

    with opened(tmp_path) as part:
        assert (part.here, part.in_order) == (0, True)
        assert [path.name for path in tmp_path.iterdir()] == ["a.part"]
        assert (tmp_path / "a.part").stat().st_size == 0


@given(st.binary(max_size=60) | st.text(alphabet='[]{}0123456789,.-"e ', max_size=40))
def test_whatever_a_journal_holds_a_part_opens(content):
    with tempfile.TemporaryDirectory() as folder:
        begin_in_pieces(Path(folder))
        data = content if isinstance(content, bytes) else content.encode()
        (Path(folder) / "a.pieces").write_bytes(data)

        with opened(Path(folder)) as part:
            assert 0 <= part.prefix <= part.here <= SIZE


def test_a_journal_of_another_size_of_asset_is_not_believed(tmp_path):
    begin_in_pieces(tmp_path)

    with opened(tmp_path, size=SIZE - 1) as part:
        assert part.here == 0


def test_a_journal_beside_an_empty_part_is_ignored(tmp_path):
    (tmp_path / "a.part").touch()
    (tmp_path / "a.pieces").write_text("[[500, 600, 750]]")

    with opened(tmp_path) as part:
        assert part.here == 0
        assert not (tmp_path / "a.pieces").exists()


def test_a_journal_without_a_part_is_ignored(tmp_path):
    (tmp_path / "a.pieces").write_text("[[500, 600, 750]]")

    with opened(tmp_path) as part:
        assert part.here == 0


def test_an_empty_journal_beside_bytes_says_that_all_are_here(tmp_path):
    (tmp_path / "a.part").write_bytes(DATA)
    (tmp_path / "a.pieces").write_text("[]")

    with opened(tmp_path) as part:
        assert (part.missing, part.prefix) == ([], SIZE)


# ------------------------------------------------------------------ the end


@pytest.mark.parametrize("end", ["finish", "discard"])
def test_no_journal_is_left_at_the_end(tmp_path, end):
    with opened(tmp_path) as part:
        part.split(250)
        for piece in reversed(part.pieces):
            part.write(piece, DATA[piece.start : piece.end])
        if end == "finish":
            part.finish(tmp_path / "a.nwb")
        else:
            part.discard()

    assert [path.name for path in tmp_path.iterdir()] == (["a.nwb"] if end == "finish" else [])
    assert end == "discard" or (tmp_path / "a.nwb").read_bytes() == DATA


def test_joining_gives_everything_up_and_is_counted(tmp_path):
    with opened(tmp_path) as part:
        part.split(250)
        part.write(part.pieces[2], DATA[500:600])
        part.join()

        assert (part.here, part.in_order, part.restarts) == (0, True, 1)
        assert [path.name for path in tmp_path.iterdir()] == ["a.part"]


# ------------------------------------------------------------------ locks


def test_a_second_opener_waits_for_the_first_and_goes_on_from_what_it_left(tmp_path):
    first = opened(tmp_path)
    waits = []

    def pause() -> None:
        waits.append(1)
        if len(waits) == 3:
            first.write(first.pieces[0], DATA[:300])
            first.__exit__()

    with open_part(tmp_path / "a.part", SIZE, pause) as second:
        assert (len(waits), second.here) == (3, 300)


def test_a_part_that_was_renamed_while_it_was_waited_for_is_begun_anew(tmp_path):
    first = opened(tmp_path)
    first.write(first.pieces[0], DATA)

    def pause() -> None:
        first.finish(tmp_path / "a.nwb")
        first.__exit__()

    with open_part(tmp_path / "a.part", SIZE, pause) as second:
        assert second.here == 0
    assert (tmp_path / "a.nwb").read_bytes() == DATA


def test_what_pause_raises_ends_the_wait_and_closes_the_file(tmp_path):
    def pause() -> None:
        raise KeyError("enough")

    with opened(tmp_path):
        before = len(os.listdir("/dev/fd"))
        with pytest.raises(KeyError, match="enough"):
            open_part(tmp_path / "a.part", SIZE, pause)

        assert len(os.listdir("/dev/fd")) == before


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_a_part_is_of_its_own_and_does_not_stay(tmp_path, monkeypatch, number):
    (tmp_path / "a.part").write_bytes(DATA[:100])

    def flock(fd: int, how: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)

    with opened(tmp_path) as one, opened(tmp_path) as two:
        one.split(250)
        one.write(one.pieces[2], DATA[500:600])

        assert one.path != two.path
        assert two.here == 0
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_of_an_earlier_part_stays_either(tmp_path, monkeypatch):
    begin_in_pieces(tmp_path)

    def flock(fd: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)

    with opened(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("journal", ["{}", '""'])
def test_an_empty_journal_of_another_kind_is_unsound(tmp_path, journal):
    begin_in_pieces(tmp_path)
    (tmp_path / "a.pieces").write_text(journal)

    with opened(tmp_path) as part:
        assert part.here == 0


def test_a_lock_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    def flock(fd: int, how: int) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(OSError, match="the disk is gone"):
        opened(tmp_path)


def test_a_link_in_the_place_of_a_part_is_not_written_through(tmp_path):
    (tmp_path / "mine").write_bytes(b"precious")
    (tmp_path / "a.part").symlink_to("mine")

    with pytest.raises(OSError, match="symbolic links"):
        opened(tmp_path)

    assert (tmp_path / "mine").read_bytes() == b"precious"
