import copy

import pytest
import torch
from conftest import Task, build_model, padded_batch, tiny_model
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from test_context_gate import CHANNELS, HEADS, randomise

from fairseq_cgc import ContextGatedDynamicConv, ContextGatedLightweightConv, SummaryGate
from fairseq_cgc.errors import OptionError
from fairseq_cgc.ops.naive import naive_lightconv


def make(kernel_size=7, **options):
    return randomise(SummaryGate(CHANNELS, HEADS, kernel_size, **options))


def reference(gate, sentence, activation):
    """The gate of one sentence (n x C), a value at a time where a mistake in shapes could hide."""
    features = [(gate.encode.weight @ token + gate.encode.bias).clamp(min=0) for token in sentence]
    summary = sum(features) / len(sentence)
    summary = (summary - summary.mean()) / (summary.var(unbiased=False) + 1e-5).sqrt()
    change = gate.decode.weight @ (summary * gate.norm.weight + gate.norm.bias)
    act = torch.sigmoid if activation == "sigmoid" else lambda logits: 1 + torch.tanh(logits)
    K = gate.logits.size(1)
    return torch.stack([act(gate.logits[h] + change[h * K : (h + 1) * K]) for h in range(HEADS)])


@pytest.mark.parametrize("activation", ["sigmoid", "one-plus-tanh"])
@pytest.mark.parametrize("kernel_size", [2, 3, 15])
@pytest.mark.parametrize("left", [True, False], ids=["left-padded", "right-padded"])
def test_a_gate_equals_the_reference_whatever_is_beside_it(activation, kernel_size, left):
    gate = make(kernel_size, activation=activation).double()
    sentences = [torch.randn(n, CHANNELS, dtype=torch.float64) for n in (1, 2, 30, 200)]
    expected = torch.stack([reference(gate, sentence, activation) for sentence in sentences])
    torch.testing.assert_close(gate(*padded_batch(sentences, left)), expected)
    torch.testing.assert_close(gate(sentences[2].unsqueeze(1)), expected[2:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_summed_in_float32(dtype):
    gate = make()
    x = torch.randn(300, 2, CHANNELS).to(dtype)
    found = gate(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, gate(x.float()), rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gate(x), found, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [ContextGatedLightweightConv, ContextGatedDynamicConv])
def test_a_layer_in_half_precision_is_as_near_as_that(kind, dtype):
    """Which ``fairseq-train --fp16`` and ``--bf16`` make of a model; its gates are computed in float32 all the same."""
    layer = randomise(kind(CHANNELS, 7, num_heads=HEADS, gate="summary")).to(dtype)
    x, mask = padded_batch([torch.randn(n, CHANNELS).to(dtype) for n in (3, 30)], True)
    y = layer(x, mask)
    assert y.dtype == dtype and layer.gate(x, mask).dtype == torch.float32
    expected = copy.deepcopy(layer).float()(x.float(), mask)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05 * expected[~mask.t()].abs().mean().item())
    y[~mask.t()].float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in layer.gate.parameters())


def test_a_sentence_without_a_token_has_a_gate():
    for nothing in (
        SummaryGate(CHANNELS, HEADS, 7)(torch.zeros(0, 2, CHANNELS)),
        make()(torch.zeros(3, 0, CHANNELS)),
    ):
        assert torch.isfinite(nothing).all()


@pytest.mark.parametrize("kind", [ContextGatedLightweightConv, ContextGatedDynamicConv])
def test_a_layer_convolves_with_what_its_gate_gives(kind):
    layer = randomise(kind(CHANNELS, 7, num_heads=HEADS, gate="summary")).double()
    sentences = [torch.randn(n, CHANNELS, dtype=torch.float64) for n in (3, 30)]
    record = []
    y = layer(*padded_batch(sentences, False), record=record)
    for b, sentence in enumerate(sentences):
        gate = reference(layer.gate, sentence, "sigmoid")
        if kind is ContextGatedLightweightConv:
            kernels = layer.weight.squeeze(1).softmax(1)
            torch.testing.assert_close(record[0].kernel[b], kernels * gate)
        else:  # a kernel a token
            kernels = layer.weight_linear(sentence).view(-1, HEADS, 7).softmax(2)
            torch.testing.assert_close(record[0].kernel[: len(sentence), b], kernels * gate)
        torch.testing.assert_close(y[: len(sentence), b], naive_lightconv(sentence, kernels * gate, 3))
        torch.testing.assert_close(record[0].gate[b], gate)


def test_it_starts_as_gates_that_are_the_same_for_every_sentence():
    start = SummaryGate(CHANNELS, HEADS, 7)(torch.randn(9, 3, CHANNELS))
    assert start.eq(0.5).all()


def test_every_parameter_gets_a_gradient_and_padding_none():
    gate = make()
    x, mask = padded_batch([torch.randn(n, CHANNELS) for n in (2, 9)], False)
    x.requires_grad_()
    (gate(x, mask) * torch.randn(2, *gate(x, mask).shape[1:])).sum().backward()
    assert all(parameter.grad.ne(0).any() for parameter in gate.parameters())
    assert x.grad[2:, 0].eq(0).all() and x.grad[:, 1].ne(0).any()
    other = x.detach().clone()
    other[2:, 0] = torch.nan
    gate(other, mask).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in gate.parameters())
    nothing = gate(x.detach(), torch.tensor([[True] * 9, [False] * 9]))
    assert torch.isfinite(nothing).all()  # a row of padding alone


def test_shuffled_it_gives_the_gates_of_another_sentence_outside_training():
    gate = make(shuffle=True)
    x = torch.randn(9, 3, CHANNELS)
    own = gate(x)
    torch.testing.assert_close(gate.eval()(x), own[[2, 0, 1]], rtol=0, atol=0)
    with pytest.raises(OptionError, match="this batch has one sentence"):
        gate(x[:, :1])


@pytest.mark.parametrize("arch", [arch for arch, of in ARCH_MODEL_NAME_REGISTRY.items() if of == "lightconv_cgc"])
def test_each_layer_costs_fewer_parameters_than_a_dynamic_encoder_s(arch):
    def costs(**options):
        with torch.device("meta"):
            model = build_model(arch, Task(), **options)
        return [sum(p.numel() for p in layer.conv.parameters() if p.requires_grad) for layer in model.encoder.layers]

    none, dynamic = costs(cgc_gate="none"), costs(cgc_gate="none", encoder_conv_type="dynamic")
    for least, cost, most in zip(none, costs(cgc_gate="summary"), dynamic):
        assert least < cost < most


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch does not tell that it exports")
def test_a_layer_can_be_exported_with_sizes_left_open():
    layer = randomise(ContextGatedLightweightConv(CHANNELS, 7, num_heads=HEADS, gate="summary")).eval()
    T, B = torch.export.Dim("T", min=2, max=500), torch.export.Dim("B", min=2, max=64)
    example = torch.randn(11, 3, CHANNELS), torch.zeros(3, 11, dtype=torch.bool)
    program = torch.export.export(layer, example, dynamic_shapes=({0: T, 1: B}, {0: B, 1: T}))
    x, mask = padded_batch([torch.randn(n, CHANNELS) for n in (40, 3, 17, 25)], True)
    torch.testing.assert_close(program.module()(x, mask), layer(x, mask))


def test_a_model_trained_without_it_can_be_trained_on_with_it():
    lightconv, model = tiny_model(cgc_gate="none"), tiny_model(cgc_gate="summary")
    state = copy.deepcopy(lightconv.state_dict())
    model.load_state_dict(state)
    assert model.encoder.layers[1].conv.weight.equal(lightconv.encoder.layers[1].conv.weight)


def test_it_is_not_for_decoders():
    with pytest.raises(OptionError, match="--cgc-decoder source is for the paper's gate.*--cgc-gate is summary"):
        tiny_model(cgc_gate="summary", cgc_decoder="source")
