"""The mathematics, once, in float64 and with loops: what every fast path is tested against.

But where they say otherwise, sections and equations are those of "Context-Gated Convolution" (Lin et al., ECCV 2020). Paper to
code: c -> C (channels), k -> K (kernel size), L -> n (tokens of a sentence), d -> d (latent size),
k_1 x k_2 of section 3.2 -> the K taps. For translation the kernel is LightConv's H x K, one row a
head, and head h owns the channels h * R ... h * R + R - 1, R = C / H (section 4.4).

Sentences are given one at a time and without padding: what padding must not change cannot be
wrong here.
"""

import math

import torch
from torch import Tensor


def naive_context_pool(sentence: Tensor, num_heads: int, num_slots: int, pool: str = "average") -> Tensor:
    """Pool one sentence to its context map (section 4.4; "Context Encoding Module", section 3.2).

    Args:
        sentence: n x C, real tokens only
        num_heads: H
        num_slots: number of time slots, 3K in the paper
        pool: of the tokens of a slot: ``average`` or ``max``

    Returns:
        H x num_slots, float64
    """
    sentence = sentence.double()
    n, channels = sentence.shape
    width = channels // num_heads
    context = torch.zeros(num_heads, num_slots, dtype=torch.float64)
    for h in range(num_heads):
        head = sentence[:, h * width : (h + 1) * width].mean(dim=1)
        for i in range(num_slots):
            if n <= num_slots:  # token t fills slot t, the rest stays zero
                if i < n:
                    context[h, i] = head[i]
            else:
                first = math.floor(i * n / num_slots)
                last = math.ceil((i + 1) * n / num_slots)
                context[h, i] = head[first:last].max() if pool == "max" else head[first:last].mean()
    return context


def naive_context_gate(
    sentence: Tensor,
    encode_weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    decode_weight: Tensor,
    num_heads: int,
    norm: str = "latent",
    activation: str = "sigmoid",
    norm_eps: float = 1e-5,
    pool: str = "average",
) -> Tensor:
    """Gate of one sentence (section 3.2: encode, normalise, ReLU, decode, activate).

    Args:
        sentence: n x C
        encode_weight: d x num_slots, shared by all heads
        norm_weight, norm_bias: d (``latent``) or H x d (the others)
        decode_weight: K x d, shared by all heads
        norm: over which values the LayerNorm normalises: ``latent`` and ``latent-per-head`` (d) or
            ``heads-latent`` (H x d)
        activation: ``sigmoid`` or ``one-plus-tanh``
        pool: ``average`` or ``max``

    Returns:
        H x K, float64
    """
    context = naive_context_pool(sentence, num_heads, encode_weight.size(1), pool)
    latent = context @ encode_weight.double().T  # H x d
    dims = (0, 1) if norm == "heads-latent" else (1,)
    mean = latent.mean(dims, keepdim=True)
    variance = ((latent - mean) ** 2).mean(dims, keepdim=True)
    latent = (latent - mean) / torch.sqrt(variance + norm_eps)
    latent = latent * norm_weight.double() + norm_bias.double()
    logits = latent.clamp(min=0) @ decode_weight.double().T  # H x K
    if activation == "sigmoid":
        return 1 / (1 + torch.exp(-logits))
    return 1 + torch.tanh(logits)


def naive_gated_kernel(weight: Tensor, gate: Tensor, gate_on: str = "kernel", weight_softmax: bool = True) -> Tensor:
    """The kernel that one sentence is convolved with (Eq. 2).

    Args:
        weight: H x K, LightConv's parameter
        gate: H x K, the sentence's gate
        gate_on: ``kernel``: softmax(W) * G; ``logits``: softmax(W * G)

    Returns:
        H x K, float64
    """
    weight, gate = weight.double(), gate.double()
    if not weight_softmax:
        return weight * gate
    if gate_on == "logits":
        return torch.softmax(weight * gate, dim=1)
    return torch.softmax(weight, dim=1) * gate


def naive_lightconv(sentence: Tensor, kernel: Tensor, padding_l: int) -> Tensor:
    """Convolve one sentence with its own kernel, zeros beyond both ends (LightConv).

    Args:
        sentence: n x C
        kernel: H x K, or n x H x K with one kernel a token (dynamic convolution)
        padding_l: how many of the K taps lie before the output's own position

    Returns:
        n x C, float64: y[t, c] = sum_k kernel[(t,) c // R, k] * sentence[t + k - padding_l, c]
    """
    sentence, kernel = sentence.double(), kernel.double()
    n, channels = sentence.shape
    num_heads, kernel_size = kernel.shape[-2:]
    kernel = kernel.repeat_interleave(channels // num_heads, dim=-2).expand(n, channels, kernel_size)
    tokens, output = sentence.unbind(0), []  # not indexed: each index would have a gradient of the whole's size
    for t, taps in enumerate(kernel.unbind(0)):
        y = torch.zeros_like(tokens[t])
        for k, tap in enumerate(taps.unbind(1)):
            s = t + k - padding_l
            if 0 <= s < n:
                y = y + tap * tokens[s]
        output.append(y)
    return torch.stack(output)


def naive_channel_transformation(
    sentence: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5
) -> Tensor:
    """Gated Channel Transformation of one sentence (Yang et al., CVPR 2020, section 3.1).

    The paper sums the squares over the channels; its authors' code, followed here, takes their mean.

    Args:
        sentence: n x C
        alpha, gamma, beta: C

    Returns:
        n x C, float64
    """
    sentence, alpha, gamma, beta = (tensor.detach().double() for tensor in (sentence, alpha, gamma, beta))
    n, channels = sentence.shape
    strength = torch.zeros(channels, dtype=torch.float64)
    for c in range(channels):
        strength[c] = alpha[c] * math.sqrt(sum(float(sentence[t, c]) ** 2 for t in range(n)) + eps)
    size = math.sqrt(sum(float(s) ** 2 for s in strength) / channels + eps)
    output = torch.zeros_like(sentence)
    for c in range(channels):
        gate = 1 + math.tanh(gamma[c] * strength[c] / size + beta[c])
        output[:, c] = sentence[:, c] * gate
    return output
