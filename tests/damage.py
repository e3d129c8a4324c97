"""Damages HDF5 files in every way that was thought of, each by a seeded random generator.

A way takes the path of a file and a `random.Random`, changes the file in place and returns in a few
words what it did. `BYTES` treat the file as bytes, `STRUCTURE` uses h5py to write what is valid
HDF5 but not what a reader expects. `CANARY` is what a file beside holds: no reader may show it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

__all__ = ["BYTES", "CANARY", "STRUCTURE", "damage", "has_endless_heap"]

CANARY = 8461.0625
ODD_NAMES = ("../../escaped", "..", ".", "a/../../b", "tab\tnew\nline", "\x01\x7f", "x" * 5000,
             "é" * 9, "con", "a b", "%2e%2e%2f", "\\..\\x", "-rf")  # fmt: skip
NUMBERS = (np.nan, np.inf, -np.inf, 1e308, -1e308, 0.0, -1.0, 1e18, 5e-324, 2.0**62)

Way = Callable[[Path, random.Random], str]


def damage(path: Path, rng: random.Random, beside: Path) -> str:
    """Damage a file in one to three ways; links out of it lead to the file `beside`."""
    done = []
    kinds = [rng.random() < 0.35 for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    for by_bytes in sorted(kinds):  # the bytes last: h5py need not write into a broken file
        way = rng.choice(BYTES if by_bytes else STRUCTURE)
        try:
            done.append(f"{way.__name__}: {way(path, rng)}")
        except Exception as error:
            done.append(f"{way.__name__} failed: {str(error)[:80]}")  # h5py cannot write that
    return "; ".join(done).replace("BESIDE", str(beside))


def has_endless_heap(path: Path) -> bool:
    """Return whether a heap of texts has a free piece of no length.

    libhdf5 2.0.0 never comes back from such a heap: it steps on by that length, for ever. Zeros
    over the middle of a heap are enough. Nothing in the process can end that.
    """
    data, found = path.read_bytes(), 0
    while (found := data.find(b"GCOL", found)) >= 0:
        size = int.from_bytes(data[found + 8 : found + 16], "little")
        place, end = found + 16, min(found + size, len(data))
        while place + 16 <= end:
            index = int.from_bytes(data[place : place + 2], "little")
            length = int.from_bytes(data[place + 8 : place + 16], "little")
            if index == 0 and length == 0:
                return True
            place += length if index == 0 else 16 + (length + 7) // 8 * 8
        found += 4
    return False


# ------------------------------------------------------------------ bytes


def truncate(path: Path, rng: random.Random) -> str:
    size = path.stat().st_size
    kept = rng.choice([0, 1, 7, 8, 96, 511, 512, 2048, size - 1, rng.randrange(size + 1)])
    with path.open("r+b") as file:
        file.truncate(min(kept, size))
    return f"to {kept} of {size}"


def flip_bits(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    end = rng.choice([len(data), len(data), min(len(data), 4096), min(len(data), 65536)])
    places = [(rng.randrange(max(end, 1)), rng.randrange(8)) for _ in range(rng.randint(1, 64))]
    for place, bit in places if data else ():
        data[place] ^= 1 << bit
    path.write_bytes(data)
    return f"{len(places)} below {end}"


def overwrite(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    length = rng.choice([1, 4, 8, 64, 512, 4096, 50_000])
    begin = rng.randrange(max(len(data), 1))
    fill = rng.choice([b"\x00", b"\xff", b"\x7f", None])
    end = min(begin + length, len(data))
    data[begin:end] = rng.randbytes(end - begin) if fill is None else fill * (end - begin)
    path.write_bytes(data)
    return f"[{begin}, {end}) with {fill!r}"


def copy_range(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    length = rng.choice([8, 64, 512, 4096])
    first, second = rng.randrange(max(len(data), 1)), rng.randrange(max(len(data), 1))
    data[second : second + length] = data[first : first + length]
    path.write_bytes(data)
    return f"{length} from {first} to {second}"


def insert(path: Path, rng: random.Random) -> str:
    data = path.read_bytes()
    place = rng.randrange(max(len(data), 1))
    length = rng.choice([1, 8, 512])
    path.write_bytes(data[:place] + rng.randbytes(length) + data[place:])
    return f"{length} at {place}"


def replace_text(path: Path, rng: random.Random) -> str:
    """Change a name as it lies in the file."""
    data = path.read_bytes()
    words = [b"spike_times", b"timestamps", b"data", b"colnames", b"units", b"_index", b"spikes",
             b"unit", b"MATLAB_empty", b"start_time", b"TREE", b"SNOD", b"HEAP", b"OHDR",
             b"GCOL"]  # fmt: skip
    known = [word for word in words if word in data]
    word = rng.choice(known or [b"\x00"])
    other = bytearray(word)
    other[rng.randrange(len(other))] = rng.randrange(256)
    path.write_bytes(data.replace(word, bytes(other), rng.choice([1, 1, 3, -1])))
    return f"{word!r} to {bytes(other)!r}"


# ------------------------------------------------------------------ structure


def _everything(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return sorted(found)


def _pick(file: h5py.File, rng: random.Random, kind: type | None = None) -> str:
    """Return the path of an object, of cached schemas and MATLAB's cells only now and then."""
    names = [name for name in _everything(file) if kind is None or isinstance(file[name], kind)]
    plain = [name for name in names if not name.startswith(("#refs#/", "specifications"))]
    return rng.choice(plain if plain and rng.random() < 0.9 else names)


def _holders(file: h5py.File, rng: random.Random) -> list[str]:
    """Return the paths of what has attributes, of cached schemas and cells only a few."""
    names = [name for name in ["/", *_everything(file)] if len(file[name].attrs)]
    dull = ("#refs#/", "specifications")
    return [name for name in names if not name.startswith(dull) or rng.random() < 0.05]


def delete(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng)
        del file[name]
    return name


def delete_attribute(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        holders = _holders(file, rng)
        name = rng.choice(holders)
        key = rng.choice(sorted(file[name].attrs))
        del file[name].attrs[key]
    return f"{name}@{key}"


def _odd_value(file: h5py.File, rng: random.Random) -> object:
    compound = np.zeros(3, [("a", "f8"), ("b", "S4")])
    return rng.choice([
        lambda: np.float64(rng.choice(NUMBERS)), lambda: np.zeros((2, 3, 4)), lambda: compound,
        lambda: h5py.Empty("f8"), lambda: h5py.Empty(h5py.string_dtype()), lambda: b"\xff\xfe\x00",
        lambda: "x" * 60_000, lambda: file.ref, lambda: np.array([1 + 2j]), lambda: np.zeros(0),
        lambda: np.array(["a", "b\x00c"], h5py.string_dtype()), lambda: np.int64(-(2**63)),
        lambda: "../../escaped", lambda: np.array([b"../x"] * 3), lambda: np.bool_(True),
        lambda: np.array([[file.ref]], h5py.ref_dtype), lambda: h5py.Reference(),
        lambda: np.array([np.arange(3.0)], dtype=object), lambda: np.uint64(2**64 - 1),
        lambda: np.array(rng.choices(ODD_NAMES, k=3), h5py.string_dtype()),
    ])()  # fmt: skip


def change_attribute(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        holders = _holders(file, rng)
        name = rng.choice(holders)
        used = {key for one in holders for key in file[one].attrs}
        key = rng.choice([*sorted(file[name].attrs), *sorted(used), "conversion", "offset", "rate",
                          "unit", "comments", "colnames", "MATLAB_empty"])  # fmt: skip
        value = _odd_value(file, rng)
        if isinstance(value, np.ndarray) and value.dtype == object and value.shape == (1,):
            file[name].attrs.create(key, value, dtype=h5py.vlen_dtype(np.float64))
        else:
            file[name].attrs[key] = value
    return f"{name}@{key} = {str(value)[:40]!r}"


def change_kind(path: Path, rng: random.Random) -> str:
    """Give a dataset another type of the same shape, or its values as another type."""
    kinds: list[object] = [
        "i1", "u8", "f2", "f4", "i8", "c16", "S3", "?", h5py.string_dtype(), h5py.ref_dtype, "V7",
        h5py.regionref_dtype, h5py.vlen_dtype(np.int32), h5py.enum_dtype({"A": 0, "B": 1}, "i1"),
        [("a", "f8"), ("b", "i4")], ("f8", (3,)), np.longdouble, ">f8",
    ]  # fmt: skip
    with h5py.File(path, "r+") as file:
        name, kind = _pick(file, rng, h5py.Dataset), rng.choice(kinds)
        old, attrs = file[name], dict(file[name].attrs)
        values = old[()] if old.shape is not None else 0.0
        del file[name]
        try:
            simple = isinstance(kind, str | type) and np.dtype(kind).kind in "fiub?cS"
            if not simple or np.asarray(values).dtype.kind == "O":  # h5py crashes on some of those
                raise TypeError
            data = file.create_dataset(name, data=values, dtype=kind)
        except (TypeError, ValueError, OSError):
            file.pop(name, None)
            data = file.create_dataset(name, np.shape(values), kind)
        data.attrs.update(attrs)
    return f"{name} is {kind}"


def change_shape(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng, h5py.Dataset)
        attrs, kind, size = dict(file[name].attrs), file[name].dtype, file[name].size or 0
        shape = rng.choice(
            [(), None, (0,), (1,), (size, 1), (1, size), (size + 1,), (max(size - 1, 0),), (0, 0),
             (2,) * 8, (size, 0), (3, 2), (size, 2, 1), (1,) * 32]
        )  # fmt: skip
        values = np.atleast_1d(np.asarray(file[name][()])).ravel() if size else None
        del file[name]
        if shape is None:
            data = file.create_dataset(name, data=h5py.Empty(kind))
        else:
            data = file.create_dataset(name, shape, kind)
            if values is not None and data.size and data.ndim == 1:
                data[: min(len(values), len(data))] = values[: min(len(values), len(data))]
        data.attrs.update(attrs)
    return f"{name} is {shape}"


def claim_much(path: Path, rng: random.Random) -> str:
    """Claim a huge shape, with no data behind it or with data that compress very well."""
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng, h5py.Dataset)
        attrs, kind = dict(file[name].attrs), file[name].dtype
        size = rng.choice([10**7, 2 * 10**8, 2**31, 2**40, 2**61])
        shape = rng.choice([(size,), (size,), (size, 2), (2, size), (size // 1000, 1000)])
        del file[name]
        chunk = tuple(min(side, 10_000) for side in shape)
        data = file.create_dataset(name, shape, kind, chunks=chunk, compression="gzip")
        data.attrs.update(attrs)
        for other in (f"{name}_index",):
            if other in file and rng.random() < 0.5 and file[other].dtype.kind in "iu":
                file[other][-1:] = min(size, np.iinfo(file[other].dtype).max)
    return f"{name} claims {shape}"


def claim_much_often(path: Path, rng: random.Random) -> str:
    """Claim a moderate shape for everything in one group: each alone would pass."""
    with h5py.File(path, "r+") as file:
        group = file[_pick(file, rng, h5py.Group)]
        names = [name for name in group if isinstance(group.get(name), h5py.Dataset)][:100]
        size = rng.choice([10**6, 10**7, 3 * 10**7])
        for name in names:
            attrs, kind, ndim = dict(group[name].attrs), group[name].dtype, group[name].ndim
            del group[name]
            shape = (size,) if ndim < 2 else (2, size)
            data = group.create_dataset(name, shape, kind, chunks=(min(size, 10**5),) if ndim < 2
                                        else (1, 10**5), compression="gzip")  # fmt: skip
            data.attrs.update(attrs)
    return f"{group} {size}: {names[:5]}"


def link_elsewhere(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng)
        other = f"/{_pick(file, rng)}"
        links: list[object] = [
            h5py.SoftLink(f"/{name}"), h5py.SoftLink("/nowhere/at/all"), h5py.SoftLink("/"),
            h5py.SoftLink(other), h5py.SoftLink("."), h5py.SoftLink("../../.."),
            h5py.ExternalLink("beside.h5", "/canary"), h5py.ExternalLink(path.name, "/"),
            h5py.ExternalLink("/etc/hostname", "/"), h5py.ExternalLink("/dev/zero", "/x"),
            h5py.ExternalLink("beside.h5", "/group"),
        ]  # fmt: skip
        link = rng.choice(links)
        del file[name]
        file[name] = link
    return f"{name} -> {link!r}"


def link_in_a_circle(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng, h5py.Group)
        inner, outer = file[name], file[name.rpartition("/")[0] or "/"]
        inner["circle"] = outer if rng.random() < 0.5 else inner
        inner["soft"] = h5py.SoftLink(f"/{name}/soft")
        inner["other"] = h5py.SoftLink(f"/{name}/circle/other")
    return name


def soft_loop(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng)
        del file[name]
        file[name] = h5py.SoftLink(f"/{name}_b")
        file[f"{name}_b"] = h5py.SoftLink(f"/{name}")
    return name


def values_elsewhere(path: Path, rng: random.Random) -> str:
    """Make a dataset virtual, or have its values in another file."""
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng, h5py.Dataset)
        attrs, shape = dict(file[name].attrs), file[name].shape or (4,)
        shape = shape or (1,)
        del file[name]
        if rng.random() < 0.5:
            where = rng.choice(["beside.raw", "/etc/hostname", "/dev/zero"])
            size = int(np.prod(shape)) * 8
            data = file.create_dataset(name, shape, "f8", external=[(where, 0, max(size, 8))])
        else:
            layout = h5py.VirtualLayout(shape, "f8")
            where = rng.choice(["beside.h5", path.name, "."])
            layout[...] = h5py.VirtualSource(where, "canaries", shape)
            data = file.create_virtual_dataset(name, layout, fillvalue=1.0)
        data.attrs.update(attrs)
    return f"{name} in {where}"


def change_references(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        names = [name for name in _everything(file) if isinstance(file[name], h5py.Dataset)
                 and h5py.check_ref_dtype(file[name].dtype) is h5py.Reference]  # fmt: skip
        if not names:
            return "none there"
        name = rng.choice(names)
        data = file[name]
        other = rng.choice([file.ref, h5py.Reference(), data.ref, file[_pick(file, rng)].ref,
                            file[_pick(file, rng, h5py.Group)].ref])  # fmt: skip
        values = data[()]
        flat = np.asarray(values, dtype=object).ravel()
        for place in [rng.randrange(len(flat))] if rng.random() < 0.5 else range(len(flat)):
            flat[place] = other
        data[...] = flat.reshape(data.shape)
    return name


def nest(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        node = file[_pick(file, rng, h5py.Group)]
        depth = rng.choice([20, 200, 600])
        for _ in range(depth):
            node = node.create_group("g")
        node["data"], node["timestamps"] = np.zeros(3), np.arange(3.0)
    return f"{depth} deep"


def many(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        node = file[_pick(file, rng, h5py.Group)]
        for number in range(3000):
            node.create_group(f"n{number}")
    return str(node)


def odd_name(path: Path, rng: random.Random) -> str:
    """Move an object to a name that is no name, and tell its table of it."""
    with h5py.File(path, "r+") as file:
        name, new = _pick(file, rng), rng.choice(ODD_NAMES)
        parent = file[name.rpartition("/")[0] or "/"]
        last = name.rpartition("/")[2]
        plain = new.replace("/", "\u2215") if rng.random() < 0.5 else new
        listed = parent.attrs.get("colnames")
        parent.move(last, plain)
        if listed is not None:
            texts = [one.decode() if isinstance(one, bytes) else str(one) for one in listed]
            parent.attrs["colnames"] = np.array(
                [plain if one == last else one for one in texts], h5py.string_dtype()
            )
    return f"{name} to {new[:30]!r}"


def odd_values(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng, h5py.Dataset)
        data = file[name]
        if not data.size:
            return "nothing there"
        values = np.atleast_1d(np.asarray(data[()]))
        flat = values.reshape(-1)
        places = [rng.randrange(len(flat)) for _ in range(rng.choice([1, 3, 50]))]
        if rng.random() < 0.2:
            places = list(range(len(flat)))
        if values.dtype.kind == "f":
            flat[places] = [rng.choice(NUMBERS) for _ in places]
        elif values.dtype.kind in "iu":
            limits = np.iinfo(values.dtype)
            flat[places] = [rng.choice([limits.min, limits.max, 0, 1]) for _ in places]
        elif h5py.check_string_dtype(data.dtype) is not None:
            for place in places:
                flat[place] = rng.choice([b"", b"\xff\xfe", b"../../x", b"\x00", b"y" * 10_000])
        data[...] = values.reshape(data.shape)
    return name


def shuffle_times(path: Path, rng: random.Random) -> str:
    """Sort a dataset backwards, or make all its values the same."""
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng, h5py.Dataset)
        values = file[name][()]
        if not isinstance(values, np.ndarray) or values.size == 0:
            return "nothing there"
        file[name][...] = (
            values[::-1] if rng.random() < 0.5 else np.full_like(values, values.flat[0])
        )
    return name


def swap(path: Path, rng: random.Random) -> str:
    """Let two objects take each other's place."""
    with h5py.File(path, "r+") as file:
        first, second = _pick(file, rng), _pick(file, rng)
        file.move(first, "swapped")
        file.move(second, first)
        file.move("swapped", second)
    return f"{first} and {second}"


def named_type(path: Path, rng: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng)
        del file[name]
        file[name] = np.dtype("f8")
    return name


def one_kind_for_another(path: Path, rng: random.Random) -> str:
    """Put a group where an array was, or an array where a group was."""
    with h5py.File(path, "r+") as file:
        name = _pick(file, rng)
        was = isinstance(file[name], h5py.Group)
        attrs = dict(file[name].attrs)
        del file[name]
        if was:
            file[name] = np.arange(3.0)
        else:
            file.create_group(name)
        file[name].attrs.update(attrs)
    return name


BYTES: tuple[Way, ...] = (
    truncate, flip_bits, flip_bits, flip_bits, overwrite, overwrite, copy_range, insert,
    replace_text,
)  # fmt: skip
STRUCTURE: tuple[Way, ...] = (
    delete, delete_attribute, change_attribute, change_attribute, change_kind, change_kind,
    change_shape, change_shape, claim_much, claim_much_often, link_elsewhere, link_in_a_circle,
    soft_loop, values_elsewhere, change_references, nest, many, odd_name, odd_values, odd_values,
    shuffle_times, swap, named_type, one_kind_for_another,
)  # fmt: skip
