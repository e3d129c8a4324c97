"""From the sample manifest to a report through the program, undisturbed and killed."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "from spikedata.cli import main; main()"]
COMMANDS = [
    ["fetch", "--manifest", "sample"],
    ["ingest", "--manifest", "sample"],
    ["train", "--manifest", "sample", "--preset", "smoke", "--out", "run"],
    ["evaluate", "run"],
    ["report", "run"],
]
ENVIRONMENT = os.environ | {"DANDI_NO_ET": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def spikedata(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT | {"SPIKEDATA_CACHE": str(folder / "cache")}
    return subprocess.run(
        [*PROGRAM, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip


def results_of(folder: Path) -> dict[str, object]:
    """Return what must not depend on interruptions: scores, curve but what is clocked, pictures."""
    evaluation = json.loads((folder / "run/evaluation-test.json").read_text())
    clocked = {"seconds", "tokens_per_s", "seconds_left", "memory_mb", "gpu_memory_mb"}
    with (folder / "run/learning_curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    steady = [{name: cell for name, cell in row.items() if name not in clocked} for row in rows]
    pictures = {
        path.name: path.read_bytes()
        for path in (folder / "run").glob("*.png")
        if path.name != "learning_curve.png"  # its axis is wall time
    }
    return {"evaluation": evaluation, "curve": steady, "pictures": pictures}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    for command in COMMANDS:
        done = spikedata(folder, *command)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_five_commands_end_in_a_scored_page(undisturbed: Path) -> None:
    evaluation = json.loads((undisturbed / "run/evaluation-test.json").read_text())
    page = (undisturbed / "run/report.html").read_text()

    assert {one["recording_id"] for one in evaluation["scores"]} == {
        "peyrache_a2929/A2929-200711", "nelpy_linear_track/linear_track",
    }  # fmt: skip
    assert all(one["n_samples"] > 1000 for one in evaluation["scores"])
    assert page.count("data:image/png;base64,") == len(list((undisturbed / "run").glob("*.png")))


def test_running_every_command_again_changes_nothing(undisturbed: Path) -> None:
    before = results_of(undisturbed)
    statuses = []
    for command in COMMANDS:
        done = spikedata(undisturbed, *command, "--json")
        assert done.returncode == 0, done.stderr
        if command[0] in ("fetch", "ingest"):
            statuses += [row["status"] for row in json.loads(done.stdout)]

    assert set(statuses) == {"skipped"}
    assert results_of(undisturbed) == before


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_run_again_it_ends_the_same(
    undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    """SIGKILL, at random moments of each command, until it once ran through."""
    rng = random.Random(seed)
    environment = ENVIRONMENT | {"SPIKEDATA_CACHE": str(tmp_path / "cache")}
    kills = 0
    for command in COMMANDS:
        for patience in (0.4, 1.6, None):
            process = subprocess.Popen(
                [*PROGRAM, *command], cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            if patience is not None:
                time.sleep(patience * rng.uniform(0.7, 1.3))
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    kills += 1
            _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()

    assert kills >= len(COMMANDS)
    assert results_of(tmp_path) == results_of(undisturbed)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["fetch", "--manifest", "sampel"], 2, "did you mean 'sample'?"),
        (["ingest", "--manifest", "sample"], 1, "spikedata fetch --manifest sample"),
        (["info", "nothing/here"], 1, "spikedata ingest"),
        (["train", "--out", "run"], 1, "spikedata ingest"),
        (["train", "--out", "run", "--preset", "poyo-compcat"], 2, "did you mean 'poyo-compact'?"),
        (["evaluate", "no-run"], 1, "spikedata"),
        (["ingest", "--manifest", "sample", "--workers", "0"], 2, "--workers"),
        (["fetch"], 2, "--manifest"),
        (["trian"], 2, "train"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_a_sentence_and_a_code(
    tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    done = spikedata(tmp_path, *arguments)

    assert done.returncode == code, done.stderr
    assert words in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
