"""From head means to gated kernels.

On a GPU pooling, gate and kernel are one launch each way (``gated_kernels``). On a CPU they are
PyTorch's operations, with a backward that is written out (``forward_of_context``), for
``gated_layer``. Where neither fits, ``context_gate.ContextGate`` computes the same.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .context_pool import Padding
from .gated_lightconv import has_triton

aten = torch.ops.aten


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


def encode_context(context: Tensor, encode: Tensor) -> tuple[Tensor, Tensor]:
    """Each head's context, encoded.

    Args:
        context: B x H x slots, of which there may be fewer than ``encode`` has: the others are zero
        encode: d x num_slots

    Returns:
        (B * H) x d, and the context as slots x (B * H), as the means of short sentences lie
    """
    B, H, slots = context.shape
    columns = context.permute(2, 0, 1).reshape(slots, B * H)
    return columns.t() @ encode[:, :slots].t(), columns


def forward_of_context(
    context: Tensor, encode: Tensor, scale: Tensor, shift: Tensor, decode: Tensor, weight: Tensor, how: tuple
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """As ``gated_kernels``, from the pooled context and free of autograd.

    Args:
        context: B x H x slots, of which there may be fewer than ``encode`` has: the others are zero
        encode, scale, shift, decode, weight: as for ``gated_kernels``, in context's dtype
        how: the LayerNorm's epsilon, and whether the weight is normalised, the logits are gated instead of
            the kernel, and the activation is ``sigmoid``

    Returns:
        B x H x K, and what ``backward_of_context`` has to know of it
    """
    eps, softmax, on_logits, sigmoid = how
    encoded, columns = encode_context(context, encode)
    normal, mean, inverse = torch.native_layer_norm(encoded, scale.shape, scale, shift, eps)
    latent = normal.relu_()
    logits = latent @ decode.t()
    activated = (logits.sigmoid_() if sigmoid else logits.tanh_()).view(*context.shape[:2], -1)
    gate = activated if sigmoid else activated + 1
    if on_logits:
        kernel = share = torch.softmax(weight * gate, 2)
    else:
        share = torch.softmax(weight, 1) if softmax else weight
        kernel = share * gate
    return kernel, (columns, encoded, mean, inverse, latent, activated, share)


def backward_of_context(
    grad: Tensor,
    known: tuple[Tensor, ...],
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    decode: Tensor,
    weight: Tensor,
    how: tuple,
) -> tuple[Tensor, ...]:
    """The gradients of ``forward_of_context``.

    Args:
        grad: B x H x K
        known: its second result
        others: as for ``forward_of_context``

    Returns:
        the gradient of the context, but slots x B x H, and those of encode, scale, shift, decode and weight
    """
    columns, encoded, mean, inverse, latent, activated, share = known
    _, softmax, on_logits, sigmoid = how
    gate = activated if sigmoid else activated + 1
    if on_logits:
        of_product = _softmax_backward(grad, share)
        of_weight, of_gate = (of_product * gate).sum(0), of_product * weight
    else:
        of_weight, of_gate = (grad * gate).sum(0), grad * share
        if softmax:
            of_weight = _softmax_backward(of_weight, share)
    of_activated = aten.sigmoid_backward if sigmoid else aten.tanh_backward
    of_logits = of_activated(of_gate, activated).view(columns.size(1), -1)
    of_normal = aten.threshold_backward(of_logits @ decode, latent, 0)
    of_encoded, of_scale, of_shift = aten.native_layer_norm_backward(
        of_normal, encoded, scale.shape, mean, inverse, scale, shift, [True, True, True]
    )
    slots = columns.size(0)
    of_encode = torch.nn.functional.pad(of_encoded.t() @ columns.t(), (0, encode.size(1) - slots))
    of_context = (encode[:, :slots].t() @ of_encoded.t()).view(slots, *gate.shape[:2])
    return of_context, of_encode, of_scale, of_shift, of_logits.t() @ latent, of_weight


def _softmax_backward(grad, share):
    return aten._softmax_backward_data(grad, share, -1, grad.dtype)


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
