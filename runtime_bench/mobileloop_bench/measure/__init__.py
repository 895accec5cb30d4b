"""Measuring: what takes turns, what is watched beside it, what the samples say."""
