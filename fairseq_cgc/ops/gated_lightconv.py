"""Lightweight convolution with one kernel a sentence and head, and dynamic convolution with one a token.

The operation, its paths and its gradients.
"""

import functools
import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import bands, depthwise
from .context_pool import accumulation_dtype, head_means, without_autocast

# Each path is a module with these two functions, free of autograd:
#   convolve(x, kernel, padding_l, spread=None)
#   kernel_gradient(grad, x, num_heads, kernel_size, padding_l, per_token=False)
# They compute the gradient of x too: it is the convolution of the output's with the kernel reversed.
PATHS = ("bands", "depthwise", "triton")


def gated_lightconv(x: Tensor, kernel: Tensor, padding_l: int, dropout: float = 0.0, path: str | None = None) -> Tensor:
    """y[t, b, c] = sum_k kernel[b, h(c), k] * x[t + k - padding_l, b, c], zeros beyond both ends.

    Time and memory are linear in T. ``naive.naive_gated_lightconv`` is the reference.

    Args:
        x: T x B x C
        kernel: B x H x K, H must divide C; or T x B x H x K, with one kernel a token: kernel[t, b, h(c), k]
        padding_l: taps before the output's own position, 0 ... K - 1
        dropout: DropConnect's probability: each tap of a kernel is zeroed with it, and the others are
            scaled by 1 / (1 - dropout)
        path: one of ``PATHS``, instead of the one that device, dtype, T and K choose

    Returns:
        T x B x C, in x's dtype, under autocast too. Its gradients cannot be differentiated once more.

    Raises:
        ValueError: sizes that do not fit each other, or the path
    """
    sizes = kernel.shape[-2:]
    return _convolve(x, lambda _: kernel, *sizes, padding_l, dropout, path, per_token=kernel.dim() == 4, means=False)


def context_gated_lightconv(
    x: Tensor,
    kernel_of: Callable[[Tensor], Tensor],
    num_heads: int,
    kernel_size: int,
    padding_l: int,
    dropout: float = 0.0,
    path: str | None = None,
    per_token: bool = False,
) -> Tensor:
    """``gated_lightconv(x, kernel_of(head_means(x, H)), padding_l)`` in fewer passes over x.

    Both gradients that x gets, through its kernel and as the convolution's input, are written at once.

    Args:
        x: T x B x C
        kernel_of: from the head means, T x B x H, to the kernels, B x H x K or T x B x H x K
        num_heads: H, must divide C
        kernel_size: K
        padding_l, dropout, path: as for ``gated_lightconv``
        per_token: whether there is one kernel a token

    Returns:
        T x B x C
    """
    return _convolve(x, kernel_of, num_heads, kernel_size, padding_l, dropout, path, per_token, means=True)


def choose_path(x: Tensor, kernel_size: int, padding_l: int, per_token: bool = False) -> str:
    """The fastest of ``PATHS`` for x (T x B x C), on the CPU as measured: see benchmarks/results."""
    if x.is_cuda:
        return "triton" if has_triton() and _module("triton").suits(x, kernel_size) else "bands"
    # A depthwise convolution's work grows with K, a band's share of the work shrinks with T.
    if not per_token and x.size(0) >= max(20, kernel_size**2) and depthwise.suits(x, kernel_size, padding_l):
        return "depthwise"
    return "bands"


@functools.cache
def has_triton():
    """Whether Triton is installed; one warning if not."""
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


def reach(x: Tensor, num_heads: int, kernel_size: int, padding_l: int) -> tuple[int, int]:
    """The taps that meet an input of x (T x B x C): those beyond a short sentence's ends never do.

    Returns:
        the first of them, and the one after the last

    Raises:
        ValueError: sizes that do not fit each other
    """
    T, _, C = x.shape
    if num_heads < 1 or C % num_heads:
        raise ValueError(f"{C} channels do not divide into {num_heads} heads")
    if not 0 <= padding_l < kernel_size:
        raise ValueError(f"padding_l is {padding_l}; for kernel size {kernel_size} it lies in 0 ... {kernel_size - 1}")
    return max(0, padding_l - T + 1), min(kernel_size, padding_l + T)


def _convolve(x, kernel_of, num_heads, kernel_size, padding_l, dropout, path, per_token, means):
    T, B, _ = x.shape
    first, last = reach(x, num_heads, kernel_size, padding_l)
    x = x.contiguous()
    padding_l -= first
    path = path or choose_path(x, last - first, padding_l, per_token)
    means, x, message = _Fork.apply(x, num_heads, last - first, padding_l, path, per_token, means)
    kernel = kernel_of(means)
    wanted = (T,) * per_token + (B, num_heads, kernel_size)
    if kernel.shape != wanted:
        letters = "T x B x H x K" if per_token else "B x H x K"
        raise ValueError(f"the kernels are {tuple(kernel.shape)}, wanted {letters}: {wanted}")
    kernel = kernel[..., first:last].to(message.dtype)
    if dropout:
        kernel = torch.dropout(kernel, dropout, train=True)
    return _Convolve.apply(x, message, kernel.contiguous(), padding_l, path)


# Two nodes of autograd share the work: the convolution's input gets its gradient in _Fork, which knows
# by then what flows back through the kernel as well. To that end _Convolve sends it, as "gradients"
# of what it got from it, the output's gradient as it is, and the kernel.


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, num_heads, kernel_size, padding_l, path, per_token, means):
        ctx.sizes = kernel_size, padding_l, path, means
        message = torch.empty((), dtype=accumulation_dtype(x), device=x.device)
        shape = x.shape[0 if per_token else 1 : 2] + (num_heads, kernel_size)
        # None instead of a tensor would do, but torch 2.4 cannot compile it.
        means = head_means(x, num_heads) if means else torch.empty_like(message)
        return means, x.view_as(x), message.expand(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_means, grad_output, kernel):
        K, padding_l, path, means = ctx.sizes
        spread = grad_means if means else None
        grad = lightconv(grad_output, _reversed(kernel, padding_l), K - 1 - padding_l, spread, path)
        return grad, None, None, None, None, None, None


def _reversed(kernel, padding_l):
    """The kernel that convolves back: what reached output t from input s goes from t to s."""
    if kernel.dim() == 3:
        return kernel.flip(2)
    T, B, H, K = kernel.shape
    after = K - 1 - padding_l
    # Tap j at s is tap K - 1 - j of the output at s + j - after: along j, a step in time forth and a tap back.
    padded = torch.nn.functional.pad(kernel, (0, 0, 0, 0, 0, 0, after, padding_l))
    step = B * H * K
    return padded.as_strided((T, B, H, K), (step, H * K, K, step - 1), K - 1)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, message, kernel, padding_l, path):
        ctx.save_for_backward(x, kernel)
        ctx.padding_l, ctx.path = padding_l, path
        return lightconv(x, kernel, padding_l, None, path)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, kernel = ctx.saved_tensors
        grad = grad.contiguous()
        grad_kernel = None
        if ctx.needs_input_grad[2]:
            H, K = kernel.shape[-2:]
            grad_kernel = lightconv_kernel_gradient(grad, x, H, K, ctx.padding_l, kernel.dim() == 4, ctx.path)
        return grad, kernel, grad_kernel, None, None


def _operation(name, fake):
    """Make a function, whose last argument is the path, one operation for torch.compile, which else follows its loops.

    Args:
        name: of the operation
        fake: from the arguments to a tensor of the result's shape and dtype

    Returns:
        a decorator. The function is called as it is where nothing compiles: torch's way to an
        operation takes 25 us, three times a layer. With Triton it is the operation all the same,
        for fake tensors on a GPU.
    """

    def register(function):
        operation = torch.library.custom_op(f"fairseq_cgc::{name}", function, mutates_args=())
        operation.register_fake(fake)

        @functools.wraps(function)
        def call(*args):
            return (operation if args[-1] == "triton" or torch.compiler.is_compiling() else function)(*args)

        return call

    return register


@_operation("lightconv", lambda x, *_: torch.empty_like(x))
def lightconv(x: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None, path: str) -> Tensor:
    with without_autocast(x):
        return _module(path).convolve(x, kernel, padding_l, spread)


def _fake_kernel_gradient(grad, x, num_heads, kernel_size, padding_l, per_token, path):
    shape = x.shape[0 if per_token else 1 : 2] + (num_heads, kernel_size)
    return x.new_empty(shape, dtype=accumulation_dtype(x))


@_operation("lightconv_kernel_gradient", _fake_kernel_gradient)
def lightconv_kernel_gradient(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, per_token: bool, path: str
) -> Tensor:
    with without_autocast(x):
        return _module(path).kernel_gradient(grad, x, num_heads, kernel_size, padding_l, per_token)
