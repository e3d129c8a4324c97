"""A DataLoader of torch whose workers pad batches of spikes: dataloader.py [STORE]."""

import sys
import tempfile

import torch
from torch.utils.data import DataLoader

from spikedata import Batch, Sampler, Store
from spikedata.loading import EpochSteps, as_tensors, loader
from spikedata.testing import make_recording


class Decoder(torch.nn.Module):
    """Averages the vectors of the units that spiked, the nearer in time the heavier."""

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.vector = torch.nn.Embedding(n_units, 2)
        self.log_width = torch.nn.Parameter(torch.tensor(0.1).log())  # s

    def forward(self, batch: dict) -> torch.Tensor:
        """Return the velocity of each sample of each window, padding too, shape (B, M, 2)."""
        sample, spike = batch["targets"]["velocity"]["time"], batch["spike_time"]
        distance = (sample[:, :, None] - spike[:, None, :]) / self.log_width.exp()
        near = torch.exp(-distance.square()) * batch["mask"][:, None, :]
        return near @ self.vector(batch["spike_unit"]) / near.sum(-1, keepdim=True).clamp(min=1)


def padded(batch: Batch) -> dict:
    """Return what the decoder reads; the workers call this."""
    return as_tensors(batch.padded(multiple=8))


def decode(model: Decoder, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return decoded and measured velocity of the samples that are there, each (samples, 2)."""
    target = batch["targets"]["velocity"]
    return model(batch)[target["mask"]], target["values"][target["mask"]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        store = Store(sys.argv[1] if sys.argv[1:] else folder)
        for seed in range(0 if sys.argv[1:] else 3):
            store.write(make_recording(seed, duration=120), {})
        train = Sampler(store, "train", window=1.0, batch_size=16, targets=["velocity"])
        model = Decoder(len(train.unit_ids))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
        for epoch in range(15):
            for batch in loader(train, epoch, workers=2, convert=padded):
                optimizer.zero_grad()
                torch.nn.functional.mse_loss(*decode(model, batch)).backward()
                optimizer.step()
        test = Sampler(store, "test", order="sequential", targets=["velocity"])
        plain = DataLoader(EpochSteps(test), batch_size=None)  # an item is a whole batch already
        pairs = [decode(model, padded(batch)) for batch in plain]
        decoded, velocity = map(torch.cat, zip(*pairs, strict=True))
        left = (decoded - velocity).square().mean()
        print(f"R2 {1 - left / velocity.var(0).mean():.2f}, the mean has 0")
