"""The operations the model is made of: each fast version beside its naive reference."""

from .context_pool import context_pool
from .gated_lightconv import gated_lightconv

__all__ = ["context_pool", "gated_lightconv"]
