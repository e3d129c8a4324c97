"""Step our live decoder; a child of bench_latency.py, see latency_work.serve.

python latency_child.py '{"size": "1.3M", "precision": "float32", "units": 100, "steps": 1000}'
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from latency_work import Case, serve
from train_work import CHANNELS, LATENT_STEP, LENGTH, TARGET

from spikedata_model.config import ModelConfig
from spikedata_model.decoder import Decoder
from spikedata_model.poyo import Poyo
from spikedata_model.vocabulary import Vocabulary
from spikedata_model.weights import Weights


def prepare(case: Case) -> Callable[[np.ndarray, np.ndarray, float], np.ndarray]:
    """Return what observes the spikes of a step and predicts at its end."""
    config = ModelConfig(context=LENGTH, latent_step=LATENT_STEP, **vars(case.shape))
    vocabulary = Vocabulary(tuple(f"lab/a/{row}" for row in range(case.units)), ("lab/a",))
    model = Poyo(config, case.units, 1, {TARGET: CHANNELS}, precision=case.precision)
    decoder = Decoder(Weights(model, vocabulary), "lab/a", start=0.0, normalised=True)

    def take(unit: np.ndarray, time: np.ndarray, end: float) -> np.ndarray:
        decoder.observe(unit, time)
        return decoder.predict(end)[TARGET]

    return take


if __name__ == "__main__":
    serve(prepare)
