"""Every benchmark runs, tiny, and every table says what the results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spikedata.store import Store
from spikedata.testing import make_recording

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_fetch  # noqa: E402  its folder had to be found first
import bench_ingest  # noqa: E402
import bench_learning  # noqa: E402
import bench_sample  # noqa: E402
import bench_sampler  # noqa: E402
import sampler_floor  # noqa: E402
import sampler_store  # noqa: E402
import tables  # noqa: E402


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store", create=True)
    store.write(make_recording(seed=0), {})
    return store


def test_the_learning_benchmark_reports_a_curve_and_a_floor(store: Store, tmp_path: Path) -> None:
    (recording_id,) = store
    out = tmp_path / "learning.json"
    arguments = ["--store", str(store.path), "--recording", recording_id, "--preset", "smoke",
                 "--set", "train.steps=4", "train.evaluate_every=2", "--out", str(out)]  # fmt: skip
    bench_learning.main(arguments)
    result = json.loads(out.read_text())

    assert [row["step"] for row in result["ours"][0]["rows"]] == [2, 4]
    assert set(result["floor"]) == {"wiener causal", "wiener centred"}
    assert result["torch_brain"] == []
    assert "smoke" in tables.learning_table(result)


def test_the_seconds_until_a_level_are_those_of_the_first_row_that_passes_on_every_channel() -> (
    None
):
    rows = [{"train_seconds": 1.0, "r2": [0.9, 0.1]}, {"train_seconds": 2.0, "r2": [0.6, 0.6]}]

    assert bench_learning.seconds_until(rows, [0.5, 0.5]) == 2.0
    assert bench_learning.seconds_until(rows, [0.5, 0.7]) is None


def test_the_sample_benchmark_scores_every_recording(store: Store) -> None:
    result = bench_sample.run(store, list(store), "smoke", [0, 1])

    assert [one["seed"] for one in result["runs"]] == [0, 1]
    assert {row["recording_id"] for row in result["runs"][0]["scores"]} == set(store)


def test_the_fetch_benchmark_measures_what_arrived(tmp_path: Path) -> None:
    out = tmp_path / "fetch.json"
    arguments = ["--out", str(out), "--large", "300000", "--small", "3", "2000", "--repeats", "1",
                 "--rates", "0", "--folder", str(tmp_path),
                 "--tools", "copy on the disk (floor)", "spikedata fetch"]  # fmt: skip
    result = bench_fetch.main(arguments)

    assert [(one["files"], one["bytes"]) for one in result["sets"]] == [(1, 300000), (3, 6000)]
    assert all(set(one["tools"]) == set(arguments[-2:]) for one in result["sets"])
    assert "| spikedata fetch |" in tables.fetch_table(json.loads(out.read_text()))


def test_the_ingest_benchmark_measures_every_file(tmp_path: Path) -> None:
    out = tmp_path / "ingest.json"
    arguments = ["--minutes", "0.6", "--spikes", "5000", "--trials", "30", "--repeats", "1",
                 "--folder", str(tmp_path), "--out", str(out)]  # fmt: skip
    bench_ingest.main(arguments)
    rows = json.loads(out.read_text())["rows"]

    assert [row["file"] for row in rows] == [
        "000688, 0.6 min, no waveforms", "000688, 0.6 min, with waveforms",
        "000070, not compressed", "000070, gzip",
    ]  # fmt: skip
    assert [row["ours"]["units"] for row in rows] == [100, 100, 192, 192]
    assert rows[2]["ours"]["spikes"] == 5000 // 192 * 192
    assert "| 000070, gzip |" in tables.ingest_table(json.loads(out.read_text()))


def test_the_sampler_benchmark_measures_ours_a_floor_and_torch_brain(tmp_path: Path) -> None:
    out = tmp_path / "sampler.json"
    arguments = ["--torch-brain", sys.executable, "--recordings", "2", "--written", "1",
                 "--torch-brain-recordings", "2", "--scale", "0.02", "--batch-size", "8",
                 "--windows", "16", "--repeats", "1", "--opens", "1", "--torch-brain-windows", "8",
                 "--torch-brain-repeats", "1", "--folder", str(tmp_path / "data"),
                 "--out", str(out)]  # fmt: skip
    bench_sampler.main(arguments)
    result = json.loads(out.read_text())

    assert [(one["recordings"], one["state"]) for one in result["ours"]] == [
        (2, "from disk"), (1, "just written"),
    ]  # fmt: skip
    kinds = {(form, drop, count) for form in ("ragged", "padded") for drop in (False, True)
             for count in (0, 2)}  # fmt: skip
    for rows in (result["ours"][0]["rows"], result["torch_brain"][0]["rows"]):
        ours = [row for row in rows if row.get("what", "ours") == "ours" and row["form"] != "lean"]
        assert {(row["form"], row["dropout"], row["workers"]) for row in ours} == kinds
    assert result["torch_brain"][0]["checked"] == 36
    assert len(result["aims"]) == 10  # with one number of recordings there is no scaling
    assert "| 2 | joined, unit dropout | 2 |" in tables.sampler_table(result)


def test_an_aim_is_judged_by_the_worst_number_of_recordings() -> None:
    def rows(speed: float, floor: float) -> list[dict]:
        shared = {"form": "ragged", "dropout": False, "workers": 0}
        return [{"what": "ours", "windows_s": [1.0, speed, 1e9], **shared},
                {"what": "slices", "windows_s": [floor], **shared},
                {"what": "index", "windows_s": [1.0], **shared}]  # fmt: skip

    neighbour = [{"form": "ragged", "dropout": False, "workers": 0, "windows_s": [100.0]}]
    result = {
        "ours": [
            {"state": "from disk", "recordings": 10, "rows": rows(20_000.0, 30_000.0)},
            {"state": "from disk", "recordings": 1000, "rows": rows(15_000.0, 40_000.0)},
            {"state": "just written", "recordings": 10, "rows": rows(1.0, 1.0)},
        ],
        "opening": [{"recordings": 1000, "open_s": [0.2, 0.05, 0.06], "private_bytes": [6e7]}],
        "torch_brain": [{"recordings": 10, "rows": neighbour}],
    }
    found = {one["what"]: (one["measured"], one["met"]) for one in bench_sampler.judge(result)}

    assert found == {
        "times torch_brain's windows per second, ragged": (200.0, True),
        "share of the floor, ragged": (0.375, False),
        "1,000 recordings to 10, ragged": (0.75, False),
        "s to open 1,000 recordings": (0.06, True),
        "private bytes a recording, 1,000 of them": (60e3, False),
    }


def test_the_recordings_of_the_sampler_benchmark_have_the_size_of_000688() -> None:
    one, again = sampler_store.make_reaching(3), sampler_store.make_reaching(3)

    assert len(one.spike_time) == 1_003_680
    assert np.all(np.diff(one.spike_time) >= 0)
    assert one.spike_time[-1] < one.duration
    assert set(np.unique(one.spike_unit)) == set(range(one.units))
    assert one.velocity.shape == (139_400, 2)
    assert np.array_equal(one.spike_time, again.spike_time)


def test_every_floor_of_the_sampler_makes_the_windows_of_a_mask() -> None:
    made = [sampler_store.make_reaching(index, 0.02) for index in range(3)]
    columns = sampler_floor.Columns(
        [one.spike_time for one in made], [one.spike_unit for one in made],
        [one.cursor_time for one in made], [one.velocity for one in made],
        np.array([one.units for one in made]),
    )  # fmt: skip
    recording = np.array([2, 0, 0, 1, 2])
    start = np.array([0.0, made[0].spike_time[500], 3.5, 3.25, 7.1])
    first = np.cumsum(columns.units) - columns.units
    inside = [
        (made[one].spike_time >= begin) & (made[one].spike_time < begin + 1)
        for one, begin in zip(recording, start, strict=True)
    ]
    time = [made[one].spike_time[mask] - begin
            for one, begin, mask in zip(recording, start, inside, strict=True)]  # fmt: skip
    unit = [made[one].spike_unit[mask] + first[one]
            for one, mask in zip(recording, inside, strict=True)]  # fmt: skip
    for make in sampler_floor.floors(columns).values():
        found = make(recording, start)
        tokens = sampler_floor.forms(columns, make)["padded", False](recording, start)
        dropped = sampler_floor.forms(columns, make)["ragged", True](recording, start)

        assert np.array_equal(found.spike_time, np.concatenate(time).astype(np.float32))
        assert np.array_equal(found.spike_unit, np.concatenate(unit))
        assert np.array_equal(tokens["mask"].sum(1), found.counts + 2 * columns.units[recording])
        assert np.array_equal(
            tokens["time"][tokens["mask"] & (tokens["kind"] == 0)], found.spike_time
        )
        kept = np.split(dropped.spike_unit, np.cumsum(dropped.counts)[:-1])
        for row, present in enumerate(dropped.present):
            assert len(present) >= sampler_floor.LEAST
            assert np.array_equal(kept[row], unit[row][np.isin(unit[row], present)])


def test_the_tables_in_the_documents_are_what_the_results_say() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "tables.py", "--check"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
