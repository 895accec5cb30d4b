"""Quantization schemes (one class each), packed records and the packed model."""
