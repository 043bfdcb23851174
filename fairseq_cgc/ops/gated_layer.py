"""Pooling, gate and convolution of a layer as one node of autograd, for the CPU.

At short sentences what autograd and Python spend on a score of small operations is a part of the
layer's time that can be seen. ``context_gated_lightconv`` computes the same from any gate.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .context_pool import Padding, accumulation_dtype, head_means, pool_slots, pool_slots_backward
from .gate import backward_of_context, forward_of_context
from .gated_lightconv import choose_path, lightconv, lightconv_kernel_gradient, reach


def suits(x: Tensor, *parameters: Tensor) -> bool:
    """Whether ``gated_layer`` is to be taken: not on a GPU, one precision, and nothing that looks inside."""
    if x.is_cuda or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
        return False
    precise = accumulation_dtype(x)
    return all(parameter.dtype == precise for parameter in parameters)


def gated_layer(
    x: Tensor,
    padding: Padding | Tensor | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
    decode: Tensor,
    weight: Tensor,
    padding_l: int,
    dropout: float = 0.0,
    activation: str = "sigmoid",
    gate_on: str = "kernel",
    weight_softmax: bool = True,
) -> Tensor:
    """x convolved with its gated kernels (Eq. 2, section 4.4), as ``naive.naive_gated_kernel`` has them.

    Args:
        x: T x B x C
        padding: B x T, true at padding, or a ``Padding`` of it, where x is zero; ``None``: no padding
        encode, scale, shift, eps, decode, weight: as for ``gate.gated_kernels``
        padding_l, dropout: as for ``gated_lightconv``
        activation, gate_on, weight_softmax: as for ``gate.gated_kernels``

    Returns:
        T x B x C, in x's dtype. Its gradients cannot be differentiated once more.

    Raises:
        ValueError: sizes that do not fit each other
    """
    if isinstance(padding, Tensor):
        padding = Padding(padding)
    how = eps, weight_softmax, gate_on == "logits" and weight_softmax, activation == "sigmoid"
    return _Layer.apply(x.contiguous(), encode, scale, shift, decode, weight, padding, padding_l, dropout, how)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, encode, scale, shift, decode, weight, padding, padding_l, dropout, how):
        H, K = weight.shape
        parameters = encode, scale, shift, decode, weight
        first, last = taps = reach(x, H, K, padding_l)
        context = pool_slots(head_means(x, H), encode.size(1), padding)
        kernel, known = forward_of_context(context, *parameters, how)
        kernel = kernel[..., first:last].contiguous()
        drawn = None
        if dropout:
            kernel, drawn = torch.native_dropout(kernel, dropout, True)
        path = choose_path(x, last - first, padding_l - first)
        ctx.save_for_backward(x, kernel, drawn, *parameters, *known)
        ctx.sizes = padding, padding_l - first, dropout, how, taps, path
        return lightconv(x, kernel, padding_l - first, None, path)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, kernel, drawn, *tensors = ctx.saved_tensors
        parameters, known = tensors[:5], tensors[5:]
        padding, padding_l, dropout, how, (first, last), path = ctx.sizes
        H, K = parameters[-1].shape
        grad = grad.contiguous()
        of_kernel = lightconv_kernel_gradient(grad, x, H, last - first, padding_l, False, path)
        if drawn is not None:
            of_kernel = torch.ops.aten.native_dropout_backward(
                of_kernel, drawn, 1 / (1 - dropout) if dropout < 1 else 0.0
            )
        if last - first < K:
            of_kernel = torch.nn.functional.pad(of_kernel, (first, K - last))
        of_context, *of_parameters = backward_of_context(of_kernel, known, *parameters, how)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_means = pool_slots_backward(of_context, x.size(0), parameters[0].size(1), padding)
            of_x = lightconv(grad, kernel.flip(2), last - first - 1 - padding_l, of_means, path)
        return of_x, *of_parameters, None, None, None, None
