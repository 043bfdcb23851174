"""The GPU's kernels: on a GPU where there is one, or else in Triton's interpreter on the CPU."""

import importlib.util
import sys
import warnings

import pytest
import torch
from conftest import ROOT, run
from test_gated_lightconv import check, relative
from torch._subclasses import FakeTensorMode

from fairseq_cgc.ops import context_gated_lightconv, gated_lightconv
from fairseq_cgc.ops.gated_lightconv import _has_triton, choose_path
from fairseq_cgc.ops.naive import naive_gated_lightconv

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no wheel here")


@pytest.fixture(autouse=True)
def _interpret(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when the kernels are defined: at their first use


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 65])
@pytest.mark.parametrize("K, padding_l", [(1, 0), (3, 1), (4, 2), (7, 0), (31, 15), (31, 30)])
def test_triton_equals_the_reference(dtype, T, K, padding_l):
    check(T, 2, 2, 5, K, padding_l, "triton", dtype=dtype, tolerance=TOLERANCE[dtype], device=DEVICE)


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("T", [1, 32, 33, 65])
@pytest.mark.parametrize("K, padding_l", [(1, 0), (7, 0), (31, 15), (31, 30)])
def test_one_kernel_a_token_equals_the_reference(dtype, T, K, padding_l):
    check(T, 2, 2, 5, K, padding_l, "triton", False, dtype, TOLERANCE[dtype], DEVICE, per_token=True)


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "T, B, H, R, K, strided",
    [
        (400, 1, 1, 16, 15, False),  # two programs a head share the kernel's gradient
        (40, 1, 2, 130, 7, False),  # more channels a head than a block has
        (20, 3, 2, 64, 97, True),  # the widest kernel
    ],
)
def test_sizes_beyond_one_block_equal_the_reference(dtype, T, B, H, R, K, strided):
    check(T, B, H, R, K, K // 2, "triton", strided, dtype, TOLERANCE[dtype], DEVICE)


@needs_triton
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_kernel_that_depends_on_the_input_gets_both_gradients(dtype):
    x = torch.randn(40, 2, 6, device=DEVICE).to(dtype).requires_grad_()
    mix = torch.randn(40, 7, device=DEVICE, requires_grad=True)

    def kernel_of(means):
        return torch.einsum("tbh,tk->bhk", means, mix.to(means.dtype)).tanh()

    y = context_gated_lightconv(x, kernel_of, 3, 7, 3, path="triton")
    precise = x.double()
    kernel = kernel_of(precise.view(40, 2, 3, 2).mean(3))
    expected = torch.stack([naive_gated_lightconv(precise[:, b], kernel[b], 3) for b in range(2)], dim=1)
    assert relative(y, expected) < TOLERANCE[dtype]
    grad = torch.randn(40, 2, 6, device=DEVICE).to(dtype)
    exact = torch.autograd.grad(expected, [x, mix], grad.double())
    for value, reference in zip(torch.autograd.grad(y, [x, mix], grad), exact):
        assert relative(value, reference) < TOLERANCE[dtype]


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fairseq_cgc.ops import triton_lightconv as kernels

def build(kernel, types, constants):
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    signature.update({name: "constexpr" for name in constants})
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    return triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32))

for dtype, band, per_token in (("fp32", False, True), ("bf16", True, True), ("bf16", True, False), ("fp16", False, False)):
    sizes = {"INTERPRETED": False, "BLOCK_T": kernels.BLOCK_T, "BLOCK_S": 64, "PER_TOKEN": per_token}
    types = {"x": "*" + dtype, "y": "*" + dtype, "grad": "*" + dtype, "kernel": "*fp32", "plus": "*fp32", "sums": "*fp32"}
    built = build(kernels._convolve, types, {**sizes, "BLOCK_R": 128, "HAS_PLUS": True, "BAND": band})
    assert ("mma" in built.asm["ptx"]) == band and built.metadata.shared < 48 * 1024
    built = build(kernels._kernel_gradient, types, {**sizes, "BLOCK_R": 64})
    assert ("mma" in built.asm["ptx"]) == (dtype != "fp32") and built.metadata.shared <= 48 * 1024
# An argument of 1 is a constant to the compiler.
build(kernels._convolve, types, {**sizes, "N": 1, "BLOCK_R": 16, "HAS_PLUS": False, "BAND": False})
print("built")
"""


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus(capability):
    """To machine code, with no GPU at hand: of the A100 and the H100."""
    done = run(sys.executable, "-c", COMPILE, capability, env={"TRITON_INTERPRET": "0"}, cwd=ROOT)
    assert done.stdout.endswith("built\n")


@needs_triton
def test_every_element_is_written_and_nothing_beyond():
    """NaN around the input and in fresh memory shows what is read or left out that should not be."""
    store = torch.full((50, 2, 6), float("nan"), device=DEVICE)
    store[5:45] = torch.randn(40, 2, 6, device=DEVICE)
    x, kernel = store[5:45], torch.randn(2, 3, 7, device=DEVICE)
    torch.use_deterministic_algorithms(True)  # fills empty tensors with NaN
    try:
        y = gated_lightconv(x, kernel, 3, path="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.isfinite(y).all()


@needs_triton
def test_what_it_does_not_compute_is_refused_by_name():
    x, kernel = torch.randn(9, 1, 2, device=DEVICE), torch.randn(1, 1, 3, device=DEVICE)
    with pytest.raises(ValueError, match="no torch.float64 and no kernel size above 97; it is asked for torch.float64"):
        gated_lightconv(x.double(), kernel, 1, path="triton")
    wide = torch.randn(1, 1, 99, device=DEVICE)
    with pytest.raises(ValueError, match="torch.float32 and 99"):
        gated_lightconv(torch.randn(200, 1, 2, device=DEVICE), wide, 49, path="triton")
    with pytest.raises(ValueError, match="path is 'fast'; choose from bands, depthwise, triton"):
        gated_lightconv(x, kernel, 1, path="fast")


@needs_triton
def test_a_gpu_gets_triton_and_what_that_cannot_do_the_bands():
    with FakeTensorMode():
        x = torch.empty(60, 4, 8, device="cuda")
        assert choose_path(x, 31, 15) == choose_path(x.half(), 3, 1) == "triton"
        assert choose_path(x.double(), 31, 15) == choose_path(x, 200, 100) == "bands"


def test_without_triton_a_gpu_gets_the_bands_and_one_warning(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _has_triton.cache_clear()
    try:
        with FakeTensorMode():
            x = torch.empty(60, 4, 8, device="cuda")
            with pytest.warns(UserWarning, match="Triton is not installed.*pip install triton") as caught:
                assert choose_path(x, 3, 1) == choose_path(x, 3, 1) == "bands"
    finally:
        _has_triton.cache_clear()
    assert len(caught) == 1


def test_a_cpu_never_asks_for_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _has_triton.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose_path(torch.empty(60, 4, 8, dtype=torch.float16), 31, 15) == "bands"
