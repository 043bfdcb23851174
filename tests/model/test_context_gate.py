import itertools

import pytest
import torch
from conftest import padded_batch

from fairseq_cgc import ContextGate
from fairseq_cgc.context_gate import ACTIVATIONS, NORMS, LearnedGate
from fairseq_cgc.errors import OptionError
from fairseq_cgc.ops.naive import naive_context_gate
from fairseq_cgc.ops.padding import POOLS

HEADS, CHANNELS = 4, 24


def randomise(gate):
    """Away from the initial values, at which a swapped or unused parameter might not show."""
    with torch.no_grad():
        for parameter in gate.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return gate


def reference(gate, sentence, **options):
    weights = gate.encode.weight, gate.norm.weight, gate.norm.bias, gate.decode.weight
    return naive_context_gate(sentence, *weights, HEADS, **options)


@pytest.mark.parametrize("norm, activation", itertools.product(NORMS, ACTIVATIONS))
@pytest.mark.parametrize("kernel_size", [3, 7, 15, 31])
@pytest.mark.parametrize("left", [True, False], ids=["left-padded", "right-padded"])
def test_gate_equals_the_reference(kernel_size, norm, activation, left):
    gate = randomise(ContextGate(HEADS, kernel_size, norm=norm, activation=activation).double())
    lengths = [1, 2, 3 * kernel_size - 1, 3 * kernel_size, 3 * kernel_size + 1, 200]
    sentences = [torch.randn(n, CHANNELS, dtype=torch.float64) for n in lengths]
    expected = torch.stack([reference(gate, s, norm=norm, activation=activation) for s in sentences])
    torch.testing.assert_close(gate(*padded_batch(sentences, left)), expected)


@pytest.mark.parametrize("options", [{"pool_factor": 1}, {"pool_factor": 6}, {"latent_dim": 2}, {"latent_dim": 9}])
def test_pool_factor_and_latent_size_are_options(options):
    gate = randomise(ContextGate(HEADS, 7, **options).double())
    assert gate.encode.weight.shape == (options.get("latent_dim", 4), 7 * options.get("pool_factor", 3))
    sentence = torch.randn(30, CHANNELS, dtype=torch.float64)
    torch.testing.assert_close(gate(sentence.unsqueeze(1))[0], reference(gate, sentence))


@pytest.mark.parametrize("left", [True, False], ids=["left-padded", "right-padded"])
@pytest.mark.parametrize("kernel_size", [2, 3, 7])
def test_max_pooling_equals_the_reference(kernel_size, left):
    gate = randomise(ContextGate(HEADS, kernel_size, pool="max").double())
    lengths = [1, 2, 3 * kernel_size, 3 * kernel_size + 1, 60]
    sentences = [torch.randn(n, CHANNELS, dtype=torch.float64) - 3 for n in lengths]  # zeros would be the largest
    expected = torch.stack([reference(gate, s, pool="max") for s in sentences])
    torch.testing.assert_close(gate(*padded_batch(sentences, left)), expected)
    for sentence, own in zip(sentences, expected):
        torch.testing.assert_close(gate(sentence.unsqueeze(1))[0], own)


def test_a_row_of_padding_alone_passes_finite_gradients_through_the_maximum():
    gate = randomise(ContextGate(HEADS, 3, pool="max"))
    x = torch.randn(20, 2, CHANNELS, requires_grad=True)
    gate(x, torch.tensor([[True] * 20, [False] * 20])).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad[:, 0].eq(0).all() and x.grad[:, 1].ne(0).any()


def test_shuffled_context_is_another_sentence_s_and_only_outside_training():
    gate = randomise(ContextGate(HEADS, 7, shuffle=True))
    x = torch.randn(9, 3, CHANNELS)
    own = gate(x)
    torch.testing.assert_close(gate.eval()(x), own[[2, 0, 1]], rtol=0, atol=0)
    with pytest.raises(OptionError, match="this batch has one sentence"):
        gate(x[:, :1])


@pytest.mark.parametrize("activation, start", [("sigmoid", 0.5), ("one-plus-tanh", 1.0)])
def test_the_learned_control_starts_constant_and_is_the_same_for_every_sentence(activation, start):
    gate = LearnedGate(HEADS, 7, activation)
    x = torch.randn(9, 3, CHANNELS)
    torch.testing.assert_close(gate(x), torch.full((3, HEADS, 7), start), rtol=0, atol=0)
    values = randomise(gate)(x)
    assert values[0].equal(values[2]) and values.unique().numel() == HEADS * 7
    values.sum().backward()
    assert gate.logits.grad.ne(0).all()


@pytest.mark.parametrize("kernel_size, latent", [(3, 2), (7, 4), (15, 8), (31, 16), (4, 3)])
def test_parameters_have_the_paper_s_shapes(kernel_size, latent):
    shapes = {name: tuple(p.shape) for name, p in ContextGate(HEADS, kernel_size).named_parameters()}
    assert shapes == {
        "encode.weight": (latent, 3 * kernel_size),
        "norm.weight": (latent,),
        "norm.bias": (latent,),
        "decode.weight": (kernel_size, latent),
    }


@pytest.mark.parametrize("activation, start", [("sigmoid", 0.5), ("one-plus-tanh", 1.0)])
def test_zero_init_starts_from_a_constant(activation, start):
    gate = ContextGate(HEADS, 7, activation=activation, zero_init=True)
    assert gate(torch.randn(20, 3, CHANNELS)).eq(start).all()


@pytest.mark.parametrize("zero_init", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_every_parameter_moves_within_a_few_updates(norm, zero_init):
    gate = ContextGate(HEADS, 7, norm=norm, zero_init=zero_init)
    before = {name: p.detach().clone() for name, p in gate.named_parameters()}
    optimizer = torch.optim.SGD(gate.parameters(), lr=1.0)
    target = torch.rand(8, HEADS, 7)
    x = torch.randn(40, 8, CHANNELS)
    for _ in range(4):
        optimizer.zero_grad()
        (gate(x) - target).square().mean().backward()
        optimizer.step()
    for name, parameter in gate.named_parameters():
        moved = (parameter != before[name]).float().mean()
        assert moved > 0.8, name  # a latent value that the ReLU cuts off everywhere stays where it is


@pytest.mark.parametrize("norm, activation", itertools.product(NORMS, ACTIVATIONS))
def test_gradcheck(norm, activation):
    gate = randomise(ContextGate(2, 3, norm=norm, activation=activation).double())
    x, mask = padded_batch([torch.randn(n, 4, dtype=torch.float64) for n in (2, 13)], left=True)
    x = x.masked_fill(mask.T.unsqueeze(2), 0.0).requires_grad_()

    def function(x, *parameters):
        names = [name for name, _ in gate.named_parameters()]
        return torch.func.functional_call(gate, dict(zip(names, parameters)), (x, mask))

    assert torch.autograd.gradcheck(function, (x, *gate.parameters()))


@pytest.mark.parametrize(
    "options",
    [{"latent_dim": n} for n in (0, -1, 1, 2.7, "x")] + [{"pool_factor": 0}, {"norm": "batch"}, {"activation": "relu"}],
)
def test_an_option_that_cannot_be_names_its_value(options):
    with pytest.raises(OptionError, match=str(next(iter(options.values())))):
        ContextGate(HEADS, 3, **options)


@pytest.mark.parametrize("shape", [(3, 0, CHANNELS), (0, 0, CHANNELS), (0, 2, CHANNELS), (40, 0, CHANNELS)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("pool", POOLS)
def test_an_empty_batch_has_empty_gates_and_gradients_of_zero(shape, norm, pool):
    gate, x = ContextGate(HEADS, 7, norm=norm, pool=pool), torch.empty(shape, requires_grad=True)
    values = gate(x)
    assert values.shape == (shape[1], HEADS, 7)
    values.sum().backward()
    assert x.grad.shape == shape and all(p.grad.isfinite().all() for p in gate.parameters())


@pytest.mark.parametrize("norm", ["latent", "latent-per-head"])
def test_a_gate_that_could_never_move_is_refused_with_the_reason(norm):
    with pytest.raises(OptionError, match="a LayerNorm over one value is always zero"):
        ContextGate(HEADS, 7, norm=norm, latent_dim=1)
    with pytest.raises(OptionError, match="kernel size is 1; it must be at least 2"):
        ContextGate(HEADS, 1, norm=norm)
    gate = randomise(ContextGate(HEADS, 7, norm="heads-latent", latent_dim=1))
    values = gate(torch.randn(9, 3, CHANNELS))
    assert (values - values[:1]).abs().max() > 1e-3


def test_an_affine_pair_per_head_is_each_head_s_own():
    gate = ContextGate(HEADS, 7, norm="latent-per-head")
    assert gate.norm.weight.shape == gate.norm.bias.shape == (HEADS, 4)
    with torch.no_grad():
        before = gate(x := torch.randn(9, 2, CHANNELS))
        gate.norm.bias[1] += 0.5
        changed = (gate(x) - before).abs().amax((0, 2)) > 1e-4
    assert changed.tolist() == [False, True, False, False]


def test_autocast_leaves_the_gate_its_precision():
    gate, x = ContextGate(4, 7), torch.randn(20, 3, 64)
    exact = gate(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gate(x), exact, rtol=0, atol=0)


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch does not tell that it exports")
@pytest.mark.parametrize("pool", POOLS)
def test_an_exported_gate_does_not_look_at_the_padding(pool):
    gate, x, mask = ContextGate(2, 3, pool=pool).eval(), torch.randn(12, 2, 4), torch.zeros(2, 12, dtype=torch.bool)
    mask[0, 5:] = True
    x[5:, 0] = torch.inf
    exported = torch.export.export(gate, (x, mask), strict=False).module()
    torch.testing.assert_close(exported(x, mask), gate(x, mask))
    assert gate(x, mask).isfinite().all()
