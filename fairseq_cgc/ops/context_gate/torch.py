"""The gate in PyTorch's operations: any device, any dtype, every option.

The backward is written out, so that it is one part of the fused layer's.
"""

import torch
import torch.nn.functional as F

from ..padding import pool_slots, pool_slots_backward

aten = torch.ops.aten


def forward(means, padding, parameters, options):
    """As ``context_gate``."""
    encode, scale, shift, decode, weight = _precise(parameters, means)
    context, maxima = pool_slots(means, encode.size(1), padding, options.pool)
    slots, B, H = context.shape  # the further slots are zero
    context = context.reshape(slots, B * H)
    latent = (context.t() @ encode[:, :slots].t()).view(B, H, encode.size(0))
    over = _normalised(options)
    normal = latent - latent.mean(over, keepdim=True)
    inverse = (normal.square().mean(over, keepdim=True) + options.eps).rsqrt_()
    normal = normal * inverse  # not in place: torch.export's program takes its gradients by autograd
    hidden = torch.addcmul(shift, normal, scale).relu_()
    gate = (hidden.view(B * H, encode.size(0)) @ decode.t()).view(B, H, decode.size(0))
    gate = gate.sigmoid_() if options.activation == "sigmoid" else gate.tanh_() + 1
    share = None
    if weight is None:
        output = gate
    elif options.gate_on == "logits" and options.weight_softmax:
        output = share = torch.softmax(weight * gate, -1)
    else:
        share = torch.softmax(weight, -1) if options.weight_softmax else weight
        output = share * gate
    return output, (context, normal, inverse, hidden, gate, share, *(maxima or ()))


def backward(grad, saved, means, padding, parameters, options):
    """The gradients of ``forward``."""
    encode, scale, shift, decode, weight = _precise(parameters, means)
    context, normal, inverse, hidden, gate, share, *maxima = saved
    (slots, _), (B, H, K) = context.shape, gate.shape
    grad_weight, grad_gate = None, grad
    if weight is not None and options.gate_on == "logits" and options.weight_softmax:
        grad_product = aten._softmax_backward_data(grad, share, -1, share.dtype)
        grad_weight, grad_gate = (grad_product * gate).sum(0), grad_product * weight
    elif weight is not None:
        grad_weight, grad_gate = (grad * gate).sum(0), grad * share
        if options.weight_softmax:
            grad_weight = aten._softmax_backward_data(grad_weight, share, -1, share.dtype)
    if options.activation == "sigmoid":
        grad_logits = aten.sigmoid_backward(grad_gate, gate).view(B * H, K)
    else:
        grad_logits = aten.tanh_backward(grad_gate, gate - 1).view(B * H, K)
    grad_hidden = aten.threshold_backward((grad_logits @ decode).view_as(hidden), hidden, 0)
    grad_scale = (grad_hidden * normal).sum_to_size(scale.shape)
    grad_shift = grad_hidden.sum_to_size(shift.shape)
    over, grad_normal = _normalised(options), grad_hidden * scale
    grad_latent = grad_normal - grad_normal.mean(over, keepdim=True)
    grad_latent -= normal * (grad_normal * normal).mean(over, keepdim=True)
    grad_latent = grad_latent.mul_(inverse).flatten(0, 1)
    grad_encode = F.pad(grad_latent.t() @ context.t(), (0, encode.size(1) - slots))
    grad_context = (encode[:, :slots].t() @ grad_latent.t()).view(slots, B, H)
    grad_means = pool_slots_backward(grad_context, means.size(0), encode.size(1), padding, maxima or None)
    grad_decode = grad_logits.t() @ hidden.flatten(0, 1)
    return grad_means, grad_encode, grad_scale, grad_shift, grad_decode, grad_weight


def _precise(parameters, means):
    return [None if parameter is None else parameter.to(means.dtype) for parameter in parameters]


def _normalised(options):
    """The dimensions of B x H x d that the norm is over."""
    return (1, 2) if options.norm == "heads-latent" else (2,)
