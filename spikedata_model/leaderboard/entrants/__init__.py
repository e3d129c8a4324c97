"""Decoders that come with spikedata, by the name that `--decoder` takes.

Each module has a class with `fit` and `predict`, see `spikedata_model.leaderboard.protocol`.
"""
