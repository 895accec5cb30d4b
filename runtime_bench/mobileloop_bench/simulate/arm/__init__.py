"""Evidence for ARM without a phone: simulated cache misses and counted instructions (docs/arm.md has the figures)."""
