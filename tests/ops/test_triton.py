"""The GPU's kernels: on a GPU where there is one, or else in Triton's interpreter on the CPU."""

import copy
import importlib.util
import sys
import warnings

import pytest
import torch
from conftest import ROOT, run
from test_lightconv import check, relative
from torch._subclasses import FakeTensorMode

from fairseq_cgc import ContextGate, ContextGatedLightweightConv
from fairseq_cgc.ops.context_gate import GateOptions, choose_gate, context_gate
from fairseq_cgc.ops.context_gated_lightconv import context_gated_lightconv
from fairseq_cgc.ops.lightconv import _triton_works, choose, has_triton, lightconv
from fairseq_cgc.ops.naive import naive_lightconv
from fairseq_cgc.ops.padding import Padding, head_means

pytestmark = pytest.mark.slow
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton has no wheel here")


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

    y = lightconv(x, kernel_of(head_means(x, 3)), 3, implementation="triton")
    precise = x.double()
    kernel = kernel_of(precise.view(40, 2, 3, 2).mean(3))
    expected = torch.stack([naive_lightconv(precise[:, b], kernel[b], 3) for b in range(2)], dim=1)
    assert relative(y, expected) < TOLERANCE[dtype]
    grad = torch.randn(40, 2, 6, device=DEVICE).to(dtype)
    exact = torch.autograd.grad(expected, [x, mix], grad.double())
    for value, reference in zip(torch.autograd.grad(y, [x, mix], grad), exact):
        assert relative(value, reference) < TOLERANCE[dtype]


def gate_cases(K, T, options, padded, dtype=torch.float32):
    """Means, weight, gate and mask: what the fused gate takes."""
    gate = ContextGate(2, K, **options).to(DEVICE, dtype)
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    means, weight = torch.randn(T, 3, 2, device=DEVICE), torch.randn(2, K, device=DEVICE, dtype=dtype)
    mask = None
    if padded:  # on the left, on the right, and a row of padding alone
        mask = torch.zeros(3, T, dtype=torch.bool, device=DEVICE)
        mask[0, : T // 2] = mask[1, T - T // 3 :] = mask[2] = True
        means = means.masked_fill(mask.t().unsqueeze(2), float("nan"))  # is not to be looked at
    return gate, means, weight, mask


def outputs_and_gradients(gate, means, weight, kernels):
    """What ``kernels(gate, means, weight)`` gives, and the gradients of all that goes in."""
    inputs = [means.detach().requires_grad_(), weight.detach().requires_grad_()]
    output = kernels(gate, *inputs)
    grad = torch.linspace(-1, 1, output.numel(), device=DEVICE).view_as(output).to(output.dtype)
    gradients = torch.autograd.grad(output, [*inputs, *gate.parameters()], grad, allow_unused=True)
    return [output, *(torch.zeros(()) if gradient is None else gradient for gradient in gradients)]


GATES = [
    (3, 5, {}, ("kernel", True)),
    (3, 9, {}, ("kernel", True)),  # as many tokens as slots
    (3, 10, {"activation": "one-plus-tanh"}, ("kernel", True)),
    (7, 1, {}, ("logits", True)),
    (7, 20, {"latent_dim": 7}, ("kernel", False)),
    (7, 70, {"activation": "one-plus-tanh"}, ("logits", True)),
    (15, 100, {"pool_factor": 6}, ("logits", False)),
    (31, 200, {}, ("kernel", True)),
    (31, 90, {"pool_factor": 1}, None),  # the gate alone
]


def kernels_by(implementation, mask, how):
    """From a gate, means and weight to what an implementation makes of them."""

    def kernels(gate, means, weight):
        options = gate.options if how is None else gate.options._replace(gate_on=how[0], weight_softmax=how[1])
        own = *gate.tensors(), None if how is None else weight, options
        return context_gate(means, Padding.of(mask), *own, implementation)

    return kernels


@needs_triton
@pytest.mark.parametrize("padded", [False, True], ids=["no-padding", "padding"])
@pytest.mark.parametrize("K, T, options, how", GATES)
def test_triton_s_gate_equals_pytorch_s(K, T, options, how, padded):
    """As near to float64 as float32's operations are, to the last gradient."""
    gate, means, weight, mask = gate_cases(K, T, options, padded)
    precise = copy.deepcopy(gate).double()
    exact = outputs_and_gradients(precise, means.double(), weight.double(), kernels_by("torch", mask, how))
    theirs = outputs_and_gradients(gate, means, weight, kernels_by("torch", mask, how))
    ours = outputs_and_gradients(gate, means, weight, kernels_by("triton", mask, how))
    for own, other, reference in zip(ours, theirs, exact):
        assert own.shape == other.shape and own.dtype == other.dtype
        size = reference.abs().max().clamp_min(1e-3)  # gradients that cancel are noise in both
        assert (own - reference).abs().max() <= 4 * (other - reference).abs().max() + 2e-6 * size


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_triton_s_gate_takes_parameters_in_half_precision(dtype):
    gate, means, weight, mask = gate_cases(7, 30, {}, True, dtype)
    kernels = kernels_by("triton", mask, ("kernel", True))
    ours = outputs_and_gradients(gate, means, weight, kernels)
    exact = outputs_and_gradients(copy.deepcopy(gate).float(), means, weight.float(), kernels)
    assert ours[0].dtype == torch.float32 and [part.dtype for part in ours[2:]] == [dtype] * 5
    for own, reference in zip(ours, exact):
        assert relative(own.float(), reference) < TOLERANCE[dtype]


@needs_triton
@pytest.mark.parametrize("gate_on", ["kernel", "logits"])
def test_a_layer_is_the_same_on_triton(gate_on):
    conv = ContextGatedLightweightConv(8, 7, 3, num_heads=2, gate_on=gate_on).to(DEVICE)
    mask = torch.zeros(3, 20, dtype=torch.bool, device=DEVICE)
    mask[1, :9] = True
    x = torch.randn(20, 3, 8, device=DEVICE).masked_fill(mask.t().unsqueeze(2), 0.0).requires_grad_()
    options = conv.gate.options._replace(gate_on=gate_on)
    tensors = *conv.gate.tensors(), conv.weight.squeeze(1), options

    def gradients(gate, convolution):
        y = context_gated_lightconv(x, Padding(mask), *tensors, padding_l=3, gate=gate, convolution=convolution)
        return y, *torch.autograd.grad(y.square().mean(), [x, *conv.parameters()])

    for value, reference in zip(gradients("triton", "triton"), gradients("torch", "bands")):
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-6)


@needs_triton
def test_triton_s_gate_is_for_gpus_float32_the_default_norm_and_sizes_that_fit():
    def chosen(means, slots=93, latent=16, K=31, **options):
        parameters = [means.new_empty(shape) for shape in ((latent, slots), (latent,), (latent,), (K, latent), (4, K))]
        return choose_gate(means, parameters, GateOptions(**options))

    with FakeTensorMode():
        means = torch.empty(60, 4, 8, device="cuda")
        assert chosen(means) == chosen(means, 186, 31) == chosen(means, activation="one-plus-tanh") == "triton"
        others = [chosen(means.double()), chosen(means, 600, 101, 200), chosen(means, norm="heads-latent")]
        others += [chosen(means, pool="max"), chosen(torch.empty(60, 4, 8))]
        assert set(others) == {"torch"}


@needs_triton
def test_triton_s_gate_is_known_to_torch_compile():
    from fairseq_cgc.ops.context_gate import triton

    gate, means, weight, mask = gate_cases(7, 20, {}, True)
    parameters = [parameter.detach() for parameter in (*gate.tensors(), weight)]
    arguments = triton._arguments(means, Padding(mask), parameters, gate.options)
    tests = ["test_schema", "test_faketensor"]
    torch.library.opcheck(triton._forward.registered, arguments, test_utils=tests)
    torch.library.opcheck(
        triton._backward.registered, [torch.randn(3, 2, 7, device=DEVICE), *arguments], test_utils=tests
    )


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fairseq_cgc.ops.context_gate import triton as gates
from fairseq_cgc.ops.lightconv import triton as kernels

def build(kernel, types, constants):
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    signature.update({name: "constexpr" for name in constants})
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32))

capability = int(sys.argv[1])
has_units = capability >= 80  # Triton no longer uses the matrix units of older GPUs

for dtype, band, per_token in (("fp32", False, True), ("bf16", True, True), ("bf16", True, False), ("fp16", False, False)):
    sizes = {"INTERPRETED": False, "BLOCK_T": kernels.BLOCK_T, "BLOCK_S": 64, "PER_TOKEN": per_token}
    types = {"x": "*" + dtype, "y": "*" + dtype, "grad": "*" + dtype, "kernel": "*fp32", "spread": "*fp32", "sums": "*fp32"}
    built = build(kernels._forward, types, {**sizes, "BLOCK_R": 128, "HAS_SPREAD": True, "BAND": band})
    assert ("mma" in built.asm["ptx"]) == (has_units and band) and built.metadata.shared < 48 * 1024
    built = build(kernels._backward, types, {**sizes, "BLOCK_R": 64})
    assert ("mma" in built.asm["ptx"]) == (has_units and dtype != "fp32") and built.metadata.shared <= 48 * 1024
# An argument of 1 is a constant to the compiler.
build(kernels._forward, types, {**sizes, "N": 1, "BLOCK_R": 16, "HAS_SPREAD": False, "BAND": False})
sizes = {"HAS_PADDING": True, "SOFTMAX": True, "BLOCK_T": gates.BLOCK_T, "BLOCK_S": 128, "BLOCK_D": 16, "BLOCK_K": 32}
for kernel in (gates._gate, gates._gate_backward):
    for dtype, what, sigmoid in (("fp32", 1, True), ("bf16", 2, False), ("fp16", 0, True)):
        types = {name: "*fp32" for name in kernel.arg_names if name.islower()}
        types |= {name: "*" + dtype for name in ("encode", "scale", "shift", "decode", "weight")}
        types |= {"places": "*i32", "lengths": "*i32", "eps": "fp32"}
        built = build(kernel, types, {**sizes, "WHAT": what, "SIGMOID": sigmoid})
        assert built.metadata.shared < 48 * 1024
print("built")
"""


@needs_triton
@pytest.mark.parametrize("capability", [70, 75, 80, 90, 120])
def test_the_kernels_compile_for_gpus(capability):
    """To machine code, with no GPU at hand: of the V100, the T4, the A100, the H100 and the RTX 50."""
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
        y = lightconv(x, kernel, 3, implementation="triton")
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.isfinite(y).all()


@needs_triton
def test_what_it_does_not_compute_is_refused_by_name():
    x, kernel = torch.randn(9, 1, 2, device=DEVICE), torch.randn(1, 1, 3, device=DEVICE)
    with pytest.raises(ValueError, match=r"not support torch.float64 with kernel size 3 \(the largest is 97\)"):
        lightconv(x.double(), kernel, 1, implementation="triton")
    wide = torch.randn(1, 1, 99, device=DEVICE)
    with pytest.raises(ValueError, match="torch.float32 with kernel size 99"):
        lightconv(torch.randn(200, 1, 2, device=DEVICE), wide, 49, implementation="triton")
    with pytest.raises(ValueError, match="implementation is 'fast'; choose from triton, depthwise, bands"):
        lightconv(x, kernel, 1, implementation="fast")


@needs_triton
def test_a_gpu_gets_triton_and_what_that_cannot_do_the_bands():
    with FakeTensorMode():
        x = torch.empty(60, 4, 8, device="cuda")
        assert choose(x, 31, 15) == choose(x.half(), 3, 1) == "triton"
        assert choose(x.double(), 31, 15) == choose(x, 200, 100) == "bands"


def test_without_triton_a_gpu_gets_the_bands_and_one_warning(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _triton_works.cache_clear()
    try:
        with FakeTensorMode():
            x = torch.empty(60, 4, 8, device="cuda")
            with pytest.warns(UserWarning, match="Triton is not installed.*pip install triton") as caught:
                assert choose(x, 3, 1) == choose(x, 3, 1) == "bands"
    finally:
        _triton_works.cache_clear()
    assert len(caught) == 1


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="where Triton works")
def test_a_triton_that_does_not_work_is_told_and_done_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _triton_works.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"Triton does not work here .*more slowly\. It needs a C compiler"):
            assert not has_triton()
    finally:
        _triton_works.cache_clear()


def test_a_cpu_never_asks_for_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _triton_works.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(torch.empty(60, 4, 8, dtype=torch.float16), 31, 15) == "bands"
