"""Train or run torch_brain's POYO on given windows; a child of bench_train.py.

    python torch_brain_train.py '{"folder": FOLDER, "size": "1.3M", "mode": "dropout", ...}'

The files, dataset, tokenizer and collation are those of torch_brain_sampler.py, all torch_brain's
own; the loop is that of its POYO example but for the optimiser, AdamW as on our side. Its samples
carry a weight of 1 each there, so the loss is the mean squared error over what is no padding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import cycle

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch_brain.batching import collate
from torch_brain.datasets import DatasetIndex
from torch_brain.models import POYO
from torch_brain_sampler import DIRNAME, Padded, forever, names_of, random_windows
from train_work import CHANNELS, KIND, LATENT_STEP, LENGTH, Case, Shape, Work, serve


def make_model(shape: Shape) -> POYO:
    """Return its POYO in some sizes."""
    return POYO(
        sequence_length=LENGTH,
        latent_step=LATENT_STEP,
        num_latents_per_step=shape.latents_per_step,
        dim_out=CHANNELS,
        dim=shape.dim,
        depth=shape.depth,
        dim_head=shape.dim_head,
        cross_heads=shape.cross_heads,
        self_heads=shape.self_heads,
        ffn_dropout=shape.ffn_dropout,
        lin_dropout=shape.residual_dropout,
        atn_dropout=shape.attention_dropout,
    )


def open_dataset(case: Case) -> Padded:
    """Return the dataset over the first recordings, whose windows come out as tokens."""
    return Padded(root=case.folder, recording_ids=names_of(case.recordings), dirname=DIRNAME)


def facts_of(inputs: dict, target: dict) -> np.ndarray:
    """Return tokens, queries, sum of the token times and sum of the values of each window."""
    mask, kept = inputs["input_mask"], target["mask"]
    times = (inputs["input_timestamps"].double() * mask).sum(1)
    values = (target["values"].double() * kept[..., None]).sum((1, 2))
    return torch.stack([mask.sum(1).double(), kept.sum(1).double(), times, values], 1).numpy()


def prepare(case: Case) -> tuple[Callable[[], Work], np.ndarray]:
    """Return what builds the model, and the facts of the given windows.

    The tokenizer is a method of the model, which is built later, when its memory is counted; a
    narrow one with the same units and latents makes the same tokens before.
    """
    dataset = open_dataset(case)
    dataset.model = make_model(replace(case.shape, dim=8, depth=0, dim_head=8))
    dataset.model.init_vocabs(dataset)

    def ready(batch: tuple[dict, dict]) -> tuple[tuple[dict, dict], torch.Tensor]:
        inputs, target = (
            {name: one.to(case.device) for name, one in part.items()} for part in batch
        )  # the model's inputs, and what it is to predict
        return (inputs, target), target["values"][target["mask"]].float()

    batches = []
    for row, start in zip(*case.windows(), strict=True):
        indices = [
            DatasetIndex(name, one, one + LENGTH)
            for name, one in zip(row.tolist(), start.tolist(), strict=True)
        ]
        batches.append(collate([dataset[one] for one in indices]))
    facts = np.concatenate([facts_of(*batch) for batch in batches])
    if case.source == "made":
        drawn = cycle([ready(batch) for batch in batches])
    else:
        loader = DataLoader(
            dataset, batch_size=case.batch_size, sampler=random_windows(dataset),
            collate_fn=collate, num_workers=case.workers, persistent_workers=case.workers > 0,
            drop_last=True,
        )  # fmt: skip
        drawn = map(ready, forever(loader))  # type: ignore[arg-type]  # batches, by collate

    def build() -> Work:
        model = make_model(case.shape)
        model.init_vocabs(dataset)
        model.to(case.device)
        kind = torch.device(case.device).type

        def predict(batch: tuple[dict, dict]) -> torch.Tensor:
            inputs, target = batch
            with torch.autocast(kind, KIND["bfloat16"], enabled=case.precision == "bfloat16"):
                predicted = model(**inputs, output_timestamps=target["timestamps"])
            return predicted[target["mask"]]

        return Work(model, lambda: next(drawn), predict)

    return build, facts


if __name__ == "__main__":
    serve(prepare)
