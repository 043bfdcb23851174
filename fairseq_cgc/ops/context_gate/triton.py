"""The gate for GPUs, in Triton: from head means to gated kernels in one launch, and back in one.

A program computes a head of a sentence: it pools the head's means to time slots, encodes, normalises and
decodes them, and multiplies the kernel. Sums are in float32. Backward computes that again instead of
keeping it, and leaves the sums over sentences and heads, which are the parameters' gradients, to matrix
products.

Without a GPU the kernels run in Triton's interpreter: set TRITON_INTERPRET=1 before this is imported.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common import operation

BLOCK_T = 16
LARGEST = 1 << 14  # elements of a weight matrix that a program holds at once
GATE, KERNEL, LOGITS = range(3)  # what comes out: the gate, softmax(W) * G, softmax(W * G)


def supports(means, parameters, options) -> bool:
    """float32, the default norm, averages, and sizes that a program can hold."""
    encode, *_, decode, _ = parameters
    slots, latents, taps = map(_block, (encode.size(1), encode.size(0), decode.size(0)))
    return (
        means.dtype == torch.float32
        and (options.norm, options.pool) == ("latent", "average")
        and max(slots * latents, latents * taps, slots * BLOCK_T) <= LARGEST
    )


def forward(means, padding, parameters, options):
    """As ``context_gate``; nothing is kept for the backward."""
    return _forward(*_arguments(means, padding, parameters, options)), ()


def backward(grad, saved, means, padding, parameters, options):
    """The gradients of ``forward``."""
    arguments = _arguments(means, padding, parameters, options)
    grad_means, grad_encode, grad_norm, grad_decode, grad_weight = _backward(grad, *arguments)
    return grad_means, grad_encode, *grad_norm, grad_decode, None if parameters[-1] is None else grad_weight


def _arguments(means, padding, parameters, options):
    """What torch.compile can hand to one operation: tensors and numbers."""
    place, length = (None, None) if padding is None else padding.ranks()
    what = GATE
    if parameters[-1] is not None:
        what = LOGITS if options.gate_on == "logits" and options.weight_softmax else KERNEL
    parameters = (None if part is None else part.contiguous() for part in parameters)
    flags = options.weight_softmax, options.activation == "sigmoid"
    return means.contiguous(), place, length, *parameters, options.eps, what, *flags


def _fake_forward(means, place, length, encode, scale, shift, decode, weight, eps, what, softmax, sigmoid):
    return means.new_empty(means.size(1), means.size(2), decode.size(0))


@operation("gate", _fake_forward)
def _forward(
    means: Tensor,
    place: Tensor | None,
    length: Tensor | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    decode: Tensor,
    weight: Tensor | None,
    eps: float,
    what: int,
    softmax: bool,
    sigmoid: bool,
) -> Tensor:
    output = means.new_empty(means.size(1), means.size(2), decode.size(0))
    tensors = means, place, length, encode, scale, shift, decode, weight
    _launch(_gate, *tensors, [output], eps, what, softmax, sigmoid)
    return output


def _fake_backward(grad, means, place, length, encode, scale, shift, decode, weight, eps, what, softmax, sigmoid):
    shapes = means.shape, encode.shape, (2, scale.size(0)), decode.shape, (means.size(2), decode.size(0))
    return tuple(means.new_empty(shape) for shape in shapes)


@operation("gate_backward", _fake_backward)
def _backward(
    grad: Tensor,
    means: Tensor,
    place: Tensor | None,
    length: Tensor | None,
    encode: Tensor,
    scale: Tensor,
    shift: Tensor,
    decode: Tensor,
    weight: Tensor | None,
    eps: float,
    what: int,
    softmax: bool,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    T, B, H = means.shape
    (D, S), K = encode.shape, decode.size(0)
    grad_means, grad_weight = means.new_empty(T, B, H), means.new_empty(B, H, K)
    sizes = (S,), (D,), (D,), (K,), (2, D)
    context, grad_latent, latent, grad_logits, affine = (means.new_empty(B * H, *size) for size in sizes)
    memory = [grad.contiguous(), grad_means, context, grad_latent, latent, grad_logits, affine, grad_weight]
    tensors = means, place, length, encode, scale, shift, decode, weight
    _launch(_gate_backward, *tensors, memory, eps, what, softmax, sigmoid)
    return grad_means, grad_latent.t() @ context, affine.sum(0), grad_logits.t() @ latent, grad_weight.sum(0)


def _launch(function, means, place, length, encode, scale, shift, decode, weight, memory, eps, what, softmax, sigmoid):
    T, B, H = means.shape
    (D, S), K = encode.shape, decode.size(0)
    with torch.cuda.device_of(means):
        function[(B * H,)](
            *(means, means if place is None else place, means if length is None else length),
            *(encode, scale, shift, decode, means if weight is None else weight),
            *memory,
            *(T, B * H, H, S, D, K, eps),
            HAS_PADDING=place is not None,
            WHAT=what,
            SOFTMAX=softmax,
            SIGMOID=sigmoid,
            BLOCK_T=BLOCK_T,
            BLOCK_S=_block(S),
            BLOCK_D=_block(D),
            BLOCK_K=_block(K),
        )


def _block(size):
    return max(2, triton.next_power_of_2(size))


# Means are T rows of N = B * H: element (t, n) lies at t * N + n.


@triton.jit
def _windows(lengths, n, T, H, S, HAS_PADDING: tl.constexpr, BLOCK_S: tl.constexpr):
    """The tokens of each slot, from the first to before the last."""
    slot = tl.arange(0, BLOCK_S)
    length = T
    if HAS_PADDING:
        length = tl.load(lengths + n // H)
    is_long = length > S
    first = tl.where(is_long, slot * length // S, slot)
    last = tl.where(is_long, ((slot + 1) * length + S - 1) // S, tl.minimum(slot + 1, length))
    last = tl.where(slot < S, last, first)
    return first, last


@triton.jit
def _inside(places, n, start, first, last, T, H, HAS_PADDING: tl.constexpr, BLOCK_T: tl.constexpr):
    """BLOCK_T x BLOCK_S: which slots the tokens from start on belong to; padding to none."""
    t = start + tl.arange(0, BLOCK_T)
    place = tl.where(t < T, t, -1)
    if HAS_PADDING:
        place = tl.load(places + (n // H) * T + t, mask=t < T, other=-1)
    return (place[:, None] >= first[None, :]) & (place[:, None] < last[None, :])


@triton.jit
def _latents(
    means,
    places,
    lengths,
    encode,
    scale,
    shift,
    n,
    T,
    N,
    H,
    S,
    D,
    eps,
    HAS_PADDING: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Context (BLOCK_S), tokens a slot, encode's weight, normalised latents, their 1 / deviation, scale, shift."""
    s, d = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D)
    first, last = _windows(lengths, n, T, H, S, HAS_PADDING, BLOCK_S)
    total = tl.zeros((BLOCK_S,), dtype=tl.float32)
    for start in range(0, T, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        value = tl.load(means + t.to(tl.int64) * N + n, mask=t < T, other=0.0)
        inside = _inside(places, n, start, first, last, T, H, HAS_PADDING, BLOCK_T)
        total += tl.sum(tl.where(inside, value[:, None], 0.0), axis=0)
    count = tl.maximum(last - first, 1).to(tl.float32)
    context = total / count
    matrix = tl.load(encode + d[:, None] * S + s[None, :], mask=(d < D)[:, None] & (s < S)[None, :], other=0.0)
    matrix = matrix.to(tl.float32)
    latent = tl.sum(matrix * context[None, :], axis=1)
    centred = tl.where(d < D, latent - tl.sum(latent, axis=0) / D, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / D + eps)
    multiply = tl.load(scale + d, mask=d < D, other=0.0).to(tl.float32)
    add = tl.load(shift + d, mask=d < D, other=0.0).to(tl.float32)
    return context, count, matrix, centred * inverse, inverse, multiply, add


@triton.jit
def _activate(logits, SIGMOID: tl.constexpr):
    gate = tl.sigmoid(logits)
    if not SIGMOID:  # 1 + tanh(a) = 2 * sigmoid(2 * a)
        gate = 2.0 * tl.sigmoid(2.0 * logits)
    return gate


@triton.jit
def _softmax(values, k, K):
    values = tl.where(k < K, values, float("-inf"))
    powers = tl.exp(values - tl.max(values, axis=0))
    return powers / tl.sum(powers, axis=0)


@triton.jit
def _gate(
    means,
    places,
    lengths,
    encode,
    scale,
    shift,
    decode,
    weight,
    output,
    T,
    N,
    H,
    S,
    D,
    K,
    eps,
    HAS_PADDING: tl.constexpr,
    WHAT: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    n = tl.program_id(0)
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    _, _, _, normal, _, multiply, add = _latents(
        means, places, lengths, encode, scale, shift, n, T, N, H, S, D, eps, HAS_PADDING, BLOCK_T, BLOCK_S, BLOCK_D
    )
    latent = tl.maximum(normal * multiply + add, 0.0)
    matrix = tl.load(decode + k[:, None] * D + d[None, :], mask=(k < K)[:, None] & (d < D)[None, :], other=0.0)
    value = _activate(tl.sum(matrix.to(tl.float32) * latent[None, :], axis=1), SIGMOID)
    if WHAT != 0:
        own = tl.load(weight + (n % H) * K + k, mask=k < K, other=0.0).to(tl.float32)
        if WHAT == 2:
            value = _softmax(own * value, k, K)
        elif SOFTMAX:
            value = _softmax(own, k, K) * value
        else:
            value = own * value
    tl.store(output + n * K + k, value, mask=k < K)


@triton.jit
def _gate_backward(
    means,
    places,
    lengths,
    encode,
    scale,
    shift,
    decode,
    weight,
    grad,
    grad_means,
    contexts,
    grad_latents,
    latents,
    grad_logits,
    affine,
    grad_weights,
    T,
    N,
    H,
    S,
    D,
    K,
    eps,
    HAS_PADDING: tl.constexpr,
    WHAT: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    n = tl.program_id(0)
    s, d, k = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    context, count, encoder, normal, inverse, multiply, add = _latents(
        means, places, lengths, encode, scale, shift, n, T, N, H, S, D, eps, HAS_PADDING, BLOCK_T, BLOCK_S, BLOCK_D
    )
    latent = tl.maximum(normal * multiply + add, 0.0)
    decoder = tl.load(decode + k[:, None] * D + d[None, :], mask=(k < K)[:, None] & (d < D)[None, :], other=0.0)
    decoder = decoder.to(tl.float32)
    gate = _activate(tl.sum(decoder * latent[None, :], axis=1), SIGMOID)

    d_gate = tl.load(grad + n * K + k, mask=k < K, other=0.0)
    d_weight = tl.zeros((BLOCK_K,), dtype=tl.float32)
    if WHAT != 0:
        own = tl.load(weight + (n % H) * K + k, mask=k < K, other=0.0).to(tl.float32)
        if WHAT == 2:
            share = _softmax(own * gate, k, K)
            d_product = share * (d_gate - tl.sum(d_gate * share, axis=0))
            d_weight = d_product * gate
            d_gate = d_product * own
        else:
            d_weight = d_gate * gate
            if SOFTMAX:
                share = _softmax(own, k, K)
                d_gate = d_gate * share
                d_weight = share * (d_weight - tl.sum(d_weight * share, axis=0))
            else:
                d_gate = d_gate * own
    if SIGMOID:
        d_logits = d_gate * gate * (1.0 - gate)
    else:
        d_logits = d_gate * gate * (2.0 - gate)
    d_logits = tl.where(k < K, d_logits, 0.0)
    d_hidden = tl.where(latent > 0.0, tl.sum(decoder * d_logits[:, None], axis=0), 0.0)
    d_normal = d_hidden * multiply
    centred = d_normal - tl.sum(d_normal, axis=0) / D - normal * tl.sum(d_normal * normal, axis=0) / D
    d_latent = tl.where(d < D, inverse * centred, 0.0)
    d_slot = tl.sum(encoder * d_latent[:, None], axis=0) / count

    first, last = _windows(lengths, n, T, H, S, HAS_PADDING, BLOCK_S)
    for start in range(0, T, BLOCK_T):
        t = start + tl.arange(0, BLOCK_T)
        inside = _inside(places, n, start, first, last, T, H, HAS_PADDING, BLOCK_T)
        d_token = tl.sum(tl.where(inside, d_slot[None, :], 0.0), axis=1)
        tl.store(grad_means + t.to(tl.int64) * N + n, d_token, mask=t < T)
    tl.store(contexts + n * S + s, context, mask=s < S)
    tl.store(grad_latents + n * D + d, d_latent, mask=d < D)
    tl.store(latents + n * D + d, latent, mask=d < D)
    tl.store(grad_logits + n * K + k, d_logits, mask=k < K)
    tl.store(affine + n * 2 * D + d, d_hidden * normal, mask=d < D)
    tl.store(affine + n * 2 * D + D + d, d_hidden, mask=d < D)
    tl.store(grad_weights + n * K + k, d_weight, mask=k < K)
