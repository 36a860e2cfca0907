"""Datasets: signed manifests, encrypted files, and the Spark session in which a job's program sees them as tables."""
