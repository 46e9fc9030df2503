"""Measurements of the cost of LGA. ``python -m benchmarks.speed`` runs all and writes ``results/speed``."""
