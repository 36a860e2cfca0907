"""The data path beside plain Spark: ``python -m benchmarks data``."""
