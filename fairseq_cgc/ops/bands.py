"""Lightweight convolution as products of band matrices: any device, any dtype, PyTorch alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Outputs a block. The products grow with it, the work of laying out the bands shrinks.
BLOCK = 32
# Elements of an intermediate product on the CPU: what the cache keeps until it is copied to its
# place. A larger one would also be given back to the system, and cost a page fault for each 4 KiB.
TILE = 1 << 18


def convolve(x: Tensor, kernel: Tensor, padding_l: int, plus: Tensor | None = None) -> Tensor:
    """``gated_lightconv`` without gradients.

    A block of S outputs of one sentence and head is an S x (S + K - 1) band matrix, which all blocks
    of the sentence share, times the block's inputs, which are read where they are: nothing is padded.

    Args:
        x: T x B x C, contiguous
        kernel: B x H x K
        padding_l: taps before the output's own position
        plus: T x B x H, added to all channels of its head

    Returns:
        T x B x C
    """
    T, B, C = x.shape
    H, K = kernel.shape[1:]
    heads = x.view(T, B * H, C // H)
    y = torch.empty_like(x)
    out = y.view(T, B * H, C // H)
    size = _block(T)
    band = _band(kernel.reshape(B * H, K).to(x.dtype), size)
    if plus is not None:
        plus = plus.reshape(T, B * H, 1)
    # On the CPU a tile's sentences are few enough for the cache.
    rows_of_a_tile = B * H if x.is_cuda else max(1, TILE // (size * (C // H)))
    product_memory = x.new_empty(min(rows_of_a_tile, B * H) * size * (C // H))
    for rows, outputs, inputs, columns in _tiles(T, B * H, rows_of_a_tile, K, size, padding_l):
        block = band[rows, : outputs.stop - outputs.start, columns]
        product = product_memory[: block[:, :, 0].numel() * (C // H)].view(*block.shape[:2], -1)
        torch.bmm(block, heads[inputs, rows].transpose(0, 1), out=product)
        product = product.transpose(0, 1)
        if plus is None:
            out[outputs, rows] = product
        else:
            torch.add(product, plus[outputs, rows], out=out[outputs, rows])
    return y


def kernel_gradient(grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int) -> Tensor:
    """The gradient of ``convolve``'s kernel.

    Args:
        grad, x: T x B x C, contiguous
        num_heads: H
        kernel_size: K
        padding_l: taps before the output's own position

    Returns:
        B x H x K, float32 (float64 for float64 input), summed in that precision
    """
    T, B, C = x.shape
    H, K, R = num_heads, kernel_size, C // num_heads
    precise = torch.float64 if x.dtype == torch.float64 else torch.float32
    size = _block(T)
    band = torch.zeros(B * H, size, size + K - 1, dtype=precise, device=x.device)
    for _, outputs, inputs, columns in _tiles(T, B * H, B * H, K, size, padding_l):
        left = grad.view(T, B * H, R)[outputs].transpose(0, 1).to(precise)
        right = x.view(T, B * H, R)[inputs].permute(1, 2, 0).to(precise)
        block = band[:, : outputs.stop - outputs.start, columns]
        product = torch.bmm(left, right)
        if outputs.start:
            block += product
        else:
            block.copy_(product)
    # Tap k of row t stands in column t + k.
    taps = band.as_strided((B * H, size, K), (size * (size + K - 1), size + K, 1))
    return taps.sum(1).view(B, H, K)


def _block(T: int) -> int:
    """T cut into blocks of about equal length, at most ``BLOCK``."""
    return -(-T // -(-T // BLOCK))


def _band(kernel: Tensor, size: int) -> Tensor:
    """N x K kernels to N x size x (size + K - 1) matrices whose row t holds the kernel from column t on.

    Rows of K + size entries, kernel then zeros, read as rows one shorter: each starts one later.
    """
    N, K = kernel.shape
    rows = F.pad(kernel, (0, size)).unsqueeze(1).expand(N, size, size + K).flatten(1)
    return rows[:, : size * (size + K - 1)].view(N, size, size + K - 1)


def _tiles(T, N, step, kernel_size, size, padding_l):
    """Cut T x N x R outputs into tiles of at most ``size`` x ``step`` x R.

    Yields:
        of each, as slices: its rows of N, its outputs' positions, the positions of the inputs that
        they read, and the band's columns that meet those
    """
    for row in range(0, N, step):
        for start in range(0, T, size):
            stop = min(T, start + size)
            first = start - padding_l
            inputs = slice(max(0, first), min(T, stop + kernel_size - 1 - padding_l))
            columns = slice(inputs.start - first, inputs.stop - first)
            yield slice(row, row + step), slice(start, stop), inputs, columns
