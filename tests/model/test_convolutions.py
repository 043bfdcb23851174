import itertools

import pytest
import torch
import torch.nn.utils.prune as prune
from conftest import padded_batch
from fairseq.modules.dynamic_convolution import DynamicConv_scripatable
from fairseq.modules.lightweight_convolution import LightweightConv1dTBC

from fairseq_cgc import ContextGatedDynamicConv, ContextGatedLightweightConv
from fairseq_cgc.context_gate import ACTIVATIONS, NORMS, ContextGate
from fairseq_cgc.errors import OptionError
from fairseq_cgc.ops.context_gate import GATE_ON
from fairseq_cgc.ops.naive import naive_context_gate, naive_gated_kernel, naive_lightconv
from fairseq_cgc.ops.padding import Padding

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
    return naive_lightconv(sentence, kernel, conv.padding_l)


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
        ({"gate": "all"}, "gate is 'all'; choose from context, constant, learned, none"),
        ({"latent_dim": 1}, "latent size is 1 with norm latent: a LayerNorm over one value is always zero"),
        ({"gate": "constant", "activation": "relu"}, "activation is 'relu'"),
        ({"padding_l": 7}, "padding_l is 7"),
        ({"padding_l": (3, 2)}, r"padding_l is \(3, 2\); a pair, left and right, must add up to 6"),
        ({"weight_dropout": 2.0}, "weight_dropout is 2.0; it must be from 0 to 1"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_an_option_that_cannot_be_names_its_value(kind, options, words):
    with pytest.raises(OptionError, match=words):
        kind(CHANNELS, 7, **{"num_heads": HEADS, **options})


def fused(conv, x, *mask):
    """Whether the convolution runs as one node of autograd."""
    return type(conv(x, *mask).grad_fn).__name__ == "_LayerBackward"


def composed(conv, x, *mask):
    """The convolution as ``lightconv(x, gate(x))``."""
    return conv(x, *mask, record=[])


@pytest.mark.parametrize("norm, activation, gate_on", itertools.product(NORMS, ACTIVATIONS, GATE_ON))
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    "K, n, options",
    [
        (2, 4, {"weight_softmax": False}),
        (7, 3, {}),
        (7, 21, {"weight_softmax": False}),
        (7, 40, {"pool": "max"}),
        (31, 10, {"pool": "max"}),
    ],
    ids=str,
)
def test_the_fused_layer_is_the_composition(K, n, options, padded, norm, activation, gate_on):
    conv = make(K, padding_l=K // 2, norm=norm, activation=activation, gate_on=gate_on, **options).double()
    x = torch.randn(n, 3, CHANNELS, dtype=torch.float64, requires_grad=True)
    mask = torch.zeros(3, n, dtype=torch.bool)
    mask[1, : n // 2] = True
    arguments = (x, mask) if padded else (x,)
    grad = torch.randn_like(x)
    assert fused(conv, *arguments) and type(composed(conv, *arguments).grad_fn).__name__ == "_LightConvBackward"
    one, other = (
        (y, *torch.autograd.grad(y, [x, *conv.parameters()], grad))
        for y in (conv(*arguments), composed(conv, *arguments))
    )
    for value, expected in zip(one, other):
        torch.testing.assert_close(value, expected)


def test_gradients_with_dropconnect_are_those_of_its_draws():
    conv = make(5, padding_l=2, weight_softmax=True, weight_dropout=0.4).double().train()
    x = torch.randn(9, 2, CHANNELS, dtype=torch.float64, requires_grad=True)

    def function(x, *_):
        torch.manual_seed(1)
        return conv(x)

    assert torch.autograd.gradcheck(function, (x, *conv.parameters()))
    dropped = make(5, padding_l=2, weight_dropout=1.0).train()
    y = dropped(x.float())
    assert not y.any()
    y.sum().backward()
    assert not x.grad.any()


def test_a_padding_of_zeroed_input_is_as_good_as_a_mask():
    conv, x = make(7), torch.randn(9, 2, CHANNELS)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 6:] = True
    torch.testing.assert_close(conv(Padding(mask).zero(x), Padding(mask)), conv(x, mask), rtol=0, atol=0)


def test_every_context_gate_is_fused_unless_somebody_looks_inside():
    x = torch.randn(9, 2, CHANNELS)
    assert fused(make(7), x) and fused(make(7), x.bfloat16())
    for options in ({"norm": "heads-latent"}, {"norm": "latent-per-head"}, {"pool": "max"}):
        assert fused(make(7, **options), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused(make(7), x)
    assert not fused(make(7, gate="constant"), x)
    assert fused(make(7, shuffle=True).train(), x) and not fused(make(7, shuffle=True).eval(), x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["alone", "beside another"])
@pytest.mark.parametrize("record", [None, []])
def test_a_second_derivative_is_an_error(kind, way, record):
    """Of a loss that is linear in the output, too, which torch's own decorator lets pass as zero."""
    conv, x = make(3, kind).double(), torch.randn(5, 1, CHANNELS, dtype=torch.float64, requires_grad=True)
    loss = conv(x, None, record).sum() + (x.pow(3).sum() if way == "beside another" else 0)
    [grad] = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(grad.square().sum(), x)


def test_a_kernel_of_size_one_is_not_gated():
    conv = make(1, gate="context")
    assert conv.gate is None
    torch.testing.assert_close(conv(x := torch.randn(4, 2, CHANNELS)), x)  # a softmax over one tap


def test_gate_none_is_lightconv_and_draws_dropconnect_once_a_sentence():
    torch.manual_seed(2)
    ours = ContextGatedLightweightConv(CHANNELS, 7, 3, HEADS, weight_dropout=0.5, gate="none")
    theirs = LightweightConv1dTBC(CHANNELS, 7, 3, HEADS, weight_dropout=0.5, weight_softmax=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(20, 3, CHANNELS)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-6)
    ones = torch.ones(20, 500, CHANNELS)
    noise = {conv: conv.train()(ones)[8:10, :, 0].detach() for conv in (ours, theirs)}
    assert torch.corrcoef(noise[ours])[0, 1] > 0.999 and abs(torch.corrcoef(noise[theirs])[0, 1]) < 0.2


def test_batch_first_is_the_same_with_two_dimensions_swapped():
    conv, x = make(7), torch.randn(9, 2, CHANNELS)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 6:] = True
    expected = conv(x, mask)
    conv.batch_first = True
    torch.testing.assert_close(conv(x.transpose(0, 1), mask).transpose(0, 1), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(0, 2, CHANNELS), (5, 0, CHANNELS), (0, 0, CHANNELS)])
def test_empty_batches_give_empty_tensors(kind, shape):
    conv, x = make(7, kind), torch.empty(shape, requires_grad=True)
    y = conv(x, torch.zeros(shape[1], shape[0], dtype=torch.bool))
    assert y.shape == shape
    y.sum().backward()
    assert conv.gate(x).shape == (shape[1], HEADS, 7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(9, CHANNELS), (9, 2, 68), (9, 2, CHANNELS, 1)])
def test_an_input_of_another_shape_is_named_with_the_one_wanted(kind, shape):
    with pytest.raises(ValueError) as error:
        make(7, kind)(torch.randn(shape))
    assert f"the input is {shape}, expected T x B x C with C = 24" in str(error.value)
    with pytest.raises(ValueError, match=r"the padding mask is \(9, 2\), expected B x T: \(2, 9\)"):
        make(7, kind)(torch.randn(9, 2, CHANNELS), torch.zeros(9, 2, dtype=torch.bool))


@pytest.mark.parametrize("gate", ["context", "none"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_input_or_a_mask_of_a_wrong_type_is_named(kind, gate):
    conv, x = make(7, kind, gate=gate), torch.ones(9, 2, CHANNELS)
    for dtype in (torch.long, torch.complex64):
        with pytest.raises(ValueError, match=f"the input is {dtype}, expected floating-point numbers"):
            conv(x.to(dtype))
    for mask, found in ((torch.zeros(2, 9), "torch.float32"), (torch.zeros(2, 9).byte(), "torch.uint8"), ([0], "list")):
        with pytest.raises(ValueError, match=f"the padding mask is {found}, expected a tensor of bool"):
            conv(x, mask)


@pytest.mark.parametrize("kind, bias", zip(KINDS, ("bias", "conv_bias")))
def test_with_a_bias_the_output_has_the_input_s_dtype_too(kind, bias):
    conv, x = make(7, kind, **{bias: True}), torch.randn(9, 2, CHANNELS).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    if kind is ContextGatedLightweightConv:
        assert conv(x).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_the_shape_of_an_output_is_known_without_numbers(kind):
    x, mask = torch.empty(9, 2, CHANNELS, device="meta"), torch.zeros(2, 9, dtype=torch.bool, device="meta")
    assert make(7, kind).to("meta")(x, mask).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_the_gate_of_an_ungated_layer_is_recorded_as_ones(kind):
    conv, record = kind(CHANNELS, 7, num_heads=HEADS, gate="none"), []
    conv(torch.randn(9, 2, CHANNELS), record=record)
    assert record[0].gate.equal(torch.ones(2, HEADS, 7)) and record[0].kernel.equal(record[0].ungated)


@pytest.mark.parametrize("heads, taps", [(2 * HEADS, 7), (1, 7), (HEADS, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gate_of_another_shape_is_not_taken(kind, heads, taps):
    conv = make(7, kind)
    conv.gate = ContextGate(heads, taps)
    with pytest.raises(ValueError, match=rf"the gate is \(2, {heads}, {taps}\), expected B x H x K: \(2, {HEADS}, 7\)"):
        conv(torch.randn(9, 2, CHANNELS))


def test_a_hook_sees_the_gate_and_a_layer_in_place_of_one_of_its_own_is_refused():
    conv, x, seen = make(7), torch.randn(9, 2, CHANNELS), []
    without = conv(x)
    conv.gate.register_forward_hook(lambda module, inputs, gate: seen.append(gate))
    torch.testing.assert_close(conv(x), without)
    assert len(seen) == 1 and seen[0].equal(conv.gate(x))
    conv = make(7)
    conv.gate.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    conv(x.requires_grad_()).sum().backward()
    assert len(seen) == 3 and seen[2].shape == seen[0].shape, "and a hook of the backward pass its gradient"
    conv.gate.encode = torch.nn.Sequential(conv.gate.encode)  # as adapters do
    with pytest.raises(TypeError, match="layers are read, not called: change their weights"):
        conv(x)


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize(
    "change",
    [lambda layer: prune.l1_unstructured(layer, "weight", 0.5), torch.nn.utils.weight_norm],
    ids=["prune", "norm"],
)
def test_a_weight_that_a_hook_makes_is_refused_and_a_parametrized_one_is_taken(change):
    conv, x = make(7), torch.randn(9, 2, CHANNELS)
    torch.nn.utils.parametrizations.weight_norm(conv.gate.decode)
    for _ in range(2):
        conv(x).sum().backward()
    change(conv.gate.encode)
    with pytest.raises(TypeError, match="change their weights by torch.nn.utils.parametrize, not by hooks"):
        conv(x)


def test_a_gate_with_a_forward_of_its_own_is_called():
    class Half(ContextGate):
        def forward(self, x, padding_mask=None):
            return super().forward(x, padding_mask) / 2

    conv, x = make(7), torch.randn(9, 2, CHANNELS)
    expected = conv(x) / 2
    conv.gate.__class__ = Half
    torch.testing.assert_close(conv(x), expected)
    conv.gate.__class__ = ContextGate
    whole = conv.gate.forward
    conv.gate.forward = lambda *inputs: whole(*inputs) / 2
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_arguments_in_fairseq_s_order_are_refused_where_its_order_is_another(kind):
    with pytest.raises(TypeError, match="positional arguments"):
        kind(CHANNELS, 7, 3, HEADS, 0.1, True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (7,), (2, 1, 7), (1, HEADS, 7), (9, 2, HEADS, 7)], ids=str)
def test_a_gate_of_another_shape_is_refused(kind, shape):
    with pytest.raises(ValueError, match=r"the gate is \(.*\), expected B x H x K: \(2, 4, 7\)"):
        make(7, kind)(torch.randn(9, 2, CHANNELS), gate=torch.ones(shape))


@pytest.mark.parametrize("gate", ["context", "learned", "summary"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_made_without_memory_can_be_reset_to_a_start(kind, gate):
    bias = "bias" if kind is ContextGatedLightweightConv else "conv_bias"
    with torch.device("meta"):
        conv = kind(CHANNELS, 7, num_heads=HEADS, gate=gate, gct=True, **{bias: True})
    conv.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.fill_(torch.nan)
    torch.manual_seed(1)
    for module in conv.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert all(parameter.isfinite().all() for parameter in conv.parameters())
    assert getattr(conv, bias).eq(0).all() and conv.gct.alpha.eq(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_in_bfloat16_are_as_near_as_its_precision(kind):
    conv, x = make(15, kind), torch.randn(40, 4, CHANNELS)
    exact, half = conv.bfloat16(), None
    precise = kind(CHANNELS, 15, num_heads=HEADS).double()
    precise.load_state_dict({name: value.double() for name, value in exact.state_dict().items()})
    grad = torch.randn_like(x).bfloat16()
    half, full = x.bfloat16().requires_grad_(), x.bfloat16().double().requires_grad_()
    exact(half).backward(grad)
    precise(full).backward(grad.double())
    pairs = [(half.grad, full.grad)] + [(p.grad, q.grad) for p, q in zip(exact.parameters(), precise.parameters())]
    for own, reference in pairs:
        if reference is not None:
            assert (own.double() - reference).norm() < 0.012 * reference.norm()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch does not tell that it exports")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "max", "gct": True, "bias": True},
        {"gate_on": "logits", "padding_l": 6, "activation": "one-plus-tanh"},
        {"gate": "learned"},
    ],
    ids=lambda options: "-".join(map(str, options.values())) or "paper",
)
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("kind", KINDS)
def test_torch_export_leaves_number_and_length_of_sentences_open(kind, masked, options):
    if kind is ContextGatedDynamicConv and "bias" in options:
        options = {"conv_bias": True, **{name: value for name, value in options.items() if name != "bias"}}
    conv = make(7, kind, **options).double().eval()
    sizes = {name: torch.export.Dim(name) for name in "TB"}
    lengths = [[9, 4], [1], [3, 2, 5], [22, 21], [90, 1, 50]]
    batches = [padded_batch([torch.randn(n, CHANNELS).double() for n in ns], left=True)[: 1 + masked] for ns in lengths]
    dimensions = ({0: sizes["T"], 1: sizes["B"]}, {0: sizes["B"], 1: sizes["T"]})[: 1 + masked]
    program = torch.export.export(conv, batches[0], dynamic_shapes=(*dimensions,), strict=False)
    assert "fairseq_cgc" not in str(program.graph), "an operation that another machine does not have"
    for batch in batches:
        found = []
        for layer in (conv, program.module()):
            y = layer(*batch)
            parameters = {name: p for name, p in layer.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(y.square().sum(), parameters.values())
            found.append([y, dict(sorted(zip(parameters, gradients)))])
        torch.testing.assert_close(found[1], found[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, dtype, options",
    [
        (ContextGatedLightweightConv, torch.float64, {}),
        (ContextGatedLightweightConv, torch.float32, {}),  # whose convolution oneDNN computes
        (ContextGatedDynamicConv, torch.float64, {"pool": "max"}),
        (ContextGatedLightweightConv, torch.float64, {"gate": "summary"}),
    ],
)
def test_torch_compile_trains_a_layer_with_padding(kind, dtype, options):
    torch._dynamo.reset()
    conv = make(7, kind, **options).to(dtype)
    compiled = torch.compile(conv, backend="eager", fullgraph=True)
    for lengths in ([9, 4], [90, 1, 50]):
        x, mask = padded_batch([torch.randn(n, CHANNELS, dtype=dtype) for n in lengths], left=True)
        real, found = ~mask.t().unsqueeze(2), []
        for layer in (conv, compiled):
            y = layer(x.requires_grad_(), mask) * real
            trained = [x, *(p for p in conv.parameters() if p.requires_grad)]
            found.append([y, *torch.autograd.grad(y.square().sum(), trained)])
        loose = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
        torch.testing.assert_close(found[1], found[0], **loose)


@pytest.mark.parametrize("gate_on", GATE_ON)
def test_shuffled_kernels_are_the_neighbour_s_when_evaluating_alone(gate_on):
    conv, x, records = make(7, shuffle=True, gate_on=gate_on), torch.randn(9, 3, CHANNELS), []
    for training in (True, False):
        conv.train(training)(x, None, records)
    assert torch.equal(records[1].kernel, records[0].kernel.roll(1, 0))
    assert not torch.equal(records[0].kernel, records[1].kernel)
    with pytest.raises(OptionError, match="this batch has one sentence; use batches of two or more"):
        conv(x[:, :1])


def test_a_record_has_the_gate_and_both_kernels_and_another_gate_can_be_given():
    conv, x, record = make(7), torch.randn(9, 3, CHANNELS), []
    y = conv(x, None, record)
    torch.testing.assert_close(y, conv(x))
    torch.testing.assert_close(record[0].gate, conv.gate(x))
    torch.testing.assert_close(record[0].kernel, record[0].ungated * record[0].gate)
    ones = torch.ones(3, HEADS, 7)
    conv(x, None, record, ones)
    torch.testing.assert_close(record[1].kernel, record[0].ungated)
