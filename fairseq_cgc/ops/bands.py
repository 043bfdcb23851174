"""Lightweight convolution as products of band matrices: any device, any dtype, PyTorch alone."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .context_pool import accumulation_dtype
from .kept import kept

# Outputs a block. The products grow with it, the work of laying out the bands shrinks.
BLOCK = 32
# Elements of an intermediate product on the CPU: what the cache keeps until it is copied to its
# place. A larger one would also be given back to the system, and cost a page fault for each 4 KiB.
TILE = 1 << 18


def convolve(x: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None = None) -> Tensor:
    """``gated_lightconv`` without gradients.

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
    heads = x.view(T, N, R)
    y = torch.empty_like(x)
    out = y.view(T, N, R)
    size = _block(T)
    per_token = kernel.dim() == 4
    kernel = kernel.reshape(*(T,) * per_token, N, K).to(x.dtype)
    blocks = list(_blocks(T, K, size, padding_l))
    if per_token:
        band = x.new_zeros(N, size, size + K - 1)
    elif len(blocks) == 1:  # lay out no columns that meet no input
        [(outputs, inputs, columns)] = blocks
        band = _band(kernel, size, columns)
        blocks = [(outputs, inputs, slice(None))]
    else:
        band = _band(kernel, size, slice(0, size + K - 1))
    if spread is not None:
        spread = spread.reshape(T, N, 1)
    # On the CPU a tile's sentences are few enough for the cache.
    rows = N if x.is_cuda else min(N, max(1, TILE // (size * R)))
    memory = x.new_empty(rows * size * R)
    for outputs, inputs, columns in blocks:
        length = outputs.stop - outputs.start
        if per_token:  # the taps stand where the last block's stood
            _taps(band, K)[:, :length] = kernel[outputs].transpose(0, 1)
        parts = [band[:, :length, columns], heads[inputs].transpose(0, 1), out[outputs].transpose(0, 1)]
        if spread is not None:
            parts.append(spread[outputs].transpose(0, 1))
        products = memory[: rows * length * R].view(rows, length, R)
        for left, right, place, *added in zip(*(part.split(rows) for part in parts)):
            if left.size(0) < rows:  # the last tile
                products = products[: left.size(0)]
            product = torch.bmm(left, right, out=products)
            torch.add(product, *added, alpha=1 / R, out=place) if added else place.copy_(product)
    return y


def kernel_gradient(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, per_token: bool = False
) -> Tensor:
    """The gradient of ``convolve``'s kernel.

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
    size = _block(T)
    blocks = list(_blocks(T, K, size, padding_l))

    def products(outputs, inputs):
        left = grad.view(T, N, R)[outputs].transpose(0, 1).to(precise)
        right = x.view(T, N, R)[inputs].permute(1, 2, 0).to(precise)
        return torch.bmm(left, right)

    if len(blocks) == 1 and not per_token and not x.is_cuda:
        [(outputs, inputs, columns)] = blocks
        product = products(outputs, inputs)
        places = _places(product, K, size, columns.start, columns.stop)
        return (product.flatten(1) @ places.t()).view(B, H, K)
    band = torch.zeros(N, size, size + K - 1, dtype=precise, device=x.device)
    gradient = torch.empty(T, N, K, dtype=precise, device=x.device) if per_token else None
    for outputs, inputs, columns in blocks:
        length = outputs.stop - outputs.start
        product = products(outputs, inputs)
        block = band[:, :length, columns]
        if per_token:
            band.zero_()  # columns beyond the sentence's ends
        if per_token or not outputs.start:
            block.copy_(product)
        else:
            block += product
        if per_token:
            gradient[outputs] = _taps(band, K)[:, :length].transpose(0, 1)
    if per_token:
        return gradient.view(T, B, H, K)
    return _taps(band, K).sum(1).view(B, H, K)


def _block(T: int) -> int:
    """T cut into blocks of about equal length, at most ``BLOCK``."""
    return -(-T // -(-T // BLOCK))


def _blocks(T, kernel_size, size, padding_l):
    """Cut T outputs into blocks.

    Yields:
        of each, as slices: its outputs' positions, the positions of the inputs that they read, and the
        band's columns that meet those
    """
    for start in range(0, T, size):
        stop = min(T, start + size)
        first = start - padding_l
        inputs = slice(max(0, first), min(T, stop + kernel_size - 1 - padding_l))
        yield slice(start, stop), inputs, slice(inputs.start - first, inputs.stop - first)


def _band(kernel: Tensor, size: int, columns: slice) -> Tensor:
    """N x K kernels to the columns of N x size x (size + K - 1) matrices whose row t holds the kernel from t on."""
    N, K = kernel.shape
    if kernel.is_cuda:
        return _shifted(kernel, size)[:, :, columns]
    return (kernel @ _places(kernel, K, size, columns.start, columns.stop)).view(N, size, -1)


@kept
def _places(kernel_size, size, first, last, dtype, device):
    """Where each tap stands in columns ``first`` ... ``last`` - 1 of a kernel's band: K x (size * columns), zeros and ones.

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
    """The N x size x K entries of such matrices that hold kernels: tap k of row t stands in column t + k."""
    N, size, width = band.shape
    return band.as_strided((N, size, kernel_size), (size * width, width + 1, 1))
