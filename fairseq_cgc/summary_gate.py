"""Gates by what a sentence's words are, where the paper's sees where they stand: the designs that ``examples/study`` tries."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context_gate import GateLinear, SentenceGate, activated, check_choice
from .ops.common import accumulation_dtype, without_autocast
from .ops.context_gate import ACTIVATIONS
from .ops.padding import Padding

DESIGNS = ("summary", "slots", "mixture", "balance")
SLOTS = 2
GATES_MIXED = 4


class SummaryGate(SentenceGate):
    """Learned gates, moved by a summary of the sentence's words.

    A linear layer and a ReLU make each token H * K // 3 features (four at least): what it is, as far as it matters here.
    The sentence's mean of them gets a LayerNorm, and a second linear layer, which starts at zero, decodes it to what moves
    the learned gates. So it starts with gates that are every sentence's, and can do whatever a ``LearnedGate`` can. In
    every registered architecture it has fewer parameters than the H * K * C of a dynamic encoder's layer; it has more where
    H * K is near C, or a handful.

    Args:
        design: ``summary``: as above. ``slots``: attention with two learned queries pools the tokens to two vectors, of
            which the first layer makes the features. ``mixture``: each head's gates are a mixture of four learned ones,
            whose shares the summary decides. ``balance``: the summary moves a head's gate from tap to tap and leaves their
            sum to the learned ones: it multiplies them by K times a softmax over the taps
        channels: C
        num_heads: H
        kernel_size: K, at least 2
        activation: ``sigmoid`` or ``one-plus-tanh``
        shuffle: as for ``ContextGate``

    Attributes:
        logits: the learned gates before their activation: H x K, from 0; 4 x H x K of ``mixture``, from a normal
            distribution
        query: 2 x C with ``slots``, else None
        encode.weight, encode.bias: d x C, or d x 2C with ``slots``; d
        norm.weight, norm.bias: d
        decode.weight: (H * K) x d; (H * 4) x d of ``mixture``

    Raises:
        OptionError: (a ValueError) for an unknown choice
    """

    def __init__(
        self,
        design: str,
        channels: int,
        num_heads: int,
        kernel_size: int,
        activation: str = "sigmoid",
        shuffle: bool = False,
    ):
        check_choice("the gate's design", design, DESIGNS)
        check_choice("the gate's activation", activation, ACTIVATIONS)
        super().__init__(shuffle)
        self.design = design
        self.activation = activation
        shape = num_heads, kernel_size
        self.logits = nn.Parameter(torch.empty((GATES_MIXED, *shape) if design == "mixture" else shape))
        outputs = num_heads * (GATES_MIXED if design == "mixture" else kernel_size)
        features = max(num_heads * kernel_size // 3, 4)
        self.query = nn.Parameter(torch.empty(SLOTS, channels)) if design == "slots" else None
        self.encode = GateLinear(SLOTS * channels if design == "slots" else channels, features)
        self.norm = nn.LayerNorm(features)
        self.decode = GateLinear(features, outputs, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.design == "mixture":  # four that are alike would stay so
            nn.init.normal_(self.logits)
        else:
            nn.init.zeros_(self.logits)
        if self.query is not None:
            nn.init.normal_(self.query)
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
            B x H x K, float32 (float64 for float64 input), within (0, 1) with ``sigmoid``, (0, 2) with ``one-plus-tanh``; K
            times that of ``balance``

        Raises:
            OptionError: (a ValueError) with ``shuffle``, outside training, for a batch of one sentence
        """
        dtype, padding = accumulation_dtype(x), Padding.of(padding_mask)
        scale, shift, logits = (p.to(dtype) for p in (self.norm.weight, self.norm.bias, self.logits))
        with without_autocast(x):
            x = x.to(dtype) if padding is None else padding.zero(x).to(dtype)
            if self.query is None:
                summary = _mean(torch.relu(self.encode(x)), padding)
            else:
                summary = torch.relu(self.encode(_attend(x, self.query.to(dtype), padding)))
            change = self.decode(F.layer_norm(summary, scale.shape, scale, shift, self.norm.eps))
            if self.design == "mixture":
                shares = change.unflatten(1, (-1, GATES_MIXED)).softmax(2)
                gate = torch.einsum("bhn,nhk->bhk", shares, activated(logits, self.activation))
            elif self.design == "balance":
                shares = change.view(-1, *logits.shape).softmax(2)
                gate = activated(logits, self.activation) * logits.size(1) * shares
            else:
                gate = activated(logits + change.view(-1, *logits.shape), self.activation)
        return self.another_sentences(gate)

    def extra_repr(self) -> str:
        return f"design={self.design}, activation={self.activation}"


def _mean(x, padding):
    """T x B x C to B x C, over each sentence's own tokens."""
    if padding is None:
        return x.sum(0) / torch.sym_max(x.size(0), 1)
    return padding.zero(x).sum(0) / padding.ranks()[1].clamp(min=1).unsqueeze(1)


def _attend(x, query, padding):
    """T x B x C to B x (slots * C): a mean for each query, of slots x C, weighted by how well a token answers it."""
    scores = x @ query.t() * x.size(2) ** -0.5  # T x B x slots
    if padding is not None:
        scores = scores.masked_fill(padding.mask.t().unsqueeze(2), torch.finfo(scores.dtype).min)
    return torch.einsum("tbs,tbc->bsc", scores.softmax(0), x).flatten(1)
