import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_cgc.ops import gated_lightconv
from fairseq_cgc.ops.gated_lightconv import BLOCK
from fairseq_cgc.ops.naive import naive_gated_lightconv


def check(T, B, H, R, K, padding_l, strided=False):
    x = torch.randn(B, T, H * R, dtype=torch.float64).transpose(0, 1) if strided else torch.randn(T, B, H * R).double()
    x.requires_grad_()
    kernel = torch.randn(B, H, K, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(T, B, H * R, dtype=torch.float64)
    y = gated_lightconv(x, kernel, padding_l)
    expected = torch.stack([naive_gated_lightconv(x[:, b], kernel[b], padding_l) for b in range(B)], dim=1)
    torch.testing.assert_close(y, expected)
    gradients = torch.autograd.grad(y, [x, kernel], grad)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, [x, kernel], grad))


@pytest.mark.parametrize("T", [1, 2, 30, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1])
@pytest.mark.parametrize("K, padding_l", [(1, 0), (3, 1), (4, 1), (7, 0), (31, 15), (31, 30), (80, 40)])
def test_value_and_gradients_equal_the_reference(T, K, padding_l):
    check(T, 2, 2, 3, K, padding_l)


@settings(max_examples=25, deadline=None)
@given(
    T=st.integers(1, 150),
    B=st.integers(1, 3),
    H=st.integers(1, 3),
    R=st.integers(1, 3),
    K=st.integers(1, 40),
    where=st.floats(0, 1),
    strided=st.booleans(),
)
def test_random_shapes_equal_the_reference(T, B, H, R, K, where, strided):
    check(T, B, H, R, K, round(where * (K - 1)), strided)


def test_memory_is_linear_in_length():
    """The largest tensor of forward and backward at T = 2,000 stays far below T x T."""
    T, B, H, R, K = 2000, 1, 2, 2, 31
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest.append(out.numel())
            return out

    with Watch():
        x = torch.randn(T, B, H * R, requires_grad=True)
        kernel = torch.rand(B, H, K, requires_grad=True)
        gated_lightconv(x, kernel, K // 2).sum().backward()
    assert max(largest) < 4 * T * B * H * R < T * T
