"""Lightning, new windows in every epoch, each rank its own: lightning_module.py [STORE]."""

import sys
import tempfile

import lightning
import torch

from spikedata import Sampler, Store
from spikedata.loading import as_tensors, loader
from spikedata.testing import make_recording

BINS = 50  # of 20 ms in windows of 1 s


def cell(time: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Return window * BINS + bin of each time; float32 may round one up to its window's end."""
    window, bins = torch.repeat_interleave(offsets.diff()), (time * BINS).long()
    return window * BINS + bins.clamp(max=BINS - 1)


class Decoder(lightning.LightningModule):
    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store, self.n_units = store, len(Sampler(store).unit_ids)
        self.gru = torch.nn.GRU(self.n_units, 32, batch_first=True)
        self.readout = torch.nn.Linear(32, 2)

    def training_step(self, batch: dict) -> torch.Tensor:
        """Return the mean squared error of the velocity."""
        at = cell(batch["spike_time"], batch["spike_offsets"]) * self.n_units + batch["spike_unit"]
        size = len(batch["start"]) * BINS * self.n_units
        counts = torch.bincount(at, minlength=size).view(-1, BINS, self.n_units).float()
        decoded, one = self.readout(self.gru(counts)[0]), batch["targets"]["velocity"]
        error = decoded.flatten(0, 1)[cell(one["time"], one["offsets"])] - one["values"]
        return error.square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def train_dataloader(self):  # a new one in every epoch
        ranks = {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}
        sampler = Sampler(self.store, batch_size=16, targets=["velocity"], **ranks)
        return loader(sampler, self.current_epoch, convert=as_tensors)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        store = Store(sys.argv[1] if sys.argv[1:] else folder)
        for seed in range(0 if sys.argv[1:] else 3):
            store.write(make_recording(seed, duration=120), {})
        # Lightning asks for the loader of every epoch, and leaves ranks to the sampler.
        how = {"reload_dataloaders_every_n_epochs": 1, "use_distributed_sampler": False}
        trainer = lightning.Trainer(max_epochs=20, logger=False, enable_checkpointing=False, **how)
        trainer.fit(model := Decoder(store))
        test = Sampler(store, "test", order="sequential", batch_size=1000, targets=["velocity"])
        batch = as_tensors(test.batch(0, 0))
        left = model.training_step(batch) / batch["targets"]["velocity"]["values"].var(0).mean()
        print(f"R2 {1 - left:.2f}, the mean has 0")
