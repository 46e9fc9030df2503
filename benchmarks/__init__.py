"""What LGA costs, measured. ``python -m benchmarks.speed`` runs everything and writes ``results/speed``."""
