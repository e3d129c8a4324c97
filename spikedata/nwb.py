"""Reads NWB files by their structure, straight from HDF5, as plain arrays.

Cached namespaces are never run, and what is not asked for (waveforms, LFP, images) is never
touched; `spikedata.hdf5` refuses links that leave the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import h5py
import numpy as np

from spikedata.errors import HarmonizeError, did_you_mean
from spikedata.files import Source
from spikedata.hdf5 import Hdf5File, number_of, text_of
from spikedata.tables import Entry, SeriesData, TableData, UnitTable

__all__ = ["Entry", "NwbFile", "SeriesData", "TableData", "UnitTable"]

MAX_DEPTH = 16  # a hostile file can nest groups without end
ELECTRODES = "general/extracellular_ephys/electrodes"
SEARCHED = ("units", "acquisition", "processing", "intervals", "stimulus", "scratch")


class NwbFile:
    """An NWB file that is open for reading; close it, or use it in a ``with`` statement.

    Parameters
    ----------
    path : Path or binary file
        The file, or an open one that can seek and has a ``name``.

    Raises
    ------
    HarmonizeError
        If it is no HDF5 file, is cut short, or is not NWB.
    """

    def __init__(self, path: Source) -> None:
        self._h5 = Hdf5File(path)
        self._last_times: tuple[int, np.ndarray] | None = None
        self.path = Path(self._h5.name)
        with ExitStack() as stack:
            stack.enter_context(self._h5)
            if "nwb_version" not in self._h5.root.attrs:
                raise HarmonizeError(
                    f"{self.path.name}: this is an HDF5 file but not NWB (it has no "
                    "`nwb_version`); a file of another format needs a harmoniser of its own."
                )
            stack.pop_all()  # it stays open

    def __enter__(self) -> NwbFile:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._h5.__exit__(kind, error, trace)

    def close(self) -> None:
        """Close the file."""
        self._h5.close()

    # -------------------------------------------------------------- what there is

    def listing(self) -> list[Entry]:
        """Return every units table, series, table and outward link, each once, in file order."""
        found: list[Entry] = []
        seen: set[int] = set()
        for name in (name for name in SEARCHED if name in self._h5.names()):
            found.extend(self._walk(name, seen))
        return found

    def _walk(self, path: str, seen: set[int]) -> Iterator[Entry]:
        try:
            node = self._h5.open(path)
        except HarmonizeError:
            yield Entry(path, "link", "")
            return
        address = self._h5.address(node)
        if not isinstance(node, h5py.Group) or address in seen or path.count("/") > MAX_DEPTH:
            return
        seen.add(address)
        entry = self._entry(path, node)
        if entry is not None:
            yield entry
            return
        for name in self._h5.names(path):
            yield from self._walk(f"{path}/{name}", seen)

    def _entry(self, path: str, node: h5py.Group) -> Entry | None:
        """Return what the group is, or None when it only holds other things."""
        kind, names = text_of(node.attrs.get("neurodata_type", "")), set(self._h5.names(path))
        if "colnames" in node.attrs:
            columns = _names_of(node.attrs["colnames"])
            timed = {"start_time", "stop_time"} <= set(columns)
            label = "units" if kind == "Units" else "intervals" if timed else "table"
            return Entry(path, label, kind, columns=columns)
        if "data" not in names or not names & {"timestamps", "starting_time"}:
            return None
        try:
            data, rate = self._h5.dataset(f"{path}/data"), None
            if "starting_time" in names:
                rate = number_of(self._h5.dataset(f"{path}/starting_time").attrs.get("rate"))
        except HarmonizeError:
            return Entry(path, "link", kind)
        return Entry(
            path, "series", kind, data.shape, data.dtype.name, text_of(data.attrs.get("unit", "")),
            "timestamps" if rate is None else f"{rate:g} Hz", rate,
        )  # fmt: skip

    def about(self) -> dict[str, str]:
        """Return what the file says of its session and subject, empty fields left out."""
        fields = {
            "session": "general/session_id", "identifier": "identifier",
            "session_start": "session_start_time", "description": "session_description",
            "lab": "general/lab", "institution": "general/institution",
            "subject": "general/subject/subject_id", "species": "general/subject/species",
            "sex": "general/subject/sex", "age": "general/subject/age",
        }  # fmt: skip
        found = {}
        for name, path in fields.items():
            with suppress(HarmonizeError):
                value = self._h5.read(self._h5.dataset(path))
                text = "; ".join(text_of(part) for part in np.atleast_1d(value)).strip()
                if text:
                    found[name] = text
        return found

    # -------------------------------------------------------------- the arrays

    def read_units(self, electrode: str | None = None, electrode_base: int = 0) -> UnitTable:
        """Return the units table; `read_spikes` then reads the spike times themselves.

        A unit lies at its first electrode, or at the one whose row of the electrode table, counted
        from `electrode_base`, stands in the column `electrode`.

        Raises
        ------
        HarmonizeError
            If there is none, it has no spike times, or its index does not fit them.
        """
        path = self._units_path()
        table = self._h5.names(path)
        if "spike_times" not in table or "spike_times_index" not in table:
            raise HarmonizeError(
                f"{self.path.name}: the units table `{path}` has no spike times "
                "(it needs `spike_times` and `spike_times_index`)."
            )
        count = self._h5.length(f"{path}/spike_times_index")
        bound = self._bound(f"{path}/spike_times", count)
        name = np.arange(count).astype(str)
        if "id" in table:
            found = self._h5.read(self._h5.dataset(f"{path}/id"))
            name = found.astype(str) if found.shape == (count,) else name
        observed = observed_bound = None
        if "obs_intervals" in table and "obs_intervals_index" in table:
            observed_bound = self._bound(f"{path}/obs_intervals", count)
            found = self._h5.read_floats(self._h5.dataset(f"{path}/obs_intervals"))
            observed = found if found.shape[1:] == (2,) else None
        every = self._columns(path, count)[0]
        columns = {column: values for column, values in every.items() if values.ndim == 1}
        places = self._places(path, count, columns, electrode, electrode_base)
        group = places.pop("group", None)
        return UnitTable(path, name, bound, columns | places, observed, observed_bound, group)

    def read_spikes(self, table: UnitTable) -> np.ndarray:
        """Return all spike times (s, float64, (N,)), unit after unit, to be changed at will."""
        values = self._h5.map_floats(self._h5.dataset(f"{table.path}/spike_times"))
        if values.size != table.spike_bound[-1]:
            raise HarmonizeError(
                f"{self.path.name}: `{table.path}/spike_times` has the shape {values.shape}, "
                "expected one column."
            )
        return values.ravel()

    def names(self, path: str = "") -> list[str]:
        """Return the names in the group at `path`; none for an array, or where nothing is."""
        return self._h5.names(path)

    def array(self, path: str) -> np.ndarray:
        """Return one array whole, as the file has it; texts as str."""
        return self._h5.read(self._h5.dataset(path))

    def number(self, path: str, name: str) -> float | None:
        """Return an attribute of the array at `path` as a finite float, or None."""
        return number_of(self._h5.dataset(path).attrs.get(name))

    def has(self, path: str) -> bool:
        """Return whether there is something at `path`."""
        return self._h5.find(path) is not None

    def read_series(
        self, path: str, *, missing: float | None = None, spread_times: bool = False,
        as_stored: bool = False,
    ) -> SeriesData:  # fmt: skip
        """Return one series as ``data * conversion + offset``, or ``data``, at its own times.

        Rows with the stored value `missing` are marked. With `spread_times` two timestamps of a
        longer series are the times of its first and last sample, the others evenly between.

        Raises
        ------
        HarmonizeError
            If there is no such series, it is not numeric, or its times do not fit its values.
        """
        group = self._find(path, "series", {"data"})
        data = self._h5.dataset(f"{path}/data")
        if data.dtype.kind not in "fiub" or data.ndim not in (1, 2) or 0 in data.shape[1:]:
            raise HarmonizeError(
                f"{self.path.name}: the series `{path}` holds {data.dtype.name} of shape "
                f"{data.shape}; only numbers of shape (T,) or (T, C) can be harmonised."
            )
        values, ignored = self._scaled(data, as_stored)
        values, marked = values.reshape(len(values), *(data.shape[1:] or (1,))), None
        if missing is not None:
            marked = (np.asarray(self._h5.read(data)) == missing).reshape(values.shape).any(1)
        spread = spread_times and self._two_times(path, len(values))
        time, start, rate = spread or self._timing(path, len(values))
        comments = text_of(group.attrs.get("comments", ""))
        columns = _column_names(path, values.shape[1], data.ndim, comments)
        unit = text_of(data.attrs.get("unit", ""))
        return SeriesData(
            path, values, unit, columns, time, start, rate, ignored, bool(spread), marked
        )  # fmt: skip

    def read_table(self, path: str) -> TableData:
        """Return a table of intervals.

        Raises
        ------
        HarmonizeError
            If there is no such table, or it has no start and stop times.
        """
        self._find(path, "intervals", {"start_time", "stop_time"})
        count = self._h5.length(f"{path}/start_time")
        columns, skipped = self._columns(path, count)
        start, end = columns.pop("start_time", None), columns.pop("stop_time", None)
        found = {one.dtype.kind if one.ndim == 1 else "" for one in (start, end) if one is not None}
        if start is None or end is None or not found <= set("fiu"):
            raise HarmonizeError(
                f"{self.path.name}: `{path}` needs one number per row in `start_time` and "
                f"`stop_time` ({count} rows)."
            )
        return TableData(
            path, start.astype(np.float64), end.astype(np.float64), columns, tuple(skipped)
        )  # fmt: skip

    # -------------------------------------------------------------- parts of the above

    def _find(self, path: str, kind: str, parts: set[str]) -> h5py.Group:
        """Return the group at `path` if it has these parts; else name what could be meant."""
        group = self._h5.find(path)
        if isinstance(group, h5py.Group) and parts <= set(self._h5.names(path)):
            return group
        known = [entry.path for entry in self.listing() if entry.kind == kind]
        last = path.rsplit("/", 1)[-1]
        same = [one for one in known if one.rsplit("/", 1)[-1] == last]
        hint = f"did you mean '{same[0]}'?" if same else did_you_mean(path, known)
        raise HarmonizeError(f"{self.path.name}: there are no {kind} at `{path}`; {hint}")

    def _units_path(self) -> str:
        if "units" in self._h5.names():
            return "units"
        found = [entry.path for entry in self.listing() if entry.kind == "units"]
        if len(found) != 1:
            there = f"several: {', '.join(found)}" if found else "none"
            raise HarmonizeError(
                f"{self.path.name}: expected one units table with spike times, found {there}; "
                "leave the asset out of the manifest, or write a harmoniser for it."
            )
        return found[0]

    def _bound(self, path: str, count: int) -> np.ndarray:
        """Return the row bounds of each of `count` units in a ragged column of numbers."""
        values, rows = self._h5.dataset(path), self._h5.length(path)
        ends = np.asarray(self._h5.read(self._h5.dataset(f"{path}_index")))
        if values.dtype.kind not in "fiu" or ends.dtype.kind not in "iu" or ends.ndim != 1:
            raise HarmonizeError(f"{self.path.name}: `{path}` or its index does not hold numbers.")
        bound = np.concatenate([[0], ends.astype(np.int64)])
        if len(ends) != count or np.any(np.diff(bound) < 0) or bound[-1] != rows:
            raise HarmonizeError(
                f"{self.path.name}: the index of `{path}` says {len(ends)} units and "
                f"{int(bound.max())} values, the column has {rows} for {count} units: "
                "the file is cut or damaged; fetch it again or leave it out."
            )
        return bound

    def _columns(self, path: str, count: int) -> tuple[dict[str, np.ndarray], list[str]]:
        """Return the columns with one row per row of the table, and the names of the others."""
        columns: dict[str, np.ndarray] = {}
        skipped = []
        group = set(self._h5.names(path))
        listed = self._h5.open(path).attrs.get("colnames", sorted(group))
        for name in _names_of(listed):
            if name in ("id", "spike_times", "obs_intervals", "waveforms") or name not in group:
                continue
            data = self._h5.dataset(f"{path}/{name}")
            text = h5py.check_string_dtype(data.dtype) is not None
            flat = data.ndim == 1 or (data.ndim == 2 and data.shape[1] > 0)
            fits = flat and data.shape[0] == count and f"{name}_index" not in group
            if not fits or not (text or data.dtype.kind in "fiub"):
                skipped.append(name)
                continue
            values = np.asarray(self._h5.read(data))
            columns[name] = values[:, 0] if values.shape[1:] == (1,) else values
        return columns, skipped

    def _places(
        self,
        path: str,
        count: int,
        columns: dict[str, np.ndarray],
        electrode: str | None,
        electrode_base: int,
    ) -> dict[str, np.ndarray]:
        """Return area, electrode and group of each unit, as far as the file says.

        The area is the unit's own location, or that of its electrode or its group.
        """
        found, table = {}, set(self._h5.names(path))
        electrodes = set(self._h5.names(ELECTRODES))
        first = None
        if electrode is not None:
            found_rows = columns.get(electrode, np.zeros(1, str))
            whole = found_rows.dtype.kind in "iu" or (
                found_rows.dtype.kind == "f" and bool((found_rows % 1 == 0).all())
            )
            if not whole:
                raise HarmonizeError(
                    f"{self.path.name}: `{path}` has no column '{electrode}' with the number of "
                    f"one electrode (a whole one) per unit; {did_you_mean(electrode, columns)}"
                )
            first = columns[electrode].astype(np.int64) - electrode_base
        elif {"electrodes", "electrodes_index"} <= table and electrodes:
            bound = self._bound(f"{path}/electrodes", count)
            rows = self._h5.read_floats(self._h5.dataset(f"{path}/electrodes")).ravel()
            first = np.append(rows, -1)[bound[:-1]]
            first = np.where(bound[1:] > bound[:-1], first, -1).astype(np.int64)
        if first is not None and electrodes:
            wanted = {"area": ("location",), "electrode": ("label", "id"), "group": ("group_name",)}
            for name, sources in wanted.items():
                source = next((one for one in sources if one in electrodes), None)
                if source is not None:
                    values = self._h5.read(self._h5.dataset(f"{ELECTRODES}/{source}")).ravel()
                    known = (first >= 0) & (first < len(values))
                    texts = np.append(values.astype(str), "")
                    found[name] = texts[np.where(known, first, -1)]
        elif "electrode_group" in table:
            groups = self._h5.read(self._h5.dataset(f"{path}/electrode_group"))
            if groups.shape == (count,):
                found["area"] = np.array([self._h5.text_behind(g, "location") for g in groups], str)
                found["group"] = np.array([self._h5.name_behind(g) for g in groups], str)
        if "location" in columns:
            found["area"] = columns["location"].astype(str)
        return found

    def _scaled(self, data: h5py.Dataset, as_stored: bool) -> tuple[np.ndarray, bool]:
        """Return ``data * conversion + offset`` as floats, and whether these were left out.

        They are when they are no numbers, or when what is stored is asked for.
        """
        values = np.asarray(self._h5.read(data))
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        conversion = number_of(data.attrs.get("conversion", 1.0))
        offset = number_of(data.attrs.get("offset", 0.0))
        if not conversion or offset is None:
            return values, True
        if as_stored:
            return values, (conversion, offset) != (1.0, 0.0)
        if (conversion, offset) != (1.0, 0.0):
            values = values.astype(np.float64) * conversion + offset
        return values, False

    def _two_times(self, path: str, count: int) -> tuple[None, float, float] | None:
        """Return start and rate of a longer series with two rising timestamps, else None."""
        if count < 3 or "timestamps" not in self._h5.names(path):
            return None
        stored = self._h5.dataset(f"{path}/timestamps")
        time = np.asarray(self._h5.read(stored)) if stored.shape == (2,) else np.empty(0)
        if len(time) == 0 or time.dtype.kind not in "fiu" or not time[0] < time[1]:
            return None
        return None, float(time[0]), float((count - 1) / (time[1] - time[0]))

    def _timing(self, path: str, count: int) -> tuple[np.ndarray | None, float, float | None]:
        """Return explicit times, or start and rate; exactly one of times and rate."""
        names = self._h5.names(path)
        if "timestamps" in names:
            data = self._h5.dataset(f"{path}/timestamps")
            if data.shape != (count,) or data.dtype.kind not in "fiu":
                raise HarmonizeError(
                    f"{self.path.name}: the series `{path}` has {count} samples but "
                    f"{data.size} timestamps; the file is cut or damaged."
                )
            return self._times(data), 0.0, None
        if "starting_time" in names:
            data = self._h5.dataset(f"{path}/starting_time")
            start, rate = number_of(self._h5.read(data)), number_of(data.attrs.get("rate"))
            if start is not None and rate is not None and rate > 0:
                return None, start, rate
        raise HarmonizeError(
            f"{self.path.name}: the series `{path}` has neither `timestamps` nor a "
            "`starting_time` with a rate above 0 Hz."
        )

    def _times(self, data: h5py.Dataset) -> np.ndarray:
        """Return timestamps (read-only); series that share them by a link share one array."""
        address = self._h5.address(data)
        if self._last_times is None or self._last_times[0] != address:
            time = self._h5.read_floats(data)
            time.flags.writeable = False
            self._last_times = address, time
        return self._last_times[1]


def _names_of(attribute: object) -> tuple[str, ...]:
    return tuple(text_of(name) for name in np.atleast_1d(np.asarray(attribute)))


def _column_names(path: str, width: int, ndim: int, comments: str) -> tuple[str, ...]:
    """Return the names of a series' columns: from its comments, or x, y, z, or numbers."""
    listed = re.search(r"columns=\[(.*?)\]", comments)  # as the Neural Latents Benchmark writes
    names = [part.strip(" '\"") for part in listed.group(1).split(",")] if listed else []
    if len(names) == width:
        return tuple(names)
    if ndim == 1:
        return (path.rsplit("/", 1)[-1],)
    return tuple("xyz"[:width]) if width <= 3 else tuple(str(column) for column in range(width))
