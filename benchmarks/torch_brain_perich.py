"""Process one file of DANDI 000688 with torch_brain's own pipeline; a child of bench_ingest.py.

    python torch_brain_perich.py FILE OUT REPEATS

Prints one line of JSON: seconds of each run, the peak of memory above the imports, versions. The
pipeline needs scikit-learn, scipy and pandas beside torch_brain. Nothing of it is changed.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
from argparse import Namespace
from contextlib import redirect_stdout
from importlib.metadata import version
from io import StringIO
from pathlib import Path

from memory import peak_since, reset_peak


def load_pipeline() -> type:
    """Return the pipeline's class from the installed package."""
    import torch_brain

    folder = Path(torch_brain.__file__).parent / "pipeline" / "brainsets-pipelines"
    path = folder / "perich_miller_population_2018" / "pipeline.py"
    spec = importlib.util.spec_from_file_location("perich_miller_pipeline", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Pipeline


def main() -> None:
    source, out, repeats = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    kind = load_pipeline()
    base = reset_peak()
    seconds = []
    for run in range(repeats):
        target = out / str(run)
        shutil.rmtree(out / str(run - 1), ignore_errors=True)  # its pages are used again
        target.mkdir(parents=True)
        pipeline = kind(raw_dir=source.parent, processed_dir=target, args=Namespace(reprocess=True))
        pipeline.update_status = lambda status: None
        begin = time.perf_counter()
        with redirect_stdout(StringIO()):
            pipeline.process(source)
        seconds.append(time.perf_counter() - begin)
    names = ("torch_brain", "pynwb", "h5py", "numpy", "pandas", "scikit-learn")
    print(
        json.dumps(
            {
                "seconds": seconds,
                "peak_bytes": peak_since(base),
                "versions": {name: version(name) for name in names},
            }
        )
    )


if __name__ == "__main__":
    main()
