"""A file of predictions is taken whole, in any order, or refused with what is wrong."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spikedata_model.errors import SuiteError
from spikedata_model.leaderboard.predictions import (
    Key,
    check_answer,
    hash_of,
    read_predictions,
    samples_table,
    write_predictions,
)
from spikedata_model.leaderboard.scoring import open_tasks
from tests.spikedata_model.worlds import make_world


@pytest.fixture(scope="module", name="world")
def _world(tmp_path_factory):
    suite, store = make_world(tmp_path_factory.mktemp("world"), seeds=[0])
    tasks = open_tasks(suite, store)
    rng = np.random.default_rng(0)
    made = {Key(name, "all", 0): rng.normal(size=one.truth.shape) for name, one in tasks.items()}
    return suite, tasks, made


def put(path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def table_of(world, folder) -> pa.Table:
    _, tasks, made = world
    write_predictions(folder / "whole.arrow", tasks, made)
    return pa.ipc.open_file(pa.py_buffer((folder / "whole.arrow").read_bytes())).read_all()


def test_what_is_written_is_read_to_the_last_bit(world, tmp_path):
    suite, tasks, made = world
    write_predictions(tmp_path / "a.arrow", tasks, made)

    again = read_predictions(tmp_path / "a.arrow", suite, tasks)

    assert again.keys() == made.keys()
    assert all(np.array_equal(again[key], made[key]) for key in made)
    assert hash_of(again) == hash_of(made)


@given(seed=st.integers(0, 100), kinds=st.sampled_from(["plain", "large", "shuffled columns"]))
@settings(max_examples=10, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
def test_rows_may_come_in_any_order_and_text_in_any_kind(world, tmp_path, seed, kinds):
    suite, tasks, made = world
    table = table_of(world, tmp_path)
    table = table.take(np.random.default_rng(seed).permutation(len(table)))
    kind = pa.large_string() if kinds == "large" else pa.string()
    for row, name in enumerate(table.column_names):
        if pa.types.is_dictionary(table.schema.field(name).type):
            table = table.set_column(row, name, table[name].cast(pa.string()).cast(kind))
    if kinds == "shuffled columns":
        table = table.select(table.column_names[::-1])
    put(tmp_path / "b.arrow", table)

    again = read_predictions(tmp_path / "b.arrow", suite, tasks)

    assert hash_of(again) == hash_of(made)


def test_budget_and_seed_may_be_left_out_where_the_suite_has_one(world, tmp_path):
    suite, tasks, made = world
    put(tmp_path / "c.arrow", table_of(world, tmp_path).drop_columns(["budget", "seed"]))

    assert hash_of(read_predictions(tmp_path / "c.arrow", suite, tasks)) == hash_of(made)


def test_they_may_not_where_it_has_several(world, tmp_path):
    suite, tasks, _ = world
    put(tmp_path / "d.arrow", table_of(world, tmp_path).drop_columns(["seed"]))
    more = suite.model_copy(update={"seeds": (0, 1)})

    with pytest.raises(SuiteError, match="no column 'seed'"):
        read_predictions(tmp_path / "d.arrow", more, tasks)


def changed(table: pa.Table, name: str, row: int, value) -> pa.Table:
    column = table[name].cast(pa.string()) if isinstance(value, str) else table[name]
    values = column.to_pylist()
    values[row] = value
    kind = pa.string() if isinstance(value, str) else table.schema.field(name).type
    return table.set_column(table.column_names.index(name), name, pa.array(values, kind))


BROKEN = {
    "a missing row": (lambda t: t.slice(1), "1 of .* predictions are missing and 0"),
    "a row twice": (lambda t: pa.concat_tables([t, t.slice(5, 1)]), "1 are there twice"),
    "another time": (lambda t: changed(t, "time", 7, 1e5), "1 rows are at times that are no"),
    "a time that is none": (lambda t: changed(t, "time", 7, np.nan), "no sample of the test split"),
    "no number": (lambda t: changed(t, "predicted", 3, np.nan), "1 predictions are not a number"),
    "infinity": (lambda t: changed(t, "predicted", 3, np.inf), "1 predictions are not a number"),
    "an empty field": (lambda t: changed(t, "predicted", 3, None), "'predicted' has empty fields"),
    "another recording": (
        lambda t: changed(t, "recording_id", 0, "lab/on"), "'lab/on'; did you mean"),
    "another channel": (lambda t: changed(t, "channel", 0, "z"), "has no channel 'z'"),
    "another budget": (lambda t: changed(t, "budget", 0, "5 %"), "has no budget '5 %'"),
    "another seed": (lambda t: changed(t, "seed", 0, 9), "not 9"),
    "no column": (lambda t: t.drop_columns(["time"]), "no column 'time'"),
    "two columns": (lambda t: t.append_column("time", t["time"]), "two columns 'time'"),
    "text for numbers": (
        lambda t: t.set_column(5, "predicted", pa.array(["x"] * len(t))), "not of its kind"),
    "an empty word of a dictionary": (
        lambda t: t.set_column(0, "recording_id", pa.DictionaryArray.from_arrays(
            pa.array([0] * len(t), pa.int32()), pa.array([None], pa.string()))),
        "'recording_id' has empty fields"),
    "nothing": (lambda t: t.slice(0, 0), "no predictions in it"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said(world, tmp_path, name):
    suite, tasks, _ = world
    damage, message = BROKEN[name]
    put(tmp_path / "broken.arrow", damage(table_of(world, tmp_path)))

    with pytest.raises(SuiteError, match=message):
        read_predictions(tmp_path / "broken.arrow", suite, tasks)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(world, tmp_path, share):
    suite, tasks, _ = world
    table_of(world, tmp_path)
    content = (tmp_path / "whole.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(content[: int(share * len(content))])

    with pytest.raises(SuiteError, match="no whole Arrow IPC file"):
        read_predictions(tmp_path / "cut.arrow", suite, tasks)


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_file_is_refused_or_read_as_something_else_but_never_crashes(
    world, tmp_path, seed
):
    suite, tasks, made = world
    table_of(world, tmp_path)
    content = bytearray((tmp_path / "whole.arrow").read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, len(content), 3):
        content[place] ^= int(rng.integers(1, 256))
    (tmp_path / "damaged.arrow").write_bytes(bytes(content))

    try:
        found = read_predictions(tmp_path / "damaged.arrow", suite, tasks)
    except SuiteError:
        return
    assert {key: one.shape for key, one in found.items()} == {
        key: one.shape for key, one in made.items()
    }


def test_a_file_that_is_not_there_is_said_to_be(world, tmp_path):
    suite, tasks, _ = world

    with pytest.raises(SuiteError, match=r"nothing\.arrow cannot be read: No such file"):
        read_predictions(tmp_path / "nothing.arrow", suite, tasks)


def test_the_rows_to_fill_in_are_those_that_are_asked_for(world, tmp_path):
    suite, tasks, made = world
    table = samples_table(tasks, suite)
    filled = table.set_column(5, "predicted", pa.array(np.arange(float(len(table)))))
    put(tmp_path / "filled.arrow", filled)

    found = read_predictions(tmp_path / "filled.arrow", suite, tasks)

    assert table["predicted"].null_count == len(table)
    assert {key: one.shape for key, one in found.items()} == {k: v.shape for k, v in made.items()}
    put(tmp_path / "empty.arrow", table)
    with pytest.raises(SuiteError, match="empty fields"):
        read_predictions(tmp_path / "empty.arrow", suite, tasks)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 2)), "shape"),
        (np.zeros(4), "shape"),
        ("text", "numbers"),
        (None, "numbers|shape"),
        (np.full((4, 2), np.nan), "8 predictions are not a number"),
    ],
)
def test_an_answer_of_another_shape_or_kind_is_refused(world, values, message):
    _, tasks, _ = world

    with pytest.raises(SuiteError, match=message):
        check_answer("here", tasks["lab/one"], values, 4)
