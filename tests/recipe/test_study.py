"""What the study's own scripts make."""

import json
import runpy
import shutil
import sys
from math import hypot
from statistics import mean
from types import SimpleNamespace

import pytest
import torch
from conftest import LIGHTWEIGHT, ROOT, Task, run, tiny_model
from forks import Fork
from test_table import NEEDS_MATPLOTLIB, change_json, inner, make_run, valid

from fairseq_cgc.errors import UserError
from fairseq_cgc.ops.lightconv import lightconv
from fairseq_cgc.recipe.experiment import make_table, read_experiment
from fairseq_cgc.recipe.files import read_json, read_lines, write_lines
from fairseq_cgc.recipe.significance import bleu
from fairseq_cgc.recipe.table import finished

SCRIPT = ROOT / "examples" / "study" / "split_libreoffice.py"
RECORD = ROOT / "examples" / "study" / "record.py"
ANSWER = ROOT / "examples" / "study" / "answer.py"
WORD_ANYWHERE = ROOT / "examples" / "study" / "word_anywhere.py"


def test_the_parts_of_a_split_share_no_sentence_and_lose_only_pairs_that_do():
    split = runpy.run_path(str(SCRIPT))["split"]
    pairs = [(f"de{number // 2}", f"en{number % 1500}") for number in range(6000)]
    parts = split([*pairs, *pairs[:7]])
    assert [len(parts[name]) for name in ("test", "valid")] == [1000, 1000] and parts["test"] == pairs[:1000]
    sides = {name: {side for pair in part for side in pair} for name, part in parts.items()}
    assert not (sides["test"] & sides["valid"] or sides["train"] & (sides["test"] | sides["valid"]))
    held = sides["test"] | sides["valid"]
    assert parts["train"] == [pair for pair in pairs if held.isdisjoint(pair)]


def test_what_cannot_be_split_is_named_and_nothing_is_written(tmp_path):
    words = sys.executable, SCRIPT, tmp_path / "pairs.tsv", tmp_path / "out"
    pairs = [f"Haus {number}\thouse {number}" for number in range(2001)]
    no_tab = f"{tmp_path}/pairs.tsv, line 2: expected two paragraphs with a tab between them, none blank"
    few = f"{tmp_path}/pairs.tsv has 2,000 pairs, of which none is left after 2,000 held out; expected more"
    for lines, reason in (([pairs[0], "Hund"], no_tab), ([pairs[0], "Hund\t "], no_tab), (pairs[1:], few)):
        write_lines(tmp_path / "pairs.tsv", lines)
        done = run(*words, check=False, start=Fork)
        assert done.returncode == 1 and not (tmp_path / "out").exists() and done.stderr == f"error: {reason}\n"
    write_lines(tmp_path / "pairs.tsv", pairs)
    run(*words, start=Fork)
    assert read_lines(tmp_path / "out" / "train.de") == ["Haus 2000"]
    assert read_lines(tmp_path / "out" / "test.en")[:1] == ["house 0"]


def test_a_record_makes_the_table_that_its_runs_make_and_holds_no_path_of_the_machine(tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "record"
    for row in ("cgc", "cgc-constant"):
        for seed in (1, 2):
            folder = make_run(runs, row, seed)
            change_json(folder / "run.json", lambda record: record["data"].update(path=f"{tmp_path}/data/mine"))
            change_json(
                folder / "test" / "scores.json", lambda scores: scores["generation"].update(parameters=1_624_452)
            )
            if row == "cgc":
                shutil.copytree(folder / "test", folder / "test-shuffled")
                (folder / "test-shuffled" / "loss.json").write_text('{"valid_loss": 4.5}')
    make_run(runs, "lightconv", 1, log=[inner(100), valid(1000, 4.5)])
    done = run(sys.executable, RECORD, runs, out, start=Fork)
    assert "lightconv-1: stopped at 1,000 of 2,000 updates" in done.stdout and "cgc-1: recorded" in done.stdout
    assert f"cgc-1: without its layers: {tmp_path}/data/mine/raw/test.de does not exist" in done.stdout
    shutil.rmtree(runs / "lightconv-1")
    assert make_table(out) == make_table(runs)
    assert not list(out.rglob("*.pt")) and not (out / "lightconv-1").exists()
    assert not list(out.rglob("test.tok.en")), "the corpus is somebody's"
    assert not any(str(tmp_path) in file.read_text() for file in out.rglob("*.js*"))
    assert read_json(out / "cgc-1" / "run.json")["data"]["path"] == "mine"
    log = [json.loads(line)["event"] for line in read_lines(out / "cgc-1" / "log.jsonl")]
    assert log == ["valid", "train", "valid", "train"]


@pytest.mark.parametrize(
    "arch, options, kernels",
    [
        ("lightconv_cgc", {}, [3, 7, 15]),
        ("lightconv", LIGHTWEIGHT | {"encoder_conv_type": "dynamic"}, [3, 7, 15]),
        ("transformer", {}, []),
    ],
)
def test_the_branch_of_each_convolution_of_an_encoder_is_recorded(tmp_path, monkeypatch, arch, options, kernels):
    folder, task = make_run(tmp_path, "lightconv"), Task()
    change_json(folder / "run.json", lambda record: record["data"].update(path=str(tmp_path)))
    (tmp_path / "raw").mkdir()
    write_lines(tmp_path / "raw" / "test.de", sentences := ["5 6 7 8", "9 10"])
    model = tiny_model(arch, task, **options).eval()
    hub = SimpleNamespace(models=[model], task=task, encode=lambda line: torch.tensor([*map(int, line.split()), 2]))
    layers_of = runpy.run_path(str(RECORD))["layers_of"]
    monkeypatch.setitem(layers_of.__globals__, "load_hub", lambda path: hub)
    found = layers_of(folder)
    assert [layer["kernel_size"] for layer in found] == kernels
    inputs, added = [], []
    for layer in model.encoder.layers if kernels else ():
        layer.register_forward_pre_hook(lambda _, values: inputs.append(values[0]))
        layer.linear2.register_forward_hook(lambda _, values, y: added.append(y))
    with torch.no_grad():
        for tokens in map(hub.encode, sentences):
            model.encoder(tokens[None], torch.tensor([len(tokens)]))
    for number, layer in enumerate(found):
        large, small = (torch.cat(each[number :: len(kernels)]).square().sum() for each in (inputs, added))
        assert layer["branch"] == pytest.approx(float((small / large).sqrt()), rel=1e-4)


@pytest.mark.parametrize(
    "layers", [[], [{"kernel_size": 3, "branch": 0.5}], [{"kernel_size": 3, "branch": 0.5, "kernel_sum": 0.5}] * 2]
)
def test_layers_unlike_those_of_other_runs_of_a_row_are_named(tmp_path, layers):
    for seed, content in ((1, [{"kernel_size": 3, "branch": 0.5, "kernel_sum": 0.5}]), (2, layers)):
        (make_run(tmp_path, "cgc", seed) / "layers.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="cgc-2/layers.json does not have the layers and figures of other runs"):
        runpy.run_path(str(RECORD))["layers_table"](tmp_path)


def test_a_folder_without_runs_is_named(tmp_path):
    done = run(sys.executable, RECORD, tmp_path, tmp_path / "out", check=False, start=Fork)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {tmp_path} has no run folder")


def test_a_file_in_the_place_of_the_folder_for_records_is_named(tmp_path):
    make_run(tmp_path / "runs")
    (tmp_path / "out").write_text("mine")
    done = run(sys.executable, RECORD, tmp_path / "runs", tmp_path / "out", check=False, start=Fork)
    assert done.returncode == 1 and "out cannot be written to (it, or a folder of its path, is a file)" in done.stderr


@pytest.mark.parametrize("script", [SCRIPT, RECORD, ANSWER, WORD_ANYWHERE], ids=lambda script: script.stem)
def test_the_studys_scripts_take_no_option_that_they_do_not_know(script):
    done = run(sys.executable, script, "--nosuch", check=False, start=Fork)
    assert done.returncode == 2 and done.stderr.startswith("usage: ") and not done.stdout


@pytest.mark.parametrize("option", ["--updates", "--seeds"])
def test_a_layer_needs_a_training(option):
    done = run(sys.executable, WORD_ANYWHERE, option, 0, check=False, start=Fork)
    assert done.returncode == 1 and done.stderr == f"error: {option} is 0; it must be at least 1\n"


def test_a_damaged_record_is_named(tmp_path):
    folder = make_run(tmp_path)
    (folder / "test" / "statistics.json").write_text('{"test_set": "x", "sentences": [[1, -2]]}')
    with pytest.raises(UserError, match="statistics.json.*sentences"):
        make_table(tmp_path)
    (folder / "test" / "statistics.json").write_text('{"test_set": "x", "sentences": [[1, 2, 3]]}')
    with pytest.raises(UserError, match="statistics.json does not hold 10 numbers a sentence"):
        make_table(tmp_path)


def test_gates_are_tried_on_a_word_anywhere_in_the_sentence():
    done = run(sys.executable, WORD_ANYWHERE, "--updates", 2, "--seeds", 2, start=Fork)
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()]
    assert header == ["gate", "error", "with another sentence's context", "gate's parameters"]
    assert [row[0].strip("`") for row in rows] == ["learned", "context", "summary"]
    assert rows[0][1:] == ["1.00, 1.00", "1.00, 1.00", "28"], "it has no context, and is the measure"


def test_the_word_that_decides_is_anywhere_and_decides_alone():
    module = runpy.run_path(str(WORD_ANYWHERE))
    torch.manual_seed(2)
    language = module["Language"]()
    x, y = language.batch(200)
    words = torch.cdist(x.double(), language.vectors.double()).argmin(2)  # T x B
    decided = torch.isin(words, language.deciding).any(0)
    assert 0.3 < decided.double().mean() < 0.7
    for there in (False, True):
        kernels = language.kernels[int(there)].expand(int((decided == there).sum()), -1, -1)
        torch.testing.assert_close(y[:, decided == there], lightconv(x[:, decided == there], kernels, 3))


@pytest.fixture(scope="module")
def answered():
    """The script of the study's answer, the runs of the study's records, and what it finds in them."""
    answer = runpy.run_path(str(ANSWER))
    runs = answer["read"](answer["HERE"])
    return answer, runs, answer["answers"](runs)


def test_the_studys_page_has_the_table_that_its_records_make(answered):
    answer, runs, found = answered
    page = (ANSWER.parent / "README.md").read_text(encoding="utf-8")
    for table in (
        answer["render"](found),
        answer["losses"](runs),
        answer["render"](answer["by_length"](runs)),
    ):
        assert table in page


@NEEDS_MATPLOTLIB
def test_the_studys_plot_has_a_panel_for_each_row(answered):
    answer, _, found = answered
    assert [panel.get_title() for panel in answer["plot"](found).axes] == [f"minus {row}" for row in found]


def gaps(folder, sentences=slice(None)):
    """BLEU of a folder's CGC runs on some sentences less that of its learned gates, a seed each."""
    runs = read_experiment(folder)
    ours, theirs = (
        [bleu(run.statistics[sentences].sum(0)) for run in finished(runs, row).values()]
        for row in ("cgc", "cgc-learned")
    )
    return [float(one - other) for one, other in zip(ours, theirs, strict=True)]


@pytest.fixture
def settings(tmp_path):
    """A folder of the study's settings, one of which has a single seed; and dict of each to the differences of its seeds."""
    names = runpy.run_path(str(ANSWER))["SETTINGS"]
    for name, seeds in zip(names, ((1, 2), (3, 4, 5), (1,), (6, 7)), strict=True):
        for row in "cgc", "cgc-learned":
            for seed in seeds:
                make_run(tmp_path / name, row, seed)
    return tmp_path, {name: gaps(tmp_path / name) for name in names}


def test_an_answer_takes_a_corpus_runs_as_repeats_and_gives_each_corpus_the_same_weight(settings):
    answer, (folder, by_seed) = runpy.run_path(str(ANSWER)), settings
    found = answer["answers"](answer["read"](folder))
    assert found["cgc-constant"] == dict.fromkeys(found["cgc-learned"]), "there is no run of it"
    post, pre, alone, slow = by_seed.values()
    lines = found["cgc-learned"]
    assert lines["LibreOffice, rate 0.005"] is None, "one pair has no interval"
    assert lines["Multi30k, pre-norm"].difference == pytest.approx(mean(pre))
    assert lines["**all four settings**"].difference == pytest.approx(mean([mean(post + pre), mean(alone + slow)]))
    both = lines["**both of Multi30k**"]
    assert (both.difference, both.by_seed) == (pytest.approx(mean(post + pre)), pytest.approx(post + pre))
    three = lines["**three, without rate 0.005**"]
    assert three.difference == pytest.approx(mean([mean(post + pre), mean(slow)]))
    assert three.by_seed == pytest.approx(post + pre + slow)
    of_corpora = (
        answer["compare"](
            list(map(read_experiment, (folder / name for name in (answer["POST"], answer["PRE"])))), "cgc-learned"
        ),
        lines["LibreOffice, rate 0.002"],
    )
    assert three.high - three.difference == pytest.approx(hypot(*(one.high - one.difference for one in of_corpora)) / 2)


def test_a_record_without_validations_is_named(settings):
    answer, (folder, _) = runpy.run_path(str(ANSWER)), settings
    log = next((folder / answer["POST"]).glob("cgc-learned*")) / "log.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"valid"' not in line))
    with pytest.raises(UserError, match=f"{log} tells of no validation"):
        answer["losses"](answer["read"](folder))


def test_the_third_of_the_longest_sentences_is_compared_alone(settings):
    answer, (folder, by_seed) = runpy.run_path(str(ANSWER)), settings
    folder = folder / answer["PRE"]
    lengths = [len(line.split()) for line in finished(read_experiment(folder), "cgc")[3].references]
    longest = sorted(range(30), key=lambda number: lengths[number])[20:]
    wanted = gaps(folder, longest)
    assert wanted != by_seed[answer["PRE"]]
    assert answer["compare"]([read_experiment(folder)], "cgc-learned", 2).by_seed == pytest.approx(wanted)
