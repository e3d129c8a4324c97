from __future__ import annotations

import os

import pytest

from spikedata.errors import FetchError
from spikedata.folder import Folder
from tests.loopback import pin

DATA = bytes(range(256)) * 40
ASSET = pin("sub-1/a.nwb", DATA)


@pytest.mark.parametrize("name", ["a.nwb", "sub-1/a.nwb", "x/y/z/Kopie von a (2).bin", ".hidden"])
def test_a_file_is_known_by_its_hash_under_any_name_at_any_depth(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DATA)

    assert Folder(tmp_path).find(ASSET) == path


def test_a_file_of_the_same_size_with_other_bytes_is_not_taken(tmp_path):
    (tmp_path / "a.nwb").write_bytes(DATA[::-1])

    folder = Folder(tmp_path)

    assert folder.candidates(ASSET) == [tmp_path / "a.nwb"]
    assert folder.find(ASSET) is None


def test_a_right_file_is_found_among_wrong_ones_of_its_size(tmp_path):
    for name in ("0", "a.nwb", "z"):
        (tmp_path / name).write_bytes(DATA[::-1])
    (tmp_path / "m").write_bytes(DATA)

    assert Folder(tmp_path).find(ASSET) == tmp_path / "m"


def test_files_with_the_path_and_then_the_name_are_looked_at_first(tmp_path):
    for name in ("0.nwb", "b/a.nwb", "sub-1/a.nwb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(DATA)

    found = Folder(tmp_path).candidates(ASSET)

    assert found == [tmp_path / name for name in ("sub-1/a.nwb", "b/a.nwb", "0.nwb")]


def test_a_file_that_went_away_is_passed_over(tmp_path):
    (tmp_path / "a.nwb").write_bytes(DATA)
    (tmp_path / "z").write_bytes(DATA)
    folder = Folder(tmp_path)
    folder.candidates(ASSET)
    (tmp_path / "a.nwb").unlink()

    assert folder.find(ASSET) == tmp_path / "z"


def test_links_and_what_is_no_file_do_no_harm(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "there").write_bytes(DATA)
    (tmp_path / "link").symlink_to("there")

    assert Folder(tmp_path).candidates(ASSET) == [tmp_path / "link", tmp_path / "there"]


def test_an_asset_of_unknown_size_is_in_no_folder(tmp_path):
    (tmp_path / "a.nwb").write_bytes(DATA)

    assert Folder(tmp_path).candidates(ASSET.model_copy(update={"size": None})) == []


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").touch()

    with pytest.raises(FetchError, match=f"{name} to take files from is not a folder"):
        Folder(tmp_path / name)


def test_nothing_is_read_before_a_file_is_asked_for(tmp_path):
    folder = Folder(tmp_path)
    (tmp_path / "later").write_bytes(DATA)

    assert folder.find(ASSET) == tmp_path / "later"
