"""Train or run our POYO on given windows; a child of bench_train.py, see train_work.serve.

python train_child.py '{"folder": FOLDER, "size": "1.3M", "mode": "dropout", ...}'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, cycle
from pathlib import Path

import numpy as np
import torch
from train_work import CHANNELS, LATENT_STEP, LENGTH, TARGET, Case, Work, serve

from spikedata.batch import Batch
from spikedata.sampler import Sampler
from spikedata.store import Store
from spikedata_model.config import ModelConfig
from spikedata_model.evaluate import infer
from spikedata_model.poyo import Poyo
from spikedata_model.step import Inputs, backward
from spikedata_model.tokenizer import Tokenizer, Tokens
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.workers import Workers


def open_sampler(folder: str | Path, recordings: int, batch_size: int) -> Sampler:
    """Return the sampler over the first recordings of the store."""
    store = Store(Path(folder) / "ours")
    ids = sorted(store)[:recordings]
    return Sampler(store, "train", window=LENGTH, batch_size=batch_size, targets=[TARGET],
                   recording_ids=ids)  # fmt: skip


def facts_of(batch: Batch) -> np.ndarray:
    """Return tokens, queries, sum of the token times and sum of the values of each window."""
    units, target = np.diff(batch.unit_offsets), batch.targets[TARGET]
    spikes = [
        one.sum(dtype=np.float64)
        for one in np.split(batch.spike_time, batch.spike_offsets[1:-1])
    ]  # fmt: skip
    values = [one.sum(dtype=np.float64) for one in np.split(target.values, target.offsets[1:-1])]
    tokens = np.diff(batch.spike_offsets) + 2 * units
    ends = units * LENGTH  # START tokens lie at 0
    return np.stack([tokens, np.diff(target.offsets), spikes + ends, values], 1)


def prepare(case: Case) -> tuple[Callable[[], Work], np.ndarray]:
    """Return what builds the model, and the facts of the given windows."""
    sampler = open_sampler(case.folder, case.recordings, case.batch_size)
    ids, names = sampler.unit_ids, sampler.recording_ids
    vocabulary = Vocabulary(tuple(ids.tolist()), tuple(names))
    tokenizer = Tokenizer(vocabulary, ids, names, context=LENGTH)
    index = {name.split("/")[1]: row for row, name in enumerate(names)}

    def ready(batch: Batch) -> tuple[object, torch.Tensor]:
        values = torch.from_numpy(batch.targets[TARGET].values).float()
        return tokenizer(batch).to(case.device), values.to(case.device)

    def loaded() -> Iterator[tuple[object, torch.Tensor]]:
        for step in count():
            yield ready(sampler.batch(*divmod(step, sampler.steps())))

    batches = []
    for row, start in zip(*case.windows(), strict=True):
        recording = np.array([index[name] for name in row.tolist()])
        batches.append(sampler.gather(recording, start, start + LENGTH))
    facts = np.concatenate([facts_of(batch) for batch in batches])
    drawn = cycle([ready(batch) for batch in batches]) if case.source == "made" else loaded()

    def build() -> Work:
        shape = case.shape
        config = ModelConfig(context=LENGTH, latent_step=LATENT_STEP, **vars(shape))
        model = Poyo(config, len(ids), len(names), {TARGET: CHANNELS}, precision=case.precision)
        model.to(case.device)
        workers = Workers(torch.device(case.device), case.precision, case.threads)
        workers.__enter__()  # until the process ends
        seed = count()

        def learn(tokens: Tokens, values: torch.Tensor) -> torch.Tensor:
            inputs = Inputs(
                tokens=tokens,
                target={TARGET: values},
                weight={TARGET: torch.ones(len(values), device=values.device)},
                offsets={TARGET: np.array(tokens.query_offsets)},
                total=values.numel(),
            )
            return backward(model, workers, inputs, [next(seed)])

        def predict(tokens: Tokens) -> torch.Tensor:
            return infer(model, tokens, workers)[TARGET]

        return Work(model, lambda: next(drawn), predict, learn)

    return build, facts


if __name__ == "__main__":
    serve(prepare)
