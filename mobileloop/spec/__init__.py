"""A model as data: config, schedule, costs. Nothing here needs PyTorch."""
