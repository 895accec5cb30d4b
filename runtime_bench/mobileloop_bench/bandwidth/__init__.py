"""Read bandwidth: the ceiling, the ladder by working set, the levels found in it."""
