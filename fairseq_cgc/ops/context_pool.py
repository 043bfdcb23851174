"""Pool a padded batch to one context map a sentence, whatever the padding."""

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """What sums over x are taken in: float32, or float64 for float64 input."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def head_means(x: Tensor, num_heads: int) -> Tensor:
    """Each head's mean over its channels (section 4.4).

    Args:
        x: T x B x C; float16 and bfloat16 are accumulated in float32
        num_heads: H, must divide C

    Returns:
        T x B x H, float32 (float64 for float64 input)
    """
    T, B, C = x.shape
    width = C // num_heads
    # As one matrix: over more dimensions torch sums slower.
    return x.reshape(-1, width).sum(1, dtype=accumulation_dtype(x)).view(T, B, num_heads) / width


def pool_slots(heads: Tensor, num_slots: int, padding_mask: Tensor | None = None) -> Tensor:
    """Pool each sentence's own tokens to time slots (section 4.4).

    Token t of a sentence of n <= ``num_slots`` tokens fills slot t and the other slots are zero;
    of a longer sentence, slot i is the mean of tokens floor(i * n / num_slots) ...
    ceil((i + 1) * n / num_slots) - 1 (the rule of ``adaptive_avg_pool1d``). Only real tokens count,
    in their order: neither the side nor the amount of padding, nor what stands in it, matters.
    Time and memory are linear in T.

    Args:
        heads: T x B x H
        num_slots: 3K in the paper
        padding_mask: B x T, true at padding; ``None``: no padding

    Returns:
        B x H x min(T, num_slots): the further slots are zero for every sentence
    """
    T, B, H = heads.shape
    if T <= num_slots:
        if padding_mask is None:
            return heads.permute(1, 2, 0)
        order = _real_tokens_first(padding_mask)
        pooled = _take(heads, order)  # B x T x H
        beyond = padding_mask.gather(1, order).unsqueeze(2)
        return pooled.masked_fill(beyond, 0.0).transpose(1, 2)

    if padding_mask is None:  # every sentence has the same slots: one product does it
        first, last = _slots(torch.full((1, 1), T, device=heads.device), num_slots)
        token = torch.arange(T, device=heads.device)
        inside = (token >= first.t()) & (token < last.t())  # num_slots x T
        with torch.autocast(heads.device.type, enabled=False):
            sums = torch.mm(inside.to(heads.dtype), heads.reshape(T, B * H))
        return (sums / (last - first).t()).view(num_slots, B, H).permute(1, 2, 0)

    lengths = T - padding_mask.sum(1, keepdim=True)  # B x 1
    first, last = _slots(lengths, num_slots)
    # Every slot reads the same number of tokens, decided by T alone so that no device
    # synchronisation is needed; those beyond the slot's own window are masked out.
    window = -(-T // num_slots) + 1
    token = first.unsqueeze(2) + torch.arange(window, device=heads.device)  # B x num_slots x window
    outside = token >= last.unsqueeze(2)
    token = _real_tokens_first(padding_mask).gather(1, token.clamp(max=T - 1).flatten(1))
    pooled = _take(heads, token).unflatten(1, (num_slots, window)).masked_fill(outside.unsqueeze(3), 0.0)
    pooled = pooled.sum(2) / (last - first).clamp(min=1).unsqueeze(2)
    return pooled.transpose(1, 2)


def _slots(lengths, num_slots):
    """The tokens of each slot, from the first to before the last, B x num_slots, for lengths of B x 1."""
    slot = torch.arange(num_slots, device=lengths.device)
    long = lengths > num_slots
    first = torch.where(long, slot * lengths // num_slots, slot)
    last = torch.where(long, ((slot + 1) * lengths + num_slots - 1) // num_slots, torch.minimum(slot + 1, lengths))
    return first, last


def _real_tokens_first(padding_mask):
    """B x T, true at padding, to the places in each row of its first, second ... real token, then the padding's."""
    return torch.argsort(padding_mask.byte(), dim=1, stable=True)


def _take(heads, place):
    """T x B x H and places, B x n, in each sentence to B x n x H."""
    T, B, H = heads.shape
    rows = place * B + torch.arange(B, device=heads.device).unsqueeze(1)
    return heads.reshape(T * B, H).index_select(0, rows.flatten()).view(B, -1, H)


def context_pool(x: Tensor, num_heads: int, num_slots: int, padding_mask: Tensor | None = None) -> Tensor:
    """Each sentence's context map: head means pooled to time slots (section 4.4).

    ``naive.naive_context_pool`` is the reference.

    Args:
        x: T x B x C
        num_heads: H, must divide C
        num_slots: 3K in the paper
        padding_mask: B x T, true at padding; ``None``: no padding

    Returns:
        B x H x num_slots, float32 (float64 for float64 input)
    """
    pooled = pool_slots(head_means(x, num_heads), num_slots, padding_mask)
    return F.pad(pooled, (0, num_slots - pooled.size(2)))
