"""From head means to the gate, or to the kernels that it has multiplied: the operation and its implementations."""

from typing import NamedTuple

from torch import Tensor
from torch.autograd import Function

from ..common import once_differentiable, without_autocast
from ..lightconv import has_triton
from ..padding import Padding
from . import torch as pytorch

NORMS = ("latent", "latent-per-head", "heads-latent")
ACTIVATIONS = {"sigmoid": 0.5, "one-plus-tanh": 1.0}  # and the gate that each makes of 0
GATE_ON = ("kernel", "logits")

# Each is a module of functions, free of autograd; parameters: encode, scale, shift, decode, weight (or None).
#   supports(means, parameters, options)  whether it computes this; torch computes everything
#   forward(means, padding, parameters, options)  the result, and a tuple of what backward needs of it
#   backward(grad, saved, means, padding, parameters, options)  the gradients of means and of each parameter
IMPLEMENTATIONS = ("triton", "torch")


class GateOptions(NamedTuple):
    """What the gate's parameters leave open.

    Attributes:
        norm: what is normalised, and the shape of the affine pair: ``latent`` (d; d), ``latent-per-head``
            (d; H x d) or ``heads-latent`` (H x d; H x d)
        activation: ``sigmoid`` or ``one-plus-tanh``
        pool: ``average`` or ``max``
        gate_on: with a weight, what the gate multiplies: ``kernel``: softmax(W) * G; ``logits``: softmax(W * G)
        weight_softmax: normalise the weight
        eps: the normalisation's
    """

    norm: str = "latent"
    activation: str = "sigmoid"
    pool: str = "average"
    gate_on: str = "kernel"
    weight_softmax: bool = True
    eps: float = 1e-5


def context_gate(
    means: Tensor,
    padding: Padding | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    decode: Tensor,
    weight: Tensor | None,
    options: GateOptions,
    implementation: str | None = None,
) -> Tensor:
    """The gate of ``naive.naive_context_gate``, or with a weight the kernels of ``naive.naive_gated_kernel``.

    Args:
        means: ``head_means``, T x B x H
        padding: ``None``: no padding
        encode: d x num_slots
        scale, shift: d or H x d: of the normalised latents
        decode: K x d
        weight: H x K, before the softmax; ``None``: the gate itself is wanted
        options: ``GateOptions``
        implementation: one of ``IMPLEMENTATIONS``, instead of the first that supports the call

    Returns:
        B x H x K, in means' dtype. Its gradients can't be differentiated once more: an error.
    """
    name = implementation or choose_gate(means, (encode, scale, shift, decode, weight), options)
    with without_autocast(means):
        return _ContextGate.apply(means, encode, scale, shift, decode, weight, padding, options, name)


def choose_gate(means: Tensor, parameters: tuple, options: GateOptions) -> str:
    """The first of ``IMPLEMENTATIONS`` that supports this gate."""
    if means.is_cuda and has_triton() and gate_implementation("triton").supports(means, parameters, options):
        return "triton"
    return "torch"


def gate_implementation(name: str):
    """The module of that name."""
    if name == "triton":  # imported when it is first needed: it is not everywhere
        from . import triton

        return triton
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation is '{name}'; choose from {', '.join(IMPLEMENTATIONS)}")
    return pytorch


class _ContextGate(Function):
    @staticmethod
    def forward(ctx, means, encode, scale, shift, decode, weight, padding, options, name):
        parameters = encode, scale, shift, decode, weight
        output, saved = gate_implementation(name).forward(means, padding, parameters, options)
        ctx.save_for_backward(means, *parameters, *saved)
        ctx.choices = padding, options, name
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        means, encode, scale, shift, decode, weight, *saved = ctx.saved_tensors
        padding, options, name = ctx.choices
        parameters = encode, scale, shift, decode, weight
        gradients = gate_implementation(name).backward(grad, saved, means, padding, parameters, options)
        return *in_dtype_of((means, *parameters), gradients), None, None, None


def in_dtype_of(parameters, gradients):
    """Gradients, summed in float32 or better, in their parameters' dtypes."""
    return [g if g is None else g.to(p.dtype) for p, g in zip(parameters, gradients)]
