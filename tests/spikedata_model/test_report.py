from __future__ import annotations

import json
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from spikedata.recording import Recording
from spikedata_model import figures, journal
from spikedata_model.errors import CheckpointError
from spikedata_model.evaluate import evaluate
from spikedata_model.report import write_report
from spikedata_model.train import train
from tests.spikedata_model.builders import make_config, make_recording, make_store, with_values

HOSTILE = '"><script>alert("x & y")</script><img src=http://example.com/a.png>'


class Page(HTMLParser):
    """Collects what a browser would load, and the text that it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.shown = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.shown += data


def png_size(content: bytes) -> tuple[int, int]:
    """Return width and height of a PNG, after checking every chunk's checksum and its pixels."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, pixels, kinds = 8, b"", []
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        kind = content[place + 4 : place + 8]
        data = content[place + 8 : place + 8 + size]
        (checksum,) = struct.unpack(">I", content[place + 8 + size : place + 12 + size])
        assert zlib.crc32(kind + data) == checksum
        pixels += data if kind == b"IDAT" else b""
        kinds.append(kind)
        place += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    assert (kinds[0], kinds[-1], depth, colour) == (b"IHDR", b"IEND", 8, 6)
    raw = np.frombuffer(zlib.decompress(pixels), np.uint8)
    assert len(raw) == height * (1 + 4 * width)
    assert len(np.unique(raw)) > 10  # something is drawn
    return width, height


def make_run(folder: Path, *recordings: Recording) -> tuple[object, Path]:
    store = make_store(folder / "store", *recordings)
    train(store, folder / "run", make_config())
    evaluate(store, folder / "run")
    return store, folder / "run"


@pytest.fixture(name="undrawn")
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pictures blank, where a test is about the page alone: they take their time."""
    monkeypatch.setattr(figures, "_png", lambda figure: b"PNG")


@pytest.fixture(scope="module", name="reported")
def _reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Return the folder of a run on two recordings and two targets, and its report's files."""
    folder = tmp_path_factory.mktemp("reported")
    hostile = replace(make_recording("lab/a", targets=("hand", "heading")), about={
        "task": HOSTILE, "lab": "Señor & Söhne",
    }, dropped={f"rule {HOSTILE}": 3})  # fmt: skip
    odd = replace(hostile.series["hand"], unit="$m^$/\\frac <i>", columns=("$x$_{", HOSTILE))
    hostile = replace(hostile, series={**hostile.series, "hand": odd})
    plain = make_recording("lab/b", seed=1, n_units=3)
    store, run = make_run(folder, hostile, plain)
    return run, write_report(store, run)


def test_the_page_loads_nothing_from_anywhere(reported):
    text = reported[1][0].read_text(encoding="utf-8")
    page = Page(text)

    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"@import|url\(", text)


def test_text_from_the_data_is_shown_and_never_run(reported):
    text = reported[1][0].read_text(encoding="utf-8")
    page = Page(text)

    assert "<script" not in text
    assert page.shown.count(HOSTILE) >= 3  # about, dropped, a channel
    assert "Señor & Söhne" in page.shown
    assert page.tags.count("img") == len(reported[1]) - 1


def test_every_picture_is_a_whole_png_in_the_page_and_beside_it(reported):
    import base64

    run, (path, *pictures) = reported
    page = Page(path.read_text(encoding="utf-8"))
    inside = [base64.b64decode(link.partition(",")[2], validate=True) for link in page.links]

    assert path == run / "report.html"
    assert [picture.read_bytes() for picture in pictures] == inside
    assert all(min(png_size(picture)) > 150 for picture in inside)
    assert sorted(picture.name for picture in pictures) == sorted([
        "scores.png", "learning_curve.png",
        "traces-lab~a~hand.png", "raster-lab~a~hand.png",
        "traces-lab~a~heading.png", "raster-lab~a~heading.png",
        "traces-lab~b~hand.png", "raster-lab~b~hand.png",
    ])  # fmt: skip
    assert len(set(inside)) == len(inside)


def test_the_page_shows_the_scores_of_the_evaluation_and_the_settings(reported):
    run, (path, *_) = reported
    shown = Page(path.read_text(encoding="utf-8")).shown
    scores = json.loads((run / "evaluation-test.json").read_text())["scores"]

    for one in scores:
        for value in (*one["r2"], *one["baseline_r2"]):
            assert f"{value:.3f}" in shown
        if one["angle_error_deg"] is not None:
            assert f"{one['angle_error_deg']:.3f}" in shown
    assert {one["angle_error_deg"] is None for one in scores} == {True, False}
    assert '"embedding_scale": 0.02' in shown
    assert "lab/a" in shown
    assert "lab/b" in shown


def test_a_report_written_again_is_the_same_to_the_byte(tmp_path):
    store, run = make_run(tmp_path, make_recording())
    first = {path.name: path.read_bytes() for path in write_report(store, run)}
    second = {path.name: path.read_bytes() for path in write_report(store, run)}

    assert first == second
    assert str(run) not in first["report.html"].decode()  # nor where it was made


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_page_speaks_of_the_split_that_it_shows(undrawn, store, run, split):
    evaluate(store, run, split=split)
    shown = Page(write_report(store, run, split=split)[0].read_text(encoding="utf-8")).shown

    assert f"Scores on the split “{split}”" in shown
    assert ("that neither has seen" in " ".join(shown.split())) == (split != "train")


def test_a_run_that_keeps_its_best_weights_is_shown_and_says_of_which_step(
    undrawn, tmp_path, monkeypatch
):
    store = make_store(tmp_path / "store", make_recording())
    scores = iter([0.5, 0.9, 0.1])  # of the curve: the last row is not the best
    monkeypatch.setattr(journal, "_mean", lambda _: next(scores))
    config = make_config(steps=9, evaluate_every=3, keep="best")
    train(store, tmp_path / "run", config)
    assert evaluate(store, tmp_path / "run").step == 6

    page = Page(write_report(store, tmp_path / "run")[0].read_text(encoding="utf-8"))
    assert "9 steps (kept are the weights of step 6)" in " ".join(page.shown.split())


def test_a_channel_that_stands_still_is_shown_without_a_score(tmp_path):
    recording = make_recording()
    series, held = recording.series["hand"], recording.split("test")
    values = series.values.copy()
    values[held.contains(series.times()), 1] = 3
    store, run = make_run(tmp_path, with_values(recording, "hand", values))

    page, *pictures = write_report(store, run)
    assert "nan" in Page(page.read_text(encoding="utf-8")).shown
    assert all(png_size(picture.read_bytes()) for picture in pictures)


def test_a_test_split_of_one_sample_can_be_shown(tmp_path):
    recording = make_recording()
    series = recording.series["hand"]
    kept = slice(0, 301)  # 15.0 s, where the test split begins, is the last
    short = replace(series, values=series.values[kept])
    store, run = make_run(tmp_path, replace(recording, series={"hand": short}))

    assert len(write_report(store, run)) == 5


# ------------------------------------------------------------------ refusals


def test_a_run_that_was_not_evaluated_says_how_to(store, run):
    with pytest.raises(CheckpointError, match=r"has no scores on 'test': run `spikedata evaluate"):
        write_report(store, run)
    evaluate(store, run)
    with pytest.raises(CheckpointError, match=r"has no scores on 'valid'.*--split valid` first"):
        write_report(store, run, split="valid")
    assert not (run / "report.html").exists()


def test_an_evaluation_of_another_step_is_refused(store, run):
    evaluate(store, run)
    path = run / "evaluation-test.json"
    path.write_text(path.read_text().replace('"step": 9', '"step": 8'))

    with pytest.raises(CheckpointError, match=r"that the run keeps: .*--split test` again"):
        write_report(store, run)


@pytest.mark.parametrize("content", ["", "{}", "[", '{"split": "test"}', "\x00"])
def test_a_damaged_evaluation_is_refused(store, run, content):
    evaluate(store, run)
    (run / "evaluation-test.json").write_text(content)

    with pytest.raises(CheckpointError, match=r"evaluation-test\.json is damaged: run"):
        write_report(store, run)


def test_damaged_or_missing_predictions_are_refused(undrawn, store, run):
    evaluate(store, run)
    path = run / "predictions-test.arrow"
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="evaluate the run again"):
            write_report(store, run)
    path.unlink()
    with pytest.raises(CheckpointError, match="evaluate the run again"):
        write_report(store, run)


def test_predictions_of_another_evaluation_are_refused(undrawn, store, run):
    evaluate(store, run)
    evaluate(store, run, split="train")
    (run / "predictions-test.arrow").write_bytes((run / "predictions-train.arrow").read_bytes())

    with pytest.raises(CheckpointError, match="does not fit its scores"):
        write_report(store, run)


def test_a_table_that_holds_something_else_is_refused(undrawn, store, run):
    evaluate(store, run)
    spikes = (store.path / "lab" / "a" / "spikes.arrow").read_bytes()
    (run / "predictions-test.arrow").write_bytes(spikes)

    with pytest.raises(CheckpointError, match="evaluate the run again"):
        write_report(store, run)


def test_other_data_of_the_same_name_are_refused(store, run):
    evaluate(store, run)
    store.write(make_recording("lab/b", seed=2, n_units=3), {"made": "anew"})

    with pytest.raises(CheckpointError, match=r"lab/b in .* is not the recording"):
        write_report(store, run)
