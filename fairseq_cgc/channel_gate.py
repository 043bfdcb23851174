"""Gated Channel Transformation, the competing gate: channels scaled by how strong they are in the sentence."""

import torch
from torch import Tensor, nn

from .ops.common import accumulation_dtype


class GatedChannelTransformation(nn.Module):
    """Scale each channel by a gate computed from all channels' norms over the sentence (Yang et al., CVPR 2020).

    s_c = alpha_c * sqrt(sum_t x_tc^2 + eps); s'_c = s_c / sqrt(mean_c s_c^2 + eps);
    x_tc * (1 + tanh(gamma_c * s'_c + beta_c)). It starts as the identity. The mean over channels is the
    authors' code's; their paper has sqrt(C) / sqrt(sum_c s_c^2 + eps), which differs where activations are
    small. Sums are taken in float32, since those of squares overflow float16.
    ``ops.naive.naive_channel_transformation`` is the reference.

    Args:
        channels: C
        eps: the paper's epsilon, for which it gives no value; the code's 1e-5

    Attributes:
        alpha: C, from 1
        gamma, beta: C, from 0
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.alpha, self.gamma, self.beta = (nn.Parameter(torch.empty(channels)) for _ in range(3))
        self.eps = eps
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.alpha)
        nn.init.zeros_(self.gamma)
        nn.init.zeros_(self.beta)

    def forward(self, x: Tensor) -> Tensor:
        """
        Args:
            x: T x B x C, zero at padding

        Returns:
            T x B x C, in x's dtype; zero at padding
        """
        precise = accumulation_dtype(x)
        alpha, gamma, beta = (parameter.to(precise) for parameter in (self.alpha, self.gamma, self.beta))
        norm = torch.linalg.vector_norm(x, dim=0, dtype=precise)  # B x C
        strength = alpha * (norm.square() + self.eps).sqrt()
        size = (strength.square().mean(1, keepdim=True) + self.eps).sqrt()
        gate = 1 + torch.tanh(gamma * strength / size + beta)
        return x * gate.to(x.dtype)

    def extra_repr(self) -> str:
        return f"channels={self.alpha.numel()}, eps={self.eps}"
