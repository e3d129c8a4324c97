"""The layers of the two packages, checked by parsing every import: this file is the document.

A module imports from lower layers only; within a layer only along `EDGES`; from third parties only
what `THIRD_PARTY` lists. Imports inside functions and under TYPE_CHECKING count too. A new module
needs a line in `LAYERS` and in `THIRD_PARTY`, and a reader who agrees with it.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# ------------------------------------------------------------------ the rules

LAYERS: dict[str, list[set[str]]] = {
    "spikedata": [
        {"arrow", "bounds", "errors", "files", "intervals", "mapping", "progress", "ragged",
         "threads", "version"},
        {"batch", "outline", "recording", "tables"},
        {"augment", "augment_units", "catalog", "checks", "choices", "counts", "epochs", "gather",
         "hdf5", "layout", "manifest", "masks", "matlab", "nwb", "opening", "options", "reader",
         "sampler", "selection", "shards", "spikes", "splits", "store", "views", "windows"},
        {"connections", "digests", "draft", "exchange", "exchange_foreign", "exchange_header",
         "exchange_series", "exchange_write", "executors", "export", "far", "folder", "harmonize",
         "harmonize.churchland_shenoy", "harmonize.falcon", "harmonize.generic", "harmonize.nlb",
         "harmonize.odoherty_sabes", "harmonize.perich_miller", "origins", "part", "query",
         "series", "testing", "testing.layouts", "testing.layouts.bundled",
         "testing.layouts.churchland_shenoy",
         "testing.layouts.even_chen", "testing.layouts.falcon", "testing.layouts.grosmark_buzsaki",
         "testing.layouts.nlb", "testing.layouts.odoherty_sabes", "testing.layouts.perich_miller",
         "testing.layouts.peyrache_buzsaki", "testing.layouts.sargolini",
         "testing.layouts.steinmetz", "testing.reaching"},
        {"cache", "carry", "citations", "dandi", "hashing", "lint", "loading", "resolve",
         "transfer", "zenodo"},
        {"archives", "ingest", "inspection", "mirror", "remote", "verify"},
        {"bring", "fetch"},
        {"__init__", "cli", "cli_exchange", "cli_export", "cli_fetch", "cli_ingest", "cli_look",
         "cli_manifest", "cli_mirror", "cli_options", "console"},
    ],
    "spikedata_model": [
        {"config", "cut", "dropout", "errors", "pickle_program", "rotary", "stop", "workers"},
        {"distributed", "geglu", "labels", "local_start", "loss", "tensorboard", "untrusted",
         "vocabulary", "windows"},
        {"attention"},
        {"data", "poyo", "tokenizer", "weight_tensors"},
        {"baselines", "checkpoint", "guards", "journal", "one_window", "optim"},
        {"card", "causal", "predictions", "step", "weights"},
        {"adaptation", "decoder", "evaluate"},
        {"exporting", "figures", "published", "report", "train"},
        {"finetune"},
        {"leaderboard", "leaderboard.cost", "leaderboard.entrants",
         "leaderboard.entrants.poyo_cost", "leaderboard.entrants.poyo_rates",
         "leaderboard.entrants.training", "leaderboard.falcon_tasks", "leaderboard.operations",
         "leaderboard.site_markup", "leaderboard.suite", "leaderboard.sums"},
        {"leaderboard.division", "leaderboard.falcon", "leaderboard.fixtures",
         "leaderboard.protocol", "leaderboard.published", "leaderboard.result",
         "leaderboard.site_axes"},
        {"leaderboard.entrants.binned", "leaderboard.entrants.poyo_sessions",
         "leaderboard.measuring", "leaderboard.metrics", "leaderboard.site_charts",
         "leaderboard.tasks"},
        {"leaderboard.entrants.labelled", "leaderboard.entrants.poyo", "leaderboard.guards",
         "leaderboard.predictions", "leaderboard.site_board", "leaderboard.site_traces"},
        {"leaderboard.decoders", "leaderboard.entrants.live", "leaderboard.scoring",
         "leaderboard.stepping",
         "leaderboard.site_parts"},
        {"leaderboard.entrants.gru", "leaderboard.entrants.kalman", "leaderboard.entrants.linear",
         "leaderboard.entrants.mlp", "leaderboard.runner", "leaderboard.site_data",
         "leaderboard.site_tables", "leaderboard.tables"},
        {"leaderboard.entrants.ridge", "leaderboard.entrants.wiener"},
        {"leaderboard.site_pages"},
        {"leaderboard.site_run"},
        {"leaderboard.site"},
        {"__init__", "cli", "cli_adapt", "cli_leaderboard", "cli_weights"},
    ],
}  # fmt: skip

EDGES: dict[str, set[tuple[str, str]]] = {
    "spikedata": {
        ("intervals", "bounds"),
        ("intervals", "errors"),
        ("augment", "augment_units"),
        ("bounds", "ragged"),
        ("checks", "splits"),
        ("epochs", "windows"),
        ("outline", "recording"),
        ("gather", "windows"),
        ("reader", "gather"),
        ("reader", "windows"),
        ("sampler", "augment"),
        ("sampler", "choices"),
        ("sampler", "epochs"),
        ("sampler", "reader"),
        ("sampler", "windows"),
        ("nwb", "hdf5"),
        ("matlab", "hdf5"),
        ("catalog", "layout"),
        ("opening", "layout"),
        ("store", "catalog"),
        ("store", "layout"),
        ("store", "opening"),
        ("manifest", "options"),
        ("counts", "manifest"),
        ("shards", "manifest"),
        ("selection", "manifest"),
        ("digests", "origins"),
        ("origins", "connections"),
        ("folder", "digests"),
        ("transfer", "hashing"),
        ("fetch", "bring"),
        ("ingest", "remote"),
        ("remote", "archives"),
        ("draft", "series"),
        ("harmonize.falcon", "draft"),
        ("harmonize.falcon", "series"),
        ("harmonize.generic", "draft"),
        ("harmonize.generic", "series"),
        ("harmonize.odoherty_sabes", "draft"),
        ("harmonize.odoherty_sabes", "series"),
        ("harmonize.perich_miller", "draft"),
        ("testing.layouts.bundled", "testing.layouts"),
        ("testing.layouts.falcon", "testing.layouts"),
        ("testing.layouts.nlb", "testing.layouts"),
        ("testing.layouts.odoherty_sabes", "testing.layouts"),
        ("testing.layouts.perich_miller", "testing.layouts"),
        ("testing.layouts.grosmark_buzsaki", "testing.layouts"),
        ("testing.layouts.peyrache_buzsaki", "testing.layouts"),
        ("testing.layouts.sargolini", "testing.layouts"),
        ("testing.layouts.steinmetz", "testing.layouts"),
        ("testing.layouts.peyrache_buzsaki", "testing.layouts.grosmark_buzsaki"),
        ("harmonize.churchland_shenoy", "draft"),
        ("harmonize.churchland_shenoy", "series"),
        ("harmonize.nlb", "draft"),
        ("testing.layouts.churchland_shenoy", "testing.layouts"),
        ("testing.layouts.even_chen", "testing.layouts"),
        ("testing.layouts.even_chen", "testing.layouts.churchland_shenoy"),
        ("exchange", "exchange_foreign"),
        ("exchange", "exchange_header"),
        ("exchange", "exchange_write"),
        ("exchange_foreign", "exchange_series"),
        ("exchange_write", "exchange_header"),
        ("cli", "cli_exchange"),
        ("cli", "cli_export"),
        ("cli", "cli_fetch"),
        ("cli", "cli_ingest"),
        ("cli", "cli_look"),
        ("cli", "cli_manifest"),
        ("cli", "cli_mirror"),
        ("cli", "cli_options"),
        ("cli", "console"),
        ("cli_exchange", "cli_options"),
        ("cli_exchange", "console"),
        ("cli_export", "cli_options"),
        ("cli_export", "console"),
        ("cli_fetch", "cli_options"),
        ("cli_fetch", "console"),
        ("cli_ingest", "cli_options"),
        ("cli_ingest", "console"),
        ("cli_look", "cli_options"),
        ("cli_look", "console"),
        ("cli_manifest", "cli_options"),
        ("cli_manifest", "console"),
        ("cli_mirror", "cli_options"),
        ("cli_mirror", "console"),
        ("cli_options", "console"),
    },
    "spikedata_model": {
        ("cli_adapt", "cli"),
        ("config", "errors"),
        ("data", "tokenizer"),
        ("poyo", "tokenizer"),
        ("report", "figures"),
        ("weight_tensors", "poyo"),
        ("workers", "cut"),
    },
}
"""Imports allowed within a layer, (importer, imported)."""

THIRD_PARTY: dict[str, set[str]] = {
    "spikedata.__init__": set(),
    "spikedata.archives": set(),
    "spikedata.arrow": {"numpy", "pyarrow"},
    "spikedata.augment": {"numpy"},
    "spikedata.augment_units": {"numpy"},
    "spikedata.batch": {"numpy"},
    "spikedata.choices": {"numpy"},
    "spikedata.epochs": {"numpy"},
    "spikedata.reader": {"numpy"},
    "spikedata.gather": {"numpy"},
    "spikedata.outline": {"numpy"},
    "spikedata.windows": {"numpy"},
    "spikedata.ragged": {"numpy"},
    "spikedata.bounds": {"numpy"},
    "spikedata.bring": set(),
    "spikedata.cache": {"pydantic"},
    "spikedata.carry": set(),
    "spikedata.catalog": {"numpy", "pyarrow"},
    "spikedata.checks": {"numpy"},
    "spikedata.citations": set(),
    "spikedata.cli": {"typer"},
    "spikedata.cli_exchange": {"typer"},
    "spikedata.cli_export": {"typer"},
    "spikedata.cli_fetch": {"typer"},
    "spikedata.cli_ingest": {"typer"},
    "spikedata.cli_look": {"typer"},
    "spikedata.cli_manifest": {"typer"},
    "spikedata.cli_mirror": {"typer"},
    "spikedata.cli_options": {"typer"},
    "spikedata.console": {"rich"},
    "spikedata.counts": set(),
    "spikedata.dandi": {"dandi", "keyring", "requests"},
    "spikedata.digests": {"dandischema"},
    "spikedata.draft": {"numpy"},
    "spikedata.errors": set(),
    "spikedata.exchange": {"numpy", "pydantic"},
    "spikedata.exchange_foreign": {"h5py", "numpy"},
    "spikedata.exchange_header": {"numpy", "pydantic"},
    "spikedata.exchange_series": {"h5py", "numpy"},
    "spikedata.exchange_write": {"h5py", "numpy"},
    "spikedata.executors": {"distributed"},
    "spikedata.far": {"aiohttp", "fsspec"},
    "spikedata.export": {"numpy", "pyarrow"},
    "spikedata.fetch": set(),
    "spikedata.files": set(),
    "spikedata.folder": set(),
    "spikedata.harmonize": set(),
    "spikedata.hashing": set(),
    "spikedata.harmonize.falcon": {"numpy"},
    "spikedata.harmonize.churchland_shenoy": {"numpy"},
    "spikedata.harmonize.generic": {"numpy"},
    "spikedata.harmonize.nlb": {"numpy"},
    "spikedata.harmonize.odoherty_sabes": {"numpy"},
    "spikedata.harmonize.perich_miller": {"numpy"},
    "spikedata.hdf5": {"h5py", "numpy"},
    "spikedata.ingest": {"pydantic"},
    "spikedata.inspection": {"numpy", "tomli_w"},
    "spikedata.intervals": {"numpy"},
    "spikedata.layout": {"numpy", "pyarrow", "pydantic"},
    "spikedata.lint": set(),
    "spikedata.loading": {"numpy", "torch"},
    "spikedata.manifest": {"pydantic"},
    "spikedata.mapping": {"pyarrow"},
    "spikedata.masks": {"numpy"},
    "spikedata.matlab": {"h5py", "numpy"},
    "spikedata.mirror": set(),
    "spikedata.nwb": {"h5py", "numpy"},
    "spikedata.opening": {"numpy", "pyarrow"},
    "spikedata.options": {"pydantic"},
    "spikedata.connections": {"certifi", "requests", "urllib3"},
    "spikedata.origins": {"requests", "urllib3"},
    "spikedata.part": set(),
    "spikedata.progress": set(),
    "spikedata.query": {"duckdb", "numpy", "pyarrow"},
    "spikedata.recording": {"numpy", "pyarrow"},
    "spikedata.remote": {"urllib3"},
    "spikedata.resolve": {"pydantic", "tomli_w"},
    "spikedata.sampler": {"numpy"},
    "spikedata.selection": set(),
    "spikedata.series": {"numpy"},
    "spikedata.shards": set(),
    "spikedata.spikes": {"numpy"},
    "spikedata.splits": {"numpy"},
    "spikedata.store": {"pyarrow", "pydantic"},
    "spikedata.threads": set(),
    "spikedata.tables": {"numpy"},
    "spikedata.testing": {"h5py", "hypothesis", "numpy", "pynwb"},
    "spikedata.testing.layouts": set(),
    "spikedata.testing.reaching": {"numpy"},
    "spikedata.testing.layouts.bundled": {"numpy", "pynwb"},
    "spikedata.testing.layouts.churchland_shenoy": {"h5py", "hdmf", "numpy", "pynwb"},
    "spikedata.testing.layouts.even_chen": {"h5py", "hdmf", "numpy", "pynwb"},
    "spikedata.testing.layouts.grosmark_buzsaki": {"h5py", "numpy", "pynwb"},
    "spikedata.testing.layouts.peyrache_buzsaki": {"h5py", "numpy", "pynwb"},
    "spikedata.testing.layouts.sargolini": {"h5py", "numpy", "pynwb"},
    "spikedata.testing.layouts.steinmetz": {"h5py", "numpy", "pynwb"},
    "spikedata.testing.layouts.odoherty_sabes": {"h5py", "numpy"},
    "spikedata.testing.layouts.perich_miller": {"h5py", "numpy", "pynwb"},
    "spikedata.testing.layouts.falcon": {"h5py", "numpy", "pynwb"},
    "spikedata.testing.layouts.nlb": {"h5py", "hdmf", "numpy", "pynwb"},
    "spikedata.transfer": set(),
    "spikedata.verify": {"pydantic"},
    "spikedata.version": set(),
    "spikedata.views": {"numpy", "pandas", "polars", "pyarrow", "pynapple"},
    "spikedata.zenodo": {"requests"},
    "spikedata_model.__init__": set(),
    "spikedata_model.adaptation": {"torch"},
    "spikedata_model.card": {"pydantic"},
    "spikedata_model.finetune": {"pydantic"},
    "spikedata_model.labels": {"numpy"},
    "spikedata_model.leaderboard": set(),
    "spikedata_model.leaderboard.cost": {"pydantic"},
    "spikedata_model.leaderboard.decoders": set(),
    "spikedata_model.leaderboard.division": {"numpy"},
    "spikedata_model.leaderboard.entrants": set(),
    "spikedata_model.leaderboard.entrants.binned": {"numpy"},
    "spikedata_model.leaderboard.entrants.gru": {"numpy", "pydantic", "torch"},
    "spikedata_model.leaderboard.entrants.kalman": {"numpy"},
    "spikedata_model.leaderboard.entrants.labelled": {"numpy"},
    "spikedata_model.leaderboard.entrants.linear": {"numpy", "pydantic"},
    "spikedata_model.leaderboard.entrants.live": {"numpy", "pydantic"},
    "spikedata_model.leaderboard.entrants.mlp": {"numpy", "torch"},
    "spikedata_model.leaderboard.entrants.poyo": {"numpy", "pydantic"},
    "spikedata_model.leaderboard.entrants.poyo_cost": set(),
    "spikedata_model.leaderboard.entrants.poyo_rates": {"numpy"},
    "spikedata_model.leaderboard.entrants.poyo_sessions": {"numpy"},
    "spikedata_model.leaderboard.entrants.ridge": set(),
    "spikedata_model.leaderboard.entrants.training": {"numpy", "torch"},
    "spikedata_model.leaderboard.entrants.wiener": set(),
    "spikedata_model.leaderboard.falcon": {"falcon_challenge", "numpy"},
    "spikedata_model.leaderboard.falcon_tasks": set(),
    "spikedata_model.leaderboard.fixtures": {"pydantic", "tomli_w"},
    "spikedata_model.leaderboard.guards": {"numpy"},
    "spikedata_model.leaderboard.measuring": {"numpy", "torch"},
    "spikedata_model.leaderboard.metrics": {"numpy"},
    "spikedata_model.leaderboard.operations": {"torch"},
    "spikedata_model.leaderboard.predictions": {"numpy", "pyarrow"},
    "spikedata_model.leaderboard.protocol": {"numpy"},
    "spikedata_model.leaderboard.published": {"pydantic"},
    "spikedata_model.leaderboard.result": {"pydantic"},
    "spikedata_model.leaderboard.runner": {"numpy", "pydantic"},
    "spikedata_model.leaderboard.scoring": {"numpy"},
    "spikedata_model.leaderboard.site": set(),
    "spikedata_model.leaderboard.site_axes": set(),
    "spikedata_model.leaderboard.site_board": set(),
    "spikedata_model.leaderboard.site_charts": set(),
    "spikedata_model.leaderboard.site_data": set(),
    "spikedata_model.leaderboard.site_markup": set(),
    "spikedata_model.leaderboard.site_pages": set(),
    "spikedata_model.leaderboard.site_parts": set(),
    "spikedata_model.leaderboard.site_run": set(),
    "spikedata_model.leaderboard.site_tables": set(),
    "spikedata_model.leaderboard.site_traces": set(),
    "spikedata_model.leaderboard.stepping": {"numpy"},
    "spikedata_model.leaderboard.suite": {"pydantic"},
    "spikedata_model.leaderboard.sums": {"numpy"},
    "spikedata_model.leaderboard.tables": {"pydantic"},
    "spikedata_model.leaderboard.tasks": {"numpy"},
    "spikedata_model.stop": set(),
    "spikedata_model.attention": {"torch"},
    "spikedata_model.baselines": {"numpy"},
    "spikedata_model.checkpoint": {"pydantic", "torch"},
    "spikedata_model.causal": {"numpy", "torch"},
    "spikedata_model.cli": {"typer"},
    "spikedata_model.cli_adapt": {"typer"},
    "spikedata_model.cli_leaderboard": {"typer"},
    "spikedata_model.cli_weights": {"typer"},
    "spikedata_model.config": {"pydantic"},
    "spikedata_model.data": {"numpy", "torch"},
    "spikedata_model.cut": set(),
    "spikedata_model.distributed": {"torch"},
    "spikedata_model.dropout": {"numpy", "torch"},
    "spikedata_model.decoder": {"numpy"},
    "spikedata_model.errors": set(),
    "spikedata_model.evaluate": {"numpy", "pydantic", "torch"},
    "spikedata_model.exporting": {"onnxruntime", "torch"},
    "spikedata_model.figures": {"matplotlib", "numpy"},
    "spikedata_model.geglu": {"torch"},
    "spikedata_model.guards": {"torch"},
    "spikedata_model.journal": {"numpy", "torch"},
    "spikedata_model.local_start": {"torch"},
    "spikedata_model.loss": {"numpy", "torch"},
    "spikedata_model.one_window": {"torch"},
    "spikedata_model.optim": {"torch"},
    "spikedata_model.pickle_program": set(),
    "spikedata_model.poyo": {"torch"},
    "spikedata_model.predictions": {"numpy", "pyarrow"},
    "spikedata_model.published": {"pydantic", "torch"},
    "spikedata_model.report": {"numpy", "pyarrow", "pydantic"},
    "spikedata_model.rotary": {"torch"},
    "spikedata_model.step": {"numpy", "torch"},
    "spikedata_model.tensorboard": {"tensorboard"},
    "spikedata_model.tokenizer": {"numpy", "torch"},
    "spikedata_model.train": {"torch"},
    "spikedata_model.untrusted": {"torch"},
    "spikedata_model.vocabulary": {"numpy"},
    "spikedata_model.weight_tensors": {"safetensors", "torch"},
    "spikedata_model.weights": {"pydantic", "torch"},
    "spikedata_model.windows": {"torch"},
    "spikedata_model.workers": {"torch"},
}

SEEN_BY_THE_MODEL = {
    "augment", "batch", "counts", "errors", "files", "intervals", "loading", "manifest", "options",
    "progress", "ragged", "recording", "sampler", "splits", "store", "testing.layouts",
    "testing.layouts.bundled", "testing.layouts.falcon", "testing.layouts.nlb",
    "testing.layouts.perich_miller", "version",
}  # fmt: skip
"""Modules of spikedata that spikedata_model may import; its commands also the next line's."""
SEEN_BY_ITS_CLI = SEEN_BY_THE_MODEL | {"cli", "console"}

MAX_LINES = 400
LONGER: dict[str, tuple[int, str]] = {
    "spikedata.nwb": (440, "one reader for one format; half of it says what files really hold"),
}
"""Modules that may be longer than `MAX_LINES`, up to how many lines, and why."""

SLOW_OR_HEAVY = {"dandi", "distributed", "duckdb", "fsspec", "h5py", "matplotlib",
                 "pandas", "polars", "pynapple", "pynwb", "torch"}  # fmt: skip

# ------------------------------------------------------------------ reading the tree


def modules() -> dict[str, Path]:
    """Return the source file of every module, by its name without the `.__init__` of folders."""
    found = {}
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            steps = list(path.relative_to(ROOT).with_suffix("").parts)
            if steps[-1] == "__init__" and len(steps) > 2:
                steps.pop()
            found[".".join(steps)] = path
    return found


MODULES = modules()
EVERY_MODULE = pytest.mark.parametrize("module", MODULES)


def imports(module: str) -> set[str]:
    """Return every module that a module imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: line {node.lineno}: write absolute imports"
            name = node.module or ""
            inner = {f"{name}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {name}
    return {f"{name}.__init__" if name in LAYERS else name for name in found}


def layer_of(module: str) -> int | None:
    package, _, name = module.partition(".")
    return next((at for at, names in enumerate(LAYERS[package]) if name in names), None)


def split_name(name: str) -> tuple[str, str]:
    package, _, inner = name.partition(".")
    return package, inner


# ------------------------------------------------------------------ the claims


def test_the_tree_was_found():
    assert {"spikedata.errors", "spikedata.harmonize", "spikedata_model.poyo"} <= MODULES.keys()
    assert imports("spikedata.cli_ingest") > {"typer", "spikedata.shards", "spikedata.ingest"}
    assert "torch" in imports("spikedata.loading")


@EVERY_MODULE
def test_every_module_has_a_place(module):
    assert layer_of(module) is not None, (
        f"{module} has no layer: add it to LAYERS in tests/test_architecture.py"
    )
    assert module in THIRD_PARTY, (
        f"{module} has no list of third-party imports: add it to THIRD_PARTY in "
        "tests/test_architecture.py"
    )


def test_every_place_has_a_module():
    listed = {f"{package}.{name}" for package in LAYERS for names in LAYERS[package]
              for name in names}  # fmt: skip
    edges = {f"{package}.{name}" for package in EDGES for edge in EDGES[package] for name in edge}

    assert listed - MODULES.keys() == set()
    assert THIRD_PARTY.keys() - MODULES.keys() == set()
    assert edges - MODULES.keys() == set()
    assert LONGER.keys() - MODULES.keys() == set()


@EVERY_MODULE
def test_imports_point_down(module):
    package, name = split_name(module)
    mine = layer_of(module)
    for imported in imports(module):
        other, inner = split_name(imported)
        if other != package:
            continue
        theirs = layer_of(imported)
        allowed = theirs is not None and mine is not None and (
            theirs < mine or (name, inner) in EDGES[package]
        )  # fmt: skip

        assert allowed, (
            f"{module} (layer {mine}) imports {imported} (layer {theirs}): import from lower "
            "layers only, or argue for a line in EDGES of tests/test_architecture.py"
        )


@pytest.mark.parametrize("package", EDGES)
def test_edges_within_a_layer_are_used_and_make_no_circle(package):
    for importer, imported in EDGES[package]:
        assert layer_of(f"{package}.{importer}") == layer_of(f"{package}.{imported}")
        assert f"{package}.{imported}" in imports(f"{package}.{importer}")
    graphlib.TopologicalSorter(
        {
            importer: {b for a, b in EDGES[package] if a == importer}
            for importer, _ in EDGES[package]
        }
    ).prepare()  # raises CycleError


@EVERY_MODULE
def test_third_parties_are_imported_only_where_they_are_listed(module):
    ours = set(LAYERS)
    outside = {name.partition(".")[0] for name in imports(module)} - ours - sys.stdlib_module_names

    assert outside <= THIRD_PARTY.get(module, set()), (
        f"{module} may not import {sorted(outside - THIRD_PARTY.get(module, set()))}: do it in a "
        "module that may, or argue for a line in THIRD_PARTY of tests/test_architecture.py"
    )


def test_formats_screens_and_torch_stay_where_they_belong():
    """Said twice, here and in THIRD_PARTY, so that a line there is not slipped in."""
    testing = {
        name
        for name, listed in THIRD_PARTY.items()
        if name.startswith("spikedata.testing") and listed - {"numpy"}
    }
    homes = {
        "h5py": {
            "spikedata.exchange_foreign",
            "spikedata.exchange_series",
            "spikedata.exchange_write",
            "spikedata.hdf5",
            "spikedata.matlab",
            "spikedata.nwb",
            *(testing - {"spikedata.testing.layouts.bundled"}),
        },
        "pynwb": testing - {"spikedata.testing.layouts.odoherty_sabes"},  # files of MATLAB
        "dandi": {"spikedata.dandi"},
        "distributed": {"spikedata.executors"},
        "rich": {"spikedata.console"},
        "typer": {
            "spikedata.cli",
            *(
                f"spikedata.cli_{name}"
                for name in (
                    "exchange",
                    "export",
                    "fetch",
                    "ingest",
                    "look",
                    "manifest",
                    "mirror",
                    "options",
                )
            ),
            "spikedata_model.cli",
            "spikedata_model.cli_adapt",
            "spikedata_model.cli_leaderboard",
            "spikedata_model.cli_weights",
        },
        "matplotlib": {"spikedata_model.figures"},
    }
    for library, expected in homes.items():
        assert {name for name, listed in THIRD_PARTY.items() if library in listed} == expected
    for module, listed in THIRD_PARTY.items():
        if module.startswith("spikedata."):
            assert ("torch" in listed) == (module == "spikedata.loading")


@EVERY_MODULE
def test_the_arrow_between_the_packages_points_down(module):
    package, _ = split_name(module)
    crossing = {split_name(one)[1] for one in imports(module) if split_name(one)[0] in LAYERS
                and split_name(one)[0] != package}  # fmt: skip
    allowed = set() if package == "spikedata" else SEEN_BY_THE_MODEL
    if module.startswith("spikedata_model.cli"):
        allowed = SEEN_BY_ITS_CLI

    assert crossing <= allowed


def is_narrowing(test: ast.expr) -> bool:
    """Return whether a test only tells the type checker that something is not None."""
    return isinstance(test, ast.Compare) and ast.unparse(test).endswith(" is not None")


@EVERY_MODULE
def test_nothing_is_checked_with_assert(module):
    """An assert is gone under `python -O`, and its message helps nobody."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    found = [node.lineno for node in ast.walk(tree)
             if isinstance(node, ast.Assert) and not is_narrowing(node.test)]  # fmt: skip

    assert found == [], f"{module}: raise one of the errors of errors.py instead"


@EVERY_MODULE
def test_a_module_can_be_held_in_mind(module):
    limit, _ = LONGER.get(module, (MAX_LINES, ""))
    lines = len(MODULES[module].read_text(encoding="utf-8").splitlines())

    assert lines <= limit, (
        f"{module} has {lines} lines, {limit} are allowed: split it, or give a reason in LONGER "
        "of tests/test_architecture.py"
    )
    assert module not in LONGER or lines > MAX_LINES, f"{module} needs no exception any more"


@pytest.mark.parametrize("module", ["spikedata", "spikedata.cli", "spikedata_model.cli"])
def test_what_is_slow_to_import_is_imported_when_it_is_needed(module):
    """`import spikedata` works without torch or pynwb, and the program answers at once."""
    code = f"import sys, {module}; print(*(set({sorted(SLOW_OR_HEAVY)!r}) & sys.modules.keys()))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
    )

    assert (result.stdout.split(), result.returncode) == ([], 0), result.stderr
