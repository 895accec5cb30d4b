"""The model of time: what a token should take, from bytes, bandwidth and costs (docs/model-of-time.md)."""
