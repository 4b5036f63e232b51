"""Scripts that give the figures which the documentation states: ``python -m benchmarks.NAME``."""
