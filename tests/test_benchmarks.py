"""Every benchmark runs, tiny, and every table says what the results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch_brain.models
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spikedata.store import Store
from spikedata.testing import make_recording
from spikedata_model.config import load_config
from spikedata_model.one_window import OneWindow

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import adapt_sessions  # noqa: E402  its folder had to be found first
import bench_ablation  # noqa: E402
import bench_adapt  # noqa: E402
import bench_fetch  # noqa: E402
import bench_ingest  # noqa: E402
import bench_latency  # noqa: E402
import bench_learning  # noqa: E402
import bench_sample  # noqa: E402
import bench_sampler  # noqa: E402
import bench_scaling  # noqa: E402
import bench_train  # noqa: E402
import latency_child  # noqa: E402
import latency_work  # noqa: E402
import learning_runs  # noqa: E402
import sampler_floor  # noqa: E402
import sampler_store  # noqa: E402
import tables  # noqa: E402
import torch_brain_latency  # noqa: E402
import torch_brain_train  # noqa: E402
import train_work  # noqa: E402


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store", create=True)
    store.write(make_recording(seed=0), {})
    return store


TINY = ["--synthetic", "center_out:0", "--synthetic-seconds", "40", "--preset", "smoke",
        "--set", "train.steps=4", "train.evaluate_every=2"]  # fmt: skip


def test_the_learning_benchmark_sweeps_both_sides_equally_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results = tmp_path / "useful.json", tmp_path / "results"
    small = "--dim 8 --depth 1 --dim-head 8 --cross-heads 1 --self-heads 1 --latents-per-step 1"
    arguments = [*TINY, "--seconds", "20", "--seeds", "0", "1", "--torch-brain", sys.executable,
                 "--theirs-base", f"{small} --batch-size 4 --max-steps 2", "--ours",
                 "train.learning_rate=1e-3", "train.learning_rate=2e-3", "--theirs", " --lr 1e-3",
                 " --lr 2e-3", "--threads", "1", "--results", str(results),
                 "--out", str(out)]  # fmt: skip
    trained: list[tuple[str, int]] = []

    def theirs(task: object, python: str, setting: str, seed: int, seconds: float) -> dict:
        trained.append((setting.split()[-1], seed))
        good = setting.endswith("2e-3")
        rows = [{"train_seconds": 9.0, "step": 1, "r2": [float(good), 1.0]}]
        return {"parameters": 7, "rows": rows, "valid_r2": [float(good), 0.0]}

    monkeypatch.setattr(bench_learning, "train_theirs", theirs)
    bench_learning.main([*arguments, "--budget", "0"])
    unfinished = json.loads(out.read_text())
    bench_learning.main(arguments)
    result = json.loads(out.read_text())
    monkeypatch.setattr(bench_learning, "train_ours", None)  # nothing is trained a second time
    bench_learning.main(arguments)
    (task,) = result["tasks"]
    ours, other = task["sides"]

    assert unfinished["missing"] == 4
    assert unfinished["tasks"][0]["sides"][0]["summary"] is None
    assert trained == [("1e-3", 0), ("2e-3", 0), ("2e-3", 1)]
    assert len(ours["runs"]) == len(other["runs"]) == 3
    assert [row["step"] for row in ours["runs"][0]["rows"]] == [2, 4]
    assert other["best"] == " --lr 2e-3"
    assert (other["summary"]["median_s"], other["summary"]["never"]) == (9.0, 0)
    assert json.loads(out.read_text())["tasks"] == result["tasks"]
    assert "| torch_brain | 7 |" in tables.useful_table(result)


def test_torch_brain_learns_from_the_same_arrays_and_is_scored_on_valid(tmp_path: Path) -> None:
    (task,) = learning_runs.tasks_of(tmp_path, None, [], ["random_target:3"], 40.0)
    setting = ("--dim 8 --depth 1 --dim-head 8 --cross-heads 1 --self-heads 1 "
               "--latents-per-step 1 --batch-size 4 --max-steps 2")  # fmt: skip
    found = learning_runs.train_theirs(task, sys.executable, setting, 0, 30.0)

    assert [row["step"] for row in found["rows"]] == [2]
    assert np.isfinite(found["valid_r2"]).all()
    assert len(found["valid_r2"]) == len(found["rows"][0]["r2"]) == 2


def test_a_run_of_ours_ends_at_the_first_evaluation_after_its_seconds(tmp_path: Path) -> None:
    (task,) = learning_runs.tasks_of(tmp_path, None, [], ["center_out:0"], 40.0)
    setting = "train.steps=1000 train.evaluate_every=3"
    found = learning_runs.train_ours(task, "smoke", setting, 0, 0.0)

    assert [row["step"] for row in found["rows"]] == [3]
    assert len(found["valid_r2"]) == 2


def test_the_ablation_changes_one_thing_a_row(tmp_path: Path) -> None:
    out = tmp_path / "ablation.json"
    arguments = [*TINY, "--change", "narrow", "model.dim=8", "--only", "as it is", "narrow",
                 "--results", str(tmp_path / "results"), "--out", str(out)]  # fmt: skip
    bench_ablation.main(arguments)
    result = json.loads(out.read_text())
    rows = result["tasks"][0]["rows"]

    assert [row["change"] for row in rows] == ["as it is", "narrow"]
    assert rows[1]["parameters"] < rows[0]["parameters"]
    assert "| narrow | `model.dim=8` |" in tables.ablation_table(result)


@pytest.mark.parametrize("setting", bench_ablation.CHANGES.values())
def test_every_ablation_is_a_setting_that_there_is(setting: str) -> None:
    base = load_config("poyo-compact")
    assert (load_config("poyo-compact", setting.split()) == base) == (setting == "")


@given(
    st.lists(st.none() | st.floats(1, 100), min_size=1, max_size=6),
)
def test_the_median_over_seeds_counts_a_run_that_never_passed_as_late(
    passed: list[float | None],
) -> None:
    rows = [{"train_seconds": 200.0, "r2": [0.5]}]
    runs = [{"setting": "a", "seconds_until": one, "rows": rows, "parameters": 1} for one in passed]
    found = bench_learning.summary({"best": "a", "runs": runs})
    late = np.median([1e9 if one is None else one for one in passed])

    assert found is not None
    assert found["never"] == passed.count(None)
    assert (found["median_s"] is None) == (late > 1e6)
    assert found["median_s"] is None or found["median_s"] == pytest.approx(late)


def test_the_seconds_until_a_level_are_those_of_the_first_row_that_passes_on_every_channel() -> (
    None
):
    rows = [{"train_seconds": 1.0, "r2": [0.9, 0.1]}, {"train_seconds": 2.0, "r2": [0.6, 0.6]}]

    assert learning_runs.seconds_until(rows, [0.5, 0.5]) == 2.0
    assert learning_runs.seconds_until(rows, [0.5, 0.7]) is None


def test_the_training_benchmark_gives_both_sides_the_same_windows(tmp_path: Path) -> None:
    out = tmp_path / "train.json"
    arguments = ["--torch-brain", sys.executable, "--sizes", "toy", "--modes", "dropout",
                 "--precisions", "float32", "--no-loading", "--batch-size", "3", "--batches", "2",
                 "--recordings", "2", "--scale", "0.02", "--blocks", "1", "--block-seconds", "0",
                 "--matrix", "64", "--threads", "1", "--parts", str(tmp_path / "parts"),
                 "--out", str(out)]  # fmt: skip
    bench_train.main(arguments)
    result = json.loads(out.read_text())

    assert [(row["side"], row["steps"]) for row in result["rows"]] == [
        ("ours", 1), ("torch_brain", 1),
    ]  # fmt: skip
    assert result["rows"][0]["flops_window"] == result["rows"][1]["flops_window"] > 0
    assert [one["aim"] for one in result["aims"]] == [2.0, 1 / 3]
    assert "| toy | training | float32 |" in tables.train_table(result)


@pytest.mark.parametrize("column", range(4))
def test_other_windows_on_one_side_are_noticed(column: int) -> None:
    case = train_work.Case("", "toy", "dropout", "float32")
    first, second = (SimpleNamespace(side=side, case=case, facts=np.full((3, 4), 50.0))
                     for side in ("ours", "torch_brain"))  # fmt: skip
    bench_train.check_facts([first, second])
    second.facts = second.facts.copy()
    second.facts[1, column] += 1

    with pytest.raises(SystemExit, match="windows of torch_brain differ"):
        bench_train.check_facts([first, second])


@pytest.mark.parametrize("size", train_work.SHAPES)
@pytest.mark.parametrize("training", [False, True])
def test_the_count_of_matrix_products_is_that_of_the_published_model(
    size: str, training: bool
) -> None:
    case = train_work.Case("", size, "plain", "float32")
    model = torch_brain_train.make_model(case.shape)
    model.unit_emb.initialize_vocab(["a", "b"])
    model.session_emb.initialize_vocab(["s"])
    windows, tokens, queries = 2, 13, 5
    latents = 8 * case.shape.latents_per_step
    inputs = {
        "input_unit_index": torch.ones(windows, tokens, dtype=torch.int64),
        "input_timestamps": torch.rand(windows, tokens),
        "input_token_type": torch.zeros(windows, tokens, dtype=torch.int64),
        "latent_index": torch.zeros(windows, latents, dtype=torch.int64),
        "latent_timestamps": torch.rand(windows, latents),
        "session_index": torch.ones(windows, dtype=torch.int64),
        "output_timestamps": torch.rand(windows, queries),
    }
    # The fused kernels compute scores again on the way back; the count is of what is needed.
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH):
        predicted = model(**inputs)
        if training:
            predicted.sum().backward()
    wanted = train_work.matrix_flops(
        case.shape, windows, windows * tokens, windows * queries, training
    )

    assert counted.get_total_flops() == wanted


def test_an_aim_of_training_is_judged_against_the_same_case_of_torch_brain() -> None:
    def row(side: str, precision: str, speed: float, peak: float, mode: str = "dropout") -> dict:
        return {"side": side, "size": "1.3M", "mode": mode, "source": "made", "peak_bytes": peak,
                "precision": precision, "windows_s": [speed, speed, 1e9]}  # fmt: skip

    rows = [row("ours", "float32", 40.0, 1e9), row("torch_brain", "float32", 20.0, 2e9),
            row("ours", "bfloat16", 50.0, 1e9), row("torch_brain", "bfloat16", 10.0, 4e9),
            row("ours", "float32", 1.0, 1e9, "plain")]  # fmt: skip
    found = {one["what"]: (one["measured"], one["met"]) for one in bench_train.judge(rows)}

    assert found == {
        "times torch_brain's windows per second, 1.3M, training, float32": (2.0, True),
        "of torch_brain's peak memory, 1.3M, training, float32": (0.5, False),
        "times torch_brain's windows per second, 1.3M, training, bfloat16 to its float32": (
            2.5, False,
        ),
        "times torch_brain's windows per second, 1.3M, training, bfloat16": (5.0, True),
        "of torch_brain's peak memory, 1.3M, training, bfloat16": (0.25, True),
    }  # fmt: skip


TINY_MODEL = ["--preset", "smoke", "--synthetic-seconds", "40", "--set", "train.threads=1",
              "--adapt", "train.steps=4", "train.evaluate_every=2"]  # fmt: skip


def test_the_parts_of_a_recording_have_all_of_its_spikes_and_no_unit_in_common(
    store: Store, tmp_path: Path
) -> None:
    source = make_recording(seed=0, units=7)
    made = Store(tmp_path / "parts", create=True)
    family = adapt_sessions.real_family(made, source, "chronological", 3, 5)
    parts = [made[name] for name in (family.held_out, *family.pretraining)]
    spikes = {
        str(name).removeprefix(f"{part.recording_id}/"): part.spike_time[part.spike_unit == row]
        for part in parts
        for row, name in enumerate(part.unit_ids)
    }

    assert [part.n_units for part in parts] == [3, 2, 2]
    assert set(spikes) == set(source.unit_ids)
    for row, name in enumerate(source.unit_ids):
        assert np.array_equal(spikes[str(name)], source.spike_time[source.spike_unit == row])
    assert len({str(name) for part in parts for name in part.unit_ids}) == source.n_units
    assert all(part.splits == source.splits and part.series == source.series for part in parts)
    assert adapt_sessions.real_family(made, source, "chronological", 3, 6) != family


def test_fewer_samples_are_some_of_the_samples_at_their_times() -> None:
    source = make_recording(seed=0)
    thinned = adapt_sessions.with_fewer_samples(source, 4).series["velocity"]

    assert np.allclose(thinned.times(), source.series["velocity"].times()[::4])
    assert np.array_equal(thinned.values, source.series["velocity"].values[::4])


def test_families_of_two_seeds_share_no_session_and_fewer_sessions_are_the_first(
    tmp_path: Path,
) -> None:
    store = Store(tmp_path, create=True)
    one, more, other = (
        adapt_sessions.synthetic_family(store, count, seed, 20.0)
        for count, seed in ((1, 0), (2, 0), (1, 1))
    )
    trains = {name: store[name].spike_time for name in store}

    assert more.held_out == one.held_out
    assert more.pretraining[:1] == one.pretraining
    assert one.held_out not in more.pretraining
    assert not {other.held_out, *other.pretraining} & {more.held_out, *more.pretraining}
    assert len({len(spikes) for spikes in trains.values()}) == len(trains) == 5


def test_the_adaptation_benchmark_scores_every_method_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, figure = tmp_path / "adapt.json", tmp_path / "adapt.png"
    arguments = [*TINY_MODEL, "--families", "synthetic", "--seeds", "0", "1", "--sessions", "1",
                 "--held-out-seconds", "60",
                 "--shares", "0.5", "--steps", "0", "2", "4", "--pretrain", "train.steps=2",
                 "--scratch", "train.steps=2", "train.evaluate_every=2", "--results",
                 str(tmp_path / "results"), "--out", str(out)]  # fmt: skip
    bench_adapt.main([*arguments, "--budget", "0"])
    unfinished = json.loads(out.read_text())
    bench_adapt.main(arguments)
    result = json.loads(out.read_text())
    for name in ("train", "finetune", "wiener_predict"):
        monkeypatch.setattr(bench_adapt, name, None)  # nothing is done a second time
    bench_adapt.main([*arguments, "--figure", str(figure)])
    (row,) = result["summary"]
    table = tables.adapt_table(result)

    assert (unfinished["missing"], unfinished["families"]) == (2, [])
    assert result["missing"] == 0
    assert set(row["r2"]) == {"Wiener filter", *bench_adapt.MODES, *bench_adapt.SCRATCH}
    assert all(len(values) == 2 for values in row["r2"].values())
    assert len(result["families"][0]["curve"]) == 3
    assert json.loads(out.read_text())["families"] == result["families"]
    assert "| `synthetic` | 50 % |" in table
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_lead_is_over_the_better_model_from_scratch_of_the_same_seed() -> None:
    def family(seed: int, **r2: float) -> dict:
        names = {"unit": "unit-id", "same": "scratch", "small": "scratch, small"}
        rows = [{"method": names[name], "share": 0.05, "r2": one} for name, one in r2.items()]
        return {"family": "made", "seed": seed, "rows": rows}

    (found,) = bench_adapt.summary(
        [family(0, unit=0.7, same=0.1, small=0.4), family(1, unit=0.5, same=0.6, small=0.2)]
    )

    assert found["lead"] == pytest.approx([0.3, -0.1])


def test_the_interval_is_that_of_students_t() -> None:
    """Student 1908 tabulates it; of 0, 1 and 2 the deviation is 1: 4.303 over the root of 3."""
    assert bench_adapt.interval([0.0, 1.0, 2.0]) == pytest.approx([1.0, -1.4843, 3.4843], abs=1e-4)
    assert bench_adapt.interval([0.5]) == [0.5, 0.5, 0.5]
    six = bench_adapt.interval([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])  # 2.571 of Student, not 1.96
    assert six == pytest.approx([2.5, 0.5363, 4.4637], abs=1e-3)


def test_the_scaling_study_trains_every_size_on_every_number_of_sessions(tmp_path: Path) -> None:
    out, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    arguments = [*TINY_MODEL, "--sizes", "small", "middle", "--sessions", "1", "2", "--share", "1",
                 "--pretrain", "train.epochs=1", "--results", str(tmp_path / "results"),
                 "--out", str(out), "--figure", str(figure)]  # fmt: skip
    bench_scaling.main(arguments)
    result = json.loads(out.read_text())
    steps = {(row["size"], row["sessions"]): row["steps"] for row in result["rows"]}

    assert len(result["rows"]) == 4
    assert steps["small", 1] < steps["small", 2] == steps["middle", 2]
    assert result["rows"][0]["parameters"] < result["rows"][1]["parameters"]
    assert "| small |" in tables.scaling_table(result)
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("setting", bench_scaling.SIZES.values())
def test_every_size_is_a_setting_that_there_is(setting: str) -> None:
    assert load_config("poyo-compact", setting.split()) != load_config("poyo-compact")


def test_the_latency_benchmark_steps_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    arguments = ["--torch-brain", sys.executable, "--sizes", "toy", "--units", "3", "--precisions",
                 "float32", "--steps", "5", "--their-steps", "2", "--matrix", "64",
                 "--out", str(out)]  # fmt: skip
    bench_latency.main(arguments)
    result = json.loads(out.read_text())

    assert [(row["side"], row["steps"]) for row in result["rows"]] == [
        ("ours", 5), ("torch_brain", 2),
    ]  # fmt: skip
    assert all(0 < row["p50_ms"] <= row["p99_ms"] <= row["max_ms"] for row in result["rows"])
    assert [one["met"] for one in result["aims"]] == [result["rows"][0]["p99_ms"] < 5.0]
    assert "| toy | 3 | float32 |" in tables.latency_table(result)


def test_both_sides_of_the_latency_benchmark_read_the_same_windows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the same weights they would say the same, so the tokens that they get are compared."""
    case = latency_work.Case("toy", "float32", 40, 10)
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    forward, tokenize = OneWindow.forward, torch_brain.models.POYO.tokenize

    def note_ours(self: OneWindow, *window: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ours.append(np.sort(window[2].numpy()))
        return forward(self, *window)

    def note_theirs(self: torch_brain.models.POYO, data: object) -> dict:
        found = tokenize(self, data)
        theirs.append(np.sort(np.asarray(found["input_timestamps"].obj, np.float32)))
        return found

    monkeypatch.setattr(OneWindow, "forward", note_ours)
    monkeypatch.setattr(torch_brain.models.POYO, "tokenize", note_theirs)
    unit, time = latency_work.make_spikes(case)
    takes = [latency_child.prepare(case), torch_brain_latency.prepare(case)]
    first = np.searchsorted(time, 1.0)
    for lo, hi, end in ((0, first, 1.0), (first, np.searchsorted(time, 1.02), 1.02)):
        for take in takes:
            take(unit[lo:hi], time[lo:hi], end)

    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_a_table_without_a_result_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "HERE", tmp_path)
    begin, end = "<!-- table train: written by benchmarks/tables.py -->", "<!-- end -->"

    assert tables.fill(f"a\n{begin}\nold\n{end}\nb") == (f"a\n{begin}\nNot measured yet.\n{end}\nb")


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
