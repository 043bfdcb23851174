"""Lightweight convolution for GPUs, in Triton.

A program computes a block of outputs of one sentence and head. The convolution reads x once (its
overlap of K - 1 positions from the cache) and writes the output once; the gradient of x, which is the
same function, takes up the gate's share on the way. Sums are in float32. Half precision with more than a
few taps goes through the matrix units as a band matrix; float32, which they would round, is summed tap by tap.

Without a GPU the kernels run in Triton's interpreter: set TRITON_INTERPRET=1 before this is imported.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_T = 32
FEW_TAPS = 8  # which are read from the cache one by one for less than a band's empty columns cost
LONGEST = 128  # positions that a block of outputs may read
# Triton's interpreter (3.7 and 3.9) multiplies the bits of bfloat16 matrices as integers: there, widen them.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def supports(x: Tensor, kernel_size: int, padding_l: int = 0, per_token: bool = False) -> bool:
    """Any dtype but float64, and kernels that a block of outputs can hold."""
    return x.dtype != torch.float64 and BLOCK_T + kernel_size - 1 <= LONGEST


def forward(x: Tensor, kernel: Tensor, padding_l: int, spread: Tensor | None = None) -> Tensor:
    """As ``bands.forward``."""
    T, B, C = x.shape
    H, K = kernel.shape[-2:]
    R = C // H
    _check(x, K)
    kernel = kernel.contiguous()
    spread = None if spread is None else spread.contiguous()
    y = torch.empty_like(x)
    block_r = _block_r(R)
    grid = (B * H, triton.cdiv(T, BLOCK_T), triton.cdiv(R, block_r))
    with torch.cuda.device_of(x):
        _forward[grid](
            *(x, kernel, kernel if spread is None else spread, y),
            *(T, B * H, R, K, padding_l),
            PER_TOKEN=kernel.dim() == 4,
            HAS_SPREAD=spread is not None,
            BAND=x.dtype != torch.float32 and K > FEW_TAPS,
            INTERPRETED=INTERPRETED,
            BLOCK_T=BLOCK_T,
            BLOCK_S=triton.next_power_of_2(BLOCK_T + K - 1),
            BLOCK_R=block_r,
        )
    return y


def backward(
    grad: Tensor, x: Tensor, num_heads: int, kernel_size: int, padding_l: int, per_token: bool = False
) -> Tensor:
    """As ``bands.backward``. Adds in an order of its own making: the same numbers every time."""
    T, B, C = x.shape
    H, K, R = num_heads, kernel_size, C // num_heads
    _check(x, K)
    blocks = 1 if per_token else min(8, triton.cdiv(T, BLOCK_T))  # of a program
    programs = triton.cdiv(T, BLOCK_T * blocks)
    sums = torch.empty(*((T, B, H) if per_token else (B, H, programs)), K, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _backward[(B * H, programs)](
            *(grad, x, sums, T, B * H, R, K, padding_l, blocks),
            PER_TOKEN=per_token,
            INTERPRETED=INTERPRETED,
            BLOCK_T=BLOCK_T,
            BLOCK_S=triton.next_power_of_2(BLOCK_T + K - 1),
            BLOCK_R=min(64, _block_r(R)),
        )
    return sums if per_token else sums.sum(2)


def _check(x, K):
    if not supports(x, K):
        raise ValueError(
            f"triton does not support {x.dtype} with kernel size {K} (the largest is {LONGEST - BLOCK_T + 1}). "
            f"Leave the choice to the plugin, or use bands"
        )
    if not x.is_cuda and not INTERPRETED:
        raise ValueError("triton needs a GPU, or TRITON_INTERPRET=1 in the environment; x is on the CPU")


def _block_r(R):
    return max(16, min(128, triton.next_power_of_2(R)))


# Rows of x are time steps of N = B * H heads of R channels: element (t, n, r) lies at (t * N + n) * R + r.


@triton.jit
def _forward(
    x,
    kernel,
    spread,
    y,
    T,
    N,
    R,
    K,
    padding_l,
    PER_TOKEN: tl.constexpr,
    HAS_SPREAD: tl.constexpr,
    BAND: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1).to(tl.int64) * BLOCK_T
    r = tl.program_id(2) * BLOCK_R + tl.arange(0, BLOCK_R)
    t = start + tl.arange(0, BLOCK_T)
    step = tl.cast(N, tl.int64) * R
    if BAND:
        s = start - padding_l + tl.arange(0, BLOCK_S)
        inside = ((s >= 0) & (s < T))[:, None] & (r < R)[None, :]
        tile = tl.load(x + n * R + s[:, None] * step + r[None, :], mask=inside, other=0.0)
        tap = tl.arange(0, BLOCK_S)[None, :] - tl.arange(0, BLOCK_T)[:, None]
        on_band = (tap >= 0) & (tap < K)
        if PER_TOKEN:
            band = tl.load(kernel + (t * N + n)[:, None] * K + tap, mask=on_band & (t < T)[:, None], other=0.0)
        else:
            band = tl.load(kernel + n * K + tap, mask=on_band, other=0.0)
        band = band.to(tile.dtype)
        if INTERPRETED:
            band, tile = band.to(tl.float32), tile.to(tl.float32)
        total = tl.dot(band, tile)
    else:
        total = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
        for k in range(K):
            s = t + k - padding_l
            inside = ((s >= 0) & (s < T))[:, None] & (r < R)[None, :]
            tile = tl.load(x + n * R + s[:, None] * step + r[None, :], mask=inside, other=0.0)
            if PER_TOKEN:
                weight = tl.load(kernel + (t * N + n) * K + k, mask=t < T, other=0.0)[:, None]
            else:
                weight = tl.load(kernel + n * K + k)
            total += weight * tile.to(tl.float32)
    if HAS_SPREAD:
        total += tl.load(spread + t * N + n, mask=t < T, other=0.0)[:, None] / R
    inside = (t < T)[:, None] & (r < R)[None, :]
    tl.store(y + n * R + t[:, None] * step + r[None, :], total.to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    grad,
    x,
    sums,
    T,
    N,
    R,
    K,
    padding_l,
    blocks,
    PER_TOKEN: tl.constexpr,
    INTERPRETED: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    step = tl.cast(N, tl.int64) * R
    # Row i, column j: the products of output i of a block with the block's input j, over all blocks.
    total = tl.zeros((BLOCK_T, BLOCK_S), dtype=tl.float32)
    for block in range(blocks):
        start = (part * blocks + block) * BLOCK_T
        t = start + tl.arange(0, BLOCK_T)
        s = start - padding_l + tl.arange(0, BLOCK_S)
        for first in range(0, R, BLOCK_R):
            r = first + tl.arange(0, BLOCK_R)
            of_t = (t < T)[:, None] & (r < R)[None, :]
            of_s = ((s >= 0) & (s < T))[:, None] & (r < R)[None, :]
            left = tl.load(grad + n * R + t[:, None] * step + r[None, :], mask=of_t, other=0.0)
            right = tl.load(x + n * R + s[:, None] * step + r[None, :], mask=of_s, other=0.0)
            if INTERPRETED:
                left, right = left.to(tl.float32), right.to(tl.float32)
            total += tl.dot(left, tl.trans(right), input_precision="ieee")
    tap = tl.arange(0, BLOCK_S)[None, :] - tl.arange(0, BLOCK_T)[:, None]
    for k in range(K):
        of_tap = tl.sum(tl.where(tap == k, total, 0.0), axis=1)
        if PER_TOKEN:  # one block a program
            t = part * BLOCK_T + tl.arange(0, BLOCK_T)
            tl.store(sums + (t * N + n) * K + k, of_tap, mask=t < T)
        else:
            tl.store(sums + (n * tl.num_programs(1) + part) * K + k, tl.sum(of_tap, axis=0))
