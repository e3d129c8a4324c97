"""Makes sessions like those of DANDI 000688: a monkey reaches, units are tuned to the velocity.

Sizes are those of its dataset card (94 units and 720 spikes a second in an average session);
trials and phases have the names that `spikedata.harmonize.perich_miller` gives them. Movements,
tuning and timing are models, not data: what a decoder scores here it need not score there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from spikedata.intervals import IntervalSet
from spikedata.recording import Recording, Series
from spikedata.splits import chronological_split

__all__ = ["make_reaching_session"]

Task = Literal["center_out", "random_target"]

RATE = 100.0  # Hz of the cursor
RADIUS = 8.0  # cm from the centre to a target
FAILED = 0.08  # share of trials without a reward
LEAD = (0.05, 0.15)  # s by which the rates run ahead of the cursor, a unit each
SPEED = 12.0  # cm/s: tuning saturates above, so that speed is not read linearly
BASE_SPREAD = 0.8  # sd of the logarithm of the mean rates
DIRECTION, SPEED_GAIN = 0.9, 0.5  # mean depths of the tuning, relative to the mean rate
DRIFT, DRIFT_TIME = 0.35, 2.0  # sd and time constant (s) of a gain that all units share


@dataclass
class _Plan:
    """What the animal does: moves as (begin, duration, to x, to y), trials and phases."""

    moves: list[tuple[float, float, float, float]] = field(default_factory=list)
    trials: list[tuple[float, float, int, float, str]] = field(default_factory=list)
    phases: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def make_reaching_session(
    seed: int = 0,
    *,
    task: Task = "center_out",
    duration: float = 1200.0,
    units: int = 94,
    spike_rate: float = 720.0,
    dataset: str = "synthetic",
    session: str | None = None,
) -> Recording:
    """Return a session of reaches whose units are cosine-tuned to the velocity, with a speed gain.

    A unit's rate is its mean rate times ``g (1 + d (p . u) w + s w)``, cut off at 0 and scaled
    back to the mean: ``u`` is the direction of the movement, ``w = tanh(speed / 12 cm/s)``, ``p``
    the unit's preferred direction, ``d`` and ``s`` its depths, all of it ahead of the cursor by
    the unit's lead of 0.05 to 0.15 s, and ``g`` a slow gain that all units share. Spikes are
    Poisson, without a memory. Reaches have the speed profile of minimum jerk.

    Parameters
    ----------
    seed : int
        Another seed is another session: other units, other movements.
    task : {"center_out", "random_target"}
        Reaches from the centre to one of eight targets and back, or from target to target,
        four in a trial.
    duration : float
        Length in seconds, from 0; at least 20.
    units : int
        Number of units.
    spike_rate : float
        Spikes a second of all units together, in the mean.
    dataset, session : str
        Parts of the recording's id; the session is ``"<task>_<seed>"`` when not given.

    Returns
    -------
    Recording
        With the series "cursor_velocity" (the target) and "cursor_position" at 100 Hz, the
        tables "trials", "hold", "random", "outlier" (empty) and, for centre-out, "reach",
        "return" and "invalid", the split "chronological" 0.7/0.1/0.2, and the unit columns
        "preferred_x", "preferred_y" and "lead".

    Raises
    ------
    ValueError
        If the task is unknown or the session shorter than 20 s.

    References
    ----------
    Flash and Hogan 1985, J. Neurosci. 5, 1688: minimum jerk. Moran and Schwartz 1999, J.
    Neurophysiol. 82, 2676: direction and speed in one cosine law. The constants above are ours,
    set so that a Wiener filter reads the velocity with an R² of about 0.7.
    """
    if task not in ("center_out", "random_target") or not duration >= 20:
        raise ValueError(
            f"A session of the task '{task}' and {duration} s cannot be made: take 'center_out' "
            "or 'random_target', and at least 20 s."
        )
    rng = np.random.default_rng([seed, 0x688, task == "center_out"])
    recording_id = f"{dataset}/{session or f'{task}_{seed}'}"
    plan = _plan(rng, duration, task)
    count = round(duration * RATE)
    position, velocity = _cursor(plan, np.arange(count) / RATE)
    columns, time, unit = _spikes(rng, velocity, units, spike_rate)
    names = np.array([f"{recording_id}/{one}" for one in range(units)], str)
    domain = IntervalSet.single(0.0, count / RATE)
    axes = ("x", "y")
    return Recording(
        recording_id,
        time,
        unit,
        {"unit_id": names, **columns},
        domain,
        {
            "cursor_velocity": Series(velocity, "cm/s", axes, start=0.0, rate=RATE),
            "cursor_position": Series(position, "cm", axes, start=0.0, rate=RATE),
        },
        _tables(plan, domain),
        {"chronological": chronological_split(domain, 0.7, 0.1, 0.2, 1.0)},
        ("cursor_velocity",),
        {"subject": "synthetic", "task": task, "licence": "CC0-1.0",
         "domain_from": "construction"},
    )  # fmt: skip


# ------------------------------------------------------------------ movements


def _plan(rng: np.random.Generator, duration: float, task: Task) -> _Plan:
    """Return trials until the time is up."""
    plan = _Plan(phases={"hold": []})
    if task == "center_out":
        plan.phases |= {"reach": [], "return": [], "invalid": []}
    add = _center_out_trial if task == "center_out" else _random_target_trial
    end = 0.5
    while (next_end := add(rng, plan, end, duration)) is not None:
        end = next_end
    return plan


def _center_out_trial(
    rng: np.random.Generator, plan: _Plan, start: float, latest: float
) -> float | None:
    """Add hold, reach and return; return the end, or nothing if it would come too late."""
    wait, react, reach, rest, back, pause = rng.uniform(
        [0.5, 0.15, 0.4, 0.2, 0.5, 0.2], [1.2, 0.3, 0.7, 0.5, 0.8, 0.5]
    ).tolist()
    target, rewarded = int(rng.integers(8)), bool(rng.uniform() >= FAILED)
    go = start + wait
    stop = go + react + reach + rest / 2
    end = stop + rest / 2 + back + pause
    if end > latest:
        return None
    angle = target * np.pi / 4
    plan.moves.append((go + react, reach, RADIUS * np.cos(angle), RADIUS * np.sin(angle)))
    plan.moves.append((stop + rest / 2, back, 0.0, 0.0))
    plan.trials.append((start, end, target, go, "R" if rewarded else "F"))
    parts = {"hold": (start, go), "reach": (go, stop), "return": (stop, end)}
    for name, bounds in parts.items() if rewarded else [("invalid", (start, end))]:
        plan.phases[name].append(bounds)
    return end


def _random_target_trial(
    rng: np.random.Generator, plan: _Plan, start: float, latest: float
) -> float | None:
    """Add four reaches; return the end, or nothing if it would come too late."""
    go = start + rng.uniform(0.3, 0.7)
    at, moves = go, []
    for _ in range(4):
        begin, lasts = at + rng.uniform(0.05, 0.25), rng.uniform(0.35, 0.8)
        moves.append((float(begin), float(lasts), *rng.uniform(-RADIUS, RADIUS, 2).tolist()))
        at = begin + lasts
    end = float(at + rng.uniform(0.3, 0.6))
    if end > latest:
        return None
    rewarded = bool(rng.uniform() >= FAILED)
    plan.moves += moves
    plan.trials.append((start, end, -1, float(go), "R" if rewarded else "F"))
    plan.phases["hold"].append((start, float(go)))
    return end


def _cursor(plan: _Plan, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return position (T, 2) in cm and velocity in cm/s at some times, both float32."""
    moves = np.array(
        [(0.0, 1.0, 0.0, 0.0), *plan.moves]
    )  # before all others it stays in the centre
    origin = np.concatenate([np.zeros((1, 2)), moves[:-1, 2:]])
    index = np.maximum(np.searchsorted(moves[:, 0], time, side="right") - 1, 0)
    begin, lasts, to = moves[index, 0], moves[index, 1], moves[index, 2:]
    share = np.clip((time - begin) / lasts, 0, 1)[:, None]
    way = to - origin[index]
    position = origin[index] + way * (10 * share**3 - 15 * share**4 + 6 * share**5)
    velocity = way * 30 * share**2 * (1 - share) ** 2 / lasts[:, None]
    return position.astype(np.float32), velocity.astype(np.float32)


def _tables(plan: _Plan, domain: IntervalSet) -> dict[str, IntervalSet]:
    start, end, target, go, result = (np.array(one) for one in zip(*plan.trials, strict=True))
    columns = {"target_id": target, "go_cue_time": go, "result": result, "valid": result == "R"}
    tables = {"trials": IntervalSet(start, end, columns)}
    named = IntervalSet.empty()
    for name, bounds in plan.phases.items():
        edges = np.array(bounds).reshape(-1, 2)
        tables[name] = IntervalSet(edges[:, 0], edges[:, 1])
        named = named.union(tables[name])
    return tables | {"random": domain.difference(named), "outlier": IntervalSet.empty()}


# ------------------------------------------------------------------ spikes


def _spikes(
    rng: np.random.Generator, velocity: np.ndarray, units: int, spike_rate: float
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return the unit columns, and times and units of the spikes in order of time."""
    angle = rng.uniform(0, 2 * np.pi, units)
    preferred = np.stack([np.cos(angle), np.sin(angle)], 1)
    base = rng.lognormal(0.0, BASE_SPREAD, units)
    base *= spike_rate / base.sum()
    direction = rng.gamma(4.0, DIRECTION / 4, units)
    speed_gain = rng.normal(SPEED_GAIN, SPEED_GAIN / 2, units)
    lead = rng.uniform(*LEAD, units)
    speed = np.hypot(*velocity.T.astype(np.float64))
    reach = np.tanh(speed / SPEED)
    heading = velocity * (reach / np.maximum(speed, 1e-9))[:, None]
    gain = np.exp(DRIFT * _slow_noise(rng, len(velocity)))
    places = np.arange(len(velocity))
    time, unit = [], []
    for one in range(units):
        ahead = np.minimum(places + round(lead[one] * RATE), len(places) - 1)
        drive = (
            1 + direction[one] * heading[ahead] @ preferred[one] + speed_gain[one] * reach[ahead]
        )
        rate = np.maximum(gain * drive, 0.0)
        rate *= base[one] / max(rate.mean(), 1e-9)
        bins = np.repeat(places, rng.poisson(rate / RATE))
        time.append((bins + rng.uniform(0, 1, len(bins))) / RATE)
        unit.append(np.full(len(bins), one, np.int32))
    when, which = np.concatenate(time), np.concatenate(unit)
    order = np.lexsort((which, when))
    order = order[when[order] < len(velocity) / RATE]  # rounding must not reach the end
    columns = {"preferred_x": preferred[:, 0], "preferred_y": preferred[:, 1], "lead": lead}
    return columns, when[order], which[order]


def _slow_noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return noise (count,) of deviation 1 that lasts about `DRIFT_TIME`."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum *= np.exp(-0.5 * (2 * np.pi * np.fft.rfftfreq(count, 1 / RATE) * DRIFT_TIME) ** 2)
    noise = np.fft.irfft(spectrum, count)
    return (noise - noise.mean()) / max(float(noise.std()), 1e-12)
