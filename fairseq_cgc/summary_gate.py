"""Gates by what a sentence's words are, where the paper's sees where they stand: the designs that ``examples/study`` tries."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context_gate import GateLinear, SentenceGate, activated, check_choice
from .ops.common import accumulation_dtype, without_autocast
from .ops.context_gate import ACTIVATIONS
from .ops.padding import Padding

DESIGNS = ("summary", "slots", "mixture", "channels")
SLOTS = 2
GATES_MIXED = 4


class SummaryGate(SentenceGate):
    """Learned gates, moved by a summary of the sentence's words.

    The summary is the mean of the sentence's tokens in every channel. A linear layer encodes it to H * K // 3 latent
    values (two at least); LayerNorm, ReLU; a second linear layer, which starts at zero, decodes what moves the learned
    gates. So it starts with gates that are every sentence's, and all but ``channels`` can do what a ``LearnedGate`` can;
    ``summary`` and ``slots`` start as one. In every registered architecture it has fewer parameters than the H * K * C
    of a dynamic encoder's layer; it has more where H * K is near C, or a handful.

    Args:
        design: ``summary``: a gate a head and tap. ``slots``: the same, with two summaries instead of one, which are
            weighted by attention with learned queries. ``mixture``: each head's gates are a mixture of four learned
            ones, whose shares the summary decides. ``channels``: a gate a channel of the convolution's input, which
            all taps have in common: the kernels are as without a gate
        channels: C
        num_heads: H
        kernel_size: K, at least 2
        activation: ``sigmoid`` or ``one-plus-tanh``
        shuffle: as for ``ContextGate``

    Attributes:
        logits: the learned gates before their activation: H x K, from 0; 4 x H x K of ``mixture``, from a normal
            distribution; C of ``channels``
        query: 2 x C with ``slots``, else None
        encode.weight: d x C, d x 2C with ``slots``
        norm.weight, norm.bias: d
        decode.weight: (H * K) x d; (H * 4) x d of ``mixture``, C x d of ``channels``

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
        shape = {"mixture": (GATES_MIXED, num_heads, kernel_size), "channels": (channels,)}
        self.logits = nn.Parameter(torch.zeros(shape.get(design, (num_heads, kernel_size))))
        outputs = num_heads * GATES_MIXED if design == "mixture" else self.logits.numel()
        latent_dim = max(num_heads * kernel_size // 3, 2)
        summaries = SLOTS if design == "slots" else 1
        self.query = nn.Parameter(torch.empty(SLOTS, channels)) if design == "slots" else None
        self.encode = GateLinear(summaries * channels, latent_dim, bias=False)
        self.norm = nn.LayerNorm(latent_dim)
        self.decode = GateLinear(latent_dim, outputs, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.design == "mixture":  # four that are alike would stay so
            nn.init.normal_(self.logits)
        else:
            nn.init.zeros_(self.logits)
        if self.query is not None:
            nn.init.xavier_uniform_(self.query)
        nn.init.xavier_uniform_(self.encode.weight)
        self.norm.reset_parameters()
        nn.init.zeros_(self.decode.weight)

    def forward(self, x: Tensor, padding_mask: Padding | Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C, the convolution's input
            padding_mask: B x T, true at padding; what x holds there is not looked at

        Returns:
            B x H x K; B x C of ``channels``; float32 (float64 for float64 input), within (0, 1) with ``sigmoid``, (0, 2)
            with ``one-plus-tanh``

        Raises:
            OptionError: (a ValueError) with ``shuffle``, outside training, for a batch of one sentence
        """
        dtype = accumulation_dtype(x)
        scale, shift, logits = (p.to(dtype) for p in (self.norm.weight, self.norm.bias, self.logits))
        with without_autocast(x):
            latent = self.encode(self._summary(x.to(dtype), Padding.of(padding_mask)))
            change = self.decode(torch.relu(F.layer_norm(latent, scale.shape, scale, shift, self.norm.eps)))
            if self.design == "mixture":
                shares = change.unflatten(1, (-1, GATES_MIXED)).softmax(2)
                gate = torch.einsum("bhn,nhk->bhk", shares, activated(logits, self.activation))
            else:
                gate = activated(logits + change.view(-1, *logits.shape), self.activation)
        return self.another_sentences(gate)

    def _summary(self, x, padding):
        """B x C, or B x 2C."""
        if padding is not None:
            x = padding.zero(x)
        if self.query is None:
            length = torch.sym_max(x.size(0), 1) if padding is None else padding.ranks()[1].clamp(min=1).unsqueeze(1)
            return x.sum(0) / length
        scores = x @ self.query.to(x.dtype).t() * x.size(2) ** -0.5  # T x B x slots
        if padding is not None:
            scores = scores.masked_fill(padding.mask.t().unsqueeze(2), torch.finfo(scores.dtype).min)
        return torch.einsum("tbs,tbc->bsc", scores.softmax(0), x).flatten(1)

    def extra_repr(self) -> str:
        return f"design={self.design}, activation={self.activation}"
