"""Pool a padded batch to one context map a sentence, whatever the padding (section 4.4)."""

import functools
from typing import Any

import torch
from torch import Tensor

from .common import accumulation_dtype, cached, is_exporting, is_real

POOLS = ("average", "max")


def head_means(x: Tensor, num_heads: int) -> Tensor:
    """Each head's mean over its channels.

    Args:
        x: T x B x C; float16 and bfloat16 are accumulated in float32
        num_heads: H, must divide C

    Returns:
        T x B x H, float32 (float64 for float64 input)
    """
    T, B, C = x.shape
    # As one matrix: over more dimensions torch sums slower.
    return x.reshape(T * B * num_heads, C // num_heads).mean(1, dtype=accumulation_dtype(x)).view(T, B, num_heads)


def _once(method):
    """Let a method of ``Padding`` work a thing out once; not where torch traces, since what it sees in one operation is nothing
    outside of it."""

    @functools.wraps(method)
    def remember(self, *args):
        if not is_real(self.mask):
            return method(self, *args)
        key = (method, *args)
        if key not in self._cache:
            self._cache[key] = method(self, *args)
        return self._cache[key]

    return remember


class Padding:
    """Where a batch has padding, and what pooling works out from that, once for all layers.

    It belongs to one batch in one thread: the encoder makes it and hands it down as an argument.

    Args:
        mask: B x T, true at padding

    Raises:
        ValueError: it is no tensor of bool
    """

    def __init__(self, mask: Tensor):
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            found = getattr(mask, "dtype", type(mask).__name__)
            raise ValueError(f"the padding mask is {found}, expected a tensor of bool, B x T, true at padding")
        self.mask = mask
        self._cache: dict[Any, Any] = {}

    @classmethod
    def of(cls, mask: "Padding | Tensor | None") -> "Padding | None":
        """The ``Padding`` of a mask; ``None`` if there is none."""
        return mask if mask is None or isinstance(mask, Padding) else cls(mask)

    def zero(self, x: Tensor) -> Tensor:
        """x (T x B x C), zero at padding."""
        return x.masked_fill(self.mask.t().unsqueeze(2), 0.0)

    @_once
    def ranks(self) -> tuple[Tensor, Tensor]:
        """Each token's place in its sentence.

        Returns:
            place: B x T, int32, -1 at padding
            length: B, int32
        """
        place = torch.cumsum(~self.mask, 1, dtype=torch.int32)
        length = (~self.mask).sum(1, dtype=torch.int32)
        return (place - 1).masked_fill_(self.mask, -1), length

    @_once
    def _order(self):
        """The places of the first, second ... real token in each row, then the padding's: B x T."""
        return torch.argsort(self.mask.byte(), dim=1, stable=True)

    def slots(self, num_slots: int) -> tuple[Tensor, Tensor, Tensor]:
        """Which tokens each sentence's time slots hold: those from each slot's first to before its last.

        A slot reads the same number of tokens in every sentence, decided by T alone so that no device
        synchronisation is needed; some of them do not belong to it.

        Args:
            num_slots: 3K in the paper

        Returns:
            rows: B x slots x reads, rows of the T * B heads, where slots = min(T, num_slots)
            outside: B x slots x reads, true where the token read does not belong to the slot
            count: B x slots, tokens of each slot, at least 1
        """
        return self._slots(min(num_slots, self.mask.size(1)))  # further ones are empty

    @_once
    def _slots(self, num_slots):
        B, T = self.mask.shape
        lengths = T - self.mask.sum(1, keepdim=True)  # B x 1
        first, last = _windows(lengths, num_slots)
        reads = 1 if T == num_slots else -(-T // num_slots) + 1
        token = first.unsqueeze(2) + torch.arange(reads, device=lengths.device)
        outside = token >= last.unsqueeze(2)
        place = self._order().gather(1, token.clamp(max=max(T - 1, 0)).flatten(1))
        rows = place * B + torch.arange(B, device=place.device).unsqueeze(1)
        return rows.view_as(outside), outside, (last - first).clamp(min=1)

    @_once
    def tokens(self, num_slots: int, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Which slots each token is in: one, or two where a long sentence's slots overlap.

        Args:
            num_slots: 3K in the paper
            dtype: of the shares

        Returns:
            rows: two of (T * B), rows of min(T, num_slots) * B: the first slot and the last
            shares: two of (T * B) x 1: a token's share in these, zero at padding; in the last zero, where
                it is the first

            or one of each, where no sentence can be longer than ``num_slots``
        """
        B, T = self.mask.shape
        place, length = self.ranks()
        place, length = place.t(), length.unsqueeze(0)  # T x B, 1 x B
        *_, count = self.slots(num_slots)
        long = length > num_slots
        # Slot i reaches from token floor(i n / slots) to before ceil((i + 1) n / slots).
        first = torch.where(long, place * num_slots // length.clamp(min=1), place)
        last = torch.where(long, -(-(place + 1) * num_slots // length.clamp(min=1)) - 1, place)
        rows, shares = [], []
        for slot, inside in ((first, place >= 0), (last, last > first)):
            slot = slot.clamp(min=0).long()
            share = inside.to(dtype) / count.t().gather(0, slot)
            rows.append((slot * B + torch.arange(B, device=slot.device)).flatten())
            shares.append(share.reshape(T * B, 1))
        ends = 1 if T <= num_slots else 2
        return rows[:ends], shares[:ends]


def pool_slots(
    heads: Tensor, num_slots: int, padding: Padding | None = None, pool: str = "average"
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """Pool each sentence's own tokens to time slots.

    Token t of a sentence of n <= ``num_slots`` tokens fills slot t and the other slots are zero;
    of a longer sentence, slot i is the mean of tokens floor(i * n / num_slots) ...
    ceil((i + 1) * n / num_slots) - 1 (the rule of ``adaptive_avg_pool1d``). Only real tokens count,
    in their order: neither the side nor the amount of padding, nor what stands in it, matters.
    Time and memory are linear in T. ``naive.naive_context_pool`` is the reference.

    Args:
        heads: ``head_means``, T x B x H
        num_slots: 3K in the paper
        padding: ``None``: no padding
        pool: ``average``, or ``max``: of a long sentence, the largest of each slot's tokens instead of their mean

    Returns:
        slots x B x H with slots = min(T, num_slots): the further ones are zero for every sentence;
        and what ``pool_slots_backward`` needs to know of the maxima
    """
    T, B, H = heads.shape
    if is_exporting():
        return _pool_any(heads, num_slots, padding, pool), None
    if padding is None and T <= num_slots:
        return heads, None
    if padding is None and pool == "max":
        padding = Padding(torch.zeros(B, T, dtype=torch.bool, device=heads.device))
    if padding is None:  # every sentence has the same slots: one product does it
        inside, count = _slots(heads, T, num_slots)
        return (inside @ heads.reshape(T, B * H) / count).view(num_slots, B, H), None

    rows, outside, count = padding.slots(num_slots)
    rows, outside, count = rows.transpose(0, 1), outside.transpose(0, 1).unsqueeze(3), count.t().unsqueeze(2)
    tokens = heads.reshape(T * B, H).index_select(0, rows.flatten()).view(*rows.shape, H)
    if T <= num_slots:  # each slot reads one token: there is nothing to pool
        return tokens.masked_fill(outside, 0.0).squeeze(2), None
    if pool == "average":
        return tokens.masked_fill(outside, 0.0).sum(2) / count, None
    largest, place = tokens.masked_fill(outside, -torch.inf).max(2)
    empty = outside.all(2).expand_as(largest)
    winner = rows.unsqueeze(3).expand(*rows.shape, H).gather(2, place.unsqueeze(2)).squeeze(2)
    return largest.masked_fill(empty, 0.0), (winner, empty)


def _pool_any(heads, num_slots, padding, pool):
    """``pool_slots`` without a decision that depends on sizes, all slots of it; its backward is autograd's."""
    mask = heads.new_zeros(heads.shape[:2], dtype=torch.bool).t() if padding is None else padding.mask
    place, length = Padding(mask).ranks()
    first, last = (edge.unsqueeze(2) for edge in _windows(length.unsqueeze(1), num_slots))
    inside = ((place.unsqueeze(1) >= first) & (place.unsqueeze(1) < last)).permute(1, 2, 0).unsqueeze(3)
    if pool == "average":  # slots x T x B x H
        return heads.masked_fill(~inside, 0.0).sum(1) / (last - first).clamp(min=1).permute(1, 0, 2)
    return heads.masked_fill(~inside, -torch.inf).amax(1).masked_fill(~inside.any(1), 0.0)


def pool_slots_backward(
    grad: Tensor, T: int, num_slots: int, padding: Padding | None, maxima: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """The gradient of ``pool_slots``.

    Args:
        grad: slots x B x H
        T: of its input
        num_slots, padding: as for ``pool_slots``
        maxima: its second result

    Returns:
        T x B x H
    """
    slots, B, H = grad.shape
    if maxima is not None:
        winner, empty = (part.reshape(slots * B, H) for part in maxima)
        total = grad.new_zeros(T * B, H)
        return total.scatter_add_(0, winner, grad.reshape(slots * B, H).masked_fill(empty, 0.0)).view(T, B, H)
    if padding is None and T <= num_slots:
        return grad
    if padding is None:
        inside, count = _slots(grad, T, num_slots)
        return (inside.t() @ (grad.reshape(slots, B * H) / count)).view(T, B, H)
    grad = grad.reshape(slots * B, H)
    parts = [grad.index_select(0, rows).mul_(share) for rows, share in zip(*padding.tokens(num_slots, grad.dtype))]
    return (parts[0] if len(parts) == 1 else parts[0].add_(parts[1])).view(T, B, H)


@cached
def _slots(T, num_slots, dtype, device):
    """Of an unpadded sentence: which tokens are in each slot, num_slots x T, and how many, num_slots x 1."""
    first, last = _windows(torch.full((1, 1), T, device=device), num_slots)
    token = torch.arange(T, device=device)
    inside = (token >= first.t()) & (token < last.t())
    return inside.to(dtype), (last - first).t().to(dtype)


def _windows(lengths, num_slots):
    """The tokens of each slot, from the first to before the last, B x num_slots, for lengths of B x 1."""
    slot = torch.arange(num_slots, device=lengths.device)
    long = lengths > num_slots
    first = torch.where(long, slot * lengths // max(num_slots, 1), slot)
    last = torch.where(
        long, ((slot + 1) * lengths + num_slots - 1) // max(num_slots, 1), torch.minimum(slot + 1, lengths)
    )
    return first, last
