"""Lightweight convolution as products of band matrices: any device, any dtype, PyTorch alone."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common import accumulation_dtype, cached, workspace

# Outputs a block. The products grow with it, their number shrinks: on a CPU each is a parallel region.
BLOCK = 64


def forward(x: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None = None) -> Tensor:
    """``lightconv`` without gradients.

    A block of S outputs of one sentence and head is an S x (S + K - 1) band matrix times the block's
    inputs, which are read where they are: nothing is padded. All blocks of a sentence share the
    matrix, if it has one kernel.

    Args:
        x: T x B x C, contiguous
        kernel: B x H x K, or T x B x H x K
        padding_l: taps before the output's own position
        spread: T x B x H, shared out evenly among the channels of its head, and added

    Returns:
        T x B x C
    """
    T, B, C = x.shape
    H, K = kernel.shape[-2:]
    N, R = B * H, C // H
    per_token = kernel.dim() == 4
    blocks, size = _blocks(T, K, padding_l)
    kernel = kernel.reshape(*(T,) * per_token, N, K).to(x.dtype)
    first, last = (blocks[0][2].start, blocks[0][2].stop) if len(blocks) == 1 else (0, size + K - 1)
    if per_token:
        band = x.new_zeros(N, size, size + K - 1)
    else:
        band = _band(kernel, size, first, last)  # of a single block, no columns that meet no input
    heads = x.view(T, N, R)
    products = workspace(x, len(blocks), N, size, R)  # bmm writes to contiguous memory alone
    for number, (outputs, inputs, columns) in enumerate(blocks):
        if per_token:  # the taps stand where the last block's stood
            _taps(band, K)[:, : outputs.stop - outputs.start] = kernel[outputs].transpose(0, 1)
            left = band[:, :, columns]
        else:
            left = band[:, :, columns.start - first : columns.stop - first]
        torch.bmm(left, heads[inputs].transpose(0, 1), out=products[number])
    y = x.new_empty(len(blocks) * size, N, R)  # the last block's further rows are cut off
    place, products = y.view(len(blocks), size, N, R), products.transpose(1, 2)
    if spread is None:
        place.copy_(products)
    else:
        spread = F.pad(spread.reshape(T, N), (0, 0, 0, y.size(0) - T)).view(len(blocks), size, N, 1)
        torch.add(products, spread.to(x.dtype), alpha=1 / R, out=place)
    return y[:T].view(T, B, C)


def backward(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, per_token: bool = False
) -> Tensor:
    """The gradient of the kernel.

    Args:
        grad, x: T x B x C, contiguous
        num_heads: H
        kernel_size: K
        padding_l: taps before the output's own position
        per_token: whether there is one kernel a token

    Returns:
        B x H x K or T x B x H x K, float32 (float64 for float64 input), summed in that precision
    """
    T, B, C = x.shape
    H, K = num_heads, kernel_size
    N, R = B * H, C // H
    precise = accumulation_dtype(x)
    blocks, size = _blocks(T, K, padding_l)

    def products(outputs, inputs, total=None):
        left = grad.view(T, N, R)[outputs].transpose(0, 1).to(precise)
        right = x.view(T, N, R)[inputs].permute(1, 2, 0).to(precise)
        return torch.bmm(left, right) if total is None else total.baddbmm_(left, right)

    if per_token:
        gradient = torch.empty(T, N, K, dtype=precise, device=x.device)
        for outputs, inputs, columns in blocks:
            length = outputs.stop - outputs.start
            band = torch.zeros(N, length, size + K - 1, dtype=precise, device=x.device)
            band[:, :, columns] = products(outputs, inputs)
            gradient[outputs] = _taps(band, K).transpose(0, 1)
        return gradient.view(T, B, H, K)
    total: Any = 0
    bands: dict[Any, Tensor] = {}  # products of the same columns add up
    for outputs, inputs, columns in blocks:
        key = outputs.stop - outputs.start, columns.start, columns.stop
        bands[key] = products(outputs, inputs, bands.get(key))
    for (length, first, last), band in bands.items():
        places = _places(band, K, length, first, last)
        total = total + band.flatten(1) @ places.t()
    return total.view(B, H, K)


def _blocks(T, kernel_size, padding_l):
    """Cut T outputs into blocks of about equal length, at most ``BLOCK``.

    Returns:
        of each, as slices: its outputs' positions, the positions of the inputs that they read, and the
        band's columns that meet those; and the length of a block, the last of which may be shorter
    """
    size = -(-T // -(-T // BLOCK))
    blocks = []
    for start in range(0, T, size):
        stop = min(T, start + size)
        first = start - padding_l
        inputs = slice(max(0, first), min(T, stop + kernel_size - 1 - padding_l))
        blocks.append((slice(start, stop), inputs, slice(inputs.start - first, inputs.stop - first)))
    return blocks, size


def _band(kernel: Tensor, size: int, first: int, last: int) -> Tensor:
    """N x K kernels to columns first ... last - 1 of N x size x (size + K - 1) matrices whose row t holds the kernel from t on."""
    N, K = kernel.shape
    if kernel.is_cuda:
        return _shifted(kernel, size)[:, :, first:last]
    return (kernel @ _places(kernel, K, size, first, last)).view(N, size, last - first)


@cached
def _places(kernel_size, size, first, last, dtype, device):
    """Where each tap stands in columns first ... last - 1 of a kernel's band: K x (size * columns), zeros and ones.

    On the CPU a product with it lays a band out, and one with its transpose sums up what stands at each
    tap, in half the time of copies and strides.
    """
    taps = torch.eye(kernel_size, dtype=dtype, device=device)
    return _shifted(taps, size)[:, :, first:last].flatten(1)


def _shifted(kernel: Tensor, size: int) -> Tensor:
    """N x K kernels to N x size x (size + K - 1) matrices whose row t holds the kernel from column t on.

    Rows of K + size entries, kernel then zeros, read as rows one shorter: each starts one later.
    """
    N, K = kernel.shape
    rows = F.pad(kernel, (0, size)).unsqueeze(1).expand(N, size, size + K).flatten(1)
    return rows[:, : size * (size + K - 1)].view(N, size, size + K - 1)


def _taps(band: Tensor, kernel_size: int) -> Tensor:
    """The N x S x K entries of a band of S rows that hold kernels: tap k of row t stands in column t + k."""
    N, size, width = band.shape
    return band.as_strided((N, size, kernel_size), (size * width, width + 1, 1))
