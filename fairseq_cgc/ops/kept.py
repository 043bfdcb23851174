"""Small matrices that depend on sizes alone, made once."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def kept(make: Callable) -> Callable:
    """Let a function keep what it last made for each of its arguments.

    On a GPU nothing is kept, since a matrix that was made while a CUDA graph is captured holds nothing
    outside of it; nor where torch traces, since what it sees then are no real tensors.

    Args:
        make: from sizes, a dtype and a device to a tensor or more

    Returns:
        a function ``(like, *sizes)`` that gives ``make(*sizes, like.dtype, like.device)``; what it gives is not to be changed
    """

    @functools.lru_cache(maxsize=256)
    def remember(*args):
        with torch.inference_mode(False):  # else no gradient could ever be taken through it
            return make(*args)

    @functools.wraps(make)
    def get(like, *sizes):
        real = type(like) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
        keeps = real and like.device.type == "cpu"
        return (remember if keeps else make)(*sizes, like.dtype, like.device)

    return get
