"""SQL over all recordings of a store, by DuckDB, over the mapped arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from spikedata.arrow import array_of
from spikedata.errors import ViewError
from spikedata.recording import Recording
from spikedata.store import Store
from spikedata.views import refuse_column, select_table, table_names, to_arrow

if TYPE_CHECKING:
    import duckdb

__all__ = ["sql"]

TRIES = 20  # to find the catalogue and the recordings of one writing

SEALED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",  # no files, no network, no extensions
    "python_enable_replacements": "false",  # no variables of the caller
    "temp_directory": "",  # and nothing is spilled: a query too large is an error
    "lock_configuration": "true",
}
"""Settings of DuckDB, https://duckdb.org/docs/stable/operations_manual/securing_duckdb/overview."""


def sql(
    store: Store,
    query: str,
    recording_ids: Iterable[str] | None = None,
    parameters: Sequence[object] | Mapping[str, object] | None = None,
) -> pa.Table:
    """Return the answer to one SELECT over the recordings of a store.

    The tables are ``catalog`` (one row a recording, as `Store.catalog`) and those of
    `spikedata.views.to_arrow`: ``spikes``, ``units``, ``domain`` and every series, interval table
    and split scheme by its name, each over all recordings that have it, with the column
    ``recording_id`` first. Columns are matched by name; a recording without one has NULL there.
    Write ``"series-velocity"``, in double quotes, where the short name is ambiguous.

    Only the tables that the query names are opened, and DuckDB reads them where they are mapped:
    none is copied. A condition on ``recording_id`` leaves the other recordings unread.

    Parameters
    ----------
    store : Store
        The recordings; nothing in it can be changed by a query.
    query : str
        One SELECT statement in DuckDB's SQL.
    recording_ids : iterable of str, optional
        Look at these recordings only; at all of the store when not given.
    parameters : sequence or mapping, optional
        Values of ``?`` or ``$name`` in the query.

    Returns
    -------
    pyarrow.Table
        In memory; ``.to_pandas()`` and ``polars.from_arrow`` take it on.

    Raises
    ------
    ViewError
        If DuckDB is not installed, the query is no single SELECT, names a table that no recording
        has, is mistaken or needs more than memory, or one name is a series here and a table there.
    StoreError
        If a recording is not there or damaged.
    """
    try:
        import duckdb
    except ImportError:
        raise ViewError(
            "SQL needs duckdb: install it with `pip install 'neural-spikedata[access]'`."
        ) from None
    ids = list(dict.fromkeys(store if recording_ids is None else recording_ids))
    try:
        with duckdb.connect(":memory:", config=SEALED) as connection:
            named = _tables_of(connection, query)
            recordings, catalog = _of_one_writing(store, ids, [name.lower() for name in named])
            for written in named:
                if written.lower() == "catalog":
                    connection.register(written, catalog)
                else:
                    _create_view(connection, written, f"{store.path}", recordings)
            return connection.sql(query, params=parameters).to_arrow_table()
    except duckdb.Error as error:
        raise ViewError(f"The query cannot be answered: {str(error).strip()}") from None


def _tables_of(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """Return the tables that a query names, as it writes them, and refuse all but one SELECT."""
    rows = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()
    parsed = json.loads(rows[0][0])
    if parsed["error"]:
        raise ViewError(f"A query is one SELECT statement: {parsed['error_message']}")
    if len(parsed["statements"]) != 1:
        raise ViewError(f"A query is one SELECT statement, found {len(parsed['statements'])}.")
    found, own = {}, set()
    waiting = [parsed["statements"][0]]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            in_main = node.get("schema_name", "").lower() in ("", "main")
            if node.get("type") in ("BASE_TABLE", "SHOW_REF") and in_main:
                name = node["table_name"].strip('"')  # DESCRIBE quotes it in some versions
                found.setdefault(name.lower(), name)
            own |= {one["key"].lower() for one in node.get("cte_map", {}).get("map", ())}
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return [name for lower, name in found.items() if name and lower not in own]


def _of_one_writing(
    store: Store, ids: Sequence[str], named: Sequence[str]
) -> tuple[dict[str, Recording], pa.Table | None]:
    """Return the recordings, if a table of theirs is named, and their rows of the catalogue.

    Both are of the same writing, also while another process writes recordings anew.
    """
    opened = {one: store[one] for one in ids} if any(name != "catalog" for name in named) else {}
    if "catalog" not in named:
        return opened, None
    for _ in range(TRIES):
        catalog, wanted = store.catalog(), set(ids)
        names = catalog["recording_id"].to_pylist()
        now = dict(zip(names, catalog["fingerprint"].to_pylist(), strict=True))
        old = [one for one, recording in opened.items() if recording.fingerprint != now.get(one)]
        if not old:
            return opened, catalog.filter(pa.array([one in wanted for one in names], pa.bool_()))
        store.outlines(old)  # lets go of what was replaced
        opened |= {one: store[one] for one in old}
    raise ViewError(f"{store.path}: recordings are written anew all the time: ask again later.")


def _create_view(
    connection: duckdb.DuckDBPyConnection,
    written: str,
    where: str,
    recordings: Mapping[str, Recording],
) -> None:
    """Create the view that a query names, over the recordings that have the table."""
    tables = {one: table_names(recording) for one, recording in recordings.items()}
    known = dict.fromkeys(name for names in tables.values() for name in names)
    full = select_table(where, known, _as_stored(written, known))
    rows = np.empty(0, np.int64)
    parts = []
    for number, one in enumerate(name for name in recordings if full in tables[name]):
        recording = recordings[one]
        if full.startswith("series-"):
            count = len(recording.series[full.partition("-")[2]])
            rows = rows if len(rows) >= count else np.arange(count)
        table, columns = _source(recording, full, rows)
        source = f"{written} {number}"
        connection.register(source, table)
        parts.append(f"SELECT {_text(one)} AS recording_id, {columns} FROM {_name(source)}")
    connection.execute(f"CREATE TEMP VIEW {_name(written)} AS {_union(parts)}")


def _as_stored(written: str, known: Iterable[str]) -> str:
    """Return a name as the store writes it: SQL makes no difference between a and A."""
    names = [form for full in known for form in (full, full.partition("-")[2]) if form]
    same = dict.fromkeys(name for name in names if name.lower() == written.lower())
    if len(same) > 1:
        raise ViewError(
            f"SQL cannot tell the tables {sorted(same)} apart: choose recordings that have one of "
            "them with `recording_ids`."
        )
    return next(iter(same), written)


def _source(recording: Recording, full: str, rows: np.ndarray) -> tuple[pa.Table, str]:
    """Return the arrays of a table as they are stored, and the columns to be made of them.

    The times of a series on a regular grid are worked out while they are read, by the sum and the
    division of `Series.times`; `rows` are the numbers 0, 1, … that all series share.
    """
    if not full.startswith("series-"):
        table = to_arrow(recording, full)
        refuse_column(f"{recording.recording_id}: {full}", table.column_names, "recording_id")
        return table, "*"
    one = recording.series[full.partition("-")[2]]
    to_arrow(recording, full, slice(0, 0))  # refuses channels that have no names of their own
    columns = {"values": array_of(one.values)}
    if one.time is not None:
        columns["time"] = array_of(one.time)
        time = "time"
    else:
        columns["row"] = array_of(rows[: len(one)])
        time = f"{_number(one.start)} + row::DOUBLE / {_number(one.rate or 1.0)} AS time"
    channels = [f'"values"[{at + 1}] AS {_name(name)}' for at, name in enumerate(one.columns)]
    return pa.table(columns), ", ".join([time, *channels])


def _union(parts: Sequence[str]) -> str:
    """Return the union of all parts, as a balanced tree: thousands in a row are nested too deep."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return f"({_union(parts[:half])}) UNION ALL BY NAME ({_union(parts[half:])})"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _number(value: float) -> str:
    return f"'{float(value)!r}'::DOUBLE"
