"""Families of models: how the checkpoints of each are read."""
