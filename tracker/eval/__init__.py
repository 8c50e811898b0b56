"""Evaluation protocols of the tracking benchmarks."""
