"""From head means to gated kernels at once, on a GPU: pooling, gate and kernel in one launch each way.

Elsewhere ``context_gate.ContextGate`` computes the same from PyTorch's operations.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .context_pool import Padding
from .gated_lightconv import has_triton


def suits(means: Tensor, num_slots: int, latent_dim: int, kernel_size: int) -> bool:
    """Whether ``gated_kernels`` is to be taken: on a GPU, with Triton, in float32, at sizes that a program can hold."""
    return means.is_cuda and has_triton() and _triton().suits(means, num_slots, latent_dim, kernel_size)


def _triton():
    from . import triton_gate  # imported when it is first needed: Triton is not everywhere

    return triton_gate


def gated_kernels(
    means: Tensor,
    padding: Padding | Tensor | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    decode: Tensor,
    weight: Tensor | None = None,
    activation: str = "sigmoid",
    gate_on: str = "kernel",
    weight_softmax: bool = True,
) -> Tensor:
    """The gate of ``naive.naive_context_gate``, or with a weight the kernels of ``naive.naive_gated_kernel``.

    Args:
        means: ``head_means``, T x B x H, float32
        padding: B x T, true at padding, or a ``Padding`` of it
        encode: d x num_slots
        scale, shift: d: the LayerNorm's, over each head's latents
        eps: the LayerNorm's
        decode: K x d
        weight: H x K, before the softmax; ``None``: the gate itself is wanted
        activation: ``sigmoid`` or ``one-plus-tanh``
        gate_on: ``kernel``: softmax(W) * G; ``logits``: softmax(W * G)
        weight_softmax: normalise the weight

    Returns:
        B x H x K, float32. Its gradients cannot be differentiated once more.
    """
    triton = _triton()
    if isinstance(padding, Tensor):
        padding = Padding(padding)
    rank, lengths = (None, None) if padding is None else padding.ranks()
    what = triton.GATE
    if weight is not None:
        what = triton.LOGITS if gate_on == "logits" and weight_softmax else triton.KERNEL
    how = eps, what, weight_softmax, activation == "sigmoid"
    return _GatedKernels.apply(means.contiguous(), rank, lengths, encode, scale, shift, decode, weight, how)


class _GatedKernels(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, rank, lengths, encode, scale, shift, decode, weight, how):
        tensors = (means, rank, lengths, *(part.contiguous() for part in (encode, scale, shift, decode)))
        tensors += (None if weight is None else weight.contiguous(),)
        ctx.save_for_backward(*tensors)
        ctx.how = how
        return _forward(*tensors, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        tensors = ctx.saved_tensors
        of_means, of_encode, of_norm, of_decode, of_weight = _backward(grad, *tensors, *ctx.how)
        parameters, others = tensors[3:], (of_encode, *of_norm, of_decode, of_weight)
        others = [None if part is None else other.to(part.dtype) for part, other in zip(parameters, others)]
        return of_means, None, None, *others, None


# torch.compile takes these two for single operations.


@torch.library.custom_op("fairseq_cgc::gate", mutates_args=())
def _forward(
    means: Tensor,
    rank: Tensor | None,
    lengths: Tensor | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    decode: Tensor,
    weight: Tensor | None,
    eps: float,
    what: int,
    softmax: bool,
    sigmoid: bool,
) -> Tensor:
    return _triton().forward(means, rank, lengths, encode, scale, shift, decode, weight, eps, what, softmax, sigmoid)


@_forward.register_fake
def _(means, rank, lengths, encode, scale, shift, decode, weight, eps, what, softmax, sigmoid):
    return means.new_empty(means.size(1), means.size(2), decode.size(0))


@torch.library.custom_op("fairseq_cgc::gate_backward", mutates_args=())
def _backward(
    grad: Tensor,
    means: Tensor,
    rank: Tensor | None,
    lengths: Tensor | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    decode: Tensor,
    weight: Tensor | None,
    eps: float,
    what: int,
    softmax: bool,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = means, rank, lengths, encode, scale, shift, decode, weight
    return _triton().backward(grad, *tensors, eps, what, softmax, sigmoid)


@_backward.register_fake
def _(grad, means, rank, lengths, encode, scale, shift, decode, weight, eps, what, softmax, sigmoid):
    shapes = means.shape, encode.shape, (2, scale.size(0)), decode.shape, (means.size(2), decode.size(0))
    return tuple(means.new_empty(shape) for shape in shapes)
