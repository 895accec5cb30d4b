"""ONNX: one portable file whose loops are functions with an executable body."""
