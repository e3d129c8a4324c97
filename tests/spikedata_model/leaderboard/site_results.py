"""Results of decoders that never ran, and a reader of the pages that show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from spikedata.options import ChronologicalSplit
from spikedata_model.leaderboard.cost import Cost
from spikedata_model.leaderboard.published import Published
from spikedata_model.leaderboard.result import (
    Data,
    Fitted,
    Machine,
    Metrics,
    Pretraining,
    Result,
    Score,
    Summary,
    Trace,
)
from spikedata_model.leaderboard.suite import Budget, Group, Suite

HEX = "0123456789abcdef" * 4


def make_suite(name: str = "reach", **changes: Any) -> Suite:
    """Return a suite of two groups, of three and two recordings, with three label budgets."""
    split = ChronologicalSplit()
    groups = (
        Group(name="CO", title="Centre-out", manifest="monkey-t", target="velocity", split=split,
              recordings={f"perich/t_{k}_CO": f"sha256:{HEX}" for k in range(3)}),
        Group(name="RT", title="Random target", manifest="monkey-t", target="velocity", split=split,
              recordings={f"perich/t_{k}_RT": f"md5:{HEX[:32]}" for k in range(2)}),
    )  # fmt: skip
    given: dict[str, Any] = {
        "title": "Reaching, few labels",
        "description": "Velocity of a hand from spikes of the past.",
        "references": ("10.1101/2025.01.01", "https://example.org/paper?a=1&b=2"),
        "causal": True,
        "step": 0.05,
        "budgets": (Budget(share=0.05), Budget(share=0.25), Budget()),
        "seeds": (0, 1, 2),
        "groups": groups,
    }
    return Suite(name=name, **(given | changes))


def fake_result(
    suite: Suite, /, decoder: str = "ridge", *, skill: float = 0.8, seed: int = 0, **changes: Any
) -> Result:
    """Return what a decoder of some skill would have scored; numbers come from `seed` alone."""
    rng = np.random.default_rng([seed, len(decoder)])
    scores, summaries, fitted = [], [], []
    for group in suite.groups:
        for budget in suite.budgets:
            share = budget.share or 1.0
            mine = [
                _score(suite, group, name, budget.name, share, one, skill, rng)
                for name in group.recordings
                for one in suite.seeds
            ]
            scores += mine
            means = [
                float(np.mean([s.score for s in mine if s.recording_id == name]))
                for name in group.recordings
            ]
            mean, sd = float(np.mean(means)), float(np.std(means))
            summaries.append(
                Summary(group=group.name, budget=budget.name, mean=mean,
                        sd=sd if len(means) > 1 else math.nan, low=mean - 0.03, high=mean + 0.02,
                        n_recordings=len(means), n_seeds=len(suite.seeds),
                        labelled_seconds=600 * share)
            )  # fmt: skip
            fitted += [
                Fitted(recordings=(s.recording_id,), budget=s.budget, seed=s.seed, fit_seconds=1.5,
                       predict_seconds=0.2, decoded_seconds=90.0,
                       about={"alpha": 0.1, "lags": 8, "note": None})
                for s in mine
            ]  # fmt: skip
    given: dict[str, Any] = {
        "suite": suite.name,
        "suite_sha256": suite.sha256,
        "decoder": decoder,
        "kind": "spikedata",
        "description": "Linear, of binned spikes.",
        "causality": "tested" if suite.causal else "free",
        "complete": True,
        "metric": suite.metric,
        "summaries": tuple(summaries),
        "scores": tuple(scores),
        "fitted": tuple(fitted),
        "cost": Cost(parameters=10 ** (3 + 3 * skill), bytes=4 * 10 ** (3 + 3 * skill), macs=2e4,
                     step_p50=1e-4 * (1 + skill), step_p99=3e-4 * 10**skill,
                     normalised_latency=0.004 * 10**skill),
        "pretraining": Pretraining(recordings=("other/one", "other/two"), weights=HEX),
        "data": {name: Data(source=pin, fingerprint=HEX, samples=HEX)
                 for group in suite.groups for name, pin in group.recordings.items()},
        "predictions_sha256": HEX,
        "traces": (make_trace(next(iter(suite.recordings)), rng),),
        "wall_seconds": 321.0,
        "machine": Machine(processor="Some CPU", cores=2, memory_gb=7.6, system="Linux",
                           python="3.11.9", packages={"numpy": "2.0.0", "torch": "2.6.0"}),
        "command": f"spikedata leaderboard run --suite {suite.name} --decoder {decoder}",
        "commit": "0" * 40,
        "spikedata_version": "1.0",
        "date": "2026-01-02",
    }  # fmt: skip
    return Result(**(given | changes))


def _score(suite, group, name, budget, share, seed, skill, rng) -> Score:
    value = skill + 0.08 * float(np.log(share)) + 0.02 * float(rng.standard_normal())
    whole = Metrics(n_samples=900, n_trials=30, r2=(value - 0.01, value + 0.01), r2_uniform=value,
                    r2_weighted=value)  # fmt: skip
    return Score(group=group.name, recording_id=name, budget=budget, seed=seed,
                 labelled_seconds=600 * share, score=value,
                 phases={"all": whole, "hold": whole})  # fmt: skip


def make_trace(name: str, rng: np.random.Generator, n: int = 400) -> Trace:
    """Return four seconds of two channels, with a gap in time and an estimate that is missing."""
    time = 100.25 + np.arange(n) / 100 + np.where(np.arange(n) > n // 2, 2.0, 0.0)
    truth = np.stack([8 * np.sin(time), 5 * np.cos(2 * time)])
    predicted = truth + rng.standard_normal(truth.shape)
    predicted[0, 10] = np.nan
    lines = {"truth": tuple(map(tuple, truth)), "predicted": tuple(map(tuple, predicted))}
    return Trace(recording_id=name, columns=("x", "y"), unit="cm/s", time=tuple(time), **lines)


def make_paper(suite: str = "reach", group: str = "CO", **changes: Any) -> Published:
    """Return a number of a paper."""
    given: dict[str, Any] = {
        "method": "Theirs", "metric": "R²", "value": 0.999, "causality": "causal",
        "protocol": "other trials", "source": "A paper, table 2", "address": "10.1101/2025.02.02",
        "read": "from the paper",
    }  # fmt: skip
    return Published(suite=suite, group=group, **(given | changes))


def make_results(suite: Suite) -> list[Result]:
    """Return results of seven decoders: one incomplete, one of another version of the suite."""
    skills = {"wiener": 0.62, "ridge": 0.66, "kalman": 0.6, "mlp": 0.81, "gru": 0.84, "poyo": 0.86}
    found = [
        fake_result(suite, name, skill=skill, seed=k)
        for k, (name, skill) in enumerate(skills.items())
    ]
    claimed = {"kind": "third party", "causality": "claimed", "cost": None, "pretraining": None}
    found.append(fake_result(suite, "nearly there", skill=0.95, seed=8, complete=False, **claimed))
    found.append(fake_result(suite, "older", skill=0.99, seed=9, suite_sha256="0" * 64))
    return found


# ------------------------------------------------------------------ reading pages


class Page(HTMLParser):
    """The elements of a page in order, its addresses, and the text that it would show."""

    VOID = frozenset({"br", "col", "hr", "img", "input", "link", "meta"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.shown: list[str] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()
        self.unbalanced += self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        self.shown.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def text(self) -> str:
        return "".join(self.shown)

    @property
    def addresses(self) -> list[str]:
        return [value or "" for _, attributes in self.found for name, value in attributes.items()
                if name in ("href", "src")]  # fmt: skip

    @property
    def shape(self) -> list[tuple[str, tuple[str, ...]]]:
        """Every element with the names of its attributes."""
        return [(name, tuple(attributes)) for name, attributes in self.found]


def read_site(paths: Sequence[Path]) -> dict[Path, Page]:
    return {p: Page(p.read_text(encoding="utf-8")) for p in paths if p.suffix == ".html"}
