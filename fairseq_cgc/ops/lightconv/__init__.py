"""Lightweight convolution with one kernel a sentence and head, and dynamic convolution with one a token.

The operation, its implementations and its gradients.
"""

import functools
import importlib.util
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from ..common import accumulation_dtype, is_exporting, once_differentiable, operation, without_autocast
from . import bands, depthwise

# Each is a module of functions, free of autograd:
#   supports(x, kernel_size, padding_l, per_token)  whether it computes this, and is fast at it; bands computes everything
#   forward(x, kernel, padding_l, spread=None)
#   backward(grad, x, num_heads, kernel_size, padding_l, per_token=False)  the kernel's gradient
# The gradient of x is forward of the output's gradient with the kernel reversed.
IMPLEMENTATIONS = ("triton", "depthwise", "bands")


def lightconv(
    x: Tensor, kernel: Tensor, padding_l: int, dropout: float = 0.0, implementation: str | None = None
) -> Tensor:
    """y[t, b, c] = sum_k kernel[b, h(c), k] * x[t + k - padding_l, b, c], zeros beyond both ends.

    Time and memory are linear in T. ``naive.naive_lightconv`` is the reference.

    Args:
        x: T x B x C
        kernel: B x H x K, H must divide C; or T x B x H x K, with one kernel a token: kernel[t, b, h(c), k]
        padding_l: taps before the output's own position, 0 ... K - 1
        dropout: DropConnect's probability: each tap of a kernel is zeroed with it, and the others are
            scaled by 1 / (1 - dropout)
        implementation: one of ``IMPLEMENTATIONS``, instead of the first that supports the call

    Returns:
        T x B x C, in x's dtype, under autocast too. Its gradients can't be differentiated once more: an error.

    Raises:
        ValueError: sizes that do not fit each other, or the implementation
    """
    T, B, C = x.shape
    H, K = kernel.shape[-2:]
    per_token = kernel.dim() == 4
    wanted = (T,) * per_token + (B, H, K)
    if kernel.shape != wanted:
        letters = "T x B x H x K" if per_token else "B x H x K"
        raise ValueError(f"the kernels are {tuple(kernel.shape)}, expected {letters}: {wanted}")
    kernel = kernel.to(accumulation_dtype(x))
    if is_exporting():
        padded = F.pad(x.unflatten(2, (H, -1)), (0, 0, 0, 0, 0, 0, padding_l, K - 1 - padding_l)).to(kernel.dtype)
        taps = torch.dropout(kernel, dropout, train=dropout > 0).unsqueeze(-2).unbind(-1)
        y = sum((tap * padded[k : k + T] for k, tap in enumerate(taps)), start=padded.new_zeros(()))
        return y.flatten(2).to(x.dtype)
    first, last = reach(x, H, K, padding_l)
    if not x.numel():
        return x.clone()
    kernel = kernel[..., first:last]
    if dropout:
        kernel = torch.dropout(kernel, dropout, train=True)
    name = implementation or choose(x, last - first, padding_l - first, per_token)
    return _LightConv.apply(x.contiguous(), kernel.contiguous(), padding_l - first, name)


def choose(x: Tensor, kernel_size: int, padding_l: int, per_token: bool = False) -> str:
    """The first of ``IMPLEMENTATIONS`` that supports the convolution of x (T x B x C)."""
    sizes = kernel_size, padding_l, per_token
    # A CPU never asks for Triton, which takes seconds to import and may be missing.
    if x.is_cuda and has_triton() and _module("triton").supports(x, *sizes):
        return "triton"
    return "depthwise" if depthwise.supports(x, *sizes) else "bands"


@torch.compiler.assume_constant_result  # torch.compile could not follow it
def has_triton() -> bool:
    """Whether Triton is installed and works; one warning if not."""
    return _triton_works()


@functools.cache
def _triton_works():
    reason, remedy = "is not installed", "PyTorch's wheels for CUDA include it; otherwise: pip install triton"
    if importlib.util.find_spec("triton") is not None:
        if not torch.cuda.is_available():  # a GPU's tensor is a stand-in
            return True
        try:
            from triton.runtime import driver

            driver.active.get_current_target()  # compiles what it needs of C when it is first asked
            return True
        except Exception as error:
            reason = f"does not work here ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            remedy = "It needs a C compiler, Python's headers and a folder to write to (TRITON_CACHE_DIR)"
    warnings.warn(
        f"Triton {reason}: the gated convolutions run on the GPU through PyTorch's own operations, more slowly. {remedy}",
        stacklevel=2,
    )
    return False


def _module(name):
    if name == "triton":  # imported when it is first needed: it is not everywhere
        from . import triton

        return triton
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"implementation is '{name}'; choose from {', '.join(IMPLEMENTATIONS)}")
    return depthwise if name == "depthwise" else bands


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
        raise ValueError(
            f"padding_l is {padding_l}; for kernel size {kernel_size} it must be from 0 to {kernel_size - 1}"
        )
    return max(0, padding_l - T + 1), min(kernel_size, padding_l + T)


class _LightConv(Function):
    @staticmethod
    def forward(ctx, x, kernel, padding_l, name):
        ctx.save_for_backward(x, kernel)
        ctx.sizes = padding_l, name
        return forward(x, kernel, padding_l, None, name)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, kernel = ctx.saved_tensors
        padding_l, name = ctx.sizes
        grad = grad.contiguous()
        grad_x = grad_kernel = None
        if ctx.needs_input_grad[0]:
            grad_x = gradient_of_input(grad, kernel, padding_l, None, name)
        if ctx.needs_input_grad[1]:
            H, K = kernel.shape[-2:]
            grad_kernel = backward(grad, x, H, K, padding_l, kernel.dim() == 4, name)
        return grad_x, grad_kernel, None, None


def gradient_of_input(grad: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None, name: str) -> Tensor:
    """The gradient of ``forward``'s x: what reached output t from input s goes from t to s."""
    K = kernel.size(-1)
    after = K - 1 - padding_l
    if kernel.dim() == 3:
        return forward(grad, kernel.flip(2), after, spread, name)
    T, B, H, K = kernel.shape
    # Tap j at s is tap K - 1 - j of the output at s + j - after: along j, a step in time forth and a tap back.
    padded = F.pad(kernel, (0, 0, 0, 0, 0, 0, after, padding_l))
    step = B * H * K
    return forward(grad, padded.as_strided((T, B, H, K), (step, H * K, K, step - 1), K - 1), after, spread, name)


@operation("lightconv", lambda x, *_: torch.empty_like(x))
def forward(x: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None, name: str) -> Tensor:
    with without_autocast(x):
        return _module(name).forward(x, kernel, padding_l, spread)


def _fake_gradient(grad, x, num_heads, kernel_size, padding_l, per_token, name):
    shape = x.shape[0 if per_token else 1 : 2] + (num_heads, kernel_size)
    return x.new_empty(shape, dtype=accumulation_dtype(x))


@operation("lightconv_backward", _fake_gradient)
def backward(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, per_token: bool, name: str
) -> Tensor:
    with without_autocast(x):
        return _module(name).backward(grad, x, num_heads, kernel_size, padding_l, per_token)
