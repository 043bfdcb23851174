"""A gate by what a sentence's words are, where the paper's sees where they stand; ``examples/study`` says why, and what it gained."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context_gate import GateLinear, SentenceGate, activated, check_choice
from .ops.common import accumulation_dtype, without_autocast
from .ops.context_gate import ACTIVATIONS
from .ops.padding import Padding


class SummaryGate(SentenceGate):
    """Learned gates, moved by a summary of the sentence's words.

    A linear layer and a ReLU make each token H * K // 3 features (four at least): what it is, as far as it matters here.
    The sentence's mean of them gets a LayerNorm, and a second linear layer, which starts at zero, decodes it to what moves
    the learned gates. So it starts with gates that are every sentence's, and can do whatever a ``LearnedGate`` can. In
    every registered architecture it has fewer parameters than the H * K * C of a dynamic encoder's layer; it has more where
    H * K is near C, or a handful.

    Args:
        channels: C
        num_heads: H
        kernel_size: K, at least 2
        activation: ``sigmoid`` or ``one-plus-tanh``
        shuffle: as for ``ContextGate``

    Attributes:
        logits: the learned gates before their activation: H x K, from 0
        encode.weight, encode.bias: d x C; d
        norm.weight, norm.bias: d
        decode.weight: (H * K) x d

    Raises:
        OptionError: (a ValueError) for an unknown activation
    """

    def __init__(
        self, channels: int, num_heads: int, kernel_size: int, activation: str = "sigmoid", shuffle: bool = False
    ):
        check_choice("the gate's activation", activation, ACTIVATIONS)
        super().__init__(shuffle)
        self.activation = activation
        features = max(num_heads * kernel_size // 3, 4)
        self.logits = nn.Parameter(torch.empty(num_heads, kernel_size))
        self.encode = GateLinear(channels, features)
        self.norm = nn.LayerNorm(features)
        self.decode = GateLinear(features, num_heads * kernel_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.logits)
        nn.init.xavier_uniform_(self.encode.weight)
        nn.init.zeros_(self.encode.bias)
        self.norm.reset_parameters()
        nn.init.zeros_(self.decode.weight)

    def forward(self, x: Tensor, padding_mask: Padding | Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C, the convolution's input
            padding_mask: B x T, true at padding; what x holds there is not looked at

        Returns:
            B x H x K, float32 (float64 for float64 input), within (0, 1) with ``sigmoid``, (0, 2) with ``one-plus-tanh``

        Raises:
            OptionError: (a ValueError) with ``shuffle``, outside training, for a batch of one sentence
        """
        dtype, padding = accumulation_dtype(x), Padding.of(padding_mask)
        scale, shift, logits = (p.to(dtype) for p in (self.norm.weight, self.norm.bias, self.logits))
        with without_autocast(x):
            x = x.to(dtype) if padding is None else padding.zero(x).to(dtype)
            summary = _mean(torch.relu(self.encode(x)), padding)
            change = self.decode(F.layer_norm(summary, scale.shape, scale, shift, self.norm.eps))
            gate = activated(logits + change.view(-1, *logits.shape), self.activation)
        return self.another_sentences(gate)

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


def _mean(x, padding):
    """T x B x C to B x C, over each sentence's own tokens."""
    if padding is None:
        return x.sum(0) / torch.sym_max(x.size(0), 1)
    return padding.zero(x).sum(0) / padding.ranks()[1].clamp(min=1).unsqueeze(1)
