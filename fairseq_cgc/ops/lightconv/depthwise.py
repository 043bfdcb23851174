"""Lightweight convolution as a depthwise one of B * C channels, which oneDNN has fast code for.

T x B x C is a picture of T pixels whose channels come last: nothing is copied but the kernel, to
each channel of its head, which is K / T of the input's size.
"""

import torch
from torch import Tensor

from . import bands

HAS_ONEDNN = torch.backends.mkldnn.is_available()  # asked once: torch.compile does not follow the question


def supports(x: Tensor, kernel_size: int, padding_l: int, per_token: bool) -> bool:
    """Kernels centred on the output, one a sentence, in float32 on a CPU, that are short beside the sentence.

    With longer ones the copies of the kernel cost more than is gained, as measured: ``python -m benchmarks paths``.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not per_token
        and 2 * padding_l == kernel_size - 1
        and HAS_ONEDNN
        and x.size(0) >= (3 if kernel_size < 16 else 8) * kernel_size
    )


def forward(x: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None = None) -> Tensor:
    """As ``bands.forward``."""
    T, B, C = x.shape
    if kernel.dim() == 4:
        raise ValueError("a depthwise convolution has one kernel per sentence, not one per token; use bands")
    H, K = kernel.shape[1:]
    if 2 * padding_l != K - 1:
        raise ValueError(
            f"a depthwise convolution needs as many taps before a position as after it, not {padding_l} of {K} before"
        )
    weight = kernel.to(x.dtype).unsqueeze(2).expand(B, H, C // H, K).reshape(B * C, 1, 1, K)
    # Time as the picture's width: oneDNN's loop over it is the inner one.
    y = torch.conv2d(x.view(1, 1, T, B * C).permute(0, 3, 1, 2), weight, None, 1, (0, padding_l), 1, B * C)
    y = y.permute(0, 2, 3, 1).view(T, B, C)
    if spread is not None:
        y.view(T, B, H, C // H).add_(spread.unsqueeze(3), alpha=H / C)
    return y


def backward(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, per_token: bool = False
) -> Tensor:
    """As ``bands.backward``."""
    T, B, C = x.shape
    H, K = num_heads, kernel_size
    if T <= bands.BLOCK or (K >= 16 and T < 16 * K):  # oneDNN is slower there; below 2 K it was seen to take seconds
        return bands.backward(grad, x, num_heads, kernel_size, padding_l)
    # Time as the picture's height: with time as its width oneDNN's gradient is many times slower.
    tall = (part.view(1, T, 1, B * C).permute(0, 3, 1, 2) for part in (grad, x))
    gradients = torch.ops.aten.convolution_backward(
        *(*tall, x.new_empty(B * C, 1, K, 1), None),
        *([1, 1], [padding_l, 0], [1, 1], False, [0, 0], B * C, [False, True, False]),
    )
    return gradients[1].view(B, H, C // H, K).sum(2)
