"""Looking at gates: what is handed out, what is made of it, and the command."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_OPTIONS, command, tiny_model

from fairseq_cgc import GatedChannelTransformation
from fairseq_cgc.convolutions import gated_kernel
from fairseq_cgc.errors import CheckpointError, CorpusError, OptionError, UserError
from fairseq_cgc.recipe import inspection
from fairseq_cgc.recipe.command_line import parse
from fairseq_cgc.recipe.report import save_figure

SOURCE = torch.tensor([[1, 1, 5, 6, 7, 8, 2], [9, 8, 7, 6, 5, 4, 2]]), torch.tensor([5, 7])


# Gates on request


@pytest.mark.parametrize("conv", ["lightweight", "dynamic"])
def test_the_encoder_hands_out_the_gates_that_it_used(conv):
    model = tiny_model(encoder_conv_type=conv).eval()
    inputs = {}
    for layer in model.encoder.layers:
        layer.conv.register_forward_pre_hook(lambda conv, given: inputs.__setitem__(conv, given[:2]))
    plain = model.encoder(*SOURCE)["encoder_out"][0]
    record = []
    output = model.encoder(*SOURCE, record)["encoder_out"][0]
    torch.testing.assert_close(output, plain)
    for layer, found in zip(model.encoder.layers, record):
        torch.testing.assert_close(found.gate, layer.conv.gate(*inputs[layer.conv]))
        assert not found.kernel.requires_grad
        torch.testing.assert_close(found.kernel, found.ungated * found.gate)
        if conv == "lightweight":
            torch.testing.assert_close(found.kernel, gated_kernel(found.gate, layer.conv.weight.squeeze(1)))
        torch.testing.assert_close(found.ungated.sum(-1), torch.ones(found.ungated.shape[:-1]))


def test_gates_of_another_sentence_can_be_put_in():
    model = tiny_model().eval()
    own, record = [], []
    model.encoder(*SOURCE, own)
    ones = [torch.ones_like(layer.gate) for layer in own]
    output = model.encoder(*SOURCE, record, [None, None, ones[2]])["encoder_out"][0]
    assert torch.equal(record[0].gate, own[0].gate) and torch.equal(record[2].gate, ones[2])
    other = tiny_model(cgc_layers="[1,2]").eval()
    other.load_state_dict(model.state_dict(), strict=False)
    torch.testing.assert_close(output, other.encoder(*SOURCE)["encoder_out"][0])


# What is made of them


def test_the_variance_is_that_of_the_pattern_and_that_between_sentences():
    gates = np.random.default_rng(1).random((50, 4, 7))
    found = inspection.variances(gates)
    assert found["pattern"] + found["between"] == pytest.approx(found["total"])
    assert found["within"] == pytest.approx(np.mean([gate.var() for gate in gates]))
    assert found["between"] == pytest.approx(np.mean([[gates[:, h, k].var() for k in range(7)] for h in range(4)]))
    alike = inspection.variances(np.repeat(gates[:1], 9, axis=0))
    assert alike["between"] == pytest.approx(0) and alike["between_share"] == pytest.approx(0)
    assert inspection.variances(np.full((9, 4, 7), 0.5))["between_share"] == 0


def test_how_much_of_the_variance_goes_with_the_length():
    chance = np.random.default_rng(2)
    lengths = chance.integers(5, 15, 400)
    by_length = chance.random((20, 4, 7))[lengths]
    noise = chance.random((400, 4, 7))
    assert inspection.share_by_length(by_length, lengths) == pytest.approx(1)
    assert abs(inspection.share_by_length(noise, lengths)) < 0.05
    assert 0.4 < inspection.share_by_length(by_length + noise, lengths) < 0.6
    assert inspection.share_by_length(np.full((9, 4, 7), 0.5), [3] * 9) is None
    assert inspection.share_by_length(noise[:3], [3, 4, 5]) is None


def clusters(apart, spread=1.0, sizes=(30, 40, 20), seed=1):
    chance = np.random.default_rng(seed)
    kernels = [apart * number + spread * chance.standard_normal((size, 2, 3)) for number, size in enumerate(sizes)]
    return np.concatenate(kernels), [f"class {number}" for number, size in enumerate(sizes) for _ in range(size)]


def test_class_distances_are_those_of_the_definition():
    kernels, labels = clusters(0.7)
    found = inspection.compare_classes(kernels, labels, permutations=1)
    centres = {}
    for name in found["classes"]:
        members = [kernel.ravel() for kernel, label in zip(kernels, labels) if label == name]
        centres[name] = sum(members) / len(members)
        inside = sum(np.linalg.norm(member - centres[name]) for member in members) / len(members)
        assert found["within"][found["classes"].index(name)] == pytest.approx(inside)
    above, differences = 0, []
    for row, one in enumerate(found["classes"]):
        for column, other in enumerate(found["classes"]):
            if one != other:
                differences.append(np.linalg.norm(centres[one] - centres[other]) - found["within"][row])
                above += differences[-1] > 0
                assert found["difference"][row][column] == pytest.approx(differences[-1])
    assert found["share"] == pytest.approx(above / 6) and found["statistic"] == pytest.approx(np.mean(differences))


def test_classes_that_mean_something_are_told_from_those_that_do_not():
    clear = inspection.compare_classes(*clusters(9.0), permutations=199)
    assert clear["share"] == 1 and clear["permuted"]["p_share"] == clear["permuted"]["p_statistic"] == 1 / 200
    weak = inspection.compare_classes(*clusters(0.3), permutations=199)  # the share says nothing, the test does
    assert weak["share"] < 0.2 and weak["permuted"]["p_statistic"] == 1 / 200
    p = [
        inspection.compare_classes(*clusters(0.0, seed=seed), permutations=99)["permuted"]["p_statistic"]
        for seed in range(40)
    ]
    assert 0.3 < np.mean(p) < 0.7 and np.mean(np.array(p) <= 0.1) < 0.3


def with_p(p, of_length=None):
    within_length = None if of_length is None else {"p_statistic": of_length}
    return {"permuted": {"p_statistic": p}, "permuted_within_length": within_length}


@pytest.mark.parametrize(
    "p, of_length, words",
    [
        (0.05, 0.001, "are not told apart: labels without a meaning do as well (p = 0.050)."),
        (0.001, None, "are told apart (p = 0.001), but no length has two of them: it may be lengths"),
        (0.001, 0.3, "are told apart (p = 0.001), but not among sentences of equal length (p = 0.300)"),
        (0.001, 0.002, "are told apart (p = 0.001), among sentences of equal length too (p = 0.002)."),
    ],
)
def test_a_sentence_says_whether_classes_are_told_apart(p, of_length, words):
    assert words in inspection.class_verdict(with_p(p, of_length))


def test_classes_that_are_lengths_in_disguise_are_seen_through():
    """Kernels depend on the length alone; the labels go with it, but not entirely."""
    chance = np.random.default_rng(4)
    lengths = chance.integers(5, 15, 300)
    kernels = lengths[:, None, None] + 0.1 * chance.standard_normal((300, 2, 3))
    labels = ["long" if length + chance.normal(0, 3) > 10 else "short" for length in lengths]
    found = inspection.compare_classes(kernels, labels, lengths, permutations=199)
    assert found["permuted"]["p_statistic"] == 1 / 200 and found["permuted_within_length"]["p_statistic"] > 0.05
    by_length = ["long" if length > 9 else "short" for length in lengths]
    assert inspection.compare_classes(kernels, by_length, lengths, permutations=9)["permuted_within_length"] is None


def test_classes_of_sentences():
    sentences, lengths = ["Wo?", "Hier.", 'Sagt er "wo?"', "Ja."] * 5, [3, 4, 5, 6] * 5
    questions = inspection.sentence_classes("question", sentences, lengths, None)
    assert questions[:4] == ["question", "statement", "question", "statement"]
    others = inspection.sentence_classes("question", ["你在哪里？", "「どこ？」", "أين؟", "我在。"], [3] * 4, None)
    assert others == ["question", "question", "question", "statement"]
    labels = inspection.sentence_classes("length", sentences, lengths, None)
    assert set(labels) == {"3", "4", "5", "6"} and all(str(length) == label for length, label in zip(lengths, labels))
    few = inspection.sentence_classes("length", [""] * 7, [4, 5, 5, 6, 9, 9, 20], None)
    assert few == ["4–5", "4–5", "4–5", "6–20", "6–20", "6–20", "6–20"] and min(map(few.count, few)) > 1
    assert inspection.sentence_classes("length", [""], [4], None) == ["4"]
    lengths = list(range(10, 110))
    labels = inspection.sentence_classes("length", [""] * 100, lengths, None)
    assert len(set(labels)) == 5 and all(18 <= labels.count(label) <= 22 for label in labels)
    assert all(int(label.split("–")[0]) <= n <= int(label.split("–")[1]) for n, label in zip(lengths, labels))


@pytest.mark.parametrize(
    "labels, words",
    [(["a"] * 6, "all sentences are of one class, 'a'"), (["a"] * 5 + ["b"], "the class 'b' has one sentence")],
)
def test_classes_that_cannot_be_compared(labels, words):
    with pytest.raises(OptionError, match=words):
        inspection.compare_classes(np.zeros((6, 2, 3)), labels)


# On a trained model


def train(prepared, runs, row):
    options = ["--data", prepared, "--runs", runs, "--batch-tokens", 400, "--max-update", 8, *TINY_OPTIONS]
    command("train", row, *options, "--lr", 0.01, "--warmup-updates", 4)
    return runs / f"{row}-seed1" / "checkpoints" / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def checkpoints(prepared, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return {row: train(prepared, runs, row) for row in ("cgc", "cgc-constant", "cgc-dynamic", "lightconv")}


SENTENCES = ["de1 de2 de3", "de4 de5", "de1 de2 de3 de4 de5 de6 de7 de8 de9", "de7 de7 de7 ?", "de9"]


@pytest.mark.parametrize("row", ["cgc", "cgc-dynamic"])
def test_the_gates_of_a_sentence_do_not_depend_on_its_batch(checkpoints, prepared, row):
    hub = inspection.load_model(checkpoints[row], prepared)
    layers, lengths = inspection.gates_of(hub, SENTENCES)
    alone = [inspection.gates_of(hub, [sentence]) for sentence in SENTENCES]
    assert lengths == [length for _, (length,) in alone]
    for number, layer in enumerate(layers):
        assert layer.number == number + 1 and layer.offset == -(layer.gates.shape[2] // 2)
        for name in ("gates", "kernels"):
            expected = np.concatenate([getattr(found[number], name) for found, _ in alone])
            np.testing.assert_allclose(getattr(layer, name), expected, atol=1e-6)
        assert len(layer.ungated) == (1 if row == "cgc" else len(SENTENCES))
        assert layer.gates.std(0).max() > 1e-6


def test_a_minimal_pair(checkpoints, prepared):
    hub = inspection.load_model(checkpoints["cgc"], prepared)
    tokens = [hub.encode(sentence) for sentence in ("de1 de2 de3 de4 de5 de6", "de1 de2 de3 de4 de9 de6")]
    found = inspection.compare_pair(hub, "de1 de2 de3 de4 de5 de6", "de1 de2 de3 de4 de9 de6")
    common = next(n for n, (a, b) in enumerate(zip(*tokens)) if a != b)
    assert found["distance"] == common and found["token"] == hub.task.source_dictionary[tokens[0][0]]
    assert found["reach"] == 1 + 3 and len(found["gates"]) == 2
    assert found["output"] > 0 and found["output_by_gates"] > 0
    back = inspection.compare_pair(hub, "de9 de2 de3 de4 de5 de6", "de1 de2 de3 de4 de5 de6")
    assert back["token"] == hub.task.source_dictionary[hub.encode("de9 de2 de3 de4 de5 de6")[-2]]
    constant = inspection.compare_pair(
        inspection.load_model(checkpoints["cgc-constant"], prepared), "de1 de2 de3 de4", "de1 de2 de3 de9"
    )
    assert constant["gates"] == [0, 0] and constant["output_by_gates"] == 0


def test_beyond_the_convolutions_reach_the_gates_alone_move_the_output(checkpoints, prepared):
    hub = inspection.load_model(checkpoints["cgc"], prepared)
    middle = " ".join(f"de{n}" for n in range(10, 22))
    found = inspection.compare_pair(hub, f"{middle} de1", f"{middle} de2")
    assert found["distance"] > found["reach"] and found["output"] > 0
    assert found["output"] == pytest.approx(found["output_by_gates"], rel=1e-2)


def inspect(*options, check=True):
    return command("inspect", *options, check=check)


def test_an_error_ends_the_command_with_a_line(tmp_path):
    done = inspect(tmp_path, "--input", tmp_path / "nowhere.de", check=False)
    assert done.returncode == 1 and done.stderr == f"error: {tmp_path / 'nowhere.de'} does not exist\n"


def test_the_command_writes_a_report_and_its_plots(checkpoints, prepared, tmp_path):
    corpus, pairs = tmp_path / "corpus.de", tmp_path / "pairs.tsv"
    corpus.write_text("\n".join(SENTENCES * 4) + "\n")
    pairs.write_text("de1 de2 de3 de4\tde1 de2 de3 de9\n")
    options = [
        "--data",
        prepared,
        "--input",
        corpus,
        "--pairs",
        pairs,
        "--out",
        tmp_path / "out",
        "--classes",
        "length",
    ]
    done = inspect(
        checkpoints["cgc"], *options, "--layers", "2", "--heads", "1,3", "--show", "2,1", "--permutations", 20
    )
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "gates.json", "gates.md", "kernels.png", "gates.png", "variance.png", "classes.png"
    }  # fmt: skip
    assert (
        done.stdout + "\n<!-- written by fairseq-cgc -->\n" == (out / "gates.md").read_text()
        and "labels permuted, 20 times" in done.stdout
    )
    head = done.stdout.splitlines()[2]
    assert head.startswith(
        f"Model: `{checkpoints['cgc']}`. Input: `{corpus}`, `{pairs}`, 20 sentences, 1 pairs. Command: "
    )
    assert f"`fairseq-cgc inspect {checkpoints['cgc']} --data {prepared} " in head and "Versions: torch" in head
    for columns in (inspection.LAYER_COLUMNS, inspection.CLASS_COLUMNS, inspection.PAIR_COLUMNS):
        assert columns in done.stdout
    report = json.loads((out / "gates.json").read_text())
    assert report["sentences"] == 20 and [layer["kernel_size"] for layer in report["layers"]] == [3, 7]
    assert [shown["sentence"] for shown in report["shown"]] == [SENTENCES[1], SENTENCES[0]]
    assert np.array(report["shown"][0]["gates"]).shape == (1, 4, 7)
    assert np.array(report["layers"][0]["gate_mean"]).shape == (4, 3)
    header, rows = inspection.layer_rows(report["layers"])
    for layer, row in zip(report["layers"], rows, strict=True):
        kernels = np.array(layer["kernel_mean"])
        assert row[header.index("kernel sum")] == f"{kernels.sum(1).mean():.3f}" and 0 < kernels.sum(1).mean() < 1
    assert report["classes"]["layer"] == 2 and report["pairs"][0]["changed"][0] != report["pairs"][0]["changed"][1]


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "give sentences with --input"),
        (["--input", "nowhere.de"], "nowhere.de does not exist"),
        (["--input", "empty"], "empty is empty"),
        (["--input", "latin"], "not valid UTF-8"),
        (["--input", "good", "--layers", "3"], "--layers is 3; expected numbers from 1 to 2"),
        (["--input", "good", "--heads", "x"], "--heads is x; expected numbers from 1 to 4"),
        (
            ["--input", "good", "--class-layer", "0", "--classes", "length"],
            "--class-layer is 0; expected numbers from 1 to 2",
        ),
        (
            ["--input", "good", "--class-layer", "1,2", "--classes", "length"],
            "--class-layer is 1,2; give one layer",
        ),
        (["--input", "good", "--seed", "-1"], "--seed is -1; it must be"),
        (["--input", "good", "--show", "9"], "--show is 9; expected numbers from 1 to 2"),
        (["--input", "good", "--labels", "good", "--classes", "length"], "exclude each other"),
        (["--input", "good", "--labels", "pair"], "has 1 lines and the input 2; expected one label"),
        (["--input", "good", "--classes", "question"], "all sentences are of one class"),
        (["--pairs", "good"], "line 1: expected two different sentences separated by a tab"),
        (["--pairs", "empty"], "empty is empty"),
        (["--pairs", "pair", "--classes", "length"], "--classes is about the sentences of --input"),
        (["--pairs", "apart", "--input", "good"], "share no token at their start"),
        (["--pairs", "pair", "--layers", "99"], "--layers is about the sentences of --input"),
        (["--pairs", "pair", "--class-layer", "1"], "--class-layer is about the sentences of --input"),
        (["--input", "good", "--batch", "0"], "--batch is 0"),
    ],
)
def test_bad_input_is_named(checkpoints, prepared, tmp_path, options, message):
    contents = {"empty": b"", "latin": b"de1 \xe4\n", "good": b"de1\nde2 de3\n", "pair": b"de1 de2\tde1 de3\n"}
    contents["apart"] = b"de1 de2\tde3 de4 de5\n"
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    options = [tmp_path / word if word in contents or word == "nowhere.de" else word for word in options]
    words = [checkpoints["cgc"], "--data", prepared, "--out", tmp_path / "out", *options]
    with pytest.raises(UserError, match=re.escape(message)):
        inspection.main(parse(["inspect", *map(str, words)]))
    assert not (tmp_path / "out" / "gates.json").exists()


def test_a_plot_that_fails_costs_no_figures(checkpoints, prepared, tmp_path, monkeypatch):
    (tmp_path / "input").write_text("de1\nde2 de3\n")
    monkeypatch.setattr(inspection, "write_text_and_plots", lambda *_: 1 / 0)
    words = checkpoints["cgc"], "--data", prepared, "--input", tmp_path / "input", "--out", tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        inspection.main(parse(["inspect", *map(str, words)]))
    assert json.loads((tmp_path / "out" / "gates.json").read_text())["sentences"] == 2


def test_a_pair_without_a_common_token_is_left_out_and_told_of(checkpoints, prepared, tmp_path, capsys):
    pairs = tmp_path / "pairs.tsv"
    words = [checkpoints["cgc"], "--data", prepared, "--out", tmp_path / "out", "--pairs", pairs]
    pairs.write_text("de1 de2\tde3 de4 de5\nde1 de2 de3\tde1 de2 de4\n")
    inspection.main(parse(["inspect", *map(str, words)]))
    assert "Left out: 'de1 de2' and 'de3 de4 de5' share no token at their start" in capsys.readouterr().out
    [pair] = json.loads((tmp_path / "out" / "gates.json").read_text())["pairs"]
    assert pair["sentences"] == ["de1 de2 de3", "de1 de2 de4"]


def test_a_checkpoint_without_gates_or_dictionaries_is_refused(checkpoints, prepared, tmp_path):
    with pytest.raises(CheckpointError, match="holds a LightConvEncoder, which has no gates"):
        inspection.load_model(checkpoints["lightconv"], prepared)
    with pytest.raises(CheckpointError, match=r"has no dictionaries .*--data"):
        inspection.load_model(shutil.copy(checkpoints["cgc"], tmp_path))
    with pytest.raises(CheckpointError, match="nothing.pt does not exist"):
        inspection.load_model(tmp_path / "nothing.pt")
    with pytest.raises(CorpusError, match="share no token"):
        inspection.compare_pair(inspection.load_model(checkpoints["cgc"], prepared), "de1", "de9 de2")


def test_pairs_that_would_be_misread(checkpoints, prepared):
    """Behind a difference in length every position is another; what the model reads alike is no pair."""
    hub = inspection.load_model(checkpoints["cgc"], prepared)
    middle = " ".join(f"de{n}" for n in range(10, 16))
    longer = inspection.compare_pair(hub, f"{middle} de1 {middle}", f"{middle} de1 de2 {middle}")
    tokens = hub.encode(f"{middle} de1 {middle}")
    assert longer["token"] == hub.task.source_dictionary[tokens[0]]
    with pytest.raises(CorpusError, match="none at their end in the same position"):
        inspection.compare_pair(hub, f"de1 {middle}", f"de2 de1 {middle}")
    with pytest.raises(CorpusError, match="the same tokens to the model"):
        inspection.compare_pair(hub, "DE1 de2", "de1 de2")


def report_of(*words):
    inspection.main(parse(["inspect", *map(str, words)]))
    return json.loads((words[-1] / "gates.json").read_text())


def test_classes_by_labels_and_by_files_of_one_name(checkpoints, prepared, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.de").write_text("".join(f"{sentence}\n" for sentence in SENTENCES))
    inputs = [tmp_path / "one" / "test.de", tmp_path / "two" / "test.de"]
    words = [checkpoints["cgc"], "--data", prepared, "--permutations", 5, "--input", *inputs]
    found = report_of(*words, "--classes", "file", "--out", tmp_path / "out")["classes"]
    assert found["classes"] == [str(path) for path in inputs] and found["sizes"] == [5, 5]
    assert found["compared"] == "kernels"
    labels = tmp_path / "labels"
    labels.write_text("a\nb\n" * 5)
    found = report_of(*words, "--labels", labels, "--out", tmp_path / "out")["classes"]
    assert (found["of"], found["classes"], found["sizes"]) == ("labels", ["a", "b"], [5, 5])


def test_long_names_of_classes_leave_their_plot_its_room(tmp_path, recwarn):
    pytest.importorskip("matplotlib")
    names = [f"/a/long/path{'/folder' * 20}/{number}/test.de" for number in range(2)]
    found = {"difference": [[0.0, 0.1], [0.2, 0.0]], "classes": names, "share": 1.0, **with_p(0.5)}
    save_figure(inspection.plot_classes(found, "of files"), tmp_path / "classes.png")
    assert not [warning for warning in recwarn if "layout" in str(warning.message)]
    assert inspection._ending(names[1]) == "…folder/folder/1/test.de" and inspection._ending("question") == "question"


def test_of_a_dynamic_encoder_the_gates_are_compared(checkpoints, prepared, tmp_path):
    """Its tokens' kernels differ whatever the gate does."""
    (tmp_path / "input").write_text("".join(f"{sentence}\n" for sentence in SENTENCES * 2))
    (tmp_path / "labels").write_text("a\nb\n" * 5)
    words = [checkpoints["cgc-dynamic"], "--data", prepared, "--permutations", 5, "--input", tmp_path / "input"]
    found = report_of(*words, "--labels", tmp_path / "labels", "--out", tmp_path / "out")["classes"]
    assert found["compared"] == "gates"
    layers, _ = inspection.gates_of(inspection.load_model(checkpoints["cgc-dynamic"], prepared), SENTENCES * 2)
    expected = inspection.compare_classes(layers[-1].gates, ["a", "b"] * 5, permutations=1)
    assert found["within"] == pytest.approx(expected["within"])


def test_with_a_channel_gate_the_layers_reach_everywhere(checkpoints, prepared):
    hub = inspection.load_model(checkpoints["cgc"], prepared)
    pair = "de1 de2 de3 de4 de5 de6", "de1 de2 de3 de4 de9 de6"
    assert inspection.compare_pair(hub, *pair)["reach"] == 4
    hub.models[0].encoder.layers[0].conv.gct = GatedChannelTransformation(32).eval()
    found = inspection.compare_pair(hub, *pair)
    assert found["reach"] is None and "(all)" in inspection.pair_table([found])


def test_dollars_and_underscores_in_sentences_and_names_are_shown_as_they_are(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], label=inspection._short("_ 5$ und\t6$_{"))
    axes.set_title("$x$")
    legend = axes.legend()
    save_figure(figure, tmp_path / "plot.png")
    [label] = legend.get_texts()
    assert label.get_text() == " _ 5$ und 6$_{"
    assert not label.get_parse_math() and not axes.title.get_parse_math()


def layers_of(count=2):
    chance = np.random.default_rng(3)
    gates = [chance.random((6, 4, 7)) for _ in range(count)]
    return [inspection.Layer(n, -3, gate, gate / 7, np.full((1, 4, 7), 1 / 7)) for n, gate in enumerate(gates, 1)]


@pytest.mark.parametrize("name", ["weight", "gate"])
def test_kernels_and_gates_name_what_they_show(name):
    if name == "weight":
        figure = inspection.plot_kernels(layers_of(), range(4))
    else:
        figure = inspection.plot_gates(layers_of(), range(4), [0, 1], ["one"] * 6)
    assert figure.get_supylabel() == name


def test_the_legend_of_the_variances_keeps_off_the_bars():
    figure = inspection.plot_variances([inspection.summarise(layer, [3] * 6) for layer in layers_of()])
    figure.draw_without_rendering()
    assert not figure.axes[0].get_legend()
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())


def test_the_matrix_of_classes_is_readable():
    found = {"difference": [[0, 0.9, 0.1], [-0.85, 0, 0.2], [0.0004, 0.3, 0]], "classes": ["a", "b", "c"], "share": 0.8}
    figure = inspection.plot_classes({**found, **with_p(0.001, 0.3)}, "kind")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        "+0.9": "white", "+0.1": "black", "-0.85": "white", "+0.2": "black", "+0.0004": "black", "+0.3": "black"
    }  # fmt: skip
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("the other class", "the row's class")
    assert "but not among sentences of equal length" in axes.get_title().replace("\n", " ")
