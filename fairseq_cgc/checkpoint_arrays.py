"""The small arrays of numpy's that ``--eval-bleu`` leaves in a checkpoint, loaded as data.

numpy's own classes, let through the weights-only loader, make an object of any bytes and of any size. Those here stand in for
them, under their names, and take nothing but the few integers and floats in which fairseq counts n-grams.
"""

import math
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

MOST = 100  # values of an array; fairseq keeps four
SIMPLE = (3, "<", None, None, None, -1, -1, 0)  # the state of a little-endian dtype without fields


class dtype:
    """``numpy.dtype``: 64-bit integers or floats.

    Raises:
        UnpicklingError: another dtype
    """

    __module__ = "numpy"  # the loader looks a class up by its module and name
    __slots__ = ("code",)  # of another layout than what could be turned into one

    def __init__(self, code: str, *flags: bool) -> None:
        _require(code in ("i8", "f8") and flags == (False, True))
        self.code = "<" + code

    def __setstate__(self, state: Any) -> None:
        _require(state == SIMPLE)


class ndarray(np.ndarray):
    """``numpy.ndarray``: made empty, then filled with checked values; saved as the array that it stands for.

    Raises:
        UnpicklingError: made with a shape or a buffer; filled with anything but at most ``MOST`` values of a ``dtype``, or
            a second time, when a tensor may look at the first values
    """

    __module__ = "numpy"

    def __new__(cls, *arguments: Any) -> "ndarray":
        _require(not arguments)
        return np.ndarray.__new__(cls, (0,))

    def __setstate__(self, state: Any) -> None:
        _require(self.size == 0 and type(state) is tuple and len(state) == 5)
        version, shape, kind, by_columns, values = state
        _require(version == 1 and by_columns is False and type(values) is bytes)
        _require(type(kind) is dtype and kind.code in ("<i8", "<f8"))
        _require(type(shape) is tuple and all(type(size) is int and 0 <= size <= MOST for size in shape))
        _require(len(shape) <= 2 and math.prod(shape) <= MOST and len(values) == 8 * math.prod(shape))
        filled: Any = (1, shape, np.dtype(kind.code), False, values)
        super().__setstate__(filled)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def let_through() -> None:
    """Let torch's weights-only loader use the stand-ins, by their names in numpy 1 and 2."""
    makers = (_maker(f"numpy.{core}.multiarray") for core in ("core", "_core"))
    torch.serialization.add_safe_globals([dtype, ndarray, *makers])


def _maker(module):
    """``_reconstruct`` of a module of numpy's: an array that is still empty."""

    def _reconstruct(cls, shape, code):
        _require(cls is ndarray and shape == (0,) and code == b"b")
        return ndarray()

    _reconstruct.__module__, _reconstruct.__qualname__ = module, "_reconstruct"
    return _reconstruct


def _require(fits):
    if not fits:
        raise UnpicklingError("expected a small array of numbers, got <class 'numpy.ndarray'>")
