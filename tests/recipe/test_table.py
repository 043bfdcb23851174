import argparse
import fcntl
import json
import random
import re
import sys
from importlib.util import find_spec
from statistics import mean, stdev

import pytest
import torch
from conftest import DATA, LIGHTWEIGHT, TINY, Task, build_model, command, refused, write_record
from fairseq.models import ARCH_CONFIG_REGISTRY

from fairseq_cgc.errors import UserError
from fairseq_cgc.recipe.checkpoints import count_parameters, load_checkpoint
from fairseq_cgc.recipe.files import is_locked, read_json
from fairseq_cgc.recipe.iwslt14 import EXPECTED_PAIRS
from fairseq_cgc.recipe.rows import PAPER, SYSTEMS, row_options, small_options
from fairseq_cgc.recipe.scoring import compare, token_metric, token_statistics
from fairseq_cgc.recipe.significance import compare_statistics
from fairseq_cgc.recipe.table import (
    make_table,
    markdown,
    plot_curves,
    plot_scores,
    read_run,
    read_runs,
)

NEEDS_MATPLOTLIB = pytest.mark.skipif(find_spec("matplotlib") is None, reason="the extra plots is not installed")
NAMES = {"tokenised BLEU-4": "BLEU4 = {:.2f}, beam 6", "BLEU": "tok:13a|version:2", "chrF": "nc:6|version:2"}
SHARE = {"transformer": 0.5, "lightconv": 0.4, "dynamic": 0.3, "cgc": 0.1, "cgc-constant": 0.2, "cgc-rdrop": 0.05}


def translations(share, seed, size=30):
    """Tokenised references, and hypotheses with a share of wrong words."""
    chance, change = random.Random(1), random.Random(seed)
    references = [" ".join(f"w{chance.randrange(40)}" for _ in range(chance.randint(5, 9))) for _ in range(size)]
    return references, [" ".join("x" if change.random() < share else w for w in r.split()) for r in references]


def inner(update):
    return {"event": "train_inner", "num_updates": update, "loss": 5.0}


def valid(update, loss):
    return {"event": "valid", "valid_num_updates": update, "valid_loss": loss}


def epoch(update, tokens):
    return {"event": "train", "train_num_updates": update, "train_wpb": tokens, "train_loss": 4.0}


PAPERS_DATA = {**DATA, "sha256": {"dict.de.txt": "abc"}, "pairs": EXPECTED_PAIRS}
LOG = [inner(100), valid(1000, 4.5), epoch(1000, 3000.0), valid(2000, 4.0), epoch(2000, 2000.0)]


def write_log(folder, events):
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))


# What fairseq saves beside a model and its options.
TASK = {"task": {"_name": "translation"}}
SAVED = {"args": None, "optimizer_history": [{"num_updates": 2000, "lr_scheduler_state": {}}], "extra_state": {}}


def make_run(root, row="cgc", seed=1, score=35.0, parameters=38_148_144, log=LOG, name=None, **record):
    """A run folder with all that a finished run has."""
    folder = root / (name or f"{row}-{seed}")
    (folder / "test").mkdir(parents=True)
    wanted = {"row": row, "seed": seed, "options": row_options(row), "updates": 2000, "data": PAPERS_DATA}
    write_record(folder, **{**wanted, **record})
    write_log(folder, log)
    references, hypotheses = translations(SHARE.get(row, 0), seed)
    (folder / "test" / "test.tok.hyp").write_text("".join(line + "\n" for line in hypotheses))
    (folder / "test" / "test.tok.en").write_text("".join(line + "\n" for line in references))
    scores = {
        figure: {"score": score - place, "signature": signature.format(score)}
        for place, (figure, signature) in enumerate(NAMES.items())
    }
    (folder / "test" / "scores.json").write_text(
        json.dumps({"scores": scores, "generation": {"beam": 6, "parameters": parameters}})
    )
    return folder


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rows(text):
    """Title to dict of column to cell."""
    header, _, *lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"
    ]
    return {line[0]: dict(zip(header, line)) for line in lines}


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Runs of four systems over two or three seeds."""
    root = tmp_path_factory.mktemp("runs")
    for row, scores in (("lightconv", (34.0, 34.4)), ("cgc", (35.0, 35.6, 36.5)), ("cgc-constant", (34.8, 35.0))):
        for seed, score in enumerate(scores, 1):
            make_run(root, row, seed, score, 38_148_144 if row == "cgc" else 38_139_436)
    make_run(root, "transformer", 7, 33.0, 39_469_056)
    return root


@pytest.fixture(scope="module")
def text(full):
    return markdown(read_runs(full), PAPER["corpus"])


# Counting parameters


@pytest.mark.parametrize(
    "arch, options, parameters",
    [
        ("transformer_iwslt_de_en", {"share_decoder_input_output_embed": True}, 39_469_056),
        ("lightconv_iwslt_de_en", LIGHTWEIGHT, 38_139_436),
        ("lightconv_cgc", {}, 38_148_144),
    ],
    ids=["transformer", "lightconv", "cgc"],
)
def test_parameters_of_table_6_are_counted_from_a_checkpoint(tmp_path, arch, options, parameters):
    if arch.startswith("transformer"):
        options = {"max_source_positions": 1024, "max_target_positions": 1024, **options}
    path = checkpoint(tmp_path, arch, options, Task(8848, 6632))[0]
    assert count_parameters(load_checkpoint(path)) == parameters


def checkpoint(folder, arch, options, task):
    """A checkpoint as fairseq saves it, and its model."""
    model, args = build_model(arch, task, **options), argparse.Namespace(arch=arch, **options)
    ARCH_CONFIG_REGISTRY[arch](args)
    torch.save({**SAVED, "model": model.state_dict(), "cfg": {"model": args, **TASK}}, folder / "model.pt")
    return folder / "model.pt", model


@pytest.mark.parametrize("arch", ["transformer_iwslt_de_en", "lightconv_cgc"])
@pytest.mark.parametrize("shared", [None, "share_decoder_input_output_embed", "share_all_embeddings"])
def test_shared_embeddings_are_counted_once(tmp_path, arch, shared):
    task = Task(40, 40)
    task.target_dictionary = task.source_dictionary
    options = {**TINY, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    options.update({"max_source_positions": 64, "max_target_positions": 64})
    path, model = checkpoint(tmp_path, arch, {**options, shared: True} if shared else options, task)
    assert count_parameters(load_checkpoint(path)) == sum(p.numel() for p in model.parameters())


def test_what_is_no_parameter_is_not_counted():
    names = ("encoder.version", "decoder.embed_positions._float_tensor", "weight")
    state = {"model": {name: torch.ones(3) for name in names}, "cfg": {"model": argparse.Namespace()}}
    assert count_parameters(state) == 3


def test_options_may_be_a_dict():
    state = {"model": {"decoder.output_projection.weight": torch.ones(3), "a": torch.ones(2)}}
    assert count_parameters({**state, "cfg": {"model": {"share_all_embeddings": True}}}) == 2


# Reading a run


def test_a_log_gives_updates_tokens_and_validation_losses(tmp_path):
    found = read_run(make_run(tmp_path))
    assert found.done == 2000 and found.losses == [(1000, 4.5), (2000, 4.0)]
    assert found.tokens == 1000 * 3000 + 1000 * 2000


def test_after_a_resume_the_last_word_counts(tmp_path):
    first = [{**inner(900), "wps": 700}, valid(1000, 4.5), epoch(1000, 3000.0)]
    discarded = [{**inner(1100), "wps": 5}, valid(2000, 9.0), epoch(2000, 9.0), inner(2300)]
    last = [{**inner(1050), "wps": 800}, valid(2000, 4.0), epoch(2000, 2000.0)]
    found = read_run(make_run(tmp_path, log=[*first, *discarded, *last]))
    assert found.losses == [(1000, 4.5), (2000, 4.0)] and found.done == 2000 and found.tokens == 5_000_000
    assert found.speeds == [700, 800]


def test_an_epoch_that_a_stop_has_parted_counts_once_with_what_was_said_of_it_last(tmp_path):
    """fairseq tells of the part too, and when it has resumed of the whole."""
    parts = [epoch(6, 1000.0), epoch(9, 1400.0), epoch(12, 1700.0), epoch(16, 1500.0)]
    log = [{**event, "epoch": number} for event, number in zip(parts, (1, 2, 2, 3))]
    assert read_run(make_run(tmp_path, log=log, updates=16)).tokens == 6 * 1000 + 6 * 1700 + 4 * 1500


def test_a_run_stopped_earlier_after_its_resume_is_where_it_stopped_last(tmp_path):
    found = read_run(make_run(tmp_path, log=[valid(1000, 4.5), valid(1500, 4.2), inner(1900), inner(1100)]))
    assert found.done == 1100 and found.losses == [(1000, 4.5)]


def test_a_last_line_that_is_cut_off_is_ignored(tmp_path):
    folder = make_run(tmp_path)
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"event": "valid", "valid_num')
    assert read_run(folder).done == 2000


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "tr{"event": "valid", "valid_num_updates": 9, "valid_loss": 1}',
        '{"event": "valid", "valid_num_updates": 3}',
        '{"event": "valid", "valid_num_updates": Infinity, "valid_loss": 1}',
        '{"event": "valid", "valid_num_updates": 3, "valid_loss": NaN}',
        "[1]",
        pytest.param("[" * 200_000, id="deep"),
    ],
)
def test_a_broken_line_of_the_log_is_left_out_aloud(tmp_path, capsys, line):
    folder = make_run(tmp_path)
    text = (folder / "log.jsonl").read_text()
    (folder / "log.jsonl").write_text(line + "\n" + text)
    assert read_run(folder).done == 2000
    assert "log.jsonl: line 1 is broken and left out" in capsys.readouterr().err


def test_scores_of_other_updates_than_the_run_has_now_have_no_part(tmp_path):
    folder = make_run(tmp_path)
    change_json(folder / "test" / "scores.json", lambda value: value["generation"].update(updates=1900))
    assert read_run(folder).unfinished == "translated after 1,900 updates, trained for 2,000: generate again"


@pytest.mark.parametrize("score", [float("nan"), 9999])
def test_an_impossible_score_is_named(tmp_path, score):
    folder = make_run(tmp_path)
    change_json(folder / "test" / "scores.json", lambda value: value["scores"]["BLEU"].update(score=score))
    with pytest.raises(UserError, match=f"scores.json: scores.BLEU.score is {score}; expected a number from 0 to 100"):
        read_run(folder)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda record: record.pop("seed"), "run.json lacks seed"),
        (lambda record: record["data"].pop("sha256"), "run.json lacks data.sha256"),
        (lambda record: record.update(updates="many"), "run.json: updates is 'many'; expected a whole number"),
        (lambda record: record.update(options=[1]), r"run.json: options\[0\] is 1; expected text"),
        (lambda record: record.update(batch_tokens="all"), "run.json: batch_tokens is 'all'"),
        (
            lambda record: record.update(row="lstm"),
            "run.json: the row is 'lstm'; expected one of transformer, lightconv, ",
        ),
    ],
)
def test_a_record_that_lacks_something_is_named(tmp_path, change, words):
    folder = make_run(tmp_path)
    change_json(folder / "run.json", change)
    with pytest.raises(UserError, match=words):
        read_run(folder)


def test_a_broken_record_is_named(tmp_path):
    folder = make_run(tmp_path)
    (folder / "run.json").write_text('{"row": ')
    with pytest.raises(UserError, match="run.json is not valid JSON"):
        read_run(folder)


@pytest.mark.parametrize("figure", NAMES)
def test_scores_without_a_figure_are_named(tmp_path, figure):
    folder = make_run(tmp_path)
    change_json(folder / "test" / "scores.json", lambda value: value["scores"].pop(figure))
    with pytest.raises(UserError, match=f"scores.json lacks scores.{figure}"):
        read_run(folder)


def test_sides_of_different_length_are_named_with_their_counts(tmp_path):
    folder = make_run(tmp_path)
    (folder / "test" / "test.tok.hyp").write_text("a\n" * 29)
    with pytest.raises(UserError, match="test.tok.hyp has 29 lines and .*test.tok.en has 30"):
        read_run(folder)


# Runs that have no part in the means


def note(root):
    """The table's row of CGC, and the line under it about its run."""
    text = markdown(read_runs(root), PAPER["corpus"])
    return rows(text)["LightConv + CGC encoder"], re.search(r"^- cgc, seed 1 \(.*cgc-1\): (.*)$", text, re.M)[1]


def test_a_run_without_scores_is_named(tmp_path):
    (make_run(tmp_path) / "test" / "scores.json").unlink()
    row, words = note(tmp_path)
    assert words == "not translated yet: fairseq-cgc generate" and row["tokenised BLEU-4"] == "not finished"


def test_a_run_that_was_stopped_is_named_and_its_old_scores_do_not_count(tmp_path):
    make_run(tmp_path, updates=50000)
    row, words = note(tmp_path)
    assert words == "stopped at 2,000 of 50,000 updates; resume it" and row["tokenised BLEU-4"] == "not finished"


def test_a_run_that_is_being_written_is_named(tmp_path):
    folder = make_run(tmp_path, updates=50000)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert is_locked(folder / ".lock")
        assert note(tmp_path)[1] == "training, 2,000 of 50,000 updates"
    assert note(tmp_path)[1].startswith("stopped")


def test_a_finished_run_that_is_still_held_is_not_counted(tmp_path):
    folder = make_run(tmp_path)
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert note(tmp_path)[1] == "still being written, 2,000 of 2,000 updates done"


def test_a_run_that_has_just_begun_is_named(tmp_path):
    (make_run(tmp_path) / "log.jsonl").unlink()
    assert note(tmp_path)[1] == "stopped at 0 of 2,000 updates; resume it"


def test_an_unfinished_seed_is_left_out_of_the_mean(tmp_path):
    make_run(tmp_path, seed=1, score=35.0)
    make_run(tmp_path, seed=2, score=99.0, updates=50000)
    found = rows(markdown(read_runs(tmp_path), PAPER["corpus"]))["LightConv + CGC encoder"]
    assert found["tokenised BLEU-4"] == "35.00 (n = 1)"


# Runs that were not trained alike


def differing(root):
    """The settings that the table says its runs differ in."""
    return re.findall(r"^- (`.*)$", markdown(read_runs(root), PAPER["corpus"]).partition("Not trained alike")[2], re.M)


def test_settings_in_which_runs_differ_are_named_with_the_runs(tmp_path):
    further = {"lightconv": ["--dropout", "0.1"], "cgc": ["--dropout", "0.3", "--fp16"], "cgc-constant": []}
    for row, options in further.items():
        make_run(tmp_path, row, options=[*row_options(row), *options], batch_tokens=4000)
    make_run(tmp_path, "cgc", 2, options=row_options("cgc"), batch_tokens=800)
    assert differing(tmp_path) == [
        "`tokens an update`: 4,000 (lightconv 1, cgc 1, cgc-constant 1); 800 (cgc 2)",
        "`--dropout`: 0.1 (lightconv 1); 0.3 (cgc 1, cgc 2, cgc-constant 1)",
        "`--fp16`: not given (lightconv 1, cgc 2, cgc-constant 1); on (cgc 1)",
    ]


def test_options_that_all_runs_have_beyond_their_rows_are_told(tmp_path):
    for row in ("lightconv", "cgc"):
        make_run(tmp_path, row, options=[*row_options(row), "--dropout", "0.1", "--fp16"])
    found = markdown(read_runs(tmp_path), PAPER["corpus"])
    assert (
        "Options of the runs beyond their rows': `--dropout 0.1 --fp16`." in found and "Not trained alike" not in found
    )


def test_rows_that_are_made_small_are_trained_alike_though_a_transformer_has_no_kernels(tmp_path):
    for row in ("transformer", "lightconv"):
        make_run(tmp_path, row, options=[*row_options(row), *small_options(row)])
    assert differing(tmp_path) == []


def test_an_option_of_the_protocol_that_a_run_lacks_is_named(tmp_path):
    options = row_options("cgc")
    make_run(tmp_path, "lightconv", options=row_options("lightconv"))
    make_run(tmp_path, "cgc", options=[word for word in options if word not in ("--lr", "5e-4")])
    assert differing(tmp_path) == ["`--lr`: 5e-4 (lightconv 1); left out (cgc 1)"]


def test_rows_that_differ_by_their_definition_alone_are_trained_alike(tmp_path):
    for row in ("lightconv", "dynamic", "cgc", "cgc-constant", "cgc-rdrop"):
        make_run(tmp_path, row, options=[*row_options(row), "--dropout", "0.1"], batch_tokens=800)
    make_run(tmp_path, "cgc", 2, options=[*row_options("cgc"), "--dropout=0.1"], batch_tokens=800)
    assert differing(tmp_path) == []


# Runs that do not belong together


@pytest.mark.parametrize("ended", [True, False])
def test_runs_on_different_data_are_refused_finished_or_not(tmp_path, ended):
    make_run(tmp_path, "lightconv")
    folder = make_run(tmp_path, data={**DATA, "sha256": {"dict.de.txt": "def"}})
    if not ended:
        (folder / "log.jsonl").unlink()
    with pytest.raises(UserError, match=r"cgc-1\) and .*lightconv-1\) do not .* trained on different data"):
        read_runs(tmp_path)


def test_a_record_that_lacks_a_sentence_is_refused(tmp_path):
    for row, count in (("lightconv", 3), ("cgc", 2)):
        record = {"test_set": "a", "sentences": [[1] * 10] * count}
        (make_run(tmp_path, row) / "test" / "statistics.json").write_text(json.dumps(record))
    with pytest.raises(
        UserError, match=r"cgc-1\) and .*lightconv-1\) are of one test set, and of 2 and 3 sentences: one is damaged"
    ):
        read_runs(tmp_path)


def test_runs_scored_on_different_test_sets_are_refused(tmp_path):
    make_run(tmp_path, "lightconv")
    folder = make_run(tmp_path)
    (folder / "test" / "test.tok.en").write_text("a\n" * 30)
    with pytest.raises(UserError, match=r"cgc-1\) and .*lightconv-1\) do not .* different test sets"):
        read_runs(tmp_path)


def test_two_runs_of_one_row_and_seed_are_refused(tmp_path):
    for name in ("one", "two"):
        make_run(tmp_path, name=name)
    with pytest.raises(UserError, match="one and .*two are both cgc with seed 1"):
        read_runs(tmp_path)


def test_two_sizes_of_one_row_are_refused(tmp_path):
    make_run(tmp_path, seed=1, parameters=100)
    make_run(tmp_path, seed=2, parameters=101)
    with pytest.raises(UserError, match=r"cgc-1\) and .*cgc-2\) do not .* both cgc, of 100 and 101 parameters"):
        read_runs(tmp_path)


def test_a_folder_that_is_missing_or_has_no_runs_is_named(tmp_path):
    with pytest.raises(UserError, match="missing does not exist"):
        read_runs(tmp_path / "missing")
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match="has no run folder"):
        read_runs(tmp_path)


def test_other_folders_among_the_runs_are_passed_over(tmp_path):
    make_run(tmp_path)
    (tmp_path / "notes").mkdir()
    assert [found.row for found in read_runs(tmp_path)] == ["cgc"]


# The table


def test_systems_come_in_the_paper_s_order(text):
    assert list(rows(text)) == [system.title for system in SYSTEMS.values()]
    assert list(rows(text))[:4] == [
        "Transformer",
        "LightConv",
        "LightConv + Dynamic encoder",
        "LightConv + CGC encoder",
    ]


def test_means_come_with_the_deviation_over_seeds_and_their_number(text):
    scores = (35.0, 35.6, 36.5)
    cell = rows(text)["LightConv + CGC encoder"]["tokenised BLEU-4"]
    assert cell == f"{mean(scores):.2f} ± {stdev(scores):.2f} (n = 3)"
    assert rows(text)["Transformer"]["tokenised BLEU-4"] == "33.00 (n = 1)"


def test_the_other_columns_are_means_too(text):
    row = rows(text)["LightConv + CGC encoder"]
    assert (row["sacreBLEU"], row["chrF"]) == ("34.70", "33.70")
    assert (row["parameters"], row["updates"], row["training tokens (M)"]) == ("38,148,144", "2,000", "5.0")


def test_the_difference_over_seeds_stands_before_each_seed_s_with_its_sign_and_p(text):
    sides, seeds = {row: [] for row in ("cgc", "lightconv")}, []
    for seed in (1, 2):
        for row, side in sides.items():
            references, hypotheses = translations(SHARE[row], seed)
            side.append(hypotheses)
        systems = {"lightconv": sides["lightconv"][-1], "cgc": sides["cgc"][-1]}
        found = compare(systems, [references], True, False)["tokenised BLEU-4"]["systems"]
        gap = found["cgc"]["score"] - found["lightconv"]["score"]
        seeds.append(f"{gap:+.2f} (seed {seed}, p = {found['cgc']['p']:.3f})")
    ours, theirs = ([token_statistics(h, references) for h in sides[row]] for row in ("cgc", "lightconv"))
    over = compare_statistics(ours, theirs, token_metric())
    assert over.difference > 0
    assert rows(text)["LightConv + CGC encoder"]["difference to LightConv"] == (
        f"{over.difference:+.2f} [{over.low:+.2f}, {over.high:+.2f}], p = {over.p:.3f}; {', '.join(seeds)}"
    )


def test_a_system_without_a_common_seed_has_no_difference(text):
    assert rows(text)["Transformer"]["difference to LightConv"] == "no common seed"
    assert rows(text)["LightConv"]["difference to LightConv"] == "–"


def test_with_one_seed_there_is_its_difference_and_none_over_seeds(tmp_path):
    make_run(tmp_path, "lightconv", score=35.0)
    make_run(tmp_path, "dynamic", score=34.5)
    cell = rows(markdown(read_runs(tmp_path), PAPER["corpus"]))["LightConv + Dynamic encoder"][
        "difference to LightConv"
    ]
    assert re.fullmatch(r"\+\d+\.\d\d \(seed 1, p = 0\.\d{3}\)", cell)


def test_a_system_without_a_run_is_there_as_missing(text):
    row = rows(text)["LightConv + Dynamic encoder"]
    assert row["tokenised BLEU-4"] == "no run" and row["paper's BLEU"] == "35.03"


def test_the_paper_s_figures_stand_beside_what_it_has_and_dashes_beside_the_rest(text):
    found = {title: (row["paper's BLEU"], row["paper's parameters"]) for title, row in rows(text).items()}
    assert found["Transformer"] == ("34.41", "39.47M") and found["LightConv"] == ("34.84", "38.14M")
    assert found["LightConv + CGC encoder"] == ("35.21", "38.15M")
    assert found["CGC, constant gate (control)"] == found["CGC + R-Drop"] == ("–", "–")


def test_over_another_corpus_the_paper_s_title_and_figures_are_left_out_whatever_its_name(tmp_path):
    pairs = {"train": 28332, "valid": 1014, "test": 1000}
    make_run(tmp_path, data={**DATA, "pairs": pairs, "path": "/data/multi30k"})
    for corpus in (None, PAPER["corpus"]):
        text = make_table(tmp_path, tmp_path / "out", corpus)
        assert text.startswith(f"# The systems of the paper's Table 6 on {corpus or 'multi30k'}\n")
        assert "35.21" not in text and "not the paper's corpus but one of 28,332 / 1,014 / 1,000 pairs" in text


def test_models_of_another_size_than_the_paper_s_stand_without_its_figures(tmp_path):
    make_run(tmp_path, parameters=1_625_592)
    text = markdown(read_runs(tmp_path), "x")
    assert "paper's BLEU" not in text and "Not as in the paper**: cgc has 1.63M parameters instead of 38.15M" in text


def test_what_is_not_as_in_the_paper_s_protocol_is_told(full, text):
    assert "**Not as in the paper**: updates: 2,000 instead of 50,000." in text and "35.21" in text


def test_evaluations_that_differ_are_told_with_their_runs(tmp_path):
    for seed, beam, names, options in ((1, 6, ["a", "b"], ["--lenpen", "0.6"]), (2, 5, ["a"], [])):
        path = make_run(tmp_path, seed=seed) / "test" / "scores.json"
        made = {"beam": beam, "checkpoints": names, "parameters": 1, "options": options}
        path.write_text(json.dumps({**read_json(path), "generation": made}))
    make_run(tmp_path, seed=3, updates=50000)
    assert differing(tmp_path) == [
        "`checkpoints averaged`: 2 (cgc 1); 1 (cgc 2)",
        "`beam`: 6 (cgc 1); 5 (cgc 2)",
        "`--lenpen`: 0.6 (cgc 1); not given (cgc 2, cgc 3)",
    ]


def test_models_of_other_stages_of_a_training_are_told_with_their_runs(tmp_path):
    for seed, names, last in ((1, ["checkpoint2.pt"], 2000), (2, ["checkpoint_best.pt"], 1400)):
        path = make_run(tmp_path, seed=seed) / "test" / "scores.json"
        change_json(
            path,
            lambda scores, made={"checkpoints": names, "last": last, "updates": 2000}: scores["generation"].update(
                made
            ),
        )
    make_run(tmp_path, seed=3)  # an earlier version's
    assert differing(tmp_path) == [
        "`last update averaged`: 2,000 (cgc 1); 1,400 (cgc 2)",
        "`chosen by`: epoch (cgc 1); best (cgc 2)",
    ]
    text = markdown(read_runs(tmp_path), "x")
    assert "checkpoints averaged: 1 instead of 10; chosen by: best instead of epoch." in text


def test_scores_of_another_test_set_than_the_data_s_have_no_part(tmp_path):
    data = {**PAPERS_DATA, "sha256": {"dict.de.txt": "abc", "test.de-en.de.bin": "1"}}
    for seed, of in ((1, "1"), (2, "2")):
        path = make_run(tmp_path, seed=seed, data=data) / "test" / "scores.json"
        change_json(path, lambda scores, of=of: scores["generation"].update(text={"test.de-en.de.bin": of}))
    one, other = read_runs(tmp_path)
    assert one.unfinished is None and "translated another test set" in other.unfinished


def test_updates_that_differ_are_shown_from_least_to_most(tmp_path):
    make_run(tmp_path, seed=1)
    make_run(tmp_path, seed=2, updates=1000, log=LOG[:3])
    assert rows(markdown(read_runs(tmp_path), PAPER["corpus"]))["LightConv + CGC encoder"]["updates"] == "1,000–2,000"


def test_under_the_table_stand_signatures_versions_seeds_and_data(text):
    assert "- tokenised BLEU-4, cgc 3: `BLEU4 = 36.50, beam 6`" in text
    assert "- sacreBLEU: `tok:13a|version:2`" in text and "- chrF: `nc:6|version:2`" in text
    assert "Versions: torch 2.13.0. Data (SHA-256): dict.de.txt abc." in text
    assert "LightConv 1, 2; LightConv + CGC encoder 1, 2, 3; CGC, constant gate (control) 1, 2." in text


def test_the_hashes_of_many_files_are_shortened(tmp_path):
    make_run(tmp_path, data={**DATA, "sha256": {"train.de": "0123456789abcdef", "dict": "f" * 64}})
    words = "Data (SHA-256): train.de 0123456789ab, dict ffffffffffff."
    assert words in markdown(read_runs(tmp_path), PAPER["corpus"])


def test_versions_that_not_all_runs_have_are_told_with_their_share(tmp_path):
    make_run(tmp_path, seed=1)
    make_run(tmp_path, seed=2, versions={"torch": "2.6.0"})
    assert "torch 2.13.0 (1 of 2 runs), torch 2.6.0 (1 of 2 runs)." in markdown(read_runs(tmp_path), PAPER["corpus"])


def test_the_claim_is_tied_to_the_control_and_measured_against_it(text):
    words = re.search(r"to the context only if CGC also beats the constant-gate control\. (.*)", text)[1]
    assert re.fullmatch(
        r"CGC against the control: \+15\.\d\d \[.*\], p = 0\.\d{3}; .* \(seed 1, .*\), .* \(seed 2, .*\)\.", words
    )


# The files and the command


@NEEDS_MATPLOTLIB
def test_the_command_writes_table_and_plots_and_prints_the_table(tmp_path):
    make_run(tmp_path / "runs", "lightconv")
    make_run(tmp_path / "runs", "cgc")
    done = command("table", tmp_path / "runs", "--out", tmp_path / "deep" / "out", "--corpus", "Mine")
    out = tmp_path / "deep" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["curves.png", "table.md", "table.png"]
    assert (out / "table.md").read_text() == done.stdout + "\n<!-- written by fairseq-cgc -->\n" and done.stderr == ""
    assert done.stdout.startswith("# Table 6 of the paper on Mine\n")
    for name in ("curves.png", "table.png"):
        assert (out / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@NEEDS_MATPLOTLIB
def test_by_default_the_runs_folder_is_written_to_and_can_be_read_again(tmp_path):
    make_run(tmp_path)
    first = make_table(tmp_path)
    assert {"curves.png", "table.md", "table.png"} < {path.name for path in tmp_path.iterdir()}
    assert make_table(tmp_path) == first


def test_without_matplotlib_the_table_is_made_and_a_line_tells_how_to_install_it(tmp_path, monkeypatch, capsys):
    make_run(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    make_table(tmp_path)
    words = capsys.readouterr().err
    assert words.count("\n") == 1 and "pip install" in words and ".[plots]" in words
    assert (tmp_path / "table.md").exists() and not list(tmp_path.glob("*.png"))


def test_a_broken_matplotlib_costs_the_plots_alone(tmp_path, monkeypatch, capsys):
    make_run(tmp_path)
    (tmp_path / "broken" / "matplotlib").mkdir(parents=True)
    (tmp_path / "broken" / "matplotlib" / "__init__.py").write_text("raise ImportError('libfoo.so is missing')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "broken")
    make_table(tmp_path)
    words = capsys.readouterr().err
    assert "matplotlib is installed and cannot be imported: libfoo.so is missing" in words
    assert (tmp_path / "table.md").exists() and not list(tmp_path.glob("*.png"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    make_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/out cannot be written to .* --out"):
        make_table(tmp_path, tmp_path / "file" / "out")


def test_nothing_is_written_when_the_runs_do_not_belong_together(tmp_path):
    make_run(tmp_path / "runs", name="one")
    make_run(tmp_path / "runs", name="two")
    with pytest.raises(UserError):
        make_table(tmp_path / "runs", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@NEEDS_MATPLOTLIB
def test_a_table_of_runs_that_have_not_come_far_is_made_too(tmp_path):
    folder = make_run(tmp_path, updates=50000, log=[inner(100)])
    assert "no run" in make_table(tmp_path) and (tmp_path / "table.png").exists()
    write_log(folder, [valid(100, 5.0)])
    make_table(tmp_path)


@NEEDS_MATPLOTLIB
def test_a_row_has_a_dot_a_seed_their_mean_and_the_paper_s_star(full):
    axes = plot_scores(read_runs(full), PAPER["corpus"]).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [
        "CGC, constant gate (control)", "LightConv + CGC encoder", "LightConv + Dynamic encoder", "LightConv", "Transformer"
    ]  # fmt: skip

    def marked(marker):
        lines = [line for line in axes.lines if line.get_marker() == marker]
        points = [point for line in lines for point in zip(line.get_ydata(), line.get_xdata())]
        return [(labels[place], value) for place, value in points]

    means = {
        "Transformer": 33,
        "LightConv": 34.2,
        "LightConv + CGC encoder": 35.7,
        "CGC, constant gate (control)": 34.9,
    }
    assert dict(marked("D")) == pytest.approx(means)
    assert [value for label, value in marked("o") if label == "LightConv + CGC encoder"] == [35.0, 35.6, 36.5]
    assert dict(marked("*")) == {system.title: system.paper_bleu for system in SYSTEMS.values() if system.paper_bleu}
    words = [text.get_text() for text in axes.texts]
    assert words == ["34.90 (n = 2)", "35.70 (n = 3)", "no scores", "34.20 (n = 2)", "33.00 (n = 1)"]


@NEEDS_MATPLOTLIB
def test_words_and_points_of_the_plot_keep_apart(tmp_path):
    """Two rows, the fewest: title, axis name and legend have their room, and figures stand beside the axes."""
    for row, score in (("lightconv", 34.84), ("cgc", 35.21)):
        make_run(tmp_path, row, 1, score, data=DATA)
    figure = plot_scores(read_runs(tmp_path), "corpus")
    figure.draw_without_rendering()
    (axes,), (legend,), whole = figure.axes, figure.legends, figure.bbox
    inside = axes.get_window_extent()
    assert inside.height > 50
    for words in (axes.title, axes.xaxis.label, *axes.get_yticklabels(), *axes.texts, legend):
        box = words.get_window_extent()
        assert whole.x0 <= box.x0 and box.x1 <= whole.x1 and whole.y0 <= box.y0 and box.y1 <= whole.y1
        assert not box.overlaps(inside)


@NEEDS_MATPLOTLIB
def test_the_paper_s_markers_are_left_out_over_another_corpus(tmp_path):
    make_run(tmp_path, data=DATA)
    axes = plot_scores(read_runs(tmp_path), PAPER["corpus"]).axes[0]
    assert not [line for line in axes.lines if line.get_marker() == "*"]


@NEEDS_MATPLOTLIB
def test_error_bars_are_the_deviation_over_seeds(full):
    axes = plot_scores(read_runs(full), PAPER["corpus"]).axes[0]
    widths = [segment[1][0] - segment[0][0] for lines in axes.collections for segment in lines.get_segments()]
    wanted = [2 * stdev(scores) for scores in ((34.8, 35.0), (35.0, 35.6, 36.5), (34.0, 34.4))]
    assert widths == pytest.approx(wanted)


@NEEDS_MATPLOTLIB
def test_there_is_a_curve_a_run_in_its_row_s_colour_unfinished_ones_too(full, tmp_path):
    make_run(tmp_path, "cgc", 1)
    make_run(tmp_path, "cgc", 2, updates=50000)
    make_run(tmp_path, "lightconv", 1)
    axes = plot_curves(read_runs(tmp_path), PAPER["corpus"]).axes[0]
    colours = [line.get_color() for line in axes.lines]
    assert colours == [SYSTEMS["lightconv"].colour, SYSTEMS["cgc"].colour, SYSTEMS["cgc"].colour]
    assert all(list(line.get_xdata()) == [1000, 2000] for line in axes.lines)


def test_the_corpus_is_named_as_the_paper_s_where_it_is_that(tmp_path):
    make_run(tmp_path)
    assert make_table(tmp_path, tmp_path / "out").startswith(f"# Table 6 of the paper on {PAPER['corpus']}\n")


def test_a_variant_s_run_beside_the_systems_is_left_to_its_own_table(tmp_path):
    make_run(tmp_path, "cgc", 1, 35.0)
    make_run(tmp_path, "cgc-max", 1, 36.0)
    text = make_table(tmp_path)
    assert list(rows(text)) == [system.title for system in SYSTEMS.values()] and "max" not in text
    change_json(tmp_path / "cgc-1" / "run.json", lambda record: record.update(row="cgc-pool-1"))
    with pytest.raises(UserError, match=r"only runs of variants; fairseq-cgc table --experiment"):
        make_table(tmp_path)


@pytest.mark.parametrize("name", ["table.md", "curves.png"])
def test_a_file_of_somebody_s_is_not_replaced_and_ours_is(tmp_path, name):
    make_run(tmp_path / "runs")
    out = tmp_path / "out"
    for _ in range(2):
        make_table(tmp_path / "runs", out)
    (out / name).write_text("my notes on fairseq-cgc")
    with pytest.raises(UserError, match=f"{name} is there and is not one of ours"):
        make_table(tmp_path / "runs", out)
    assert (out / name).read_text() == "my notes on fairseq-cgc"


@pytest.mark.parametrize("name", ["table", "experiment", "report", "inspect"])
def test_every_command_that_makes_files_of_given_names_looks_first(tmp_path, name):
    folder = make_run(tmp_path / "runs")
    out = tmp_path / "out"
    out.mkdir()
    (folder.parent / "table.md").write_text("mine")
    (out / "gates.md").write_text("mine")
    (folder / "report.html").write_text("mine")
    words = {
        "table": ["table", folder.parent],
        "experiment": ["experiment", "--table", "--runs", folder.parent],
        "report": ["report", folder],
        "inspect": ["inspect", folder, "--input", folder / "run.json", "--out", out],
    }[name]
    assert "is there and is not one of ours; move it away" in refused(*words)
