import pytest
import torch
from conftest import LIGHTWEIGHT, Task, build_model, tiny_model
from fairseq.modules import DynamicConv1dTBC
from fairseq.sequence_generator import SequenceGenerator

from fairseq_cgc import decoder
from fairseq_cgc.decoder import COPIES, Source, SourceGatedLightweightConv
from fairseq_cgc.errors import OptionError
from fairseq_cgc.ops.naive import naive_context_gate, naive_gated_kernel, naive_lightconv

LENGTHS = [3, 9, 5, 7]


def models(**options):
    """LightConv of fairseq's and of ours, with the same parameters."""
    torch.manual_seed(2)  # one that lets sentences end at steps of their own below
    task = Task()
    theirs = tiny_model("lightconv_iwslt_de_en", task, **{**LIGHTWEIGHT, **options}).eval()
    ours = tiny_model(task=task, cgc_gate="constant", cgc_gate_activation="one-plus-tanh", **options).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():  # away from where every sentence looks alike
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.load_state_dict(ours.state_dict())
    return task, theirs.double(), ours.double()


def batch(lengths=LENGTHS):
    source = torch.full((len(lengths), max(lengths)), 1)
    for row, n in enumerate(lengths):
        source[row, -n:] = torch.randint(4, 40, (n,))
        source[row, -1] = 2
    return source, torch.tensor(lengths)


def generate(task, model, sample, **options):
    source, lengths = sample
    generator = SequenceGenerator([model], task.target_dictionary, **options)
    return generator.generate([model], {"net_input": {"src_tokens": source, "src_lengths": lengths}})


def end_now_and_then(projection, inputs, logits):
    logits[..., 2] += 5 * torch.sin(30 * inputs[0].sum(-1))


@pytest.mark.parametrize("beam", [1, 2, 6])
@pytest.mark.parametrize("options", [{}, {"weight_softmax": False}, {"decoder_kernel_size_list": [1, 31]}], ids=str)
def test_beam_search_finds_what_fairseq_s_lightconv_finds(beam, options):
    task, theirs, ours = models(**options)
    for model in (theirs, ours):  # let each sentence end at a step of its own
        model.decoder.output_projection.register_forward_hook(end_now_and_then)
    sample = batch()
    search = {"beam_size": beam, "max_len_a": 3, "max_len_b": 5}
    expected, found = generate(task, theirs, sample, **search), generate(task, ours, sample, **search)
    assert len({max(len(h["tokens"]) for h in sentence) for sentence in expected}) > 1
    for here, there in zip(found, expected):
        assert [h["tokens"].tolist() for h in here] == [h["tokens"].tolist() for h in there]
        torch.testing.assert_close(
            torch.stack([h["score"] for h in here]), torch.stack([h["score"] for h in there]), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("options", [{}, {"cgc_decoder": "source"}], ids=str)
def test_what_is_left_to_fairseq_on_a_gpu_finds_the_same(options, monkeypatch):
    torch.manual_seed(2)
    task = Task()
    model = tiny_model(task=task, **options).double().eval()
    model.decoder.output_projection.register_forward_hook(end_now_and_then)
    sample, search = batch(), {"beam_size": 6, "max_len_a": 3, "max_len_b": 5}
    expected = generate(task, model, sample, **search)
    monkeypatch.setattr(decoder, "_costs_launches", lambda tensor: True)
    monkeypatch.setattr(decoder, "_moves_sentences", None)  # a question for which the device would be waited for
    found = generate(task, model, sample, **search)
    assert COPIES not in model.encoder.reorder_encoder_out(model.encoder(*sample), torch.arange(4).repeat_interleave(2))
    for here, there in zip(found, expected):
        assert [h["tokens"].tolist() for h in here] == [h["tokens"].tolist() for h in there]
        torch.testing.assert_close(
            [h["score"] for h in here], [h["score"] for h in there], rtol=0, atol=1e-5
        )  # fairseq's softmax is of float32


def test_shuffled_every_hypothesis_has_the_gates_of_another_sentence_on_a_gpu_too(monkeypatch):
    model = tiny_model(cgc_decoder="source", cgc_shuffle_context=True).double().eval()
    sample, words = batch(), torch.randint(4, 30, (8, 3))
    found = []
    for costly in (False, True):
        monkeypatch.setattr(decoder, "_costs_launches", lambda tensor, costly=costly: costly)
        source = model.encoder.reorder_encoder_out(model.encoder(*sample), torch.arange(4).repeat_interleave(2))
        state, steps = {}, range(1, 4)
        found.append([model.decoder(words[:, :step], source, state)[0] for step in steps])
    torch.testing.assert_close(found[1], found[0])


def test_generating_leaves_no_trace_in_the_model():
    task, _, ours = models()
    source, lengths = batch()
    previous = torch.randint(4, 30, (len(lengths), 6))
    before = ours(source, lengths, previous)[0]
    wide = generate(task, ours, (source, lengths), beam_size=6)
    generate(task, ours, (source, lengths), beam_size=1)
    torch.testing.assert_close(ours(source, lengths, previous)[0], before, rtol=0, atol=0)
    again = generate(task, ours, (source, lengths), beam_size=6)
    assert [h["tokens"].tolist() for s in wide for h in s] == [h["tokens"].tolist() for s in again for h in s]


def test_each_sentence_is_attended_to_once_however_many_hypotheses_it_has():
    _, _, ours = models()
    source, lengths = batch()
    order = torch.arange(len(lengths)).repeat_interleave(6)
    encoder_out = ours.encoder.reorder_encoder_out(ours.encoder(source, lengths), order)
    assert encoder_out[COPIES] == [6]
    state = {}
    ours.decoder(torch.full((len(order), 1), 2), encoder_out, state)
    buffer = ours.decoder.layers[0].encoder_attn._get_input_buffer(state)
    assert buffer["prev_key"].size(0) == buffer["prev_key_padding_mask"].size(0) == len(lengths)
    within = torch.arange(len(order)).view(-1, 6).flip(1).flatten()
    assert ours.encoder.reorder_encoder_out(encoder_out, within) is encoder_out


@pytest.mark.parametrize("options", [{}, {"cgc_decoder": "source"}, {"decoder_conv_type": "dynamic"}], ids=str)
def test_hypotheses_are_computed_once_until_the_first_step_has_told_them_apart(options):
    ours, (source, lengths), rows = tiny_model(**options).double().eval(), batch(), []
    order = torch.arange(len(lengths)).repeat_interleave(6)
    shared = ours.encoder.reorder_encoder_out(ours.encoder(source, lengths), order)
    alone = ours.encoder(source[order], lengths[order])
    ours.decoder.layers[0].register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].size(1)))
    equal, different = torch.full((len(order), 1), 2), torch.randint(4, 30, (len(order), 1))
    for tokens, first in ((equal, len(lengths)), (different, len(order))):
        states, rows[:] = ({}, {}), []
        ours.decoder.set_beam_size(6)  # by which fairseq's attention would share keys once more
        for _ in range(2):
            (x, more), (expected, others) = (ours.decoder(tokens, *s) for s in zip((shared, alone), states))
            torch.testing.assert_close(x, expected)
            for name in ("attn", "inner_states"):
                torch.testing.assert_close(more[name], others[name])
            tokens = torch.cat([tokens, different], 1)
        assert rows == [first, *[len(order)] * 3]


def source_gated(**options):
    model = tiny_model(cgc_decoder="source", **options).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def together(rows, copies):
    """Whole sentences: some leave, one comes twice, each takes its hypotheses in any order."""
    sentences = torch.randint(0, rows // copies, (max(1, rows // copies - 1),))
    return (sentences.unsqueeze(1) * copies + torch.randint(0, copies, (len(sentences), copies))).flatten()


def anyhow(rows, copies):
    return torch.randint(0, rows, (rows,))


def growing(rows, copies):
    return torch.randint(0, rows, (rows + 3,))


def same_number_of_sentences(rows, copies):
    return torch.arange(rows).view(-1, copies).roll(1, 0).flatten()


@pytest.mark.parametrize("choose", [together, anyhow, growing, same_number_of_sentences])
@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("steps", [3, 24])
@pytest.mark.parametrize("gated", [False, True], ids=["ungated", "gated"])
def test_steps_with_any_reordering_equal_the_forward_that_sees_all_at_once(gated, choose, copies, steps):
    ours = source_gated(decoder_kernel_size_list=[3, 15]) if gated else models(decoder_kernel_size_list=[3, 15])[2]
    source, lengths = batch()
    order = torch.arange(len(lengths)).repeat_interleave(copies)
    encoder_out = ours.encoder(source, lengths)
    if copies > 1:
        encoder_out = ours.encoder.reorder_encoder_out(encoder_out, order)
    sentence, tokens, state = order, torch.full((len(order), 1), 2), {}
    for step in range(steps):
        logits = ours.decoder(tokens, encoder_out, state)[0][:, -1]
        # The same hypotheses from the beginning, each sentence's encoder output by itself.
        expected = ours.decoder(tokens, ours.encoder(source[sentence], lengths[sentence]))[0][:, -1]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
        if step % 3 == 1:
            new_order = choose(len(sentence), copies)
            ours.decoder.reorder_incremental_state_scripting(state, new_order)
            encoder_out = ours.encoder.reorder_encoder_out(encoder_out, new_order)
            tokens, sentence = tokens[new_order], sentence[new_order]
        tokens = torch.cat([tokens, torch.randint(4, 30, (len(tokens), 1))], dim=1)


def test_a_buffer_in_fairseq_s_format_is_continued_in_fairseq_s_way():
    _, theirs, ours = models()
    x, past = torch.randn(1, 2, 16).double(), torch.randn(1, 2, 16, 2).double()
    outputs = []
    for model in (theirs, ours):
        conv, state = model.decoder.layers[0].conv, {}
        conv._set_input_buffer(state, past)
        outputs.append([conv(x, incremental_state=state), conv(x, incremental_state=state)])
    torch.testing.assert_close(outputs[1], outputs[0])


@pytest.mark.parametrize("gated", [False, True], ids=["ungated", "gated"])
@pytest.mark.parametrize("K", [1, 3, 7])
@torch.no_grad()  # as decoding is; torch 2.4's embedding bag fails otherwise
def test_several_new_tokens_at_once_are_as_many_steps(gated, K):
    model = source_gated(decoder_kernel_size_list=[K, 3]) if gated else models(decoder_kernel_size_list=[K, 3])[2]
    conv, x = model.decoder.layers[0].conv, torch.randn(9, 2, 16).double()
    source = (Source({"encoder_out": [torch.randn(5, 2, 16).double()]}),) * gated
    state = {}
    parts = [conv(part, state, *source) for part in x.split([2, 1, 6])]
    expected = conv(x, None, *source)
    torch.testing.assert_close(torch.cat(parts), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gated", [False, True], ids=["ungated", "gated"])
def test_steps_have_the_gradients_of_the_forward_that_sees_all_at_once(gated):
    """As a loss of sampled translations needs them."""
    model = (source_gated if gated else lambda: models()[2])()
    source, lengths = batch()
    tokens = torch.randint(4, 30, (len(lengths), 20))
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradients(state):
        encoder_out = model.encoder(source, lengths)
        if state is None:
            logits = model.decoder(tokens, encoder_out)[0]
        else:
            steps = range(1, tokens.size(1) + 1)
            logits = torch.cat([model.decoder(tokens[:, :step], encoder_out, state)[0] for step in steps], 1)
        return torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)

    for found, expected in zip(gradients({}), gradients(None)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_where_fairseq_builds_its_cuda_layer_ours_is_built(monkeypatch):
    class Cuda(torch.nn.Module):
        def __init__(self, *args, **keywords):
            raise AssertionError("built")

    for module in ("fairseq.models.lightconv", "fairseq.modules", "fairseq.modules.lightweight_convolution"):
        monkeypatch.setattr(f"{module}.LightweightConv", Cuda)
    model = tiny_model(cgc_decoder="source")
    assert all(isinstance(layer.conv, SourceGatedLightweightConv) for layer in model.decoder.layers)
    assert any(".gate." in name for name, _ in model.decoder.named_parameters())


def test_a_dynamic_decoder_is_fairseq_s():
    task = Task()
    ours = tiny_model(task=task, decoder_conv_type="dynamic").eval()
    found = generate(task, ours, batch(), beam_size=3)
    assert all(len(sentence) == 3 for sentence in found)


def test_a_dynamic_decoder_prints_nothing_where_fairseq_s_cuda_layer_is_not_built(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert isinstance(tiny_model(decoder_conv_type="dynamic").decoder.layers[0].conv, DynamicConv1dTBC)
    assert capsys.readouterr().out == ""


def test_a_decoder_gated_by_the_source_is_what_the_reference_says():
    model = source_gated()
    source, lengths = batch()
    encoder_out = model.encoder(source, lengths)
    seen, x = [], torch.randn(8, len(lengths), 16, dtype=torch.float64)
    conv = model.decoder.layers[1].conv
    conv.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    model.decoder(torch.randint(4, 30, (len(lengths), 8)), encoder_out)
    (x, y), gate = seen[0], conv.gate
    weights = gate.encode.weight, gate.norm.weight, gate.norm.bias, gate.decode.weight
    for b, n in enumerate(lengths):
        values = naive_context_gate(encoder_out["encoder_out"][0][-n:, b], *weights, conv.num_heads)
        kernel = naive_gated_kernel(conv.weight.squeeze(1), values)
        expected = naive_lightconv(x[:, b], kernel, conv.kernel_size - 1)
        torch.testing.assert_close(y[:, b], expected, rtol=1e-6, atol=1e-6)  # softmax and means are in float32


def test_the_source_s_gates_have_parameters_of_their_own_and_learn():
    ungated, gated = build_model("lightconv_cgc", Task(8848, 6632)), None
    gated = build_model("lightconv_cgc", Task(8848, 6632), cgc_decoder="source")
    own = {name: p.numel() for name, p in gated.named_parameters() if name.startswith("decoder.") and ".gate." in name}
    assert sum(own.values()) == 6692
    count = [sum(p.numel() for p in model.parameters()) for model in (ungated, gated)]
    assert count[1] - count[0] == 6692
    constant = build_model("lightconv_cgc", Task(8848, 6632), cgc_decoder="source", cgc_gate="constant")
    assert sum(p.numel() for p in constant.parameters()) == count[0] - 8708
    model = source_gated()
    source, lengths = batch()
    model(source, lengths, torch.randint(4, 30, (len(lengths), 6)))[0].square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for name, p in model.decoder.named_parameters() if ".gate." in name)


@pytest.mark.parametrize("options", [{}, {"cgc_gate": "constant"}, {"cgc_gate_on": "logits"}], ids=str)
def test_a_gated_decoder_translates_the_same_whatever_else_is_in_the_batch(options):
    model, task = source_gated(**options), Task()
    source, lengths = batch()
    together = generate(task, model, (source, lengths), beam_size=3, max_len_b=12, max_len_a=0)
    for row, n in enumerate(lengths):
        alone = generate(
            task, model, (source[row : row + 1, -n:], lengths[row : row + 1]), beam_size=3, max_len_b=12, max_len_a=0
        )
        for one, other in zip(alone[0], together[row]):
            assert one["tokens"].equal(other["tokens"])
            torch.testing.assert_close(one["score"], other["score"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("decoder", ["none", "source"])
def test_half_precision_decodes(dtype, decoder):
    model = tiny_model(cgc_decoder=decoder).to(dtype).eval()
    found = generate(Task(), model, batch(), beam_size=3, max_len_b=9, max_len_a=0)
    assert all(torch.isfinite(h["score"]) for sentence in found for h in sentence)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"decoder_conv_type": "dynamic"}, "--decoder-conv-type is dynamic; leave one of the two out"),
        ({"decoder_attention_heads": 3, "decoder_conv_dim": 15}, "encoder's 16 channels .* the decoder's 3 heads"),
    ],
)
def test_what_the_source_cannot_gate_is_named(options, words):
    with pytest.raises(OptionError, match=words):
        tiny_model(cgc_decoder="source", **options)
