"""What the operations share: precision of sums, matrices that depend on sizes alone, and derivatives of second order."""

import functools
import math
import threading
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd import Function


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """What sums over x are taken in: float32, or float64 for float64 input."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def without_autocast(x: Tensor):
    """A context in which x's device computes in the precision that it is given."""
    device = x.device.type
    if device != "meta" and (torch.compiler.is_compiling() or torch.is_autocast_enabled(device)):
        return torch.autocast(device, enabled=False)
    return nullcontext()  # costs a tenth


def is_real(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, and is no stand-in by which torch traces what is done to it."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()


def is_exporting() -> bool:
    """Whether torch.export follows, for which sizes may be open: nothing may be decided by them."""
    return getattr(torch.compiler, "is_exporting", bool)()  # none before torch 2.7


def operation(name: str, fake: Callable) -> Callable:
    """Make a function one operation for torch.compile, which else follows its loops and launches.

    Args:
        name: of the operation
        fake: from the arguments to new tensors of the result's shapes and dtypes

    Returns:
        a decorator. On real tensors the function is called as it is: torch's way to an operation takes 25 us on a CPU and
        up to 100 us on a GPU's host, which waits for nothing else.
    """

    def register(function):
        registered = torch.library.custom_op(f"fairseq_cgc::{name}", function, mutates_args=())
        registered.register_fake(fake)

        @functools.wraps(function)
        def call(*args):
            return (function if is_real(args[0]) else registered)(*args)

        call.registered = registered
        return call

    return register


MOST_BYTES = 1 << 26  # of what a function's results may take that are kept: 64 MiB


def cached(make: Callable) -> Callable:
    """Let a function remember what it made for its latest arguments, up to ``MOST_BYTES``.

    On a GPU nothing is remembered, since a matrix that was made while a CUDA graph is captured holds nothing
    outside of it; nor where torch traces, since what it sees then are no real tensors.

    Args:
        make: from sizes, a dtype and a device to a tensor or a tuple of them

    Returns:
        a function ``(like, *sizes)`` that gives ``make(*sizes, like.dtype, like.device)``; its result must not be changed
    """
    results: dict = {}
    lock, size = threading.Lock(), 0

    @functools.wraps(make)
    def get(like, *sizes):
        nonlocal size
        key = (*sizes, like.dtype, like.device)
        if not is_real(like) or like.device.type != "cpu":
            return make(*key)
        if (found := results.get(key)) is not None:
            return found
        with torch.inference_mode(False):  # else no gradient could ever be taken through it
            made = make(*key)
        with lock:
            size += _bytes(made) if results.setdefault(key, made) is made else 0
            while size > MOST_BYTES:
                size -= _bytes(results.pop(next(iter(results))))  # the oldest
        return made

    return get


def _bytes(made):
    return sum(tensor.nbytes for tensor in (made if isinstance(made, tuple) else (made,)))


_memory = threading.local()


def workspace(like: Tensor, *shape: int) -> Tensor:
    """Memory that holds nothing between calls. On a CPU it is this thread's own, kept for the next call: a large
    new tensor costs a page fault for each 4 KiB.
    """
    if like.device.type != "cpu" or not is_real(like):
        return like.new_empty(shape)
    size = math.prod(shape)
    memory = getattr(_memory, str(like.dtype), None)
    if memory is None or memory.numel() < size:
        with torch.inference_mode(False):
            memory = torch.empty(size, dtype=like.dtype, device="cpu")  # whatever the default is now
        setattr(_memory, str(like.dtype), memory)
    return memory[:size].view(shape)


class _FirstDerivative(Function):
    """Gradients as they are, which raise when they are differentiated by what they depend on."""

    @staticmethod
    def forward(ctx, number, *tensors):
        return tuple(None if gradient is None else gradient.view_as(gradient) for gradient in tensors[:number])

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            "fairseq_cgc's convolutions and gates have no second derivative; differentiate without create_graph=True, "
            "or leave them out of what is differentiated twice"
        )


def once_differentiable(backward: Callable) -> Callable:
    """For the backward of an autograd function: its gradients raise an error when they are differentiated.

    torch's decorator of this name lets a second derivative be zero, without a word, where the gradient
    that comes in is constant: the first derivative depends on the input all the same.
    """

    @functools.wraps(backward)
    def wrapped(ctx, *grads):
        with torch.no_grad():
            gradients = backward(ctx, *grads)
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return gradients
        return _FirstDerivative.apply(len(gradients), *gradients, *ctx.saved_tensors, *grads)

    return wrapped
