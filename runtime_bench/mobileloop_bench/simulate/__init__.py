"""Simulated caches: traffic of a model on machines that are not here."""
