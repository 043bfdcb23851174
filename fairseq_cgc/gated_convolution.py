"""LightConv's and DynamicConv's convolutions with their kernels gated by the sentence."""

from contextlib import contextmanager
from typing import NamedTuple

import torch
from fairseq.modules import FairseqDropout
from fairseq.modules.dynamic_convolution import DynamicConv_scripatable
from fairseq.modules.lightweight_convolution import LightweightConv1dTBC
from torch import Tensor, nn

from .channel_gate import GatedChannelTransformation
from .context_gate import ConstantGate, ContextGate, LearnedGate, check_choice
from .errors import OptionError
from .ops import Padding, context_gated_lightconv, gated_lightconv

GATES = ("context", "constant", "learned")
GATE_ON = ("kernel", "logits")


def gated_kernel(gate: Tensor, weights: Tensor, weight_softmax: bool = True, gate_on: str = "kernel") -> Tensor:
    """The kernels before DropConnect, float32 or better (Eq. 2).

    Args:
        gate: B x H x K
        weights: H x K, or T x B x H x K with one kernel a token; before the softmax
        weight_softmax: normalise them over the K taps
        gate_on: ``kernel``: softmax(W) * G; ``logits``: softmax(W * G)

    Returns:
        B x H x K, or T x B x H x K
    """
    if weights.dtype != torch.float64:
        weights, gate = weights.float(), gate.float()
    if not weight_softmax:
        return weights * gate
    if gate_on == "logits":
        return torch.softmax(weights * gate, dim=-1)
    return torch.softmax(weights, dim=-1) * gate


def make_gate(kind: str, num_heads: int, kernel_size: int, **options) -> nn.Module:
    """A ContextGate, or one of its controls, which heed of its options ``activation`` alone."""
    check_choice("gate", kind, GATES)
    if kind == "context":
        return ContextGate(num_heads, kernel_size, **options)
    control = ConstantGate if kind == "constant" else LearnedGate
    return control(num_heads, kernel_size, options.get("activation", "sigmoid"))


class RecordedGate(NamedTuple):
    """What one layer did to one batch, detached.

    Attributes:
        gate: B x H x K
        kernel: with the gate, before DropConnect: B x H x K; T x B x H x K of a dynamic encoder
        ungated: as ``kernel``, with every gate 1
    """

    gate: Tensor
    kernel: Tensor
    ungated: Tensor


@contextmanager
def recorded_gates(convolutions, gates=None):
    """Within this context, gated convolutions hand out their gates. Outside of it they pay nothing for it.

    Args:
        convolutions: ``ContextGatedLightweightConv`` or ``ContextGatedDynamicConv``, in the order of the record
        gates: to use instead of their own: one B x H x K a convolution, or None

    Yields:
        a list that has one entry a convolution, in that order: the ``RecordedGate`` of its last forward, or None
    """
    convolutions = list(convolutions)
    record = [None] * len(convolutions)

    def observe(number):
        def observer(gate, kernels):
            if gates is not None and gates[number] is not None:
                gate = gates[number]
            kernel = kernels(gate)
            record[number] = RecordedGate(gate.detach(), kernel.detach(), kernels(torch.ones_like(gate)).detach())
            return kernel

        return observer

    for number, convolution in enumerate(convolutions):
        convolution.observer = observe(number)
    try:
        yield record
    finally:
        for convolution in convolutions:
            convolution.observer = None


def dropout_probability(module: FairseqDropout) -> float:
    """What fairseq's dropout module would drop with now."""
    return module.p if module.training or module.apply_during_inference else 0.0


class _ContextGated:
    """What the gated convolutions share: the gate beside fairseq's parameters, and the forward."""

    def __init__(
        self,
        input_size: int,
        kernel_size: int = 1,
        padding_l: int | tuple[int, int] | None = None,
        num_heads: int = 1,
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        gate: str = "context",
        gate_on: str = "kernel",
        gct: bool = False,
        conv_options: dict | None = None,
        **gate_options,
    ):
        if num_heads < 1 or input_size % num_heads:
            raise OptionError(
                f"{input_size} convolution channels do not divide into {num_heads} heads; "
                "choose a number of heads that divides the channels"
            )
        check_choice("gate", gate, GATES)
        check_choice("gate_on", gate_on, GATE_ON)
        if padding_l is None:
            padding_l = kernel_size // 2
        elif isinstance(padding_l, (tuple, list)):
            padding_l = padding_l[0]
        if not 0 <= padding_l < max(kernel_size, 1):
            raise OptionError(
                f"padding_l is {padding_l}; for kernel size {kernel_size} it lies in 0 ... {kernel_size - 1}"
            )
        super().__init__(
            input_size,
            kernel_size=kernel_size,
            padding_l=padding_l,
            num_heads=num_heads,
            weight_dropout=weight_dropout,
            weight_softmax=weight_softmax,
            **(conv_options or {}),
        )
        self.gate_on = gate_on
        self.gate = make_gate(gate, num_heads, kernel_size, **gate_options)
        self.gct = GatedChannelTransformation(input_size) if gct else None
        self._padding_of_zeroed_input: Padding | Tensor | None = None
        self.observer = None  # given the gate and what makes kernels of it, returns the kernels; see recorded_gates

    @contextmanager
    def zeroed_at(self, padding: Padding | Tensor | None):
        """Within this context, ``forward(x)`` takes x to be zero already where the mask is true.

        fairseq's encoder layer zeroes the padding and calls its convolution with x alone; this is
        how the mask reaches the gate without a copy of that layer's code, or a second pass over x.
        """
        self._padding_of_zeroed_input = padding
        try:
            yield
        finally:
            self._padding_of_zeroed_input = None

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: T x B x C
            padding_mask: B x T, true at padding, where x is taken as zero

        Returns:
            T x B x C; what stands at padding is of no meaning
        """
        padding = self._padding_of_zeroed_input if padding_mask is None else padding_mask
        if padding_mask is not None:
            x = x.masked_fill(padding_mask.transpose(0, 1).unsqueeze(2), 0.0)
        if self.gct is not None:
            x = self.gct(x)
        weights = self._weights(x)
        dropout = dropout_probability(self.weight_dropout_module)
        if not isinstance(self.gate, ContextGate):
            return gated_lightconv(x, self.gated_kernel(self.gate(x), weights), self.padding_l, dropout)
        if self.observer is None and weights.dim() == 2:
            how = self.weight_softmax, self.gate_on, self.padding_l, dropout
            output = self.gate.convolve(x, padding, weights, *how)
            if output is not None:
                return output
        return context_gated_lightconv(
            x,
            lambda means: self._kernels(means, padding, weights),
            self.num_heads,
            self.kernel_size,
            self.padding_l,
            dropout,
            per_token=weights.dim() == 4,
        )

    def _kernels(self, means, padding, weights):
        kernels = None
        if self.observer is None and weights.dim() == 2:
            kernels = self.gate.kernels(means, padding, weights, self.weight_softmax, self.gate_on)
        if kernels is not None:
            return kernels
        return self.gated_kernel(self.gate.of_means(means, padding), weights)

    def gated_kernel(self, gate: Tensor, weights: Tensor) -> Tensor:
        if self.observer is not None:
            return self.observer(gate, lambda other: gated_kernel(other, weights, self.weight_softmax, self.gate_on))
        return gated_kernel(gate, weights, self.weight_softmax, self.gate_on)

    def extra_repr(self):
        return f"{super().extra_repr()}, gate_on={self.gate_on}"


class ContextGatedLightweightConv(_ContextGated, LightweightConv1dTBC):
    """fairseq's ``LightweightConv`` whose kernel is gated by the whole sentence (Eq. 2, section 4.4).

    The parameters of the convolution, their names and their initialisation are fairseq's, so a
    LightConv checkpoint loads under the same names; ``gate.*`` is new. Each sentence b is convolved
    with its own kernel softmax(weight) * gate_b, to which DropConnect is applied: one draw a
    sentence, head and tap.

    Args:
        input_size: C
        kernel_size: K
        padding_l: taps before the output's own position; fairseq's pair for even kernel sizes,
            (left, right), is taken too. Default: K // 2
        num_heads: H, must divide C
        weight_softmax: normalise the kernel over its K taps
        weight_dropout: DropConnect's probability
        bias: add a bias of size C
        gate: ``context``: a ``ContextGate``; ``constant`` and ``learned``: the controls, a ``ConstantGate`` and
            a ``LearnedGate``
        gate_on: ``kernel``: softmax(W) * G, the paper's reading; ``logits``: softmax(W * G), which
            is the same without ``weight_softmax``
        gct: scale the input's channels by a ``GatedChannelTransformation`` before gate and convolution
        **gate_options: ContextGate's; the controls heed ``activation`` alone

    Attributes:
        weight: H x 1 x K
        gate: the ContextGate, ConstantGate or LearnedGate
        gct: the GatedChannelTransformation, or None
        bias: C, or None

    Raises:
        OptionError: (a ValueError) for sizes or choices that do not fit
    """

    def __init__(self, *sizes, bias: bool = False, **options):
        super().__init__(*sizes, conv_options={"bias": bias}, **options)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        output = super().forward(x, padding_mask)
        return output if self.bias is None else output + self.bias

    forward.__doc__ = _ContextGated.forward.__doc__

    def _weights(self, x):
        return self.weight.squeeze(1)


class ContextGatedDynamicConv(_ContextGated, DynamicConv_scripatable):
    """fairseq's ``DynamicConv``, one kernel a token, with all of a sentence's kernels gated by the whole sentence.

    Token t of sentence b is convolved with softmax(weight_linear(x_tb)) * gate_b. No paper has this.
    DropConnect draws once a token, head and tap, as in fairseq; time and memory are linear in T. The
    parameters of the convolution, their names and their initialisation are fairseq's; ``gate.*`` is new.
    fairseq's has a ``conv_bias`` even where it does not use it, and counts it: here it is zero then, and
    not trained.

    Args:
        conv_bias: add a bias of size C
        others: ``ContextGatedLightweightConv``'s

    Attributes:
        weight_linear: C to H * K: the tokens' kernels
        gate, gct: as in ContextGatedLightweightConv
        conv_bias: 1 x 1 x C

    Raises:
        OptionError: (a ValueError) for sizes or choices that do not fit
    """

    def __init__(self, *sizes, conv_bias: bool = False, **options):
        super().__init__(*sizes, conv_options={"conv_bias": conv_bias}, **options)
        if not conv_bias:
            nn.init.zeros_(self.conv_bias).requires_grad_(False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        output = super().forward(x, padding_mask)
        return output + self.conv_bias if self.has_conv_bias else output

    forward.__doc__ = _ContextGated.forward.__doc__

    def _weights(self, x):
        return self.weight_linear(x).unflatten(2, (self.num_heads, self.kernel_size))
