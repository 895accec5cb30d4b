"""The PyTorch reference, the truth for every runtime."""
