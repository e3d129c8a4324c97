"""Every benchmark runs, tiny, and every table says what the results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spikedata.store import Store
from spikedata.testing import make_recording

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bench_fetch  # noqa: E402  its folder had to be found first
import bench_ingest  # noqa: E402
import bench_learning  # noqa: E402
import bench_sample  # noqa: E402
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


def test_the_tables_in_the_documents_are_what_the_results_say() -> None:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "tables.py", "--check"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
