"""mobileloop: deep-thin, weight-shared language models on phone CPUs."""

__version__ = "0.1.0"
