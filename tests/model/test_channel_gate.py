import pytest
import torch
from conftest import LIGHTWEIGHT, Task, build_model, padded_batch, tiny_model

from fairseq_cgc import ContextGatedLightweightConv, GatedChannelTransformation
from fairseq_cgc.ops.naive import naive_channel_transformation

CHANNELS = 12


def make(channels=CHANNELS):
    gct = GatedChannelTransformation(channels)
    with torch.no_grad():
        for parameter in gct.parameters():
            parameter.add_(torch.randn_like(parameter))
    return gct


@pytest.mark.parametrize("left", [True, False], ids=["left-padded", "right-padded"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_equals_the_reference_whatever_the_padding(left, dtype, tolerance):
    gct = make().to(dtype)
    sentences = [torch.randn(n, CHANNELS, dtype=dtype) for n in (1, 2, 9, 40)]
    x, mask = padded_batch(sentences, left)
    y = gct(x.masked_fill(mask.T.unsqueeze(2), 0.0))
    assert y[mask.T].eq(0).all()
    for b, sentence in enumerate(sentences):
        expected = naive_channel_transformation(sentence, gct.alpha, gct.gamma, gct.beta)
        torch.testing.assert_close(y[~mask[b], b].double(), expected, rtol=tolerance, atol=tolerance)


def test_the_mean_over_channels_is_the_authors_code_s_where_activations_are_small():
    gct = make().double()
    x = 1e-3 * torch.randn(9, 1, CHANNELS, dtype=torch.float64)
    strength = gct.alpha * (x.square().sum(0) + 1e-5).sqrt()
    gate = 1 + torch.tanh(gct.gamma * strength / (strength.square().mean(1, keepdim=True) + 1e-5).sqrt() + gct.beta)
    torch.testing.assert_close(gct(x), x * gate)


def test_it_starts_as_the_identity():
    x = torch.randn(7, 2, CHANNELS)
    torch.testing.assert_close(GatedChannelTransformation(CHANNELS)(x), x, rtol=0, atol=0)


def test_gradients():
    gct = make().double()
    x = torch.randn(5, 2, CHANNELS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *parameters: torch.func.functional_call(gct, dict(zip(("alpha", "gamma", "beta"), parameters)), x),
        (x, *gct.parameters()),
    )
    silent = torch.zeros(5, 1, CHANNELS, requires_grad=True)
    make()(silent).sum().backward()
    assert torch.isfinite(silent.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_squares_that_overflow_half_precision_do_no_harm(dtype):
    gct = make()
    x = 300 * torch.randn(200, 2, CHANNELS)  # a square may be beyond 65,504
    y = gct.to(dtype)(x.to(dtype))
    assert y.dtype == dtype and torch.isfinite(y).all()
    torch.testing.assert_close(y.float(), gct.float()(x.to(dtype).float()), rtol=0.02, atol=1)


def test_the_convolution_sees_the_scaled_input_and_so_does_its_gate():
    conv = ContextGatedLightweightConv(CHANNELS, 7, num_heads=3, gct=True)
    plain = ContextGatedLightweightConv(CHANNELS, 7, num_heads=3)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.add_(torch.randn_like(parameter))
    plain.load_state_dict({k: v for k, v in conv.state_dict().items() if not k.startswith("gct.")})
    x, mask = padded_batch([torch.randn(n, CHANNELS) for n in (4, 9)], left=True)
    torch.testing.assert_close(conv(x, mask), plain(conv.gct(x.masked_fill(mask.T.unsqueeze(2), 0.0)), mask))


def test_lightconv_gct_starts_as_lightconv():
    task = Task()
    theirs = tiny_model("lightconv_iwslt_de_en", task, **LIGHTWEIGHT).eval()
    ours = tiny_model("lightconv_gct", task).eval()
    missing = set(ours.state_dict()) - set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert len(missing) == 9 and all(".conv.gct." in name for name in missing)
    source, lengths = torch.randint(4, 40, (3, 9)), torch.tensor([5, 8, 9])
    source[0, :4] = source[1, :1] = 1
    previous = torch.randint(4, 30, (3, 6))
    torch.testing.assert_close(
        ours(source, lengths, previous)[0], theirs(source, lengths, previous)[0], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("arch, options", [("lightconv_gct", {}), ("lightconv_cgc", {"encoder_gct": True})])
def test_a_sentence_is_encoded_the_same_whatever_else_is_in_its_batch(arch, options):
    model = tiny_model(arch, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    words = torch.randint(4, 40, (5,))
    alone = model.encoder(words.unsqueeze(0), torch.tensor([5]))["encoder_out"][0][:, 0]
    for place in (slice(4, 9), slice(0, 5)):  # padded on the left, on the right
        source = torch.randint(4, 40, (3, 9))
        source[1] = 1
        source[1, place] = words
        together = model.encoder(source, torch.tensor([9, 5, 9]))["encoder_out"][0][place, 1]
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "arch, options, parameters",
    [("lightconv_gct", {}, 38_139_436 + 10_752), ("lightconv_cgc", {"encoder_gct": True}, 38_148_144 + 10_752)],
)
def test_parameters(arch, options, parameters):
    model = build_model(arch, Task(8848, 6632), encoder_glu=False, decoder_glu=False, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
