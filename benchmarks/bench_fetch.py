"""Measure how fast `spikedata fetch` brings one large file and many small ones, and its memory.

Beside plain downloaders from the same loopback server (aria2c and curl over as many connections,
which check nothing), the field's own tool (`dandi download`) and the floor (a copy of the files on
the same disk). Each tool runs as a process of its own. Every row counts until the bytes are on the
disk: what a tool does not sync itself is synced after it and counted. A second table has a server
limited to the rate of a gigabit line.

    python benchmarks/bench_fetch.py --out benchmarks/results/fetch.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from archive_server import DANDISET, VERSION, describe
from common import write_result

HERE = Path(__file__).resolve().parent
CONNECTIONS = 4
GIGABIT = 117.0  # MB/s of payload on a gigabit line

SPIKEDATA = """
import json, sys, time
from pathlib import Path
from spikedata.fetch import fetch
from spikedata.manifest import load_manifest
begin = time.perf_counter()
results = fetch(load_manifest(sys.argv[1]), Path(sys.argv[2]), jobs=int(sys.argv[3]))
seconds = time.perf_counter() - begin
assert all(one.status == "done" for one in results), results
print(json.dumps({"call": seconds}))
"""
DANDI = """
import json, sys, time
from dandi.download import download, DownloadFormat
begin = time.perf_counter()
download(sys.argv[1], sys.argv[2], jobs=int(sys.argv[3]), format=DownloadFormat.DEBUG)
print(json.dumps({"call": time.perf_counter() - begin}))
"""


# ------------------------------------------------------------------ what is served


def make_files(folder: Path, count: int, size: int) -> None:
    """Write `count` files of `size` random bytes and their digests."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for number in range(count):
        with (folder / f"file{number:04d}.nwb").open("wb") as file:
            for _ in range(size // (1 << 20)):
                file.write(rng.randbytes(1 << 20))
            file.write(rng.randbytes(size % (1 << 20)))
    describe(folder)


@contextmanager
def served(folder: Path, rate: float | None) -> Iterator[dict[str, str]]:
    """Serve a folder in a process of its own."""
    command = [sys.executable, str(HERE / "archive_server.py"), str(folder)]
    command += ["--rate", str(rate)] if rate else []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())
        server.stdin.close()


def names_of(folder: Path) -> dict[str, dict]:
    """Return what is served, by file name."""
    return json.loads((folder / "digests.json").read_text())


# ------------------------------------------------------------------ how it is fetched


def spikedata_command(folder: Path, at: dict[str, str], out: Path) -> list[str]:
    """Return the command of `spikedata`, with the manifest that it needs."""
    lines = [
        'name = "bench"', 'title = "Bench"', "[[datasets]]", 'id = "data"', 'title = "Data"',
        'licence = "CC0-1.0"', 'citation = "Nobody"',
        f'source = {{ kind = "dandi", dandiset = "{DANDISET}", version = "{VERSION}", '
        f'api_url = "{at["api"]}" }}',
    ]  # fmt: skip
    for name, about in names_of(folder).items():
        lines += [
            "[[datasets.assets]]", f'path = "sub-1/{name}"', f"size = {about['size']}",
            f'sha256 = "{about["digests"]["dandi:sha2-256"]}"', f'session = "{name[:-4]}"',
            f'asset_id = "{about["asset_id"]}"',
        ]  # fmt: skip
    manifest = out.parent / "bench.toml"
    manifest.write_text("\n".join(lines))
    return [sys.executable, "-c", SPIKEDATA, str(manifest), str(out), str(CONNECTIONS)]


def dandi_command(folder: Path, at: dict[str, str], out: Path) -> list[str]:
    """Return the command of `dandi download`."""
    url = f"{at['api']}/dandisets/{DANDISET}/versions/{VERSION}/"
    return [sys.executable, "-c", DANDI, url, str(out), str(CONNECTIONS)]


def aria2c_command(folder: Path, at: dict[str, str], out: Path) -> list[str]:
    """Return the command of aria2c: several files at a time, a large one in as many pieces."""
    lists = out.parent / "urls.txt"
    lists.write_text("".join(f"{at['store']}/blobs/{name}\n" for name in names_of(folder)))
    return [
        "aria2c", "--quiet", "--file-allocation=none", f"--dir={out}", f"--input-file={lists}",
        f"--max-concurrent-downloads={CONNECTIONS}", f"--split={CONNECTIONS}",
        f"--max-connection-per-server={CONNECTIONS}",
    ]  # fmt: skip


def curl_command(folder: Path, at: dict[str, str], out: Path) -> list[str]:
    """Return the command of curl: several files at a time, or ranges of one, each to a file."""
    names = names_of(folder)
    config = []
    for name, about in names.items():
        parts = CONNECTIONS if len(names) == 1 else 1
        step = -(-about["size"] // parts)
        for part in range(parts):
            config += [f'url = "{at["store"]}/blobs/{name}"', f'output = "{out}/{name}.{part}"']
            if parts > 1:
                config += [f'range = "{part * step}-{min((part + 1) * step, about["size"]) - 1}"']
            config += ["next"]
    file = out.parent / "curl.txt"
    file.write_text("\n".join(config[:-1]))
    return ["curl", "--silent", "--parallel", "--parallel-max", str(CONNECTIONS), "-K", str(file)]


def copy_command(folder: Path, at: dict[str, str], out: Path) -> list[str]:
    """Return the command that copies the files on the disk."""
    return ["cp", "--reflink=never", *(str(folder / name) for name in names_of(folder)), str(out)]


TOOLS: dict[str, Callable[[Path, dict[str, str], Path], list[str]]] = {
    "copy on the disk (floor)": copy_command,
    "aria2c": aria2c_command,
    "curl": curl_command,
    "spikedata fetch": spikedata_command,
    "dandi download": dandi_command,
}
PROGRAMS = {"aria2c": "aria2c", "curl": "curl"}


# ------------------------------------------------------------------ measuring


class Peak(threading.Thread):
    """Watches the peak memory of a process, in kB: its own, not what it inherits at its start."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.status, self.value = Path(f"/proc/{pid}/status"), 0
        self.start()

    def run(self) -> None:
        """Look again and again until the process is gone."""
        with suppress(OSError, IndexError):
            while True:
                self.value = int(self.status.read_text().split("VmHWM:")[1].split()[0])
                time.sleep(0.02)


def measure(command: list[str], out: Path) -> dict[str, float]:
    """Run a command once; return seconds until it ended and until all is on the disk."""
    out.mkdir(parents=True)
    os.sync()
    begin = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "DANDI_NO_ET": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    peak = Peak(process.pid)
    with process.stdout:
        printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ended = time.perf_counter() - begin
    os.sync()
    on_disk = time.perf_counter() - begin
    if process.returncode:
        raise RuntimeError(f"{command[:3]} ended with {process.returncode}")
    lines = [line for line in printed.splitlines() if line.startswith('{"call"')]
    call = json.loads(lines[-1])["call"] if lines else ended
    return {
        "process_s": ended,
        "on_disk_s": on_disk,
        "call_s": call,
        "startup_s": ended - call,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": peak.value / 1024,
    }


def bytes_in(folder: Path) -> int:
    """Return how many bytes the files in and below a folder hold."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def run(name: str, count: int, size: int, rate: float | None, repeats: int, work: Path) -> dict:
    """Return the figures of every tool for one set of files; tools take turns."""
    folder = work / f"{count}x{size}"
    if not folder.exists():
        make_files(folder, count, size)
    total = count * size
    runs: dict[str, list[dict[str, float]]] = {}
    with served(folder, rate) as at:
        for turn in range(repeats + 1):  # the first is not counted: it warms the caches
            for tool, command in TOOLS.items():
                if tool in PROGRAMS and shutil.which(PROGRAMS[tool]) is None:
                    continue
                out = work / "out"
                figures = measure(command(folder, at, out), out)
                found = bytes_in(out)
                assert found >= total, f"{tool} left {found} of {total} bytes"
                shutil.rmtree(out)
                if turn:
                    runs.setdefault(tool, []).append(figures)
    rows = {
        tool: {key: statistics.median(one[key] for one in turns) for key in turns[0]}
        | {"spread_s": [min(t["on_disk_s"] for t in turns), max(t["on_disk_s"] for t in turns)]}
        for tool, turns in runs.items()
    }
    return {"name": name, "files": count, "bytes": total, "rate_mb_s": rate, "tools": rows}


def main(arguments: list[str] | None = None) -> dict:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fetch.json")
    parser.add_argument("--large", type=int, default=2_000_000_000, help="bytes of the one file")
    parser.add_argument("--small", type=int, nargs=2, default=(500, 1_000_000))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write, some 5 GB")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--rates", type=float, nargs="*", default=[0.0, GIGABIT])
    given = parser.parse_args(arguments)
    for tool in TOOLS.keys() - set(given.tools):
        del TOOLS[tool]
    sets = []
    with tempfile.TemporaryDirectory(dir=given.folder) as work:
        for rate in given.rates:
            for name, count, size in (("one large file", 1, given.large),
                                      ("many small files", *given.small)):  # fmt: skip
                one = run(name, count, size, rate or None, given.repeats, Path(work))
                sets.append(one)
                for tool, row in one["tools"].items():
                    print(f"{name}, {rate or 'no'} limit, {tool}: {row}")
    result = {
        "connections": CONNECTIONS,
        "repeats": given.repeats,
        "dandi": version("dandi"),
        "sets": sets,
    }
    write_result(given.out, result)
    return result


if __name__ == "__main__":
    main()
