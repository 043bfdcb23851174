"""Pool a padded batch to one context map a sentence, whatever the padding."""

import torch
from torch import Tensor


def context_pool(x: Tensor, num_heads: int, num_slots: int, padding_mask: Tensor = None) -> Tensor:
    """Pool each sentence's own tokens to ``num_slots`` time slots a head (section 4.4).

    Token t of a sentence of n <= ``num_slots`` tokens fills slot t and the other slots are zero;
    of a longer sentence, slot i is the mean of tokens floor(i * n / num_slots) ...
    ceil((i + 1) * n / num_slots) - 1 (the rule of ``adaptive_avg_pool1d``). Only real tokens count,
    in their order: neither the side nor the amount of padding, nor what stands in it, matters.
    Time and memory are linear in T. ``naive.naive_context_pool`` is the reference.

    Args:
        x: T x B x C; float16 and bfloat16 are accumulated in float32
        num_heads: H, must divide C
        num_slots: 3K in the paper
        padding_mask: B x T, true at padding; ``None``: no padding

    Returns:
        B x H x num_slots, float32 (float64 for float64 input)
    """
    T, B, _ = x.shape
    accumulate = torch.float64 if x.dtype == torch.float64 else torch.float32
    heads = x.unflatten(2, (num_heads, -1)).mean(3, dtype=accumulate)  # T x B x H
    if padding_mask is None:
        lengths = torch.full((1, 1), T, device=x.device)
    else:
        lengths = T - padding_mask.sum(1, keepdim=True)  # B x 1

    slot = torch.arange(num_slots, device=x.device)
    long = lengths > num_slots
    first = torch.where(long, slot * lengths // num_slots, slot)
    last = torch.where(
        long, ((slot + 1) * lengths + num_slots - 1) // num_slots, torch.minimum(slot + 1, lengths)
    )  # B x num_slots, exclusive

    # Every slot reads the same number of tokens, decided by T alone so that no device
    # synchronisation is needed; those beyond the slot's own window are masked out.
    window = 1 if T <= num_slots else -(-T // num_slots) + 1
    token = first.unsqueeze(2) + torch.arange(window, device=x.device)  # B x num_slots x window
    outside = token >= last.unsqueeze(2)
    token = token.clamp(max=T - 1).flatten(1)
    if padding_mask is None:
        token = token.expand(B, -1)
    else:  # from a token's number in its sentence to its place in the padded row
        token = torch.argsort(padding_mask.byte(), dim=1, stable=True).gather(1, token)
    pooled = heads.transpose(0, 1).gather(1, token.unsqueeze(2).expand(-1, -1, num_heads))
    pooled = pooled.unflatten(1, (num_slots, window)).masked_fill(outside.unsqueeze(3), 0.0)
    pooled = pooled.sum(2) / (last - first).clamp(min=1).unsqueeze(2)
    return pooled.transpose(1, 2)
