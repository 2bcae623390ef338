"""Reproductions and benchmarks; run them as ``python -m experiments.NAME``."""
