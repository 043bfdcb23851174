import argparse

import pytest
import torch
from conftest import LIGHTWEIGHT, TINY, Task, build_model, run, tiny_model
from fairseq.data import data_utils
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.models.lightconv import LightConvModel
from fairseq.modules import FairseqDropout

from benchmarks.contenders import dictionary
from fairseq_cgc import LightConvCGCModel
from fairseq_cgc.errors import OptionError

ARCHITECTURES = [
    "lightconv_cgc",
    "lightconv_cgc_wmt_en_de",
    "lightconv_cgc_wmt_en_de_big",
    "lightconv_cgc_wmt_en_fr_big",
    "lightconv_cgc_wmt_zh_en_big",
]


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    "arch, options, parameters",
    [
        ("transformer_iwslt_de_en", {"share_decoder_input_output_embed": True}, 39_469_056),
        ("lightconv_iwslt_de_en", LIGHTWEIGHT, 38_139_436),
        ("lightconv_iwslt_de_en", {**LIGHTWEIGHT, "encoder_conv_type": "dynamic"}, 38_447_576),
        ("lightconv_cgc", {}, 38_148_144),
        ("lightconv_cgc", {"cgc_gate": "constant"}, 38_139_436),
        ("lightconv_cgc", {"cgc_gate": "none"}, 38_139_436),
        ("lightconv_cgc", {"cgc_gate": "learned"}, 38_139_436 + 4 * (3 + 7 + 15 + 4 * 31)),
    ],
    ids=["transformer", "lightconv", "dynamic", "cgc", "cgc-constant", "cgc-none", "cgc-learned"],
)
def test_parameters_of_table_6(arch, options, parameters):
    if arch.startswith("transformer"):
        options = {"max_source_positions": 1024, "max_target_positions": 1024, **options}
    with torch.device("meta"):
        assert count(build_model(arch, Task(8848, 6632), **options)) == parameters


def test_the_gates_add_8708_parameters():
    model = build_model("lightconv_cgc", Task())
    assert sum(p.numel() for name, p in model.named_parameters() if ".conv.gate." in name) == 8708


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_is_lightconv_s_plus_the_gates(arch):
    lightconv = {"lightconv_cgc": "lightconv_iwslt_de_en"}.get(arch, arch.replace("_cgc", ""))
    with torch.device("meta"):  # some have 300 million parameters
        model, plain = build_model(arch), build_model(lightconv, **LIGHTWEIGHT)
    assert isinstance(model, LightConvCGCModel)
    shapes = {n: p.shape for n, p in model.named_parameters() if ".conv.gate." not in n}
    assert shapes == {n: p.shape for n, p in plain.named_parameters()}
    assert len(list(model.named_parameters())) > len(shapes)


@pytest.mark.parametrize("arch", ARCHITECTURES[1:])
def test_wmt_architectures_keep_lightconv_s_dropout(arch):
    settings, expected = argparse.Namespace(), argparse.Namespace()
    from fairseq.models import ARCH_CONFIG_REGISTRY

    ARCH_CONFIG_REGISTRY[arch](settings)
    ARCH_CONFIG_REGISTRY[arch.replace("_cgc", "")](expected)
    for name, value in vars(expected).items():
        assert getattr(settings, name) == value, name


def test_the_paper_s_architecture_has_the_recipe_s_dropout():
    args = argparse.Namespace()
    from fairseq.models import ARCH_CONFIG_REGISTRY

    ARCH_CONFIG_REGISTRY["lightconv_cgc"](args)
    assert (args.dropout, args.attention_dropout, args.weight_dropout) == (0.3, 0.1, 0.1)
    assert not args.encoder_glu and not args.decoder_glu


def encode(model, sentences, left_pad, pad_to=None):
    """Encoder output of each sentence's own tokens, translated in one batch."""
    tokens = data_utils.collate_tokens(sentences, pad_idx=1, left_pad=left_pad, pad_to_length=pad_to)
    output = model.encoder(tokens, torch.tensor([len(s) for s in sentences]))["encoder_out"][0]
    return [output[tokens[b] != 1, b] for b in range(len(sentences))]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cgc_gate_on": "logits"},
        {"cgc_norm": "heads-latent"},
        {"cgc_norm": "latent-per-head"},
        {"cgc_gate": "none"},
        {"encoder_glu": True},
        {"cgc_gate": "constant"},
        {"cgc_pool": "max"},
    ],
)
def test_a_sentence_is_encoded_the_same_alone_and_in_any_batch(options):
    model = tiny_model(**options).eval()
    lengths = (1, 2, 8, 9, 10, 21, 44, 45, 46, 70, 120)
    sentences = [torch.cat([torch.randint(4, 40, (n - 1,)), torch.tensor([2])]) for n in lengths]
    alone = [encode(model, [sentence], left_pad=True)[0] for sentence in sentences]
    for batch in (
        encode(model, sentences, left_pad=True),
        encode(model, sentences, left_pad=False),
        encode(model, sentences, left_pad=True, pad_to=200),
        encode(model, sentences[::-1], left_pad=True)[::-1],
    ):
        for one, other in zip(alone, batch):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_with_one_plus_tanh_and_zero_init_the_model_is_lightconv():
    plain = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT).eval()
    model = tiny_model(cgc_gate_activation="one-plus-tanh", cgc_zero_init=True).eval()
    missing = set(model.state_dict()) - set(plain.state_dict())
    assert missing and all(".conv.gate." in name for name in missing)
    torch.nn.Module.load_state_dict(model, plain.state_dict(), strict=False)
    source = data_utils.collate_tokens([torch.randint(4, 40, (n,)) for n in (5, 60, 100)], 1, left_pad=True)
    target = torch.randint(4, 30, (3, 12))
    lengths = torch.tensor([5, 60, 100])
    output, expected = model(source, lengths, target)[0], plain(source, lengths, target)[0]
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation, factor", [("sigmoid", 0.5), ("one-plus-tanh", 1.0)])
def test_a_constant_gate_is_lightconv_with_its_encoder_s_convolutions_scaled(activation, factor):
    plain = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT).eval()
    model = tiny_model(cgc_gate="constant", cgc_gate_activation=activation).eval()
    assert set(model.state_dict()) == set(plain.state_dict())
    model.load_state_dict(plain.state_dict())
    for layer in plain.encoder.layers:
        layer.conv.register_forward_hook(lambda module, inputs, output: output * factor)
    sentences = [torch.randint(4, 40, (n,)) for n in (5, 60, 100)]
    for one, other in zip(encode(model, sentences, True), encode(plain, sentences, True)):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_the_gate_changes_the_model():
    """The counterpart of the test above: by default the gate is there and looks at the sentence."""
    plain, model = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT).eval(), tiny_model().eval()
    torch.nn.Module.load_state_dict(model, plain.state_dict(), strict=False)
    sentence = [torch.randint(4, 40, (50,))]
    assert not torch.allclose(encode(model, sentence, True)[0], encode(plain, sentence, True)[0], atol=1e-2)
    gates = [layer.conv.gate(torch.randn(50, 2, 16)) for layer in model.encoder.layers]
    assert all((gate[0] - gate[1]).abs().max() > 1e-3 for gate in gates)


def test_a_lightconv_checkpoint_s_encoder_loads_under_the_same_names():
    plain, model = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT), tiny_model()
    keys = torch.nn.Module.load_state_dict(model.encoder, plain.encoder.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(".conv.gate." in name for name in keys.missing_keys)


@pytest.mark.parametrize("zero_init", [False, True])
def test_gradients_reach_every_parameter_of_the_gates(zero_init):
    model = tiny_model(cgc_zero_init=zero_init, dropout=0.0)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if ".gate." in n}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    source, target = torch.randint(4, 40, (4, 30)), torch.randint(4, 30, (4, 20))
    for _ in range(4):
        optimizer.zero_grad()
        logits = model(source, torch.full((4,), 30), target)[0]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        if name in before:
            assert (parameter != before[name]).any(), name


def test_embeddings_can_be_shared():
    task = Task()
    task.target_dictionary = task.source_dictionary
    model = tiny_model(task=task, share_all_embeddings=True)
    assert model.encoder.embed_tokens is model.decoder.embed_tokens
    assert model.decoder.output_projection.weight is model.encoder.embed_tokens.weight


def test_lightconv_s_options_still_work():
    model = tiny_model(encoder_glu=True, encoder_normalize_before=True, encoder_learned_pos=True, weight_softmax=False)
    assert model.encoder.layers[0].linear1.out_features == 32
    assert model.encoder.layer_norm is not None
    assert not model.encoder.layers[0].conv.weight_softmax
    assert encode(model.eval(), [torch.randint(4, 40, (7,))], True)[0].shape == (7, 16)


def test_one_kernel_size_serves_all_layers():
    model = tiny_model(encoder_kernel_size_list=[5], decoder_kernel_size_list=[3])
    assert [layer.conv.kernel_size for layer in model.encoder.layers] == [5, 5, 5]


@pytest.mark.parametrize("kernel_size", [4, 6])
def test_even_kernel_sizes_keep_the_length(kernel_size):
    model = tiny_model(encoder_kernel_size_list=[kernel_size]).eval()
    assert encode(model, [torch.randint(4, 40, (9,))], True)[0].shape == (9, 16)


@pytest.mark.parametrize("length", [1, 200])
def test_layers_take_no_mask_as_no_padding(length):
    layer = tiny_model().eval().encoder.layers[1]
    x = torch.randn(length, 3, 16)
    torch.testing.assert_close(layer(x), layer(x, torch.zeros(3, length, dtype=torch.bool)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"encoder_kernel_size_list": [3, 7]}, r"--encoder-kernel-size-list has 2 kernel sizes, \[3, 7\].*layers 3"),
        ({"decoder_kernel_size_list": [3, 7, 9]}, "--decoder-kernel-size-list has 3 kernel sizes.*layers 2"),
        ({"encoder_kernel_size_list": "[3,7,9]"}, r"--encoder-kernel-size-list is '\[3,7,9\]'; expected a list"),
        ({"encoder_kernel_size_list": 3}, "--encoder-kernel-size-list is 3; expected a list"),
        ({"encoder_kernel_size_list": [3, 0, 7]}, "a kernel size is a whole number of at least 1"),
        ({"encoder_kernel_size_list": [3.5, 7, 9]}, "a kernel size is a whole number of at least 1"),
        ({"encoder_attention_heads": 3}, "--encoder-attention-heads 3 does not divide the 16 channels"),
        ({"decoder_attention_heads": 3}, "--decoder-attention-heads 3 does not divide the 16 channels"),
        ({"cgc_latent_dim": 0}, "--cgc-latent-dim is 0"),
        ({"cgc_latent_dim": 1}, "--cgc-latent-dim is 1; it must be at least 2"),
        ({"cgc_latent_dim": 2.7}, "--cgc-latent-dim is '2.7'; it is a number or the letter K"),
        ({"cgc_latent_dim": "large"}, "--cgc-latent-dim is 'large'; it is a number or the letter K"),
        ({"cgc_norm": "batch"}, "--cgc-norm is 'batch'; choose from latent, latent-per-head, heads-latent"),
        ({"cgc_pool_factor": 1000000000}, "--cgc-pool-factor is 1000000000; it must be at most 100"),
        ({"cgc_layers": "[1,4]"}, r"--cgc-layers is '\[1,4\]'; it is a list of numbers from 1 to 3"),
        ({"cgc_layers": "[-4]"}, r"--cgc-layers is '\[-4\]'"),
        ({"cgc_layers": "last"}, "--cgc-layers is 'last'"),
        ({"cgc_layers": ""}, "--cgc-layers is ''"),
        ({"cgc_pool_factor": -1}, "--cgc-pool-factor is -1"),
        ({"cgc_pool_factor": 2.5}, "--cgc-pool-factor is 2.5; it must be of type int"),
        ({"cgc_lr_scale": "0.1"}, "--cgc-lr-scale is '0.1'; it must be of type float or int"),
        ({"cgc_zero_init": "False"}, "--cgc-zero-init is 'False'; it must be of type bool"),
        ({"cgc_latent_dim": " 4 "}, "--cgc-latent-dim is ' 4 '; it is a number or the letter K"),
        ({"cgc_gat": "constant"}, "there is no option cgc_gat; is it cgc_gate"),
        *(
            ({"cgc_shuffle_context": True, "cgc_gate": gate}, f"--cgc-gate {gate} reads none: nothing would change")
            for gate in ("none", "constant", "learned")
        ),
    ],
)
def test_options_that_cannot_be_are_named_with_what_would_do(options, words):
    with pytest.raises(OptionError, match=words) as error:
        tiny_model(**options)
    assert str(error.value).count("\n") <= 1


@pytest.mark.parametrize(
    "options, words",
    [
        ({"cgc_shuffle_context": "False"}, "'False'; it must be of type bool"),
        ({"cgc_pool_factor": 3.0}, "3.0; it must be of type int"),
    ],
)
def test_a_trained_models_options_are_of_their_types_too(options, words):
    """As with --model-overrides, of which 'False' would turn the control on."""
    args = argparse.Namespace(arch="lightconv_cgc", cgc_checked=True, **TINY, **options)
    with pytest.raises(OptionError, match=words):
        ARCH_CONFIG_REGISTRY["lightconv_cgc"](args)


@pytest.mark.parametrize("gate", ["learned", "none"])
def test_a_model_without_a_context_is_not_shuffled_in_silence(gate):
    """As with --model-overrides: the figures would read as if the context were not used."""
    args = argparse.Namespace(arch="lightconv_cgc", cgc_gate=gate, cgc_checked=True, **TINY)
    args.cgc_shuffle_context = True
    with pytest.raises(OptionError, match="nothing would change; leave it out"):
        ARCH_CONFIG_REGISTRY["lightconv_cgc"](args)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"encoder_kernel_size_list": [1, 7, 15], "cgc_layers": "[1,3]"}, "encoder layers 1 have no gate"),
        ({"encoder_kernel_size_list": [1]}, "encoder layers 1, 2, 3 have no gate"),
        (
            {"cgc_gate_on": "logits", "weight_softmax": False},
            "--cgc-gate-on logits: of no effect without --weight-softmax",
        ),
    ],
)
def test_what_has_no_effect_is_told(options, words, caplog):
    tiny_model(**options)
    assert words in caplog.text
    caplog.clear()
    tiny_model(encoder_kernel_size_list=[1, 7, 15], cgc_layers="[2,3]", cgc_gate_on="logits")
    tiny_model(encoder_kernel_size_list=[1], cgc_gate="none")
    assert "no gate" not in caplog.text and "no effect" not in caplog.text


def test_options_of_an_older_checkpoint_are_filled_in():
    args = argparse.Namespace(arch="lightconv_cgc", dropout=0.1, **TINY)
    assert isinstance(ARCH_MODEL_REGISTRY["lightconv_cgc"].build_model(args, Task()), LightConvCGCModel)
    assert (args.cgc_gate_on, args.cgc_pool_factor) == ("kernel", 3)


def test_lightconv_itself_is_left_as_it_was():
    assert type(tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT)) is LightConvModel


def test_importing_prints_nothing_and_works_from_another_folder(tmp_path):
    import sys

    from conftest import ROOT

    code = "import fairseq_cgc; print(fairseq_cgc.ContextGate(4, 3).options.norm)"
    done = run(sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert (done.stdout, done.stderr) == ("latent\n", "")
    where = run(sys.executable, "-m", "fairseq_cgc", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert where.stdout.strip() == str(ROOT / "fairseq_cgc")


def test_dictionary_helper_has_the_size_asked_for():
    assert len(dictionary(8848)) == 8848


def test_layers_work_out_once_what_the_padding_means_and_forget_it(monkeypatch):
    model = tiny_model().eval()
    source = torch.randint(4, 40, (3, 9))
    source[0, :4] = source[1, :1] = 1
    calls = []
    argsort = torch.argsort
    monkeypatch.setattr(torch, "argsort", lambda *args, **keywords: calls.append(1) or argsort(*args, **keywords))
    first = model.encoder(source, torch.tensor([5, 8, 9]))["encoder_out"][0]
    assert len(model.encoder.layers) == 3 and len(calls) == 1
    source[0, :4] = 5  # another sentence in the same tensor
    model.encoder(source, torch.tensor([9, 8, 9]))
    source[0, :4] = 1
    torch.testing.assert_close(model.encoder(source, torch.tensor([5, 8, 9]))["encoder_out"][0], first, rtol=0, atol=0)


def test_a_dynamic_encoder_is_gated_and_takes_the_dynamic_row_s_parameters():
    task = Task()
    dynamic = {"encoder_conv_type": "dynamic"}
    theirs = tiny_model("lightconv_iwslt_de_en", task, **{**LIGHTWEIGHT, **dynamic}).eval()
    ours = tiny_model(task=task, cgc_gate_activation="one-plus-tanh", cgc_zero_init=True, **dynamic).eval()
    missing = set(ours.state_dict()) - set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    assert missing and all(".conv.gate." in name for name in missing)
    assert count(ours) - count(theirs) == sum(p.numel() for n, p in ours.named_parameters() if ".conv.gate." in n)
    source, lengths = torch.randint(4, 40, (3, 9)), torch.tensor([5, 8, 9])
    source[0, :4] = source[1, :1] = 1
    previous = torch.randint(4, 30, (3, 6))
    expected = theirs(source, lengths, previous)[0]
    torch.testing.assert_close(ours(source, lengths, previous)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layers, gated", [(None, [1, 2, 3]), ("[2]", [2]), ("1,3", [1, 3]), ("[1, 2, 3]", [1, 2, 3]), ("[-2,-1]", [2, 3])]
)
def test_layers_are_gated_by_number(layers, gated):
    model = tiny_model(cgc_layers=layers, cgc_gate_activation="one-plus-tanh", cgc_zero_init=True).eval()
    names = {int(name.split(".")[2]) + 1 for name, _ in model.named_parameters() if ".conv.gate." in name}
    assert names == set(gated)
    theirs = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT).eval()
    model.load_state_dict(theirs.state_dict(), strict=False)
    source = torch.randint(4, 40, (2, 9)), torch.tensor([9, 9])
    output = [m.encoder(*source)["encoder_out"][0] for m in (model, theirs)]
    torch.testing.assert_close(*output, rtol=0, atol=1e-5)


def saved(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "arch, options",
    [
        ("lightconv_cgc", {"cgc_gate_activation": "one-plus-tanh", "cgc_zero_init": True}),
        ("lightconv_cgc", {"cgc_gate": "none"}),
        ("lightconv_cgc", {"cgc_gate_activation": "one-plus-tanh", "cgc_zero_init": True, "cgc_decoder": "source"}),
        ("lightconv_cgc", {"cgc_gate": "learned", "cgc_gate_activation": "one-plus-tanh"}),
        ("lightconv_gct", {}),
    ],
    ids=str,
)
def test_a_lightconv_checkpoint_is_trained_on_from_its_own_loss(arch, options, caplog):
    theirs = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT).eval()
    ours = tiny_model(arch, **options).eval()
    new = set(ours.state_dict()) - set(theirs.state_dict())
    start = {name: ours.state_dict()[name].clone() for name in new}
    ours.load_state_dict(saved(theirs), strict=True)
    assert all(ours.state_dict()[name].equal(value) for name, value in start.items())
    lines = [record for record in caplog.records if "stay as they are here" in record.getMessage()]
    assert len(lines) == len({(name.split(".")[0], ".gct." in name) for name in new})
    source, lengths = torch.randint(4, 40, (3, 9)), torch.tensor([5, 8, 9])
    source[0, :4] = source[1, :1] = 1
    inputs = source, lengths, torch.randint(4, 30, (3, 6))
    torch.testing.assert_close(ours(*inputs)[0], theirs(*inputs)[0], rtol=0, atol=1e-5)


def test_a_checkpoint_with_another_kind_of_gate_is_not_said_to_have_none(caplog):
    with pytest.raises(
        RuntimeError, match="Missing key.*conv.gate.logits.*\n.*Unexpected key.*conv.gate.encode.weight"
    ):
        tiny_model(cgc_gate="learned").load_state_dict(tiny_model().state_dict())
    assert not caplog.records


@pytest.mark.parametrize("kind", ["lightweight", "dynamic"])
def test_a_model_that_is_part_of_another_loads_as_one_alone(kind):
    class Two(BaseFairseqModel):
        def __init__(self, **options):
            super().__init__()
            self.student = tiny_model(cgc_decoder="source", **options)
            self.teacher = tiny_model("lightconv_iwslt_de_en", **{**LIGHTWEIGHT, "encoder_conv_type": kind})

    one, other = Two(), Two()
    for name, parameter in one.named_parameters():
        if name.endswith(".conv.conv_bias"):  # which fairseq leaves as its memory was, which may be no number
            torch.nn.init.ones_(parameter)
    other.load_state_dict(one.state_dict())
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    ungated = {name: value for name, value in one.state_dict().items() if ".gate." not in name}
    before = {name: value.clone() for name, value in other.student.state_dict().items() if ".gate." in name}
    other.load_state_dict(ungated)
    assert before and all(other.student.state_dict()[name].equal(value) for name, value in before.items())


def test_what_a_model_adds_to_a_lightconv_s_parameters_does_not_reach_the_next(caplog):
    state = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT).state_dict()
    names = list(state)
    for _ in range(2):
        model = tiny_model()
        gate = model.encoder.layers[0].conv.gate
        start = gate.encode.weight.clone()
        model.load_state_dict(state)
        assert gate.encode.weight.equal(start) and list(state) == names
    assert sum("has no gates" in record.getMessage() for record in caplog.records) == 2


def test_a_trained_dynamic_decoder_is_taken_without_the_bias_that_it_does_not_use():
    options = {"encoder_conv_type": "dynamic", "decoder_conv_type": "dynamic"}
    theirs = tiny_model("lightconv_iwslt_de_en", **{**LIGHTWEIGHT, **options}).eval()
    ours = tiny_model(cgc_gate="none", **options).eval()
    ours.load_state_dict(saved(theirs), strict=True)
    # As long as the kernel at least: of a shorter batch fairseq's softmax is over fewer taps in training, over all in decoding.
    inputs = torch.randint(4, 40, (3, 9)), torch.tensor([9, 9, 9]), torch.randint(4, 30, (3, 8))
    torch.testing.assert_close(ours(*inputs)[0], theirs(*inputs)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_a_convolution_of_no_known_type_is_refused(side):
    with pytest.raises(OptionError, match=f"--{side}-conv-type is 'light'; choose from lightweight, dynamic"):
        tiny_model(**{f"{side}_conv_type": "light"})


@pytest.mark.parametrize("part", ["encoder.layers.0.conv.gate.norm.bias", "encoder.layers.2.conv.gct.beta"])
def test_a_checkpoint_that_lacks_a_part_of_its_gates_is_refused(part):
    model = tiny_model(encoder_gct=True)
    state = saved(model)
    del state[part]
    with pytest.raises(RuntimeError, match=f"Missing key.*{part}"):
        model.load_state_dict(state, strict=True)


def test_a_checkpoint_of_fairseq_s_cuda_layer_loads_too():
    theirs, ours = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT), tiny_model(cgc_gate="none")
    state = {n: v.squeeze(1) if n.endswith(".conv.weight") else v for n, v in saved(theirs).items()}
    ours.load_state_dict(state, strict=True)
    assert ours.state_dict()["encoder.layers.1.conv.weight"].equal(theirs.encoder.layers[1].conv.weight)


def test_layers_of_kernel_size_one_have_no_gate():
    model = tiny_model(encoder_kernel_size_list=[1, 3, 7], decoder_kernel_size_list=[1, 3], cgc_decoder="source")
    assert [layer.conv.gate is None for layer in model.encoder.layers] == [True, False, False]
    assert [layer.conv.gate is None for layer in model.decoder.layers] == [True, False]


def test_options_are_declared_once_and_follow_from_there():
    import argparse

    from fairseq_cgc.context_gate import ContextGate
    from fairseq_cgc.options import OPTIONS, gate_arguments

    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    LightConvCGCModel.add_args(parser)
    assert {option.name for option in OPTIONS} <= {action.dest for action in parser._actions}
    given = parser.parse_args(["--cgc-norm", "latent-per-head", "--cgc-latent-dim", "K", "--cgc-zero-init"])
    own = {name: value for name, value in vars(given).items() if name.startswith("cgc_")}
    assert own == {"cgc_norm": "latent-per-head", "cgc_latent_dim": "K", "cgc_zero_init": True}
    [gate, *_] = [m for m in tiny_model(**own).modules() if isinstance(m, ContextGate)]
    assert gate.options.norm == "latent-per-head" and gate.encode.weight.size(0) == 3 and gate.decode.weight.eq(0).all()
    with pytest.raises(SystemExit):
        parser.parse_args(["--cgc-norm", "batch"])
    namespace = argparse.Namespace(**{option.name: option.default for option in OPTIONS})
    assert gate_arguments(namespace, False)["gate"] == "none" and gate_arguments(namespace)["gate"] == "context"


@pytest.mark.parametrize(
    "options", [{}, {"cgc_decoder": "source"}, {"encoder_conv_type": "dynamic", "decoder_conv_type": "dynamic"}]
)
def test_retain_dropout_modules_takes_lightconv_s_names(options):
    ours, theirs = (
        {m.module_name for m in model.modules() if isinstance(m, FairseqDropout)}
        for model in (tiny_model(**options), tiny_model("lightconv", **{**LIGHTWEIGHT, **options}))
    )
    assert ours == theirs


def test_another_number_of_gates_than_of_layers_is_refused():
    model = tiny_model().eval()
    with pytest.raises(ValueError, match="there are 1 gates, expected one for each of 3 layers"):
        model.encoder(torch.full((1, 4), 5), torch.tensor([4]), gates=[None])
