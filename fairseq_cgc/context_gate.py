"""The gate: a convolution kernel's modulation, computed from the whole sentence. And its controls."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from .errors import OptionError
from .ops.common import accumulation_dtype
from .ops.context_gate import ACTIVATIONS, NORMS, GateOptions, context_gate
from .ops.padding import POOLS, Padding, head_means

POOL_FACTOR = 3
AS_KERNEL = "K"  # a latent size: that of the kernel


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is '{value}'; choose from {', '.join(choices)}")


def activated(logits: Tensor, activation: str) -> Tensor:
    """Gates of what stands before their activation, one of ``ACTIVATIONS``."""
    return torch.sigmoid(logits) if activation == "sigmoid" else 1 + torch.tanh(logits)


class GateLinear(nn.Linear):
    """A matrix of a gate's, which multiplies in its input's precision. Not ``nn.Linear`` itself: it is too small to be worth
    quantizing."""

    def reset_parameters(self) -> None:
        """Left to the gate."""

    def forward(self, x: Tensor) -> Tensor:
        """``nn.Linear``'s, in x's dtype."""
        return nn.functional.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class SentenceGate(nn.Module):
    """A gate that is computed from the sentence.

    Args:
        shuffle: outside training, give each sentence the gate of the one before it in its batch: the
            control that tells whether the context is used or only there
    """

    def __init__(self, shuffle: bool = False):
        super().__init__()
        self.shuffle = shuffle

    @property
    def shuffles(self) -> bool:
        """Whether sentences get each other's gates now."""
        return self.shuffle and not self.training

    def another_sentences(self, gate: Tensor) -> Tensor:
        """The gates of a batch (B x ...), those of other sentences if the module ``shuffles``.

        Raises:
            OptionError: (a ValueError) if it does, for a batch of one sentence
        """
        if not self.shuffles:
            return gate
        if gate.size(0) == 1:
            raise OptionError(
                "--cgc-shuffle-context gives a sentence the context of another one in its batch, and this batch has one "
                "sentence; use batches of two or more (fairseq-generate --batch-size, of a size that leaves no batch of one)"
            )
        return gate.roll(1, 0)


class ContextGate(SentenceGate):
    """Context Encoding and Gate Decoding Modules of CGC for LightConv (sections 3.2 and 4.4).

    A sentence is pooled to H x (``pool_factor`` * K); a linear layer shared by the heads encodes
    each head's context to d latent values; LayerNorm, ReLU; a second shared linear layer decodes
    them to one value a tap; an activation makes them the gate. Neither layer has a bias, and both
    start from Xavier uniform.

    Each sentence is pooled over its own tokens, wherever its padding is. Pooling the padded tensor, as the
    paper may have done, would make a sentence's translation depend on what else is in its batch; it is left
    out on purpose.

    Args:
        num_heads: H
        kernel_size: K, at least 2: the paper replaces only convolutions larger than 1 (section 4.1)
        norm: what the LayerNorm normalises over, and the shape of its affine pair: ``latent`` (over d, affine
            d; the default), ``latent-per-head`` (over d, affine H x d, nearest to the authors' image code) or
            ``heads-latent`` (over H x d, affine H x d). At K = 3, d is 2, of which a LayerNorm over d keeps
            little more than which of the two is larger: about one bit a head.
        activation: ``sigmoid`` (the paper's) or ``one-plus-tanh`` (GCT's)
        zero_init: start with every gate constant (supplement A.2): at 0.5 with ``sigmoid``, at 1
            with ``one-plus-tanh``. It zeroes ``decode.weight``. The supplement zeroes the last
            normalisation layer instead, but with the ReLU behind it no gradient would ever pass.
        latent_dim: d; default K // 2 + 1; ``K``: the kernel size
        pool_factor: time slots of the context map, in kernel sizes
        pool: what a slot holds of the tokens of a sentence longer than that: their ``average`` (the
            paper's) or ``max``
        shuffle: ``SentenceGate``'s

    Attributes:
        encode.weight: d x (pool_factor * K)
        norm.weight, norm.bias: d, or H x d
        decode.weight: K x d

    Raises:
        OptionError: (a ValueError) for a size that is too small, an unknown choice, or a latent size of 1 with a
            LayerNorm over it, which is zero whatever it gets: the gate could never move
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
        super().__init__(shuffle)
        if latent_dim is None:
            latent_dim = kernel_size // 2 + 1
        elif latent_dim == AS_KERNEL:
            latent_dim = kernel_size
        if not str(latent_dim).lstrip("-").isdecimal():
            raise OptionError(f"the gate's latent size is {latent_dim!r}; it must be a whole number or '{AS_KERNEL}'")
        latent_dim = int(latent_dim)
        for name, value, least in (
            ("number of heads", num_heads, 1),
            ("kernel size", kernel_size, 2),
            ("latent size", latent_dim, 1),
            ("pool factor", pool_factor, 1),
        ):
            if value < least:
                raise OptionError(f"the gate's {name} is {value}; it must be at least {least}")
        check_choice("the gate's norm", norm, NORMS)
        check_choice("the gate's activation", activation, ACTIVATIONS)
        check_choice("the gate's pool", pool, POOLS)
        if latent_dim == 1 and norm != "heads-latent":
            raise OptionError(
                f"the gate's latent size is 1 with norm {norm}: a LayerNorm over one value is always zero, and the gate "
                "would never leave its start; use a latent size of at least 2, or norm heads-latent"
            )
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.zero_init = zero_init
        self.options = GateOptions(norm, activation, pool)
        self.encode = GateLinear(pool_factor * kernel_size, latent_dim, bias=False)
        self.norm = nn.LayerNorm(latent_dim if norm == "latent" else (num_heads, latent_dim))  # its affine pair alone
        self.decode = GateLinear(latent_dim, kernel_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.encode.weight)
        self.norm.reset_parameters()
        if self.zero_init:
            nn.init.zeros_(self.decode.weight)
        else:
            nn.init.xavier_uniform_(self.decode.weight)

    @property
    def is_plain(self) -> bool:
        """Whether a call now gives what the parameters and options alone decide."""
        hooks = self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks
        looked_at = any(hooks) or "forward" in vars(self)
        return type(self).forward is ContextGate.forward and not looked_at and not self.shuffles

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameters, as ``ops.context_gate`` takes them.

        Raises:
            TypeError: a layer was replaced, or its weight is a hook's: what would be called is not
        """
        layers = (self.encode, GateLinear), (self.norm, nn.LayerNorm), (self.decode, GateLinear)
        replaced = not all(isinstance(layer, kind) for layer, kind in layers)
        if replaced or any(
            layer._forward_pre_hooks
            and "weight" not in layer._parameters
            and not is_parametrized(layer)
            and not getattr(layer, "_is_replica", False)  # DataParallel's, whose weights are no parameters
            for layer, _ in layers
        ):
            raise TypeError(
                "the gate's layers are read, not called: change their weights by torch.nn.utils.parametrize, not by hooks or "
                "other layers in their place"
            )
        return self.encode.weight, self.norm.weight, self.norm.bias, self.decode.weight

    def forward(self, x: Tensor, padding_mask: Padding | Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C, the convolution's input
            padding_mask: B x T, true at padding; what x holds there is not looked at

        Returns:
            the gate, B x H x K, float32 (float64 for float64 input): within (0, 1) with ``sigmoid``, (0, 2) with
            ``one-plus-tanh``

        Raises:
            OptionError: (a ValueError) with ``shuffle``, outside training, for a batch of one sentence
        """
        gate = context_gate(
            head_means(x, self.num_heads), Padding.of(padding_mask), *self.tensors(), None, self.options
        )
        return self.another_sentences(gate)

    def extra_repr(self):
        text = f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, num_slots={self.encode.weight.size(1)}"
        for name, value in zip(("norm", "activation", "pool"), self.options):
            text += f", {name}={value}"
        return text + (", zero_init=True" if self.zero_init else "")


class ConstantGate(nn.Module):
    """The control: the gate without its context, which every sentence, head and tap has alike.

    It stands at what ``ContextGate`` starts from with ``zero_init`` and has no parameters. Credit the context
    only if the context gate also beats this one.

    Args:
        num_heads: H
        kernel_size: K
        activation: ``sigmoid``: every gate is 0.5; ``one-plus-tanh``: 1

    Raises:
        OptionError: (a ValueError) for an unknown activation
    """

    def __init__(self, num_heads: int, kernel_size: int, activation: str = "sigmoid"):
        check_choice("the gate's activation", activation, ACTIVATIONS)
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = kernel_size
        self.value = ACTIVATIONS[activation]

    def forward(self, x: Tensor, padding_mask: Padding | Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C
            padding_mask: not looked at

        Returns:
            B x H x K
        """
        shape = x.size(1), self.num_heads, self.kernel_size
        return x.new_full(shape, self.value, dtype=accumulation_dtype(x))

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
        self.logits = nn.Parameter(torch.empty(num_heads, kernel_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.logits)

    def forward(self, x: Tensor, padding_mask: Padding | Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C
            padding_mask: not looked at

        Returns:
            B x H x K
        """
        gate = activated(self.logits.to(accumulation_dtype(x)), self.activation)
        return gate.expand(x.size(1), -1, -1)

    def extra_repr(self):
        return "num_heads={}, kernel_size={}, activation={}".format(*self.logits.shape, self.activation)
