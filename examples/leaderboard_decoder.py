"""A decoder of your own: spikedata leaderboard run --decoder leaderboard_decoder.py:LaggedRidge."""

import numpy as np

BINS, WIDTH = 10, 0.05  # s: half a second before a sample, and after it where that is allowed
PENALTIES = [1, 10, 100, 1e3, 1e4]


class LaggedRidge:
    """Ridge regression on lagged spike counts, in thirty lines."""

    def fit(self, sessions, rules):
        self.step, self.units, self.weights = rules.step if rules.causal else None, {}, {}
        for session in sessions:
            name = session.recording_id
            self.units[name] = len(session.unit_ids)
            x, y = self.stacked(session.train)
            later, truth = self.stacked(session.valid or session.train)
            squares, products = x.T @ x, x.T @ y
            tried = [
                np.linalg.solve(squares + a * np.eye(len(squares)), products) for a in PENALTIES
            ]
            errors = [((later @ w - truth) ** 2 / (y.var(0) + 1e-9)).sum() for w in tried]
            self.weights[name] = tried[np.argmin(errors)]

    def stacked(self, segments):
        return np.vstack([*map(self.counts, segments)]), np.vstack([one.values for one in segments])

    def counts(self, segment):  # of every unit in every bin around every sample
        time, row = segment.estimates(self.step) if self.step else (segment.time, slice(None))
        edges = time[:, None] + WIDTH * np.arange(-BINS, 1 if self.step else BINS + 1)
        found = [np.full((len(time), 1), 100.0)]  # the mean: so large that no penalty is felt
        for unit in range(self.units[segment.recording_id]):
            own = segment.spike_time[segment.spike_unit == unit]
            found.append(np.diff(np.searchsorted(own, edges)))
        return np.hstack(found)[row]

    def predict(self, segment):
        return self.counts(segment) @ self.weights[segment.recording_id]
