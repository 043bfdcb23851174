"""Lightweight convolution with one kernel a sentence and head: the operation, its paths and its gradients."""

import functools
import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import bands, depthwise
from .context_pool import accumulation_dtype, head_means

# Each path is a module with these two functions, free of autograd:
#   convolve(x, kernel, padding_l, plus=None)
#   kernel_gradient(grad, x, num_heads, kernel_size, padding_l)
# They compute the gradient of x too: it is the convolution of the output's with the kernel reversed.
PATHS = ("bands", "depthwise", "triton")


def gated_lightconv(x: Tensor, kernel: Tensor, padding_l: int, dropout: float = 0.0, path: str | None = None) -> Tensor:
    """y[t, b, c] = sum_k kernel[b, h(c), k] * x[t + k - padding_l, b, c], zeros beyond both ends.

    Time and memory are linear in T. ``naive.naive_gated_lightconv`` is the reference.

    Args:
        x: T x B x C
        kernel: B x H x K, H must divide C
        padding_l: taps before the output's own position, 0 ... K - 1
        dropout: DropConnect's probability: each tap of a sentence's head is zeroed with it, and the
            others are scaled by 1 / (1 - dropout)
        path: one of ``PATHS``, instead of the one that device, dtype, T and K choose

    Returns:
        T x B x C, in x's dtype, under autocast too. Its gradients cannot be differentiated once more.

    Raises:
        ValueError: sizes that do not fit each other, or the path
    """
    return _convolve(x, lambda _: kernel, kernel.size(1), kernel.size(2), padding_l, dropout, path, means=False)


def context_gated_lightconv(
    x: Tensor,
    kernel_of: Callable[[Tensor], Tensor],
    num_heads: int,
    kernel_size: int,
    padding_l: int,
    dropout: float = 0.0,
    path: str | None = None,
) -> Tensor:
    """``gated_lightconv(x, kernel_of(head_means(x, H)), padding_l)`` in fewer passes over x.

    Both gradients that x gets, through its kernel and as the convolution's input, are written at once.

    Args:
        x: T x B x C
        kernel_of: from the head means, T x B x H, to the kernels, B x H x K
        num_heads: H, must divide C
        kernel_size: K
        padding_l, dropout, path: as for ``gated_lightconv``

    Returns:
        T x B x C
    """
    return _convolve(x, kernel_of, num_heads, kernel_size, padding_l, dropout, path, means=True)


def choose_path(x: Tensor, kernel_size: int, padding_l: int) -> str:
    """The fastest of ``PATHS`` for x (T x B x C), on the CPU as measured: see benchmarks/results."""
    if x.is_cuda:
        return "triton" if _has_triton() and _module("triton").suits(x, kernel_size) else "bands"
    # A depthwise convolution's work grows with K, a band's share of the work shrinks with T.
    if x.size(0) >= max(20, kernel_size**2) and depthwise.suits(x, kernel_size, padding_l):
        return "depthwise"
    return "bands"


@functools.cache
def _has_triton():
    if importlib.util.find_spec("triton") is not None:
        return True
    warnings.warn(
        "Triton is not installed: the gated convolutions run on the GPU through PyTorch's own operations, slower. "
        "PyTorch's wheels for CUDA bring it; otherwise: pip install triton",
        stacklevel=2,
    )
    return False


def _module(path):
    if path not in PATHS:
        raise ValueError(f"path is '{path}'; choose from {', '.join(PATHS)}")
    if path == "triton":  # imported when it is first needed: it is not everywhere
        from . import triton_lightconv

        return triton_lightconv
    return {"bands": bands, "depthwise": depthwise}[path]


def _convolve(x, kernel_of, num_heads, kernel_size, padding_l, dropout, path, means):
    T, B, C = x.shape
    if num_heads < 1 or C % num_heads:
        raise ValueError(f"{C} channels do not divide into {num_heads} heads")
    if not 0 <= padding_l < kernel_size:
        raise ValueError(f"padding_l is {padding_l}; for kernel size {kernel_size} it lies in 0 ... {kernel_size - 1}")
    x = x.contiguous()
    # Of a short sentence leave out the taps that lie beyond its ends wherever the output is.
    first, last = max(0, padding_l - T + 1), min(kernel_size, padding_l + T)
    padding_l -= first
    path = path or choose_path(x, last - first, padding_l)
    means, x, message = _Fork.apply(x, num_heads, last - first, padding_l, path, means)
    kernel = kernel_of(means)
    if kernel.shape != (B, num_heads, kernel_size):
        raise ValueError(f"the kernels are {tuple(kernel.shape)}, wanted B x H x K: {(B, num_heads, kernel_size)}")
    kernel = kernel[:, :, first:last].to(message.dtype)
    if dropout:
        kernel = torch.dropout(kernel, dropout, train=True)
    return _Convolve.apply(x, message, kernel.contiguous(), padding_l, path)


# Two nodes of autograd share the work: the convolution's input gets its gradient in _Fork, which knows
# by then what flows back through the kernel as well. To that end _Convolve sends it, as "gradients"
# of what it got from it, the output's gradient as it is, and the kernel.


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, num_heads, kernel_size, padding_l, path, means):
        ctx.sizes = num_heads, kernel_size, padding_l, path
        message = torch.empty((), dtype=accumulation_dtype(x), device=x.device)
        return (
            head_means(x, num_heads) if means else None,
            x.view_as(x),
            message.expand(x.size(1), num_heads, kernel_size),
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_means, grad_output, kernel):
        H, K, padding_l, path = ctx.sizes
        plus = None if grad_means is None else grad_means * (H / grad_output.size(2))
        grad = _lightconv(grad_output, kernel.flip(2), K - 1 - padding_l, plus, path)
        return grad, None, None, None, None, None


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, message, kernel, padding_l, path):
        ctx.save_for_backward(x, kernel)
        ctx.padding_l, ctx.path = padding_l, path
        return _lightconv(x, kernel, padding_l, None, path)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, kernel = ctx.saved_tensors
        grad = grad.contiguous()
        grad_kernel = None
        if ctx.needs_input_grad[2]:
            grad_kernel = _lightconv_kernel_gradient(grad, x, *kernel.shape[1:], ctx.padding_l, ctx.path)
        return grad, kernel, grad_kernel, None, None


# torch.compile takes these two for single operations instead of following their loops.


@torch.library.custom_op("fairseq_cgc::lightconv", mutates_args=())
def _lightconv(x: Tensor, kernel: Tensor, padding_l: int, plus: Tensor | None, path: str) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return _module(path).convolve(x, kernel, padding_l, plus)


@_lightconv.register_fake
def _(x, kernel, padding_l, plus, path):
    return torch.empty_like(x)


@torch.library.custom_op("fairseq_cgc::lightconv_kernel_gradient", mutates_args=())
def _lightconv_kernel_gradient(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, path: str
) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return _module(path).kernel_gradient(grad, x, num_heads, kernel_size, padding_l)


@_lightconv_kernel_gradient.register_fake
def _(grad, x, num_heads, kernel_size, padding_l, path):
    return x.new_empty(x.size(1), num_heads, kernel_size, dtype=accumulation_dtype(x))
