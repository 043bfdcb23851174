"""Lightweight convolution as a depthwise one of B * C channels, which oneDNN has fast code for on some CPUs.

T x B x C is a picture one token wide whose channels come last: nothing is copied but the kernel, to
each channel of its head, which is K / T of the input's size.
"""

import torch
from torch import Tensor


def suits(x: Tensor, kernel_size: int, padding_l: int) -> bool:
    """Whether this path computes these sizes, and without oneDNN's slow general code.

    Only kernels with as many taps before the output as behind it. With K > T the gradient was seen to
    take seconds, and so may anything on processors that oneDNN has no code of this kind for.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and 2 * padding_l == kernel_size - 1
        and x.size(0) >= 2 * kernel_size
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


def convolve(x: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None = None) -> Tensor:
    """As ``bands.convolve``."""
    if kernel.dim() == 4:
        raise ValueError("a depthwise convolution has one kernel a sentence, not one a token; take bands")
    T, B, C = x.shape
    H, K = kernel.shape[1:]
    if 2 * padding_l != K - 1:
        raise ValueError(f"a depthwise convolution has as many taps before as behind, not {padding_l} of {K} before")
    weight = kernel.to(x.dtype).unsqueeze(2).expand(B, H, C // H, K).reshape(B * C, 1, K, 1)
    y = torch.conv2d(_picture(x), weight, None, 1, (padding_l, 0), 1, B * C)
    y = y.permute(0, 2, 3, 1).view(T, B, C)
    if spread is not None:
        y.view(T, B, H, C // H).add_(spread.unsqueeze(3), alpha=H / C)
    return y


def kernel_gradient(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, per_token: bool = False
) -> Tensor:
    """As ``bands.kernel_gradient``."""
    T, B, C = x.shape
    H, K = num_heads, kernel_size
    gradients = torch.ops.aten.convolution_backward(
        *(_picture(grad), _picture(x), x.new_empty(B * C, 1, K, 1), None),
        *([1, 1], [padding_l, 0], [1, 1], False, [0, 0], B * C, [False, True, False]),
    )
    return gradients[1].view(B, H, C // H, K).sum(2)


def _picture(x):
    """T x B x C to 1 x (B * C) x T x 1, in place."""
    T, B, C = x.shape
    return x.view(1, T, 1, B * C).permute(0, 3, 1, 2)
