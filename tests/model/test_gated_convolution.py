import itertools

import pytest
import torch
from conftest import padded_batch
from fairseq.modules.dynamic_convolution import DynamicConv_scripatable
from fairseq.modules.lightweight_convolution import LightweightConv1dTBC

from fairseq_cgc import ContextGatedDynamicConv, ContextGatedLightweightConv
from fairseq_cgc.context_gate import ACTIVATIONS, NORMS
from fairseq_cgc.errors import OptionError
from fairseq_cgc.gated_convolution import GATE_ON, recorded_gates
from fairseq_cgc.ops import Padding, gated_layer
from fairseq_cgc.ops.naive import naive_context_gate, naive_gated_kernel, naive_gated_lightconv

HEADS, CHANNELS = 4, 24


def reference(conv, sentence, norm="latent", activation="sigmoid", gate_on="kernel"):
    gate = conv.gate
    weights = gate.encode.weight, gate.norm.weight, gate.norm.bias, gate.decode.weight
    values = naive_context_gate(sentence, *weights, HEADS, norm=norm, activation=activation)
    if isinstance(conv, ContextGatedDynamicConv):
        tokens = (sentence.double() @ conv.weight_linear.weight.double().T).unflatten(1, (HEADS, -1))
        kernel = torch.stack([naive_gated_kernel(own, values, gate_on, conv.weight_softmax) for own in tokens])
    else:
        kernel = naive_gated_kernel(conv.weight.squeeze(1), values, gate_on, conv.weight_softmax)
    return naive_gated_lightconv(sentence, kernel, conv.padding_l)


KINDS = [ContextGatedLightweightConv, ContextGatedDynamicConv]


def make(kernel_size, kind=ContextGatedLightweightConv, **options):
    conv = kind(CHANNELS, kernel_size, num_heads=HEADS, **options)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return conv


@pytest.mark.parametrize("kernel_size", [3, 7, 15, 31])
@pytest.mark.parametrize("left", [True, False], ids=["left-padded", "right-padded"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_convolution_equals_the_reference(kind, kernel_size, left, dtype, tolerance):
    conv = make(kernel_size, kind).to(dtype)
    slots = 3 * kernel_size
    sentences = [torch.randn(n, CHANNELS, dtype=dtype) for n in (1, 2, 20, slots - 1, slots, slots + 1, 200)]
    x, mask = padded_batch(sentences, left)
    y = conv(x, mask)
    for b, sentence in enumerate(sentences):
        expected = reference(conv, sentence).to(dtype)
        torch.testing.assert_close(y[~mask[b], b], expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("norm, activation, gate_on", itertools.product(NORMS, ACTIVATIONS, GATE_ON))
@pytest.mark.parametrize("weight_softmax", [True, False])
@pytest.mark.parametrize("n", [5, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_every_option_equals_the_reference(kind, norm, activation, gate_on, weight_softmax, n):
    options = {"norm": norm, "activation": activation, "gate_on": gate_on}
    conv = make(7, kind, weight_softmax=weight_softmax, **options).double()
    sentence = torch.randn(n, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(conv(sentence.unsqueeze(1))[:, 0], reference(conv, sentence, **options))


@pytest.mark.parametrize("padding_l, left", [(0, 0), (6, 6), (None, 3), ((3, 3), 3)])
def test_padding_on_the_left_is_chosen_as_in_fairseq(padding_l, left):
    conv = make(7, padding_l=padding_l).double()
    assert conv.padding_l == left
    sentence = torch.randn(40, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(conv(sentence.unsqueeze(1))[:, 0], reference(conv, sentence))


def test_even_kernel_sizes_take_fairseq_s_pair_of_paddings():
    conv = make(4, padding_l=(1, 2)).double()
    sentence = torch.randn(10, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(conv(sentence.unsqueeze(1))[:, 0], reference(conv, sentence))


@pytest.mark.parametrize("T", [10, 150])
def test_a_gate_of_one_computes_fairseq_s_convolution(T):
    conv = ContextGatedLightweightConv(CHANNELS, 7, 3, HEADS, activation="one-plus-tanh", zero_init=True)
    plain = LightweightConv1dTBC(CHANNELS, 7, 3, HEADS, weight_softmax=True)
    plain.load_state_dict({"weight": conv.weight})
    x = torch.randn(T, 3, CHANNELS)
    torch.testing.assert_close(conv(x), plain(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("T", [1, 10, 150])
@pytest.mark.parametrize("bias", [False, True])
def test_a_gate_of_one_computes_fairseq_s_dynamic_convolution(T, bias):
    conv = ContextGatedDynamicConv(CHANNELS, 7, 3, HEADS, conv_bias=bias, activation="one-plus-tanh", zero_init=True)
    if bias:
        torch.nn.init.normal_(conv.conv_bias)
    plain = DynamicConv_scripatable(CHANNELS, 7, 3, HEADS, weight_softmax=True, conv_bias=bias)
    plain.load_state_dict({k: v for k, v in conv.state_dict().items() if not k.startswith("gate.")})
    x = torch.randn(T, 3, CHANNELS)
    torch.testing.assert_close(conv(x), plain(x), rtol=0, atol=1e-6)


def test_dropconnect_drops_taps_of_a_sentence_and_only_in_training():
    conv = ContextGatedLightweightConv(CHANNELS, 7, 3, HEADS, weight_dropout=0.5)
    impulse = torch.zeros(7, 64, CHANNELS)
    impulse[3] = 1.0  # the output over time is the kernel, last tap first
    dropped = conv(impulse) == 0
    assert 0.3 < dropped.float().mean() < 0.7
    heads = dropped.unflatten(2, (HEADS, -1))
    assert (heads == heads[..., :1]).all()
    assert not (conv.eval()(impulse) == 0).any()


@pytest.mark.parametrize("gate_on", GATE_ON)
@pytest.mark.parametrize("kernel_size, n", [(3, 5), (3, 13), (5, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind, kernel_size, n, gate_on):
    conv = kind(4, kernel_size, num_heads=2, gate_on=gate_on).double()
    x, mask = padded_batch([torch.randn(length, 4, dtype=torch.float64) for length in (2, n)], left=True)
    x.requires_grad_()
    names = [name for name, _ in conv.named_parameters()]

    def function(x, *parameters):
        y = torch.func.functional_call(conv, dict(zip(names, parameters)), (x, mask))
        return y.masked_fill(mask.T.unsqueeze(2), 0.0)

    assert torch.autograd.gradcheck(function, (x, *conv.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("T", [30, 150])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast_is_finite_and_close_to_float32(kind, dtype, T):
    conv = make(15, kind)
    x, mask = padded_batch([torch.randn(n, CHANNELS) for n in (T, T // 2)], left=True)
    with torch.autocast("cpu", dtype=dtype):
        y = conv(x, mask)
    y.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in conv.parameters() if p.requires_grad)
    y, exact = (t.float().masked_fill(mask.T.unsqueeze(2), 0.0) for t in (y, conv(x, mask)))
    assert torch.isfinite(y).all()
    torch.testing.assert_close(y, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_half_precision_throughout_is_close_to_float32(kind, dtype):
    conv = make(15, kind)
    x = torch.randn(40, 2, CHANNELS)
    exact = conv(x)
    y = conv.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"num_heads": 5}, "24 convolution channels do not divide into 5 heads"),
        ({"num_heads": 0}, "0 heads"),
        ({"gate_on": "input"}, "gate_on is 'input'; choose from kernel, logits"),
        ({"gate": "none"}, "gate is 'none'; choose from context, constant"),
        ({"gate": "constant", "activation": "relu"}, "activation is 'relu'"),
        ({"padding_l": 7}, "padding_l is 7"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_option_that_cannot_be_names_its_value(kind, options, words):
    with pytest.raises(OptionError, match=words):
        kind(CHANNELS, 7, **{"num_heads": HEADS, **options})


def as_one(conv, x, *mask):
    """Whether the convolution runs as one node of autograd."""
    return type(conv(x, *mask).grad_fn).__name__ == "_LayerBackward"


@pytest.mark.parametrize("activation, gate_on", itertools.product(ACTIVATIONS, GATE_ON))
@pytest.mark.parametrize("weight_softmax", [True, False])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("K, n", [(1, 4), (7, 3), (7, 21), (7, 40), (31, 10)])
def test_the_one_node_is_what_autograd_makes_of_many(monkeypatch, K, n, padded, activation, gate_on, weight_softmax):
    conv = make(K, padding_l=K // 2, activation=activation, gate_on=gate_on, weight_softmax=weight_softmax).double()
    x = torch.randn(n, 3, CHANNELS, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(3, n, dtype=torch.bool)
    mask[1, : n // 2] = True
    arguments = (x, mask) if padded else (x,)
    grad = torch.randn_like(x)

    def everything():
        y = conv(*arguments)
        return y, *torch.autograd.grad(y, [x, *conv.parameters()], grad)

    assert as_one(conv, *arguments)
    done = everything()
    monkeypatch.setattr(gated_layer, "suits", lambda *tensors: False)
    assert not as_one(conv, *arguments)
    for one, other in zip(done, everything()):
        torch.testing.assert_close(one, other)


def test_the_one_node_s_gradients_with_dropconnect_are_those_of_its_draws():
    conv = make(5, padding_l=2, weight_softmax=True, weight_dropout=0.4).double().train()
    x = torch.randn(9, 2, CHANNELS, dtype=torch.float64, requires_grad=True)

    def function(x, *_):
        torch.manual_seed(1)
        return conv(x)

    assert as_one(conv, x)
    assert torch.autograd.gradcheck(function, (x, *conv.parameters()))
    dropped = make(5, padding_l=2, weight_dropout=1.0).train()
    y = dropped(x.float())
    assert not y.any()
    y.sum().backward()
    assert not x.grad.any()


def test_a_mask_for_all_layers_or_one_of_its_own_is_the_same_to_the_one_node():
    conv, x = make(7), torch.randn(9, 2, CHANNELS, requires_grad=True)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 6:] = True
    zeroed = x.detach().masked_fill(mask.t().unsqueeze(2), 0.0).requires_grad_()
    with conv.zeroed_at(Padding(mask)):
        y = conv(zeroed)
    assert type(y.grad_fn).__name__ == "_LayerBackward"
    torch.testing.assert_close(y, conv(x, mask))


def test_what_looks_inside_or_mixes_precisions_gets_pytorch_s_operations():
    x = torch.randn(9, 2, CHANNELS)
    assert as_one(make(7), x) and as_one(make(7), x.bfloat16())
    conv = make(7)
    conv.gate.half()
    assert conv.gate.convolve(x, None, conv.weight.squeeze(1), True, "kernel", 3, 0.0) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not as_one(make(7), x)
    for options in ({"norm": "heads-latent"}, {"pool": "max"}, {"gate": "constant"}):
        assert not as_one(make(7, **options), x)
    with recorded_gates([conv := make(7)]):
        assert not as_one(conv, x)
    assert as_one(make(7, shuffle=True).train(), x) and not as_one(make(7, shuffle=True).eval(), x)


@pytest.mark.parametrize("gate_on", ["kernel", "logits"])
def test_shuffled_kernels_are_the_neighbour_s_when_evaluating_alone(gate_on):
    conv, x = make(7, shuffle=True, gate_on=gate_on), torch.randn(9, 3, CHANNELS)
    record = []
    for training in (True, False):
        with recorded_gates([conv.train(training)]) as gates:
            conv(x)
        record.append(gates[0].kernel)
    assert torch.equal(record[1], record[0].roll(1, 0)) and not torch.equal(*record)


def test_an_input_of_other_channels_is_named():
    with pytest.raises(ValueError, match="10 channels do not divide into 4 heads"):
        make(7)(torch.randn(9, 2, 10))
