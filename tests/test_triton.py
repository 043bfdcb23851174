"""The GPU's kernels: on a GPU where there is one, or else in Triton's interpreter on the CPU."""

import importlib.util
import sys

import pytest
import torch
from test_gated_lightconv import check

from fairseq_cgc.ops import context_gated_lightconv, gated_lightconv
from fairseq_cgc.ops import gated_lightconv as operation
from fairseq_cgc.ops.naive import naive_gated_lightconv

pytest.importorskip("triton")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def _interpret(monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when the kernels are defined
    import fairseq_cgc.ops.triton_lightconv  # noqa: F401


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 65, 300])
@pytest.mark.parametrize("K, padding_l", [(1, 0), (3, 1), (4, 2), (7, 0), (31, 15), (31, 30), (97, 48)])
def test_triton_equals_the_reference(dtype, T, K, padding_l):
    check(T, 2, 2, 5, K, padding_l, "triton", dtype=dtype, tolerance=TOLERANCE[dtype])
