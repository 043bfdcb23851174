"""The operations the model is made of: each fast version beside its naive reference."""

from . import gate, gated_layer
from .context_pool import Padding, context_pool, head_means, pool_slots
from .gated_lightconv import context_gated_lightconv, gated_lightconv

__all__ = [
    "Padding",
    "context_gated_lightconv",
    "context_pool",
    "gate",
    "gated_layer",
    "gated_lightconv",
    "head_means",
    "pool_slots",
]
