"""Lightweight convolution with one kernel a sentence and head."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Outputs a block: at about this length one T x T band matrix a head stops being cheaper than
# blocks that share a smaller one.
BLOCK = 64


def gated_lightconv(x: Tensor, kernel: Tensor, padding_l: int) -> Tensor:
    """y[t, b, c] = sum_k kernel[b, h(c), k] * x[t + k - padding_l, b, c], zeros beyond both ends.

    A matrix product with the kernels laid out as band matrices. A band is at most
    S x (S + K - 1) whatever T, since the blocks of S outputs of a sentence share it: time and
    memory are linear in T. ``naive.naive_gated_lightconv`` is the reference.

    Args:
        x: T x B x C
        kernel: B x H x K, H must divide C
        padding_l: taps before the output's own position, 0 ... K - 1

    Returns:
        T x B x C, in x's dtype
    """
    T, B, C = x.shape
    H, K = kernel.shape[1:]
    kernel = kernel.reshape(B * H, K).to(x.dtype)
    if T <= max(BLOCK, K):
        # One block: leave out the band's columns that would meet the zeros beyond the ends.
        band = _band(kernel, T).narrow(2, padding_l, T)
        y = torch.bmm(band, x.reshape(T, B * H, C // H).transpose(0, 1))
        return y.transpose(0, 1).reshape(T, B, C)
    size = max(BLOCK, K)
    blocks = -(-T // size)
    padded = F.pad(x, (0, 0, 0, 0, padding_l, (blocks + 1) * size - padding_l - T))
    padded = padded.view(blocks + 1, size, B * H, C // H).permute(2, 1, 0, 3)
    # A block's inputs: its own S rows and the first K - 1 of the next.
    inputs = torch.cat([padded[:, :, :-1], padded[:, : K - 1, 1:]], dim=1)
    y = torch.bmm(_band(kernel, size), inputs.flatten(2)).unflatten(2, (blocks, C // H))
    return y.permute(2, 1, 0, 3).reshape(blocks * size, B, C)[:T]


def _band(kernel: Tensor, size: int) -> Tensor:
    """N x K kernels to N x size x (size + K - 1) matrices whose row t holds the kernel from column t on.

    Rows of K + size entries, kernel then zeros, read as rows one shorter: each starts one later.
    """
    N, K = kernel.shape
    rows = F.pad(kernel, (0, size)).unsqueeze(1).expand(N, size, size + K).flatten(1)
    return rows[:, : size * (size + K - 1)].view(N, size, size + K - 1)
