"""Speed and memory of the gated convolution against what it replaces: ``python -m benchmarks --help``."""
