import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.measure import peak_memory
from fairseq_cgc.ops.lightconv import choose, lightconv
from fairseq_cgc.ops.lightconv.bands import BLOCK
from fairseq_cgc.ops.naive import naive_lightconv
from fairseq_cgc.ops.padding import head_means

LENGTHS = [1, 2, 3, 9, 30, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, 150, 400]
KERNELS = [(1, 0), (3, 1), (4, 1), (4, 2), (7, 0), (7, 6), (31, 15), (31, 30), (80, 40)]


def relative(value, expected):
    return ((value.double() - expected.double()).norm() / expected.double().norm().clamp(min=1e-9)).item()


def check(
    T,
    B,
    H,
    R,
    K,
    padding_l,
    path=None,
    strided=False,
    dtype=torch.float64,
    tolerance=1e-12,
    device="cpu",
    per_token=False,
):
    """Value and both gradients, against the reference in float64 on the same numbers."""
    x = torch.randn(B, T, H * R).transpose(0, 1) if strided else torch.randn(T, B, H * R)
    x = x.to(device, dtype).requires_grad_()
    kernel = torch.randn((T,) * per_token + (B, H, K)).to(device, dtype).requires_grad_()
    grad = torch.randn(T, B, H * R).to(device, dtype)
    if strided:
        grad = grad.transpose(0, 1).contiguous().transpose(0, 1)
    y = lightconv(x, kernel, padding_l, implementation=path)
    assert y.dtype == dtype and y.shape == x.shape
    own = kernel.unbind(1 if per_token else 0)
    expected = torch.stack([naive_lightconv(x[:, b], own[b], padding_l) for b in range(B)], dim=1)
    assert relative(y, expected) < tolerance
    gradients = torch.autograd.grad(y, [x, kernel], grad)
    exact = torch.autograd.grad(expected, [x, kernel], grad.double())
    for value, reference in zip(gradients, exact):
        assert value.dtype == dtype
        assert relative(value, reference) < tolerance


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("K, padding_l", KERNELS)
def test_bands_equal_the_reference(T, K, padding_l):
    check(T, 2, 2, 3, K, padding_l, "bands")


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("K, padding_l", [(1, 0), (3, 1), (4, 2), (7, 0), (31, 15), (31, 30)])
def test_bands_of_one_kernel_a_token_equal_the_reference(T, K, padding_l):
    check(T, 2, 2, 3, K, padding_l, "bands", per_token=True)


@pytest.mark.parametrize("T, K", [(1, 1), (6, 3), (7, 3), (40, 3), (14, 7), (150, 7), (62, 31), (400, 31)])
def test_depthwise_equals_the_reference(T, K):
    check(T, 2, 2, 3, K, K // 2, "depthwise", dtype=torch.float32, tolerance=1e-6)


def test_depthwise_refuses_a_kernel_that_is_not_centred():
    with pytest.raises(ValueError, match="as many taps before a position as after it, not 0 of 3"):
        lightconv(torch.randn(9, 1, 2), torch.randn(1, 1, 3), 0, implementation="depthwise")
    with pytest.raises(ValueError, match="one kernel per sentence, not one per token; use bands"):
        lightconv(torch.randn(9, 1, 2), torch.randn(9, 1, 1, 3), 1, implementation="depthwise")


@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 1e-2)], ids=str
)
@pytest.mark.parametrize("T, K", [(10, 31), (60, 7), (150, 31)])
@pytest.mark.parametrize("per_token", [False, True], ids=["sentence", "token"])
def test_every_dtype_is_as_exact_as_it_can_be(dtype, tolerance, T, K, per_token):
    check(T, 2, 2, 8, K, K // 2, dtype=dtype, tolerance=tolerance, per_token=per_token)


@settings(max_examples=25, deadline=None)
@given(
    T=st.integers(1, 150),
    B=st.integers(1, 3),
    H=st.integers(1, 3),
    R=st.integers(1, 3),
    K=st.integers(1, 40),
    where=st.floats(0, 1),
    strided=st.booleans(),
    per_token=st.booleans(),
)
def test_random_shapes_equal_the_reference(T, B, H, R, K, where, strided, per_token):
    check(T, B, H, R, K, round(where * (K - 1)), strided=strided, per_token=per_token)


@settings(max_examples=25, deadline=None)
@given(T=st.integers(1, 200), B=st.integers(1, 3), R=st.integers(1, 20), half=st.integers(0, 10))
def test_random_shapes_that_are_chosen_a_path_equal_the_reference(T, B, R, half):
    check(T, B, 2, R, 2 * half + 1, half, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("T, K, padding_l", [(10, 7, 3), (70, 3, 1), (5, 31, 15), (70, 31, 0)])
def test_a_kernel_that_depends_on_the_input_gets_both_gradients(T, K, padding_l):
    x = torch.randn(T, 2, 6, dtype=torch.float64, requires_grad=True)
    mix = torch.randn(T, K, dtype=torch.float64, requires_grad=True)

    def kernel_of(means):
        return torch.einsum("tbh,tk->bhk", means, mix).tanh()

    def function(x, mix):
        return lightconv(x, torch.einsum("tbh,tk->bhk", head_means(x, 3), mix).tanh(), padding_l)

    kernel = kernel_of(x.view(T, 2, 3, 2).mean(3))
    expected = torch.stack([naive_lightconv(x[:, b], kernel[b], padding_l) for b in range(2)], dim=1)
    torch.testing.assert_close(function(x, mix), expected)
    grad = torch.randn_like(x)
    torch.testing.assert_close(
        torch.autograd.grad(function(x, mix), [x, mix], grad), torch.autograd.grad(expected, [x, mix], grad)
    )


@pytest.mark.parametrize("wanted", ["x", "kernel"])
def test_only_the_gradient_that_is_wanted_is_needed(wanted):
    x, kernel = torch.randn(20, 2, 4), torch.randn(2, 2, 3)
    {"x": x, "kernel": kernel}[wanted].requires_grad_()
    lightconv(x, kernel, 1).sum().backward()
    assert (x.grad is None) == (wanted == "kernel") and (kernel.grad is None) == (wanted == "x")
    with torch.no_grad():
        assert not lightconv(x, kernel, 1).requires_grad


def test_backward_leaves_the_gradient_it_got_alone():
    x, kernel = torch.randn(20, 2, 4, requires_grad=True), torch.randn(2, 2, 3, requires_grad=True)
    grad = torch.randn(20, 2, 4)
    before = grad.clone()
    y = lightconv(x, kernel + head_means(x, 2).mean(0).unsqueeze(2), 1)
    first = torch.autograd.grad(y, [x, kernel], grad, retain_graph=True)
    torch.testing.assert_close(grad, before, rtol=0, atol=0)
    torch.testing.assert_close(torch.autograd.grad(y, [x, kernel], grad), first, rtol=0, atol=0)


def test_dropconnect_drops_taps_and_scales_the_others():
    x = torch.zeros(7, 500, 2)
    x[3] = 1.0  # the output over time is the kernel, last tap first
    y = lightconv(x, torch.ones(500, 1, 7), 3, dropout=0.3)
    assert (y[..., 0] == y[..., 1]).all()
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / 0.7))
    assert 0.27 < (y == 0).float().mean() < 0.33


@pytest.mark.parametrize("path", ["bands", "depthwise"])
@pytest.mark.parametrize("T", [16, 90])
def test_torch_compile_takes_it_whole(path, T):
    x, kernel = torch.randn(T, 2, 8, requires_grad=True), torch.randn(2, 2, 7, requires_grad=True)

    def function(x, kernel):
        return lightconv(x, kernel * head_means(x, 2).mean(0).unsqueeze(2), 3, implementation=path) * 2

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    grad = torch.randn(T, 2, 8)
    expected = torch.autograd.grad(function(x, kernel), [x, kernel], grad)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, kernel), [x, kernel], grad), expected)


def test_only_where_something_compiles_is_it_an_operation_of_torch_s():
    x, kernel = torch.randn(9, 2, 8, requires_grad=True), torch.randn(2, 2, 7, requires_grad=True)

    def function():
        return lightconv(x, kernel, 3).sum()

    def operations(called):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            called().backward()
        return {event.name for event in profile.events() if event.name.startswith("fairseq_cgc::")}

    compiled = torch.compile(function, backend="aot_eager")
    compiled().backward()
    assert operations(compiled) == {"fairseq_cgc::lightconv", "fairseq_cgc::lightconv_backward"}
    assert operations(function) == set()


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_changes_nothing(reentrant):
    x, kernel = torch.randn(90, 2, 8, requires_grad=True), torch.randn(2, 2, 7, requires_grad=True)

    def function(x, kernel):
        kernel = kernel * head_means(x, 2).mean(0).unsqueeze(2)
        return lightconv(x, kernel, 3, dropout=0.5)  # the draws come back too

    torch.manual_seed(3)
    expected = torch.autograd.grad(function(x, kernel).square().sum(), [x, kernel])
    torch.manual_seed(3)
    y = torch.utils.checkpoint.checkpoint(function, x, kernel, use_reentrant=reentrant)
    y.square().sum().backward()
    torch.testing.assert_close((x.grad, kernel.grad), expected)


def test_deterministic_mode_is_no_hindrance_and_results_repeat():
    x, kernel = torch.randn(90, 2, 8, requires_grad=True), torch.randn(2, 2, 7, requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        results = [torch.autograd.grad(lightconv(x, kernel, 3).square().sum(), [x, kernel]) for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_keeps_the_input_s_dtype(dtype):
    x, kernel = torch.randn(90, 2, 8).to(dtype).requires_grad_(), torch.randn(2, 2, 7, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = lightconv(x, kernel, 3)
    torch.testing.assert_close(y, lightconv(x, kernel, 3), rtol=0, atol=0)
    y.sum().backward()
    assert x.grad.dtype == dtype and kernel.grad.dtype == torch.float32


@pytest.mark.parametrize(
    "channels, shape, padding_l, words",
    [
        (5, (1, 2, 3), 1, "5 channels do not divide into 2 heads"),
        (4, (1, 2, 3), 3, "padding_l is 3; for kernel size 3 it must be from 0 to 2"),
        (4, (7, 1, 2, 3), 1, r"the kernels are \(7, 1, 2, 3\), expected T x B x H x K: \(9, 1, 2, 3\)"),
        (4, (7, 2, 3), 1, r"the kernels are \(7, 2, 3\), expected B x H x K: \(1, 2, 3\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(channels, shape, padding_l, words):
    with pytest.raises(ValueError, match=words):
        lightconv(torch.randn(9, 1, channels), torch.randn(shape), padding_l)


def test_only_sizes_that_onednn_is_fast_at_are_given_to_it():
    sizes = [(T, K) for T in (10, 60, 240, 2000) for K in (3, 4, 7, 31)]
    chosen = {(T, K) for T, K in sizes if choose(torch.empty(T, 4, 8), K, K // 2) == "depthwise"}
    assert chosen == {(10, 3), (60, 3), (60, 7), (240, 3), (240, 7), (2000, 3), (2000, 7), (2000, 31)}
    assert choose(torch.empty(60, 4, 8, dtype=torch.float64), 3, 1) == "bands"
    assert choose(torch.empty(60, 4, 8), 3, 2) == choose(torch.empty(60, 4, 8), 3, 1, True) == "bands"


@pytest.mark.parametrize("path", ["bands", "depthwise"])
def test_memory_is_linear_in_length(path):
    """What forward and backward allocate at T = 2,000 stays far below one T x T matrix."""
    T, B, H, R, K = 2000, 1, 2, 8, 31
    x = torch.randn(T, B, H * R, requires_grad=True)
    kernel = torch.rand(B, H, K, requires_grad=True)

    def function():
        lightconv(x, kernel, K // 2, implementation=path).sum().backward()

    def quadratic():
        (torch.ones(T, T, requires_grad=True) @ x.flatten(1)).sum().backward()

    bound = 4 * T * T / 10
    assert peak_memory(function) < bound < peak_memory(quadratic)
