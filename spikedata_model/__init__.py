"""A compact POYO that trains on spikedata windows, adapts and is evaluated."""
