"""A bare loop, saved in mid-epoch, goes on as if never stopped: bare_loop.py [STORE]."""

import sys
import tempfile
from pathlib import Path

import torch

from spikedata import Batch, Sampler, Store
from spikedata.ragged import row_of
from spikedata.testing import make_recording

BINS = 50  # of 20 ms in windows of 1 s


class Linear(torch.nn.Conv1d):  # velocity from the spike counts of half a second
    def forward(self, batch: Batch) -> torch.Tensor:
        spike_bin = (batch.spike_time * BINS).astype(int).clip(max=BINS - 1)  # float32 rounds up
        where = row_of(batch.spike_offsets), batch.spike_unit, spike_bin
        counts = torch.zeros(len(batch), self.in_channels, BINS)
        counts.index_put_(tuple(map(torch.as_tensor, where)), torch.ones(1), accumulate=True)
        one = batch.targets["velocity"]
        at = row_of(one.offsets), (one.time * BINS).astype(int).clip(max=BINS - 1)
        return super().forward(counts).mT[at]  # (samples, 2)


def train(store: Store, path: Path, n_steps: int) -> Linear:
    """Take some steps, from where the checkpoint was saved if there is one; save another."""
    torch.manual_seed(0)
    sampler = Sampler(store, "train", window=1.0, batch_size=16, targets=["velocity"], seed=0)
    model = Linear(len(sampler.unit_ids), 2, kernel_size=25, padding="same")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    epoch, step, *states = torch.load(path) if path.exists() else (0, 0)
    for one, state in zip((model, optimizer), states, strict=False):
        one.load_state_dict(state)
    for _ in range(n_steps):
        batch = sampler.batch(epoch, step)
        error = model(batch) - torch.from_numpy(batch.targets["velocity"].values)
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        epoch, step = (epoch, step + 1) if step + 1 < sampler.steps(epoch) else (epoch + 1, 0)
    print(f"saved before epoch {epoch}, step {step}")
    torch.save((epoch, step, model.state_dict(), optimizer.state_dict()), path)
    return model


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        store, path = Store(sys.argv[1] if sys.argv[1:] else folder), Path(folder, "model.pt")
        for seed in range(0 if sys.argv[1:] else 3):
            store.write(make_recording(seed, duration=120), {})
        train(store, path, n_steps=100)
        model = train(store, path, n_steps=200)  # another day, another process
        test = Sampler(store, "test", order="sequential", targets=["velocity"])
        velocity = torch.cat([torch.from_numpy(one.targets["velocity"].values) for one in test])
        left = (torch.cat([model(one) for one in test]) - velocity).square().mean()
        print(f"R2 {1 - left / velocity.var(0).mean():.2f}, the mean has 0")
