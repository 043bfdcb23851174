"""The gate: a convolution kernel's modulation, computed from the whole sentence."""

import torch
from torch import Tensor, nn

from .errors import OptionError
from .ops import Padding, gate, gated_layer, head_means, pool_slots

NORMS = ("latent", "heads-latent")
POOLS = ("average", "max")
ACTIVATIONS = {"sigmoid": 0.5, "one-plus-tanh": 1.0}  # and the gate that each makes of 0
POOL_FACTOR = 3
AS_KERNEL = "K"  # a latent size: that of the kernel


def check_choice(name, value, choices):
    if value not in choices:
        raise OptionError(f"{name} is '{value}'; choose from {', '.join(choices)}")


def activate(logits: Tensor, activation: str) -> Tensor:
    """The gates of these logits, by one of ``ACTIVATIONS``."""
    return torch.sigmoid(logits) if activation == "sigmoid" else 1 + torch.tanh(logits)


class ContextGate(nn.Module):
    """Context Encoding and Gate Decoding Modules of CGC for LightConv (sections 3.2 and 4.4).

    A sentence is pooled to H x (``pool_factor`` * K); a linear layer shared by the heads encodes
    each head's context to d latent values; LayerNorm, ReLU; a second shared linear layer decodes
    them to one value a tap; an activation makes them the gate. Neither layer has a bias, and both
    start from Xavier uniform.

    Args:
        num_heads: H
        kernel_size: K
        norm: what the LayerNorm normalises over, and so the shape of its affine pair: ``latent``
            (d, the default) or ``heads-latent`` (H x d)
        activation: ``sigmoid`` (the paper's) or ``one-plus-tanh`` (GCT's)
        zero_init: start with every gate constant (supplement A.2): at 0.5 with ``sigmoid``, at 1
            with ``one-plus-tanh``. It zeroes ``decode.weight``. The supplement zeroes the last
            normalisation layer instead, but with the ReLU behind it no gradient would ever pass.
        latent_dim: d; default K // 2 + 1; ``K``: the kernel size
        pool_factor: time slots of the context map, in kernel sizes
        pool: what a slot holds of the tokens of a sentence longer than that: their ``average`` (the
            paper's) or ``max``
        shuffle: outside training, give each sentence the gate of the one before it in its batch: the
            control that tells whether the context is used or only there

    Attributes:
        encode.weight: d x (pool_factor * K)
        norm.weight, norm.bias: d, or H x d
        decode.weight: K x d

    Raises:
        OptionError: (a ValueError) for a size below 1 or an unknown choice
    """

    def __init__(
        self,
        num_heads: int,
        kernel_size: int,
        norm: str = "latent",
        activation: str = "sigmoid",
        zero_init: bool = False,
        latent_dim: int | str | None = None,
        pool_factor: int = POOL_FACTOR,
        pool: str = "average",
        shuffle: bool = False,
    ):
        super().__init__()
        if latent_dim is None:
            latent_dim = kernel_size // 2 + 1
        elif latent_dim == AS_KERNEL:
            latent_dim = kernel_size
        for name, value in (
            ("number of heads", num_heads),
            ("kernel size", kernel_size),
            ("latent size", latent_dim),
            ("pool factor", pool_factor),
        ):
            if value < 1:
                raise OptionError(f"the gate's {name} is {value}; it must be at least 1")
        check_choice("the gate's norm", norm, NORMS)
        check_choice("the gate's activation", activation, ACTIVATIONS)
        check_choice("the gate's pool", pool, POOLS)
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.pool = pool
        self.shuffle = shuffle
        self.num_slots = pool_factor * kernel_size
        self.activation = activation
        self.zero_init = zero_init
        self.encode = nn.Linear(self.num_slots, latent_dim, bias=False)
        self.norm = nn.LayerNorm(latent_dim if norm == "latent" else (num_heads, latent_dim))
        self.decode = nn.Linear(latent_dim, kernel_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.xavier_uniform_(self.encode.weight)
        self.norm.reset_parameters()
        if self.zero_init:
            nn.init.zeros_(self.decode.weight)
        else:
            nn.init.xavier_uniform_(self.decode.weight)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C, the convolution's input
            padding_mask: B x T, true at padding; what x holds there is not looked at

        Returns:
            the gate, B x H x K: within (0, 1) with ``sigmoid``, (0, 2) with ``one-plus-tanh``
        """
        return self.of_means(head_means(x, self.num_heads), padding_mask)

    def of_means(self, means: Tensor, padding: Padding | Tensor | None = None) -> Tensor:
        """The gate from ``head_means(x, H)``.

        Args:
            means: T x B x H
            padding: B x T, true at padding, or a ``Padding`` of it

        Returns:
            B x H x K
        """
        if self.fuses(means):
            return self._shuffled(self._fused(means, padding))
        context = pool_slots(means, self.num_slots, padding, self.pool)  # the slots that are zero for all left out
        weight = self.encode.weight
        encoded, _ = gate.encode_context(context.to(weight.dtype), weight)
        latent = encoded.view(*context.shape[:2], -1)  # B x H x d
        logits = self.decode(torch.relu(self.norm(latent)))  # B x H x K
        return self._shuffled(activate(logits, self.activation))

    def fuses(self, means: Tensor) -> bool:
        """Whether a GPU computes this gate from such means in one launch (``ops.gate``)."""
        plain = self.pool == "average" and self.norm.weight.dim() == 1
        return plain and gate.suits(means, self.num_slots, self.encode.out_features, self.kernel_size)

    def kernels(
        self, means: Tensor, padding: Padding | Tensor | None, weight: Tensor, weight_softmax: bool, gate_on: str
    ) -> Tensor | None:
        """The gated kernels at once, as ``gated_convolution.gated_kernel`` of the gate, only faster, on a GPU.

        Args:
            means, padding: as for ``of_means``
            weight: H x K
            weight_softmax, gate_on: as for ``gated_kernel``

        Returns:
            B x H x K, or None where there is no faster way
        """
        if not self.fuses(means):
            return None
        return self._shuffled(self._fused(means, padding, weight, gate_on, weight_softmax))

    def convolve(
        self,
        x: Tensor,
        padding: Padding | Tensor | None,
        weight: Tensor,
        weight_softmax: bool,
        gate_on: str,
        padding_l: int,
        dropout: float,
    ) -> Tensor | None:
        """x convolved with the gated kernels at once, only faster, on a CPU.

        Args:
            x: T x B x C, zero at padding
            padding: as for ``of_means``
            weight: H x K
            weight_softmax, gate_on: as for ``gated_kernel``
            padding_l, dropout: as for ``ops.gated_lightconv``

        Returns:
            T x B x C, or None where there is no faster way
        """
        encode, scale, shift, decode = self.encode.weight, self.norm.weight, self.norm.bias, self.decode.weight
        shuffles = self.shuffle and not self.training
        if shuffles or self.pool != "average" or scale.dim() > 1:
            return None
        if not gated_layer.suits(x, encode, scale, shift, decode, weight):
            return None
        tensors = x, padding, encode, scale, shift, self.norm.eps, decode, weight
        return gated_layer.gated_layer(*tensors, padding_l, dropout, self.activation, gate_on, weight_softmax)

    def _fused(self, means, padding, weight=None, gate_on="kernel", weight_softmax=True):
        norm = self.norm.weight, self.norm.bias, self.norm.eps
        how = self.activation, gate_on, weight_softmax
        return gate.gated_kernels(means, padding, self.encode.weight, *norm, self.decode.weight, weight, *how)

    def _shuffled(self, values):
        return values.roll(1, 0) if self.shuffle and not self.training else values

    def extra_repr(self):
        text = f"num_heads={self.num_heads}, kernel_size={self.kernel_size}"
        text += f", num_slots={self.num_slots}, pool={self.pool}, activation={self.activation}"
        return text + (", zero_init=True" if self.zero_init else "")


class ConstantGate(nn.Module):
    """The control: the gate without its context, which every sentence, head and tap has alike.

    It stands at what ``ContextGate`` starts from with ``zero_init`` and has no parameters. A gain of
    the context gate counts as the context's only if this one has been beaten too.

    Args:
        num_heads: H
        kernel_size: K
        activation: ``sigmoid``: every gate is 0.5; ``one-plus-tanh``: 1, which is LightConv

    Raises:
        OptionError: (a ValueError) for an unknown activation
    """

    def __init__(self, num_heads: int, kernel_size: int, activation: str = "sigmoid"):
        check_choice("the gate's activation", activation, ACTIVATIONS)
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.value = ACTIVATIONS[activation]

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C
            padding_mask: not looked at

        Returns:
            B x H x K
        """
        return x.new_full((x.size(1), self.num_heads, self.kernel_size), self.value)

    of_means = forward

    def extra_repr(self):
        return f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, value={self.value}"


class LearnedGate(nn.Module):
    """The control that has parameters: one learned gate a head and tap, the same for every sentence.

    It tells the context from what a kernel gains by being scaled at all. It starts at what
    ``ConstantGate`` stands at.

    Args:
        num_heads: H
        kernel_size: K
        activation: ``sigmoid`` or ``one-plus-tanh``

    Attributes:
        logits: H x K, from 0

    Raises:
        OptionError: (a ValueError) for an unknown activation
    """

    def __init__(self, num_heads: int, kernel_size: int, activation: str = "sigmoid"):
        check_choice("the gate's activation", activation, ACTIVATIONS)
        super().__init__()
        self.activation = activation
        self.logits = nn.Parameter(torch.zeros(num_heads, kernel_size))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C
            padding_mask: not looked at

        Returns:
            B x H x K
        """
        return activate(self.logits, self.activation).expand(x.size(1), -1, -1)

    of_means = forward

    def extra_repr(self):
        return "num_heads={}, kernel_size={}, activation={}".format(*self.logits.shape, self.activation)
