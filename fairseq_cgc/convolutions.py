"""LightConv's and DynamicConv's convolutions with their kernels gated by the sentence."""

from typing import NamedTuple

import torch
from fairseq.modules import FairseqDropout
from torch import Tensor, nn

from .channel_gate import GatedChannelTransformation
from .context_gate import POOL_FACTOR, ContextGate, check_choice
from .errors import OptionError
from .gates import make_gate
from .ops.common import accumulation_dtype
from .ops.context_gate import GATE_ON
from .ops.context_gated_lightconv import context_gated_lightconv
from .ops.lightconv import lightconv
from .ops.padding import Padding


def gated_kernel(gate: Tensor | None, weights: Tensor, weight_softmax: bool = True, gate_on: str = "kernel") -> Tensor:
    """The kernels before DropConnect (Eq. 2), in float32 or better.

    Args:
        gate: B x H x K; ``None``: every gate is 1
        weights: H x K, or T x B x H x K with one kernel a token; before the softmax
        weight_softmax: normalise them over the K taps
        gate_on: ``kernel``: softmax(W) * G; ``logits``: softmax(W * G)

    Returns:
        B x H x K, or T x B x H x K; H x K without a gate for weights of H x K
    """
    weights = weights.to(accumulation_dtype(weights))
    if gate is not None and gate_on == "logits" and weight_softmax:
        return torch.softmax(weights * gate, dim=-1)
    kernel = torch.softmax(weights, dim=-1) if weight_softmax else weights
    return kernel if gate is None else kernel * gate


class RecordedGate(NamedTuple):
    """What one layer did to one batch, detached.

    Attributes:
        gate: B x H x K; ones where the layer has no gate
        kernel: with the gate, before DropConnect: B x H x K; T x B x H x K of a dynamic encoder
        ungated: as ``kernel``, with every gate 1
    """

    gate: Tensor
    kernel: Tensor
    ungated: Tensor


def dropout_probability(module: FairseqDropout) -> float:
    """What fairseq's dropout module would drop with now."""
    return module.p if module.training or module.apply_during_inference else 0.0


class _ContextGatedConv(nn.Module):
    """What the gated convolutions share; where the kernels come from is theirs."""

    def __init__(
        self,
        input_size: int,
        kernel_size: int,
        padding_l: int | tuple[int, int] | None = None,
        num_heads: int = 1,
        *,  # fairseq has weight_dropout and weight_softmax in the other order
        weight_softmax: bool = True,
        weight_dropout: float = 0.0,
        bias: bool = False,
        batch_first: bool = False,
        gate: str = "context",
        gate_on: str = "kernel",
        gct: bool = False,
        norm: str = "latent",
        activation: str = "sigmoid",
        zero_init: bool = False,
        latent_dim: int | str | None = None,
        pool_factor: int = POOL_FACTOR,
        pool: str = "average",
        shuffle: bool = False,
    ):
        super().__init__()
        if kernel_size < 1:
            raise OptionError(f"the kernel size is {kernel_size}; it must be at least 1")
        if input_size < 1 or num_heads < 1 or input_size % num_heads:
            raise OptionError(
                f"{input_size} convolution channels do not divide into {num_heads} heads; "
                "choose a number of heads that divides the channels"
            )
        check_choice("gate_on", gate_on, GATE_ON)
        if padding_l is None:
            padding_l = kernel_size // 2
        elif isinstance(padding_l, (tuple, list)):
            if len(padding_l) != 2 or sum(padding_l) != kernel_size - 1:
                raise OptionError(f"padding_l is {padding_l}; a pair, left and right, must add up to {kernel_size - 1}")
            padding_l = padding_l[0]
        if not 0 <= weight_dropout <= 1:
            raise OptionError(f"weight_dropout is {weight_dropout}; it must be from 0 to 1")
        if not 0 <= padding_l < kernel_size:
            raise OptionError(
                f"padding_l is {padding_l}; for kernel size {kernel_size} it must be from 0 to {kernel_size - 1}"
            )
        self.input_size = input_size
        self.kernel_size = kernel_size
        self.padding_l = padding_l
        self.num_heads = num_heads
        self.weight_softmax = weight_softmax
        self.weight_dropout_module = FairseqDropout(weight_dropout, module_name=type(self).__name__)
        self.batch_first = batch_first
        self.gate_on = gate_on
        options = {"norm": norm, "activation": activation, "zero_init": zero_init, "latent_dim": latent_dim}
        options |= {"pool_factor": pool_factor, "pool": pool, "shuffle": shuffle}
        self.gate = make_gate(gate, num_heads, kernel_size, input_size, **options)
        self.gct = GatedChannelTransformation(input_size) if gct else None
        self._make_weights(bias)
        self.reset_parameters()

    def _make_weights(self, bias):
        """Make the convolution's own parameters, with a bias or without."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        raise NotImplementedError

    def forward(
        self,
        x: Tensor,
        padding_mask: Padding | Tensor | None = None,
        record: list[RecordedGate] | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: T x B x C (B x T x C with ``batch_first``)
            padding_mask: B x T, true at padding, where x is taken as zero; or a ``Padding`` of it
            record: a list that gets this call's ``RecordedGate``
            gate: B x H x K, to use instead of the layer's own

        Returns:
            as x, in its dtype; what stands at padding is of no meaning

        Raises:
            ValueError: x, the mask or the gate is of another shape or dtype
        """
        if x.dim() != 3 or x.size(2) != self.input_size:
            letters = "B x T x C" if self.batch_first else "T x B x C"
            raise ValueError(f"the input is {tuple(x.shape)}, expected {letters} with C = {self.input_size}")
        if not x.is_floating_point():
            raise ValueError(f"the input is {x.dtype}, expected floating-point numbers")
        if self.batch_first:
            x = x.transpose(0, 1)
        padding = Padding.of(padding_mask)
        if padding is not None:
            found, wanted = tuple(padding.mask.shape), (x.size(1), x.size(0))
            if found != wanted:
                raise ValueError(f"the padding mask is {found}, expected B x T: {wanted}")
            x = padding.zero(x)
        if gate is not None:
            self._check_gate(gate, x)
        if x.numel():
            y = self._convolve(x if self.gct is None else self.gct(x), padding, record, gate)
        else:
            y = x.clone()
        return y.transpose(0, 1) if self.batch_first else y

    def _check_gate(self, gate, x):
        if gate.shape != (shape := (x.size(1), self.num_heads, self.kernel_size)):
            raise ValueError(f"the gate is {tuple(gate.shape)}, expected B x H x K: {shape}")

    def _convolve(self, x, padding, record, gate):
        weights = self._weights(x)
        dropout = dropout_probability(self.weight_dropout_module)
        if (
            not torch.compiler.is_compiling()
            and isinstance(self.gate, ContextGate)
            and self.gate.is_plain
            and (self.gate.num_heads, self.gate.kernel_size) == (self.num_heads, self.kernel_size)
            and weights.dim() == 2
            and record is None
            and gate is None
        ):
            options = self.gate.options._replace(gate_on=self.gate_on, weight_softmax=self.weight_softmax)
            tensors = *self.gate.tensors(), weights, options
            y = context_gated_lightconv(x, padding, *tensors, padding_l=self.padding_l, dropout=dropout)
        else:
            if gate is None and self.gate is not None:
                gate = self.gate(x, padding)
                self._check_gate(gate, x)
            kernels = gated_kernel(gate, weights, self.weight_softmax, self.gate_on)
            if kernels.dim() == 2:
                kernels = kernels.expand(x.size(1), -1, -1)
            if record is not None:
                ungated = gated_kernel(None, weights, self.weight_softmax).expand_as(kernels)
                gate = kernels.new_ones(x.size(1), self.num_heads, self.kernel_size) if gate is None else gate
                record.append(RecordedGate(*(t.detach() for t in (gate, kernels, ungated))))
            y = lightconv(x, kernels, self.padding_l, dropout)
        bias = self._bias()
        return y if bias is None else y + bias.to(y.dtype)

    def extra_repr(self):
        names = "input_size", "kernel_size", "padding_l", "num_heads", "weight_softmax", "gate_on"
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


class ContextGatedLightweightConv(_ContextGatedConv):
    """LightConv's convolution, its kernel gated by the whole sentence (Eq. 2, section 4.4).

    The parameters of the convolution, their names and their initialisation are those of fairseq's
    ``LightweightConv``, so a LightConv checkpoint loads under the same names; ``gate.*`` is new. Each sentence
    b is convolved with its own kernel softmax(weight) * gate_b, to which DropConnect is applied: one draw a
    sentence, head and tap. (fairseq's Python layer draws for each token too, its CUDA layer once a batch.) It
    needs no extension to be built.

    Args:
        input_size: C
        kernel_size: K; a kernel of size 1 is not gated
        padding_l: taps before the output's own position; fairseq's pair for even kernel sizes,
            (left, right), is taken too. Default: K // 2
        num_heads: H, must divide C
        weight_softmax: normalise the kernel over its K taps
        weight_dropout: DropConnect's probability
        bias: add a bias of size C
        batch_first: B x T x C instead of T x B x C
        gate: ``context``: a ``ContextGate``; ``constant`` and ``learned``: its controls; ``none``: LightConv;
            ``summary``: a ``SummaryGate``
        gate_on: ``kernel``: softmax(W) * G, the paper's reading; ``logits``: softmax(W * G), which
            is the same without ``weight_softmax``
        gct: scale the input's channels by a ``GatedChannelTransformation`` before gate and convolution
        norm, activation, zero_init, latent_dim, pool_factor, pool, shuffle: ``ContextGate``'s; the controls heed
            ``activation`` alone, a ``SummaryGate`` that and ``shuffle``

    Attributes:
        weight: H x 1 x K
        gate: the ContextGate, ConstantGate, LearnedGate or SummaryGate, or None
        gct: the GatedChannelTransformation, or None
        bias: C, or None

    Raises:
        OptionError: (a ValueError) for sizes or choices that do not fit
    """

    def _make_weights(self, bias):
        self.weight = nn.Parameter(torch.empty(self.num_heads, 1, self.kernel_size))
        self.bias = nn.Parameter(torch.empty(self.input_size)) if bias else None

    def reset_parameters(self) -> None:
        """As at the start; the gates' have methods of their own."""
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _weights(self, x):
        return self.weight.squeeze(1)

    def _bias(self):
        return self.bias


class ContextGatedDynamicConv(_ContextGatedConv):
    """DynamicConv's convolution, one kernel a token, with all of a sentence's kernels gated by the whole sentence.

    Token t of sentence b is convolved with softmax(weight_linear(x_tb)) * gate_b. No paper has this.
    DropConnect draws once a token, head and tap, as in fairseq; time and memory are linear in T. The
    parameters of the convolution, their names and their initialisation are fairseq's; ``gate.*`` is new.
    fairseq's has a ``conv_bias`` even where it does not use it, and counts it: here it is zero then, and
    not trained.

    Args:
        conv_bias: add a bias of size C
        others: ``ContextGatedLightweightConv``'s, but for ``bias``

    Attributes:
        weight_linear: C to H * K: the tokens' kernels
        gate, gct: as in ContextGatedLightweightConv
        conv_bias: 1 x 1 x C

    Raises:
        OptionError: (a ValueError) for sizes or choices that do not fit
    """

    def __init__(
        self,
        input_size: int,
        kernel_size: int,
        padding_l: int | tuple[int, int] | None = None,
        num_heads: int = 1,
        *,
        conv_bias: bool = False,
        **options,
    ):
        super().__init__(input_size, kernel_size, padding_l, num_heads, bias=conv_bias, **options)

    def _make_weights(self, bias):
        self.weight_linear = nn.Linear(self.input_size, self.num_heads * self.kernel_size, bias=False)
        self.has_conv_bias = bias
        self.conv_bias = nn.Parameter(torch.empty(1, 1, self.input_size), requires_grad=bias)

    def reset_parameters(self) -> None:
        """As at the start; the gates' have methods of their own."""
        nn.init.xavier_uniform_(self.weight_linear.weight)
        nn.init.zeros_(self.conv_bias)

    def _weights(self, x):
        return self.weight_linear(x).unflatten(2, (self.num_heads, self.kernel_size))

    def _bias(self):
        return self.conv_bias if self.has_conv_bias else None
