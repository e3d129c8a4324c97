from __future__ import annotations

import hashlib
import os

import pytest

from spikedata.files import sha256_of, sync_folder, write_whole


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 5000])
def test_sha256_is_that_of_the_bytes(tmp_path, content):
    (tmp_path / "a").write_bytes(content)

    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_text_is_written_as_utf_8_and_bytes_as_they_are(tmp_path):
    write_whole(tmp_path / "a", "é ✓\n")
    write_whole(tmp_path / "b", b"\r\n\xff")

    assert (tmp_path / "a").read_bytes() == "é ✓\n".encode()
    assert (tmp_path / "b").read_bytes() == b"\r\n\xff"


def test_a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it(tmp_path):
    for content in ("old, and longer", "new"):
        write_whole(tmp_path / "a", content)

    assert (tmp_path / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch, step):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "a", "old")
    monkeypatch.setattr(os, step, full)

    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_bytes_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    events = []
    original = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name in original:
        monkeypatch.setattr(
            os, name, lambda *given, name=name: events.append(name) or original[name](*given)
        )

    write_whole(tmp_path / "a", "new")

    assert events == ["fsync", "replace", "fsync"]  # the file, its name, the folder


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_names_the_file_that_was_to_be_written(tmp_path, monkeypatch, step):
    def full(*names: object) -> None:
        raise OSError(28, "No space left on device", *(names if step == "replace" else ()))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space") as caught:
        write_whole(tmp_path / "a", "new")
    assert str(caught.value) == f"[Errno 28] No space left on device: '{tmp_path / 'a'}'"

    with pytest.raises(FileNotFoundError, match=r"nowhere/b'$"):
        write_whole(tmp_path / "nowhere" / "b", "new")


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere/a", "x")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")
