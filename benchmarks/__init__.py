"""Speed and memory of the gated convolution against what it replaces: ``python -m benchmarks --help``."""

import os

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # torch's profiler, which counts memory, writes lines of no use here
