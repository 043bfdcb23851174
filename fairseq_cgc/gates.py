"""The gates by name, the paper's and what it is compared with."""

from torch import nn

from .context_gate import ConstantGate, ContextGate, LearnedGate, check_choice
from .summary_gate import SummaryGate

GATES = ("context", "constant", "learned", "none", "summary")
# Of ContextGate's options, those that others heed.
HEEDED = {"none": (), "constant": ("activation",), "learned": ("activation",), "summary": ("activation", "shuffle")}


def make_gate(kind: str, num_heads: int, kernel_size: int, channels: int = 0, **options) -> nn.Module | None:
    """One of ``GATES``; None for ``none``, and for kernels of size 1 (section 4.1).

    Args:
        channels: of what a ``SummaryGate`` reads
        **options: ``ContextGate``'s, of which the others take what they heed: ``HEEDED``

    Raises:
        OptionError: (a ValueError) for sizes or choices that do not fit
    """
    check_choice("gate", kind, GATES)
    if kind == "none" or kernel_size == 1:
        return None
    if kind == "context":
        return ContextGate(num_heads, kernel_size, **options)
    options = {name: value for name, value in options.items() if name in HEEDED[kind]}
    if kind == "summary":
        return SummaryGate(channels, num_heads, kernel_size, **options)
    return (ConstantGate if kind == "constant" else LearnedGate)(num_heads, kernel_size, **options)
