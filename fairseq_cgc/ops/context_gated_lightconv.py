"""The one fused layer: head means, gate, kernels and convolution as one node of autograd, on every device.

It computes what ``lightconv(x, context_gate(head_means(x, H), ...))`` does, and writes both gradients that x
gets, as the convolution's input and through the gate, in one pass.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from .common import once_differentiable, without_autocast
from .context_gate import GateOptions, choose_gate, gate_implementation, in_dtype_of
from .lightconv import backward, choose, forward, gradient_of_input, reach
from .padding import Padding, head_means


def context_gated_lightconv(
    x: Tensor,
    padding: Padding | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    decode: Tensor,
    weight: Tensor,
    options: GateOptions,
    *,
    padding_l: int,
    dropout: float = 0.0,
    gate: str | None = None,
    convolution: str | None = None,
) -> Tensor:
    """x convolved with its gated kernels (Eq. 2, section 4.4).

    Args:
        x: T x B x C, at least one element
        padding: where x is zero; ``None``: no padding
        encode, scale, shift, decode, weight, options: as for ``context_gate``
        padding_l, dropout: as for ``lightconv``
        gate, convolution: implementations of ``context_gate`` and of ``lightconv``, instead of the first that
            supports the call

    Returns:
        T x B x C, in x's dtype. Its gradients can't be differentiated once more: an error.

    Raises:
        ValueError: sizes that do not fit each other
    """
    names = gate, convolution
    return _Layer.apply(
        x.contiguous(), encode, scale, shift, decode, weight, padding, options, padding_l, dropout, names
    )


class _Layer(Function):
    @staticmethod
    def forward(ctx, x, encode, scale, shift, decode, weight, padding, options, padding_l, dropout, names):
        H, K = weight.shape
        first, last = taps = reach(x, H, K, padding_l)
        parameters = encode, scale, shift, decode, weight
        with without_autocast(x):
            means = head_means(x, H)
            gate = names[0] or choose_gate(means, parameters, options)
            kernel, saved = gate_implementation(gate).forward(means, padding, parameters, options)
        kernel, drawn = kernel[..., first:last].contiguous(), None
        if dropout:
            kernel, drawn = torch.native_dropout(kernel, dropout, True)
        convolution = names[1] or choose(x, last - first, padding_l - first)
        ctx.save_for_backward(x, means, kernel, drawn, *parameters, *saved)
        ctx.choices = padding, options, padding_l - first, dropout, taps, gate, convolution
        return forward(x, kernel, padding_l - first, None, convolution)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, means, kernel, drawn, *rest = ctx.saved_tensors
        parameters, saved = rest[:5], rest[5:]
        padding, options, padding_l, dropout, (first, last), gate, convolution = ctx.choices
        H, K = parameters[-1].shape
        grad = grad.contiguous()
        grad_kernel = backward(grad, x, H, last - first, padding_l, False, convolution)
        if drawn is not None:
            scale = 1 / (1 - dropout) if dropout < 1 else 0.0
            grad_kernel = torch.ops.aten.native_dropout_backward(grad_kernel, drawn, scale)
        if last - first < K:
            grad_kernel = F.pad(grad_kernel, (first, K - last))
        with without_autocast(x):
            grad_means, *gradients = gate_implementation(gate).backward(
                grad_kernel, saved, means, padding, parameters, options
            )
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = gradient_of_input(grad, kernel, padding_l, grad_means, convolution)
        return grad_x, *in_dtype_of(parameters, gradients), None, None, None, None, None
