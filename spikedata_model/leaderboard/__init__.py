"""Benchmarks of decoders: suites, guards, baselines, results and their site."""
