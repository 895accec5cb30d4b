"""Exporters: a packed model becomes a file, one module per format."""
