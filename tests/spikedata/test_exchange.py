"""Exchange with torch_brain, proved with torch_brain itself: it reads what we write, and back."""

# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportAttributeAccessIssue=false
# h5py and torch_brain say of what they return only that it is one of several things.

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch_brain.data import (
    ArrayDict,
    BrainsetDescription,
    Data,
    Interval,
    IrregularTimeSeries,
    RegularTimeSeries,
    SessionDescription,
    SubjectDescription,
)
from torch_brain.datasets import Dataset, DatasetIndex
from torch_brain.datasets.mixins import SpikingDatasetMixin
from torch_brain.samplers import RandomFixedWindowSampler
from typer.testing import CliRunner

from spikedata.cli import app
from spikedata.errors import (
    CheckFailedError,
    FormatVersionError,
    HarmonizeError,
    IntegrityError,
    IntervalError,
    SpikedataError,
    StoreError,
)
from spikedata.exchange import read_torch_brain, torch_brain_header, write_torch_brain
from spikedata.exchange_header import content_of
from spikedata.exchange_write import TAKEN
from spikedata.intervals import IntervalSet, window_bounds
from spikedata.recording import Recording, Series
from spikedata.store import Store
from spikedata.testing import make_recording, recordings
from tests.conftest import build_recording

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def same(one: Recording, other: Recording) -> bool:
    """Return whether two recordings agree in every field, order, dtype and bit."""
    for field in fields(Recording):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, dict):
            if list(a) != list(b) or not all(equal(a[name], b[name]) for name in a):
                return False
        elif not equal(a, b):
            return False
    return True


def equal(a: object, b: object) -> bool:
    if isinstance(a, Series) and isinstance(b, Series):
        times = (a.time is None and b.time is None) or equal(a.time, b.time)
        return times and equal(a.values, b.values) and (
            (a.unit, a.columns, a.start, a.rate) == (b.unit, b.columns, b.start, b.rate)
        )  # fmt: skip
    if isinstance(a, IntervalSet) and isinstance(b, IntervalSet):
        return list(a) == list(b) and list(a.columns) == list(b.columns) and all(
            equal(a.columns[name], b.columns[name]) for name in a.columns
        )  # fmt: skip
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        numbers = a.dtype.kind not in "UO"
        return (not numbers or a.dtype == b.dtype) and np.array_equal(a, b, equal_nan=numbers)
    return a == b


def built(seed: int = 0, n_spikes: int = 400) -> Recording:
    """Return the recording of the tests without the spike at the very end of its domain."""
    made = build_recording(seed, n_spikes=n_spikes)
    inside = made.domain.contains(made.spike_time)
    return replace(made, spike_time=made.spike_time[inside], spike_unit=made.spike_unit[inside])


def awkward() -> Recording:
    """Return a recording with every kind of column, two schemes, gaps and hostile names."""
    base = build_recording(3)
    domain = IntervalSet(np.array([0.0, 12.25]), np.array([9.5, 20.0]))
    inside = domain.contains(base.spike_time)
    rng = np.random.default_rng(8)
    columns = {
        "split": np.array(["a", "b", "c"]), "success": np.array([True, False, True]),
        "target": np.arange(6.0).reshape(3, 2), "note": np.array(["é", "", "x\\xe9"]),
        "a/b": np.array([1, 2, 3], np.uint8), "_hidden": np.array([1.5, np.nan, 2], np.float32),
    }  # fmt: skip
    units = {
        **base.units, "id": np.arange(base.n_units), "keys": rng.normal(size=base.n_units),
        "area": np.array(["M1"] * base.n_units), "wave": rng.normal(size=(base.n_units, 4)),
    }  # fmt: skip
    table = IntervalSet(np.array([0.0, 1.0, 14.0]), np.array([3.0, 2.0, 15.0]), columns)
    split = IntervalSet(np.array([0.0, 5.0, 13.0]), np.array([5.0, 9.5, 20.0]),
                        {"split": np.array(["train", "train", "test"])})  # fmt: skip
    other = IntervalSet(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 9.5]),
                        {"split": np.array(["test", "valid", "train"])})  # fmt: skip
    return replace(
        base, spike_time=base.spike_time[inside], spike_unit=base.spike_unit[inside], units=units,
        domain=domain, series={**base.series, "spikes": base.series["velocity"],
                               "x.y": base.series["position"], "x_y": base.series["velocity"]},
        intervals={"trials": table, "spikes": table.where(np.array([True, False, True])),
                   "none": IntervalSet.empty()},
        splits={"paper": split, "chronological": other}, targets=("x.y", "velocity"),
        about={"subject": "m1", "citation": "Ünï, 2020", "long": "x" * 70_000, "doi": "10.1/x"},
        dropped={"b": 2, "a": 1}, fingerprint="f" * 64,
    )  # fmt: skip


def load(path: Path, lazy: bool) -> Data:
    return Data.load(path, lazy=lazy)


# ------------------------------------------------------------------ there and back


@quick
@given(recording=recordings())
@example(recording=awkward())
def test_what_is_exported_is_imported_as_it_was(recording, tmp_path):
    path = tmp_path / "x.h5"
    if len(recording.spike_time) == 0:  # no check passes it, so no store holds it
        with pytest.raises(CheckFailedError, match="No unit has a spike"):
            write_torch_brain(recording, path)
        return

    assert same(read_torch_brain(write_torch_brain(recording, path)), recording)


@pytest.mark.parametrize("made", [awkward, make_recording, built])
def test_the_same_recording_gives_the_same_bytes(made, tmp_path):
    first = write_torch_brain(made(), tmp_path / "a.h5").read_bytes()

    assert write_torch_brain(made(), tmp_path / "b.h5").read_bytes() == first
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.h5", "b.h5"]


def test_content_tells_any_difference():
    one = awkward()
    turned = {name: one.splits[name] for name in reversed(list(one.splits))}
    others = [
        replace(one, recording_id="a/b"), replace(one, targets=("velocity", "x.y")),
        replace(one, spike_time=np.nextafter(one.spike_time, 99)), replace(one, dropped={}),
        replace(one, splits=turned), replace(one, fingerprint=""),
        replace(one, units={**one.units, "area": np.array(["M2"] * one.n_units)}),
    ]  # fmt: skip

    assert len({content_of(other) for other in [one, *others]}) == 1 + len(others)
    assert content_of(awkward()) == content_of(one)


# ------------------------------------------------------------------ torch_brain reads what we write


@pytest.mark.parametrize("lazy", [True, False])
@pytest.mark.parametrize("made", [awkward, make_recording, built])
def test_torch_brain_reads_every_value(made, lazy, tmp_path):
    recording = made()
    header = None
    with load(write_torch_brain(recording, tmp_path / "x.h5"), lazy) as data:
        header = torch_brain_header(tmp_path / "x.h5")
        assert header is not None
        assert equal(data.spikes.timestamps, recording.spike_time)
        assert equal(data.spikes.unit_index, recording.spike_unit)
        assert bounds_of(data.domain) == bounds_of(data.spikes.domain) == list(recording.domain)
        for ours, theirs in header.units.columns.items():
            if ours not in header.units.texts:
                assert equal(getattr(data.units, theirs), recording.units[ours]), ours
        assert equal(data.units.id, recording.unit_ids)
        for place in header.series:
            series = recording.series[place.name]
            found = getattr(data, place.place)
            assert equal(found.values, series.values)
            assert equal(found.timestamps, series.times())
            assert found.domain.end[-1] > series.times()[-1]
        for place in header.intervals:
            table = recording.intervals[place.name]
            found = getattr(data, place.place)
            assert equal(found.start, table.start)
            assert equal(found.end, table.end)
            for ours, theirs in place.columns.items():
                if ours not in ("start", "end") and ours not in place.texts:
                    assert equal(getattr(found, theirs), table.columns[ours]), ours
        for split in ("train", "valid", "test"):
            rows = recording.split(split)
            assert bounds_of(getattr(data, f"{split}_domain")) == list(rows)
        assert data.session.id == recording.recording_id.split("/")[1]
        assert data.brainset.id == recording.recording_id.split("/")[0]


def bounds_of(rows: Interval | None) -> list[tuple[float, float]]:
    assert rows is not None
    return list(zip(rows.start.tolist(), rows.end.tolist(), strict=True))


def test_the_scheme_that_is_asked_for_becomes_the_domains(tmp_path):
    recording = awkward()
    path = write_torch_brain(recording, tmp_path / "x.h5", "chronological")

    with load(path, True) as data:
        assert bounds_of(data.test_domain) == [(0.0, 1.0)]
    assert list(read_torch_brain(path).splits) == ["paper", "chronological"]
    with pytest.raises(IntervalError, match="no split scheme is called 'chron'"):
        write_torch_brain(recording, path, "chron")


def test_text_that_is_not_ascii_is_escaped_for_torch_brain(tmp_path):
    with load(write_torch_brain(awkward(), tmp_path / "x.h5"), False) as data:
        assert data.trials.note.tolist() == ["\\xe9", "", "x\\xe9"]


@quick
@given(
    recording=st.sampled_from([make_recording(1, start=4400.1), built(3), awkward()]),
    lazy=st.booleans(),
    at=st.lists(st.floats(-1, 61), min_size=1, max_size=8),
    length=st.sampled_from([1.0, 0.37, 3.0]),
)
def test_windows_of_torch_brain_hold_the_same_spikes_and_samples(
    recording, lazy, at, length, tmp_path
):
    path = write_torch_brain(recording, tmp_path / "x.h5")
    begin = recording.domain.start[0]
    with load(path, lazy) as data:
        for offset in [*at, 0.0, 1.0, recording.domain.end[-1] - begin - length]:
            start, end = begin + offset, begin + offset + length
            lo, hi = window_bounds(recording.spike_time, start, end)
            found = data.slice(start, end, reset_origin=False)
            assert equal(found.spikes.timestamps, recording.spike_time[lo:hi])
            assert equal(found.spikes.unit_index, recording.spike_unit[lo:hi])
            if recording.recording_id.startswith("made"):
                lo, hi = recording.series["position"].bounds(start, end)
                assert equal(found.position.values, recording.series["position"].values[lo:hi])


def test_the_last_spike_is_found_where_the_domain_ends_with_it(tmp_path):
    """With ``domain="auto"`` torch_brain loses it; a domain that is written down contains it."""
    made = built(2)
    keep = made.spike_time <= 15.3
    last = made.spike_time[keep][-1]
    domain = IntervalSet.single(0.0, np.nextafter(last, np.inf))
    recording = replace(made, spike_time=made.spike_time[keep], spike_unit=made.spike_unit[keep],
                        domain=domain, splits={})  # fmt: skip
    with load(write_torch_brain(recording, tmp_path / "x.h5"), True) as data:
        assert data.slice(0.0, float(domain.end[0])).spikes.timestamps[-1] == last
        assert "train_domain" not in data


def test_dataset_and_sampler_of_torch_brain_work_on_a_folder(tmp_path):
    class Folder(SpikingDatasetMixin, Dataset):
        pass

    made = {f"s{seed}": make_recording(seed) for seed in range(2)}
    for session, recording in made.items():
        write_torch_brain(recording, tmp_path / f"{session}.h5")
    folder = Folder(tmp_path, namespace_attributes=["session.id", "subject.id", "units.id"])
    where = {name: folder.get_recording(name).train_domain for name in folder.recording_ids}
    sampler = RandomFixedWindowSampler(
        sampling_intervals=where, window_length=1.0, generator=torch.Generator().manual_seed(3)
    )
    count = 0
    for index in sampler:
        sample, recording = folder[index], made[index.recording_id]
        lo, hi = window_bounds(recording.spike_time, index.start, index.end)
        count += 1
        assert equal(sample.spikes.unit_index, recording.spike_unit[lo:hi])
        assert sample.session.id == index.recording_id
    assert count == len(sampler) > 50
    assert folder.get_unit_ids() == sorted(
        one for recording in made.values() for one in recording.unit_ids.tolist()
    )
    assert len(folder[DatasetIndex("s0", 3.0, 4.0)].velocity.values) == 50


def test_no_array_hides_what_torch_brain_can_do():
    classes = (Data, ArrayDict, Interval, IrregularTimeSeries, RegularTimeSeries)
    public = {name for one in classes for name in dir(one) if not name.startswith("_")}

    assert public <= TAKEN


# ------------------------------------------------------------------ files that we did not write


def foreign(path: Path, **changed: object) -> Path:
    """Write a file with torch_brain, after the shape of what its own pipelines make."""
    rng = np.random.default_rng(4)
    time = np.sort(np.round(rng.uniform(0.5, 20.5, 600), 3))
    at = np.arange(2001) / 100
    cursor = IrregularTimeSeries(
        timestamps=at, pos=rng.normal(size=(2001, 2)), domain="auto",
        vel=rng.normal(size=(2001, 2)).astype(np.float32), acc=np.where(at == 3, np.nan, at),
    )  # fmt: skip
    trials = Interval(
        start=np.array([1.0, 6.0, 11.0, 16.0]), end=np.array([5.0, 6.0, 15.0, 19.0]),
        is_valid=np.array([True, False, True, True]), result=np.array(["R", "F", "R", "R"], object),
        go_cue_time_array=rng.normal(size=(4, 3)), timekeys=["start", "end"],
        image=np.zeros((4, 2, 2)),
    )  # fmt: skip
    parts = {
        "brainset": BrainsetDescription(
            id="perich_miller_population_2018", origin_version="dandi/000688/draft",
            derived_version="1.0.0", source="https://example.org", description="reaching",
        ),
        "subject": SubjectDescription(id="c", species="Macaca mulatta", sex="M", age=100),
        "session": SessionDescription(
            id="c_20161021", recording_date=datetime(2016, 10, 21), task="REACHING"
        ),
        "spikes": IrregularTimeSeries(
            timestamps=time, unit_index=rng.integers(0, 4, 600), waveforms=np.zeros((600, 3)),
            domain="auto",
        ),
        "units": ArrayDict(
            id=np.array([f"group_M1/elec{one}" for one in range(4)], object),
            unit_number=np.arange(4), average_waveform=np.ones((4, 48)),
        ),
        "trials": trials,
        "movement_phases": Data(
            hold_period=Interval(np.array([1.0, 11.0]), np.array([2.0, 12.0])), domain="auto",
        ),
        "cursor": cursor,
        "finger": RegularTimeSeries(
            sampling_rate=250.0, domain_start=0.1, pos_3d=rng.normal(size=(400, 3))
        ),
        "channels": ArrayDict(id=np.arange(3)),
        "picture": np.zeros((3, 3)),
        "domain": cursor.domain,
        "train_domain": Interval(0.0, 12.0),
        "valid_domain": Interval(np.array([13.0]), np.array([15.0]), extra=np.array([1])),
        "test_domain": Interval(np.array([16.0]), np.array([21.0])),
    }  # fmt: skip
    parts.update(changed)
    parts = {name: part for name, part in parts.items() if part is not None}
    with h5py.File(path, "w") as file:
        Data(**parts).to_hdf5(file)
    return path


def test_a_file_of_their_pipelines_becomes_a_recording(tmp_path):
    path = foreign(tmp_path / "c.h5")
    found = read_torch_brain(path, targets=("cursor.vel",))

    with load(path, False) as data:
        inside = data.spikes.timestamps <= 20.0
        assert equal(found.spike_time, data.spikes.timestamps[inside])
        assert np.array_equal(found.spike_unit, data.spikes.unit_index[inside])
        assert equal(found.series["cursor.vel"].values, data.cursor.vel)
        assert equal(found.series["cursor.pos"].time, data.cursor.timestamps)
        assert equal(found.series["finger.pos_3d"].times(), data.finger.timestamps)
        assert equal(found.intervals["trials"].columns["go_cue_time_array"],
                     data.trials.go_cue_time_array[[0, 2, 3]])  # fmt: skip
    assert found.recording_id == "perich_miller_population_2018/c_20161021"
    assert found.unit_ids[1] == f"{found.recording_id}/group_M1/elec1"
    assert found.units["average_waveform"].shape == (4, 48)
    assert list(found.domain) == [(0.0, np.nextafter(20.0, 21))]
    assert found.targets == ("cursor.vel",)
    assert found.intervals["trials"].columns["result"].tolist() == ["R", "R", "R"]
    assert list(found.intervals) == ["trials", "movement_phases.hold_period"]
    assert list(found.split("train")) == [(0.0, 12.0)]
    assert list(found.split("test")) == [(16.0, np.nextafter(20.0, 21))]
    assert found.about["species"] == "Macaca mulatta"
    assert found.about["age"] == "100.0"
    assert found.dropped == {
        "arrays.ignored": 1, "domain.closed_end": 1, "groups.ignored": 1,
        "intervals.trials.column_ignored": 1, "intervals.trials.zero_length": 1,
        "series.cursor.acc.not_finite": 1, "spikes.column_ignored": 1,
        "spikes.outside_domain": int((~inside).sum()), "splits.torch_brain.outside_domain": 1,
    }  # fmt: skip
    assert same(read_torch_brain(write_torch_brain(found, tmp_path / "again.h5")), found)


def test_samples_in_a_pause_of_a_regular_series_are_left_out(tmp_path):
    at = np.array([0.0, 0.01, 0.03, 0.04, 0.06]) + 0.7
    gappy = RegularTimeSeries.from_gappy_timeseries(
        at, sampling_rate=100.0, x=np.arange(5), y=np.arange(5.0)
    )
    found = read_torch_brain(foreign(tmp_path / "c.h5", finger=gappy))

    for name in ("finger.x", "finger.y"):
        assert found.series[name].values[:, 0].tolist() == [0, 1, 2, 3, 4]
        assert np.allclose(found.series[name].times(), at, atol=1e-9)
        assert found.dropped[f"series.{name}.gap"] == 2


def test_spikes_are_observed_only_in_the_domain_that_they_state(tmp_path):
    trials = Interval(np.array([1.0, 5.0]), np.array([3.0, 9.0]))
    spikes = IrregularTimeSeries(
        timestamps=np.array([1.5, 2.0, 4.0, 8.0]), unit_index=np.array([0, 1, 1, 2]), domain=trials
    )
    found = read_torch_brain(foreign(tmp_path / "c.h5", spikes=spikes))

    assert list(found.domain) == [(1.0, 3.0), (5.0, 9.0)]
    assert found.spike_time.tolist() == [1.5, 2.0, 8.0]
    assert found.dropped["spikes.outside_domain"] == 1


def test_splits_that_share_time_are_left_out_and_counted(tmp_path):
    found = read_torch_brain(foreign(tmp_path / "c.h5", test_domain=Interval(11.0, 20.0)))
    alone = read_torch_brain(foreign(tmp_path / "d.h5", train_domain=None))

    assert found.splits == alone.splits == {}
    assert found.dropped["splits.torch_brain.overlapping"] == 1
    assert alone.dropped["splits.torch_brain.no_training"] == 1


def damaged(path: Path, change) -> Path:
    with h5py.File(foreign(path), "r+") as file:
        change(file)
    return path


def put(name: str, values: object):
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return change


def test_broken_spikes_are_dropped_by_rules_that_are_counted(tmp_path):
    def change(file):
        file["spikes/timestamps"][:3] = [np.nan, 9.0, 5.0]
        file["spikes/unit_index"][3] = 99
        put("units/id", np.array([b"a", b"a", b"b", b"c"]))(file)
        file["cursor/timestamps"][[5, 9]] = [file["cursor/timestamps"][4], -1.0]

    found = read_torch_brain(damaged(tmp_path / "c.h5", change))

    assert (np.diff(found.spike_time) >= 0).all()
    counts = ("spikes.not_finite", "spikes.no_such_unit", "spikes.unsorted", "units.renamed",
              "series.cursor.pos.repeated_time", "series.cursor.pos.backward_time")  # fmt: skip
    assert [found.dropped[rule] for rule in counts] == [1, 1, 2, 4, 1, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda file: file.attrs.pop("object"), "torch_brain did not write"),
        (lambda file: file.pop("units"), "there is no `units/id`"),
        (lambda file: file.pop("domain"), "there is no `domain/start`"),
        (put("spikes/unit_index", np.zeros(7, np.int64)), "expected one whole number"),
        (put("cursor", h5py.ExternalLink("other.h5", "/x")), "link that leaves the file"),
        (put("spikes/timestamps", h5py.SoftLink("/spikes/timestamps")), "leads in a circle"),
        (put("domain/start", np.array([b"0"])), "expected numbers"),
        (lambda file: file["finger"].attrs.pop("sampling_rate"), "no usable rate"),
        (lambda file: file["session"].attrs.__setitem__("id", "../x"), "cannot name a session"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_a_sentence(change, sentence, tmp_path):
    with pytest.raises(HarmonizeError, match=sentence):
        read_torch_brain(damaged(tmp_path / "c.h5", change))


def test_nothing_that_hdf5_can_hide_is_executed_or_followed(tmp_path):
    """Opaque values, references, cycles and odd attributes are left out."""

    def change(file):
        file["movement_phases/round"] = file["movement_phases"]
        file["trials/blob"] = np.array([b"\x80\x04."] * 4, np.void)
        file["session"].attrs["task"] = np.void(b"\x80\x04cposix\nsystem\n.")
        file["subject"].attrs["id"] = np.arange(3)
        file["trials/ref"] = np.array([file["cursor"].ref] * 4, h5py.ref_dtype)

    found = read_torch_brain(damaged(tmp_path / "c.h5", change))

    assert list(found.intervals) == ["trials", "movement_phases.hold_period"]
    assert "task" not in found.about
    assert "subject" not in found.about
    assert found.dropped["intervals.trials.column_ignored"] == 3


@quick
@given(at=st.integers(0, 2**31), value=st.integers(0, 255), ours=st.booleans())
def test_a_damaged_byte_never_ends_in_anything_but_a_sentence(at, value, ours, tmp_path):
    path = tmp_path / "x.h5"
    if ours:
        write_torch_brain(built(n_spikes=50), path)
    else:
        foreign(path)
    whole = bytearray(path.read_bytes())
    whole[at % len(whole)] = value
    path.write_bytes(bytes(whole))
    found = None
    with suppress(SpikedataError):
        found = read_torch_brain(path)

    assert found is None or isinstance(found, Recording)


# ------------------------------------------------------------------ files of ours, changed


def test_a_changed_array_of_ours_is_noticed(tmp_path):
    path = write_torch_brain(make_recording(), tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        file["velocity/values"][7, 1] += 1e-6

    with pytest.raises(IntegrityError, match="differ from those that were exported"):
        read_torch_brain(path)
    with h5py.File(path, "r+") as file:
        del file["spikedata"]
    assert read_torch_brain(path).series["velocity.values"].rate == 50.0


def test_a_newer_or_damaged_header_is_refused(tmp_path):
    path = write_torch_brain(make_recording(), tmp_path / "x.h5")
    for text, error in (('{"format_version": 1}', IntegrityError), ("{", IntegrityError)):
        with h5py.File(path, "r+") as file:
            put("spikedata/json/header", np.frombuffer(text.encode(), np.uint8))(file)
        with pytest.raises(error, match="header"):
            read_torch_brain(path)
    path = write_torch_brain(make_recording(), tmp_path / "x.h5")
    with h5py.File(path, "r+") as file:
        header = json.loads(file["spikedata/json/header"][:].tobytes())
        text = json.dumps({**header, "format_version": 2}).encode()
        put("spikedata/json/header", np.frombuffer(text, np.uint8))(file)
    with pytest.raises(FormatVersionError, match="newer than this spikedata"):
        read_torch_brain(path)


def test_an_imported_recording_can_take_another_name(tmp_path):
    path = write_torch_brain(awkward(), tmp_path / "x.h5")
    found = read_torch_brain(path, dataset="mine", session="s")

    assert found.recording_id == "mine/s"
    assert found.unit_ids[0] == "mine/s/" + awkward().unit_ids[0].split("/", 2)[2]
    assert found.fingerprint == ""
    with pytest.raises(HarmonizeError, match="no recording id"):
        read_torch_brain(path, dataset="a b")


def test_what_cannot_be_stored_is_refused_and_leaves_nothing(tmp_path):
    made = make_recording()
    units = {**made.units, "when": np.zeros(made.n_units, "M8[s]")}
    with pytest.raises(StoreError, match="'when' of 'units' holds datetime64"):
        write_torch_brain(replace(made, units=units), tmp_path / "x.h5")
    with pytest.raises(StoreError, match="cannot be written"):
        write_torch_brain(made, tmp_path / "nowhere" / "x.h5")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------ the commands


def run(*words: object) -> tuple[int, list[dict]]:
    done = CliRunner().invoke(app, ["exchange", *map(str, words), "--json"])
    return done.exit_code, json.loads(done.stdout) if done.stdout else []


def test_the_commands_export_import_and_skip_what_is_done(tmp_path):
    store = Store(tmp_path / "store", create=True)
    for seed in range(2):
        store.write(make_recording(seed), {})
    out, other = tmp_path / "out", tmp_path / "other"
    code, rows = run("export", "--store", store.path, "--out", out)
    assert (code, [row["status"] for row in rows]) == (0, ["written", "written"])
    code, rows = run("export", "--store", store.path, "--out", out)
    assert (code, [row["status"] for row in rows]) == (0, ["unchanged", "unchanged"])
    store.write(make_recording(1, spike_rate=9), {})
    _, rows = run("export", "--store", store.path, "--out", out)
    assert [row["status"] for row in rows] == ["unchanged", "written"]

    files = sorted(out.glob("*/*.h5"))
    code, rows = run("import", *files, "--store", other)
    assert (code, [row["status"] for row in rows]) == (0, ["imported", "imported"])
    code, rows = run("import", *files, "--store", other)
    assert (code, [row["status"] for row in rows]) == (0, ["unchanged", "unchanged"])
    for name in store:
        assert content_of(replace(Store(other)[name], fingerprint="")) == content_of(
            replace(store[name], fingerprint="")
        )


def test_the_commands_say_what_failed_and_lose_nothing(tmp_path):
    store = Store(tmp_path / "store", create=True)
    store.write(make_recording(0), {})
    _, rows = run("export", "--store", store.path, "--out", tmp_path)
    code, rows = run("import", tmp_path / "synthetic/s0.h5", tmp_path / "no.h5",
                     "--store", store.path)  # fmt: skip
    assert (code, [row["status"] for row in rows]) == (1, ["failed", "failed"])
    assert "was not imported" in rows[0]["message"]
    assert "no such file" in rows[1]["message"]
    code, rows = run("import", tmp_path / "synthetic/s0.h5", "--store", store.path,
                     "--replace", "--target", "position")  # fmt: skip
    assert code == 0
    assert Store(store.path)["synthetic/s0"].targets == ("position",)
    assert run("export", "synthetic/none", "--store", store.path, "--out", tmp_path)[0] == 2
    code, rows = run("export", "--store", store.path, "--out", tmp_path, "--scheme", "none")
    assert (code, rows[0]["status"]) == (1, "failed")
