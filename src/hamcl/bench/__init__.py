"""Benchmarks: a run, a grid of runs, the demonstration."""
