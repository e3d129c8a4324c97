"""Measure what pretraining is worth on a new session with few labels, beside starting from scratch.

The question: does one model, trained on several sessions, adapt to another, whose units it never
saw, from few labels? For every seed a model is pretrained once on the sessions of a family
(`adapt_sessions.py`). The held-out session is then learned from the first 1 %, 5 % and 20 % of its
training split, and from all of it: by unit identification, gradual and full finetuning; from
scratch, by the settings of the pretrained model and by a smaller one; and by a Wiener filter. All
but the filter keep the weights that were best on the session's split "valid", which they have
alike; R² at the last step stands beside. Scores are R² on all of the split "test", the mean over
channels.

    python benchmarks/bench_adapt.py --store STORE --results FOLDER \
        --out benchmarks/results/adapt.json --figure docs/images/adapting.png

Every run is kept in --results: what was cut off, by --budget or by hand, goes on from there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from adapt_sessions import Family, real_family, synthetic_family
from common import write_result
from learning_runs import is_kept, kept

from spikedata.store import Store
from spikedata_model.adaptation import begin_with
from spikedata_model.baselines import wiener_predict
from spikedata_model.checkpoint import load_checkpoint, read_run
from spikedata_model.config import Labels, load_config
from spikedata_model.evaluate import Prediction, predict, r2_score
from spikedata_model.finetune import finetune
from spikedata_model.labels import limit_labels
from spikedata_model.train import train
from spikedata_model.weights import Weights, weights_of_run

MODES = ("unit-id", "gradual", "full")
SCRATCH = {"scratch": "", "scratch, small": "model.dim=64 model.depth=1 model.dim_head=16"}
WIENER = "Wiener filter"
METHODS = (WIENER, "unit-id", *SCRATCH, "full", "gradual")  # in the order in which they run
REAL = ("stevenson2011/random_target", "tuning")  # recording, and its scheme 0.7 / 0.1 / 0.2
PRETRAIN = {"synthetic": "train.steps=600", "real": "train.steps=1500"}
"""How long a family's model is pretrained: the parts of the real recording are harder to decode."""

SHARES = (0.01, 0.05, 0.2, 1.0)
CURVE = (0, 50, 100, 200, 300, 500, 1000)
PUBLISHED = {
    "C-CO 2016-10-13": (-0.021, 0.350, 0.640, 0.873, 0.930, 0.951, 0.960),
    "T-RT 2013-08-20": (-0.004, 0.006, 0.079, 0.478, 0.638, 0.722, 0.727),
}
"""R² of POYO-1's unit identification at the steps of `CURVE`, from the arrays behind the figure of
poyo-brain.github.io (Azabou et al. 2023): a good session, of 225 units, and a hard one, of 55."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Later(Exception):
    """The time is up before this run began."""


class Runs:
    """Runs that are kept in a folder, and begun only while there is time."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.folder, self.until = args.results, time.monotonic() + 60 * args.budget
        self.missing = 0

    def get(self, key: dict[str, object], work: Callable[[], dict]) -> dict:
        """Return a kept result, or do the work."""
        if not is_kept(self.folder, key) and time.monotonic() > self.until:
            self.missing += 1
            raise Later
        return kept(self.folder, key, work)


# ------------------------------------------------------------------ one run


def score(one: Prediction) -> float:
    """Return R² on all of the split, the mean over channels."""
    return float(np.mean(r2_score(one.truth, one.predicted)))


def outcome(store: Store, folder: Path) -> dict[str, object]:
    """Return what a finished run scores on the split "test", with its best and its last weights."""
    record, end = read_run(folder), load_checkpoint(folder)
    if end is None:
        raise SystemExit(f"{folder} holds no finished run: delete it, and run this again.")
    data, weights, last = record.data(store), weights_of_run(folder), record.build_model()
    last.load_state_dict(end.model)
    (best,) = predict(weights.model, data, record.config, "test")
    (final,) = predict(last, data, record.config, "test")
    return {
        "r2": score(best),
        "r2_last": score(final),
        "best_step": int(weights.about["step"]),
        "steps": end.step,
        "train_seconds": end.seconds,
        "parameters": sum(one.numel() for one in last.parameters()),
        "valid": [[row["step"], row["mean r2"]] for row in end.curve],
    }


def adapt(
    store: Store, held_out: str, source: Weights, mode: str, share: float, settings: Sequence[str]
) -> dict[str, object]:
    """Return the outcome of adapting to a share of the labels of a session."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        finetune(store, folder, source, mode=mode, recording_ids=[held_out],
                 labels=Labels(share=share), settings=settings)  # fmt: skip
        return outcome(store, folder)


def scratch(
    store: Store, held_out: str, preset: str, share: float, settings: Sequence[str]
) -> dict[str, object]:
    """Return the outcome of training on a share of the labels of a session alone."""
    config = load_config(preset, settings)
    few = config.data.model_copy(update={"labels": Labels(share=share)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        train(store, folder, config.model_copy(update={"data": few}), recording_ids=[held_out])
        return outcome(store, folder)


def wiener(store: Store, held_out: str, share: float) -> dict[str, object]:
    """Return R² of the Wiener filter that is fitted to a share of the labels."""
    recording = limit_labels(store[held_out], Labels(share=share))
    target = recording.targets[0]
    series, test = recording.series[target], recording.split("test")
    rows = [slice(*one) for one in zip(*series.bounds(test.start, test.end), strict=True)]
    truth = np.concatenate([np.asarray(series.values[one], np.float64) for one in rows])
    predicted = wiener_predict(recording, target, recording.split("train"), test)
    r2 = float(np.mean(r2_score(truth, predicted)))
    return {"r2": r2, "r2_last": r2, "labelled_seconds": recording.split("train").duration}


def identify(
    store: Store, held_out: str, source: Weights, settings: Sequence[str], steps: Sequence[int]
) -> dict[str, object]:
    """Return R² on the split "test" by step of unit identification with all labels."""
    every = int(np.gcd.reduce([step for step in steps if step]))
    asked = [f"train.steps={max(steps)}", f"train.evaluate_every={every}",
             "train.curve_split=test", *settings]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        end = finetune(store, folder, source, recording_ids=[held_out], settings=asked)
        record = read_run(folder)
        model = record.build_model()
        begin_with(model, source, {})
        (first,) = predict(model, record.data(store), record.config, "test")
    curve = {0: score(first)} | {int(row["step"]): row["mean r2"] for row in end.curve}
    return {"steps": list(steps), "r2": [curve[step] for step in steps]}


# ------------------------------------------------------------------ one family


def pretrain(store: Store, family: Family, folder: Path, args: argparse.Namespace) -> dict:
    """Train on the sessions of a family, or go on with it; return how well they are decoded."""
    settings = [*pretraining(family, args), *args.set, f"train.seed={family.seed}"]
    config = load_config(args.preset, settings)
    end = train(store, folder, config, recording_ids=family.pretraining)
    record, weights = read_run(folder), weights_of_run(folder)
    found = predict(weights.model, record.data(store), record.config, "test")
    return {"train_seconds": end.seconds, "steps": end.step, "r2": [score(one) for one in found]}


def pretraining(family: Family, args: argparse.Namespace) -> list[str]:
    """Return the settings of a family's pretraining."""
    kind = "synthetic" if family.name == "synthetic" else "real"
    return [*PRETRAIN[kind].split(), *args.pretrain]


def label_of(family: Family) -> dict[str, object]:
    """Return what names a family in keys."""
    return {"family": family.name, "seed": family.seed, "held_out": family.held_out,
            "pretraining": list(family.pretraining)}  # fmt: skip


def methods(
    store: Store, family: Family, source: Path, args: argparse.Namespace
) -> Iterator[tuple[dict[str, object], Callable[[], dict]]]:
    """Yield what each row depends on, and the work."""
    shared = [*args.set, f"train.seed={family.seed}", 'train.keep="best"']
    for name, share in ((name, share) for name in args.methods for share in args.shares):
        key: dict[str, object] = {"method": name, "share": share}
        if name == WIENER:
            yield key, partial(wiener, store, family.held_out, share)
        elif name in MODES:
            settings = [*args.adapt, *shared]
            key |= {"settings": settings, "pretrain": [args.preset, *pretraining(family, args)]}

            def work(mode: str = name, share: float = share, settings: list = settings) -> dict:
                return adapt(store, family.held_out, weights_of_run(source), mode, share, settings)

            yield key, work
        else:
            settings = [*args.scratch, *SCRATCH[name].split(), *shared]
            key |= {"settings": [args.preset, *settings]}
            yield key, partial(scratch, store, family.held_out, args.preset, share, settings)


def measure(store: Store, family: Family, runs: Runs, args: argparse.Namespace) -> dict | None:
    """Return all rows of a family that there was time for."""
    label, settings = label_of(family), pretraining(family, args)
    source = args.results / "pretrained" / f"{family.held_out.replace('/', '-')}"
    rows, curve = [], None
    try:
        key = label | {"what": "pretraining", "settings": [args.preset, *settings, *args.set]}
        before = runs.get(key, partial(pretrain, store, family, source, args))
    except Later:
        return None
    say(f"{family.name}, seed {family.seed}: pretrained, R² {np.mean(before['r2']):.3f}")
    for key, work in methods(store, family, source, args):
        try:
            found = runs.get(label | key, work)
        except Later:
            continue
        rows.append({name: key[name] for name in ("method", "share")}
                    | {name: value for name, value in found.items()
                       if name not in ("key", "valid")})  # fmt: skip
        say(f"  {key['share']:.0%} {key['method']}: R² {found['r2']:.3f}")
    if not args.no_curve:
        adapting = [*args.set, f"train.seed={family.seed}"]
        key = label | {"what": "curve", "settings": adapting, "steps": list(args.steps),
                       "pretrain": [args.preset, *settings]}  # fmt: skip

        def draw() -> dict:
            return identify(store, family.held_out, weights_of_run(source), adapting, args.steps)

        with suppress(Later):
            curve = runs.get(key, draw)["r2"]
    before = {name: one for name, one in before.items() if name != "key"}
    return label | {"settings": settings, "pretrained": before, "rows": rows, "curve": curve}


# ------------------------------------------------------------------ summary


T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Two-sided 95 % points of Student's t for 1, 2, … degrees of freedom; of more, the last."""


def interval(values: Sequence[float]) -> list[float]:
    """Return the mean and a 95 % interval of it by Student's t; of one value, that value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [mean, mean, mean]
    point = T_95[min(len(values) - 1, len(T_95)) - 1]
    half = point * float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return [mean, mean - half, mean + half]


def summary(families: Sequence[dict]) -> list[dict]:
    """Return R² of all seeds and methods by family and share, and unit identification's lead."""
    found = []
    for name in dict.fromkeys(one["family"] for one in families):
        mine = [one for one in families if one["family"] == name]
        for share in dict.fromkeys(row["share"] for one in mine for row in one["rows"]):
            by_seed = [{row["method"]: row["r2"] for row in one["rows"] if row["share"] == share}
                       for one in mine]  # fmt: skip
            methods = dict.fromkeys(method for one in by_seed for method in one)
            lead = [one["unit-id"] - max(one[other] for other in SCRATCH) for one in by_seed
                    if {"unit-id", *SCRATCH} <= set(one)]  # fmt: skip
            found.append({
                "family": name,
                "share": share,
                "r2": {method: [one[method] for one in by_seed if method in one]
                       for method in methods},
                "lead": lead,
                "interval": interval(lead) if lead else None,
            })  # fmt: skip
    return found


# ------------------------------------------------------------------ the run


def families_of(store: Store, args: argparse.Namespace) -> Iterator[Family]:
    """Yield the families of every seed."""
    for seed in args.seeds:
        if "synthetic" in args.families:
            yield synthetic_family(store, args.sessions, seed, args.synthetic_seconds,
                                   args.held_out_seconds)  # fmt: skip
        if "real" in args.families:
            if args.store is None:
                raise SystemExit(f"Say with --store where {REAL[0]} lies, or leave out the family.")
            yield real_family(store, Store(args.store)[REAL[0]], REAL[1], args.parts, seed)


def run(args: argparse.Namespace) -> dict[str, object]:
    """Return everything that was measured."""
    store, runs = Store(args.results / "store", create=True), Runs(args)
    measured = [measure(store, family, runs, args) for family in families_of(store, args)]
    families = [one for one in measured if one is not None]
    if runs.missing:
        say(f"The time is up, {runs.missing} or more runs are missing: run it again to go on.")
    settings = {name: getattr(args, name) for name in
                ("preset", "adapt", "scratch", "set")}  # fmt: skip
    return {"benchmark": "adapt", "seeds": args.seeds, "shares": args.shares,
            "missing": runs.missing, "settings": settings, "curve_steps": list(args.steps),
            "published": PUBLISHED, "families": families, "summary": summary(families)}  # fmt: skip


def show(result: dict) -> None:
    """Print one row a family and share."""
    for one in result["summary"]:
        means = ", ".join(f"{name} {np.mean(r2):.3f}" for name, r2 in one["r2"].items())
        print(f"{one['family']} {one['share']:.0%}: {means}")


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--store", type=Path, help=f"with {REAL[0]}")
    add("--families", nargs="+", default=["synthetic", "real"], choices=["synthetic", "real"])
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--shares", type=float, nargs="+", default=list(SHARES))
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    add("--steps", type=int, nargs="+", default=list(CURVE), help="of unit identification's curve")
    add("--sessions", type=int, default=6, help="synthetic sessions to pretrain on")
    add("--synthetic-seconds", type=float, default=600.0, help="of a session to pretrain on")
    add("--held-out-seconds", type=float, default=1200.0, help="of the synthetic one held out: "
        "1 %% of it are a few trials, without which a channel may never change")  # fmt: skip
    add("--parts", type=int, default=4, help="sessions that the real recording is dealt out to")
    add("--preset", default="poyo-compact")
    add("--pretrain", nargs="*", default=[], help="settings, beside those of the family")
    add("--adapt", nargs="*", default=[], help="settings, beside those of the mode")
    add("--scratch", nargs="*", default=["train.evaluate_every=25"], help="settings")
    add("--set", nargs="*", default=[], help="settings of all runs")
    add("--no-curve", action="store_true")
    add("--budget", type=float, default=60.0, help="minutes after which no run begins")
    add("--results", type=Path, help="where every run is kept; deleted afterwards if not given")
    add("--out", type=Path)
    add("--figure", type=Path, help="where the figure is drawn")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        args.results = args.results or Path(folder)
        result = run(args)
    show(result)
    if args.out:
        write_result(args.out, result)
    if args.figure:
        from adapt_figures import adapt_figure

        args.figure.write_bytes(adapt_figure(result))


if __name__ == "__main__":
    main()
