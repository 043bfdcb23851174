"""The ablations' command: runs, what is done again and what is not, and the table."""

import argparse
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Barrier, Event

import pytest
import torch
from conftest import DATA, ROOT, TINY_OPTIONS, command, refused, run, write_record
from fairseq import options as fairseq_options
from forks import Fork
from test_preparation import PAIRS, SETTINGS
from test_table import change_json, make_run, rows

from fairseq_cgc.errors import UserError
from fairseq_cgc.recipe import experiment, training
from fairseq_cgc.recipe.command_line import parse
from fairseq_cgc.recipe.experiment import LOSS, company, failures, make_table
from fairseq_cgc.recipe.files import is_locked, locked
from fairseq_cgc.recipe.preparation import prepare
from fairseq_cgc.recipe.rows import ROWS, row_options, small_options
from fairseq_cgc.recipe.run_folder import SHUFFLED_TEST
from fairseq_cgc.recipe.significance import detectable_difference
from fairseq_cgc.recipe.table import colour_of, difference_cell, differences, read_runs
from fairseq_cgc.recipe.training import LOCK

QUICK = ["--max-update", 24, "--batch-tokens", 400, "--average", 1, *TINY_OPTIONS, "--warmup-updates", 4, "--lr", 0.01]


def ablate(data, runs, *options, check=True):
    return command("experiment", "--data", data, "--runs", runs, *QUICK, *options, check=check)


@pytest.fixture(scope="module")
def ablated(prepared, tmp_path_factory):
    """A folder of runs, what the command printed, and what it printed when called again with another row."""
    runs = tmp_path_factory.mktemp("ablations")
    first = ablate(prepared, runs, "--rows", "cgc-constant,cgc-shuffled", "--seeds", 3, "--jobs", 2)
    changed = {path: path.stat().st_mtime_ns for path in runs.glob("*/test/*")}
    second = ablate(prepared, runs, "--rows", "cgc-constant,cgc,cgc-shuffled,cgc-slow", "--seeds", 3, "--jobs", 1)
    assert changed and all(path.stat().st_mtime_ns == time for path, time in changed.items()), "made again"
    return runs, first, second


def test_rows_are_trained_translated_and_tabled(ablated):
    runs, first, second = ablated
    assert {path.name for path in runs.iterdir() if path.is_dir()} == {
        f"{row}-seed3" for row in ("cgc", "cgc-constant", "cgc-slow")
    }
    for row in ("cgc", "cgc-constant"):
        scores = json.loads((runs / f"{row}-seed3" / "test" / "scores.json").read_text())["scores"]
        assert f"{row}, seed 3: BLEU-4 {scores['tokenised BLEU-4']['score']:.2f}\n" in first.stderr
    assert list(rows(first.stdout)) == ["`cgc`", "`cgc-constant`", "`cgc-shuffled`"]
    found = rows(second.stdout)
    assert list(found) == ["`cgc`", "`cgc-constant`", "`cgc-shuffled`", "`cgc-slow`"]
    assert (runs / "table.md").read_text() == second.stdout + "\n<!-- written by fairseq-cgc -->\n"
    assert found["`cgc`"]["parameters"] == found["`cgc-slow`"]["parameters"] != found["`cgc-constant`"]["parameters"]
    for row, cells in found.items():
        assert float(cells["validation loss"]) > 0 and float(cells["sentences a second"].replace(",", "")) > 0
        assert (cells["training tokens a second"] == "–") == (row == "`cgc-shuffled`")
        assert cells["tokenised BLEU-4"].endswith("(n = 1)")
    log = [json.loads(line) for line in (runs / "cgc-seed3" / "log.jsonl").read_text().splitlines()]
    valid = [event["valid_loss"] for event in log if event["event"] == "valid"]
    assert found["`cgc`"]["validation loss"] == f"{valid[-1]:.3f}"
    assert found["`cgc-shuffled`"]["validation loss"] != f"{valid[-1]:.3f}", "the contexts made no difference"


@pytest.mark.parametrize("sentences", [2, 3, 16, 64, 65, 129, 1000, 4033])
def test_no_sentence_of_the_shuffled_control_is_alone_in_its_batch(sentences):
    options = company(sentences)
    assert sentences % int(options[options.index("--batch-size") + 1]) != 1


def test_a_single_sentence_has_no_other_to_take_a_context_from():
    with pytest.raises(
        UserError, match="^a row with shuffled contexts gives a sentence another one's, and there is 1 sentence"
    ):
        company(1)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({}, False),
        ({"options": ["--lenpen", "0.6"]}, True),
        ({"beam": 4}, True),
        ({"checkpoints": ["other"]}, True),
        ({"text": {"test.de-en.de.bin": "0"}}, True),
        ({"options": None}, True),  # it does not tell them
        ({"text": None}, True),
    ],
)
def test_translations_of_another_beam_or_model_are_made_again(tmp_path, monkeypatch, change, again):
    folder, asked = make_run(tmp_path, name="cgc-seed1"), []
    made = {"beam": 6, "checkpoints": ["a.pt"], "options": [], "text": {}, "parameters": 1, **change}
    made = {name: value for name, value in made.items() if value is not None}
    change_json(folder / "test" / "scores.json", lambda scores: scores.update(generation=made))
    monkeypatch.setattr(experiment, "find_checkpoints", lambda *_: [Path("a.pt")])
    args = parse(["experiment", "--data", "data", "--runs", str(tmp_path), *map(str, QUICK)])
    experiment._run(args, "cgc", 1, folder, lambda command, log: asked.append(command[3:]))
    assert [command[0] for command in asked] == ["train", *["generate"] * again]
    assert all("--data=data" in command for command in asked), "which may have moved"


def test_the_shuffled_run_is_the_trained_model_with_other_contexts(ablated):
    runs, *_ = ablated
    one, other = (
        json.loads((runs / "cgc-seed3" / name / "scores.json").read_text()) for name in ("test", SHUFFLED_TEST)
    )
    assert one["generation"]["checkpoints"] == other["generation"]["checkpoints"]
    model = torch.load(runs / "cgc-seed3" / "model" / "model.pt", weights_only=True)
    assert model["cfg"]["model"].cgc_shuffle_context is False
    scores = []
    for name in ("test", SHUFFLED_TEST):
        lines = (runs / "cgc-seed3" / name / "generate.txt").read_text().splitlines()
        scores.append([line.split("\t")[:2] for line in lines if line.startswith("H-")])
    assert len(scores[0]) == len(scores[1]) > 0 and scores[0] != scores[1]


def test_a_run_trained_on_is_translated_anew(ablated, prepared, tmp_path):
    runs, *_ = ablated
    shutil.copytree(runs / "cgc-seed3", tmp_path / "cgc-seed3")
    done = ablate(prepared, tmp_path, "--rows", "cgc-shuffled", "--seeds", 3, "--max-update", 28)
    before, after = rows((runs / "table.md").read_text()), rows(done.stdout)
    for row in ("`cgc`", "`cgc-shuffled`"):
        assert after[row]["updates"] == "28" != before[row]["updates"]
        assert after[row]["validation loss"] != before[row]["validation loss"]


@pytest.mark.slow
def test_a_stopped_command_stops_its_runs(prepared, tmp_path):
    words = [
        sys.executable,
        "-m",
        "fairseq_cgc",
        "experiment",
        "--data",
        prepared,
        "--runs",
        tmp_path,
        "--rows",
        "cgc,cgc-max",
        "--seeds",
        1,
        *QUICK,
    ]
    words = [str(word) for word in [*words, "--jobs", 2, "--max-update", 100000]]
    process = Fork(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    logs = [tmp_path / f"{row}-seed1" / "log.jsonl" for row in ("cgc", "cgc-max")]
    deadline = time.monotonic() + 400
    try:
        while not all(log.exists() and log.stat().st_size for log in logs):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, [path.read_text() for path in tmp_path.glob("*.log")]
            time.sleep(0.2)
    finally:  # it would train for hours
        process.terminate()
    assert process.wait(60) == 130 and "interrupted" in process.stderr.read()
    assert failures(tmp_path, []) == {}, "an interrupt is no failure"
    sizes = [log.stat().st_size for log in logs]
    time.sleep(2)
    assert [log.stat().st_size for log in logs] == sizes
    assert not any(is_locked(tmp_path / f"{row}-seed1" / LOCK) for row in ("cgc", "cgc-max"))


@pytest.mark.slow
def test_a_run_that_fails_is_named_after_the_others_are_done(prepared, tmp_path):
    (tmp_path / "cgc-first-seed1").write_text("in the way")
    done = ablate(prepared, tmp_path, "--rows", "cgc-first,cgc-constant", "--seeds", 1, check=False)
    assert done.returncode == 1 and "1 run failed" in done.stderr and "- cgc-first, seed 1: " in done.stderr
    assert "Failed:\n\n- cgc-first, seed 1: " in (tmp_path / "table.md").read_text()
    assert "Failed:\n\n- cgc-first, seed 1: " in make_table(tmp_path), "of what is on disk"
    assert "cgc-first" not in (tmp_path / "table.md").read_text().partition("Left out")[2], "said once"
    assert (tmp_path / "cgc-constant-seed1" / "test" / "scores.json").exists()


def test_without_rows_an_experiment_has_those_of_the_paper_and_the_controls(prepared, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(experiment, "run_all", lambda args, rows, seeds: asked.append(rows))
    monkeypatch.setattr(experiment, "make_table", lambda *_, **__: "")
    for options in ([], ["--small"]):
        experiment.main(parse(["experiment", "--data", str(prepared), "--runs", str(tmp_path), *options]))
    rows = ["transformer", "lightconv", "dynamic", "cgc", "cgc-constant", "cgc-none", "cgc-learned", "cgc-shuffled"]
    assert asked == [rows, rows]


@pytest.mark.parametrize("row", ["transformer", "lightconv", "dynamic", "cgc"])
def test_every_row_has_a_small_size(prepared, row):
    """Of one shape: a Transformer has no kernels."""
    words = training.train_command(Path("run"), 1, [*row_options(row), *small_options(row)], prepared, 1)
    args = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), words[3:])
    sizes = args.encoder_embed_dim, args.encoder_layers, args.decoder_layers, args.lr, args.lr_scheduler
    assert sizes == (128, 4, 3, [0.005], "cosine")
    assert row == "transformer" or args.encoder_kernel_size_list == [3, 7, 15, 15]


def test_two_equal_seeds_are_one(prepared, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(experiment, "run_all", lambda args, rows, seeds: asked.append((rows, seeds)))
    monkeypatch.setattr(experiment, "make_table", lambda *_, **__: "")
    experiment.main(
        parse(["experiment", "--data", str(prepared), "--runs", str(tmp_path), "--seeds", "2,2", "--rows", "cgc,cgc"])
    )
    assert asked == [(["cgc"], [2])]


def test_the_folder_of_the_runs_may_begin_as_an_option_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "-x", name="cgc-seed1")
    monkeypatch.setattr(experiment, "find_checkpoints", lambda *_: [tmp_path / "checkpoint9.pt"])
    args, commands = argparse.Namespace(data=tmp_path, average=1, by="epoch"), []
    experiment._translate(args, Path("-x") / "cgc-seed1", "other", [], lambda command, log: commands.append(command))
    [command] = commands
    asked = parse(command[3:])
    assert (asked.folder, asked.out) == (tmp_path / "-x" / "cgc-seed1", tmp_path / "-x" / "cgc-seed1" / "other")


def test_progress_is_counted_in_updates_over_all_runs(tmp_path, monkeypatch):
    """From where the runs were; one that ends, be it by failing, has none to come."""
    args = argparse.Namespace(runs=tmp_path, jobs=1, max_update=100, fairseq=[])
    (tmp_path / "cgc-seed1").mkdir()
    (tmp_path / "cgc-seed1" / "log.jsonl").write_text('{"event": "train_inner", "num_updates": 40}\n')
    bars = []

    class Bar(experiment.tqdm):
        def __init__(self, **options):
            bars.append(self)
            super().__init__(**{**options, "disable": False, "file": io.StringIO()})

    def fail(*_):
        raise UserError("no room")

    monkeypatch.setattr(experiment, "tqdm", Bar)
    monkeypatch.setattr(experiment, "_run", fail)
    failed = experiment.run_all(args, ["cgc", "gct"], [1])
    assert failed == failures(tmp_path, []) == {"cgc, seed 1": "no room", "gct, seed 1": "no room"}
    assert (bars[0].initial, bars[0].n, bars[0].total) == (40, 200, 200)
    with open(tmp_path / "cgc-seed1.log", "a") as log:  # of another try
        log.write("    40/100 updates\n")
    assert failures(tmp_path, []) == {"gct, seed 1": "no room"}
    os.utime(tmp_path / "gct-seed1.log", (1, 1))  # older than what the run has done since
    (tmp_path / "gct-seed1").mkdir()
    (tmp_path / "gct-seed1" / "log.jsonl").touch()
    assert failures(tmp_path, []) == {}


def test_a_shuffled_part_that_lacks_a_sentence_is_named(tmp_path):
    folder = make_run(tmp_path, "cgc", 1)
    shutil.copytree(folder / "test", folder / SHUFFLED_TEST)
    (folder / SHUFFLED_TEST / LOSS).write_text('{"valid_loss": 4.0}')
    for name, count in (("test", 3), (SHUFFLED_TEST, 2)):
        record = {"test_set": "a", "sentences": [[1] * 10] * count}
        (folder / name / "statistics.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="cgc-shuffled, seed 1 .* of 3 and 2 sentences: one is damaged"):
        experiment.read_experiment(tmp_path)


@pytest.mark.parametrize(
    "visible, options, wanted",
    [
        (None, [], ["0", "1"]),
        ("5,GPU-a", [], ["5", "GPU-a"]),
        (None, ["--gpus", "2"], [None, None]),  # both of one run
    ],
)
def test_runs_at_the_same_time_have_a_gpu_each(tmp_path, monkeypatch, visible, options, wanted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    together, found = Barrier(2, timeout=20), []

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))  # of a larger machine's cores

    def note(args, row, seed, folder, execute):
        assert execute.keywords["environment"]["OMP_NUM_THREADS"] == "3"
        found.append(execute.keywords["environment"].get("CUDA_VISIBLE_DEVICES"))
        together.wait()
        raise UserError("enough")

    monkeypatch.setattr(experiment, "_run", note)
    args = argparse.Namespace(runs=tmp_path, jobs=2, max_update=100, fairseq=options)
    assert len(experiment.run_all(args, ["cgc", "gct"], [1, 2])) == 4
    for at_once in (found[:2], found[2:]):
        assert sorted(at_once, key=str) == sorted(wanted, key=str)


def test_a_run_that_another_experiment_has_is_left_to_it(tmp_path, monkeypatch):
    """And a log that cannot be written fails its run alone."""
    folder = make_run(tmp_path, "gct", 1)
    folder.rename(tmp_path / "gct-seed1")
    (tmp_path / "cgc-seed1.log").write_text("of the other\n")
    (tmp_path / "lightconv-seed1.log").mkdir()
    monkeypatch.setattr(experiment, "_run", lambda *_: None)
    args = argparse.Namespace(runs=tmp_path, jobs=1, max_update=100, fairseq=[])
    with locked(tmp_path / "cgc-seed1.log", "x"):
        failed = experiment.run_all(args, ["cgc", "lightconv", "gct"], [1])
    assert failed.keys() == {"cgc, seed 1", "lightconv, seed 1"}
    assert "cgc-seed1 is in use by another process" in failed["cgc, seed 1"]
    assert (tmp_path / "cgc-seed1.log").read_text() == "of the other\n"
    assert "lightconv-seed1.log: Is a directory; free space, fix" in failed["lightconv, seed 1"]
    assert failures(tmp_path, []) == {}


def test_of_a_finished_run_the_shuffled_part_alone_can_fail(tmp_path, monkeypatch):
    def fail(*_):
        raise UserError("no room\nat all")

    folder = make_run(tmp_path, "cgc", 1)
    folder.rename(tmp_path / "cgc-seed1")
    monkeypatch.setattr(experiment, "_run", lambda *_: None)
    monkeypatch.setattr(experiment, "_run_shuffled", fail)
    args = argparse.Namespace(runs=tmp_path, jobs=1, max_update=100, fairseq=[])
    (tmp_path / "cgc-seed1.log").write_text("half a line")
    assert list(experiment.run_all(args, ["cgc", "cgc-shuffled"], [1])) == ["cgc-shuffled, seed 1"]
    assert failures(tmp_path, read_runs(tmp_path)) == {"cgc-shuffled, seed 1": "no room; at all"}
    (tmp_path / "cgc-seed1.log").write_text("experiment: failed: cgc, seed 1: it holds another run\n")
    assert failures(tmp_path, read_runs(tmp_path)) == {}, "it is finished"


def test_a_failed_run_s_reason_is_its_whole_error(tmp_path):
    code = "import sys; sys.exit('error: no room here\\nmake some')"
    with pytest.raises(UserError, match=r"^no room here; make some \(exit status 1; .*\)$"):
        experiment._execute([sys.executable, "-c", code], tmp_path / "log", Event())


@pytest.mark.parametrize(
    "options, words",
    [
        (
            ["--rows", "cgc,nothing"],
            "--rows: there is no row 'nothing'; choose from transformer, lightconv, dynamic, cgc",
        ),
        (["--seeds", "1,x"], "--seeds is '1,x'"),
        (["--seeds", "1_0"], "--seeds is '1_0'"),
        (["--seeds", "1, -2"], "--seeds is -2; it must be from 0"),
        (["--rows", "cgc, nothing"], "--rows: there is no row 'nothing'"),
        (["--jobs", "0"], "--jobs is 0"),
        (["--rows="], "--rows: there is no row ''"),
        (["--average", "0"], "--average is 0"),
        (["--data", "nowhere"], "nowhere holds no finished preparation"),
        (["--table"], "runs does not exist"),
        (["--batch-tokens", "400", "--average", "1", "--foo-bar", "3"], "unrecognized arguments: --foo-bar 3"),
        (["--seed", "3"], "--seed is decided by the experiment; give --seeds"),
        (["--keep", "1"], "--keep is decided by the experiment; give --average"),
        (["--update-freq", "2"], "--update-freq is decided by this command: 1, and not 2; give --batch-tokens"),
        (["--by", "best", "--save-interval", "x", "--lr", "much"], "--lr is much; expected a number"),
        (["--no-epoch-checkpoints"], "--no-epoch-checkpoints leaves no epochs to average"),
        (
            ["--small", "--by", "update", "--save-interval-updates", "1000"],
            "--by update averages 5 checkpoints, and 3000 updates leave 3",
        ),
        (["--by", "update"], "--save-interval-updates is not given"),
        (
            ["--max-update", "10", "--batch-tokens", "400"],
            "--average is 10 epochs, and 10 updates of 400 tokens are at most ",
        ),
    ],
)
def test_a_wrong_option_ends_with_a_line(prepared, tmp_path, options, words):
    assert words in refused("experiment", "--data", prepared, "--runs", tmp_path / "runs", *options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "options, kept",
    [
        (["--by", "best", "--average", "3"], ["--keep-best-checkpoints", "3"]),
        (["--by", "best", "--average", "1", "--max-update", "1", "--no-epoch-checkpoints"], ["--no-epoch-checkpoints"]),
        (
            ["--by", "update", "--average", "2", "--save-interval-updates", "4", "--max-update", "8"],
            ["--keep-interval-updates", "2"],
        ),
    ],
)
def test_as_many_checkpoints_are_kept_as_are_averaged(prepared, tmp_path, monkeypatch, options, kept):
    asked = []
    monkeypatch.setattr(experiment, "run_all", lambda args, *_: asked.append(args.fairseq) or {"cgc, seed 1": "tried"})
    options = ["--data", prepared, "--runs", tmp_path / "runs", "--rows", "cgc", "--seeds", 1, *options]
    assert "1 run failed" in refused("experiment", *options, "--batch-tokens", 400)
    assert asked[0][-len(kept) :] == kept


def test_what_could_not_be_compared_or_translated_is_not_trained(prepared, tmp_path):
    for side, language in enumerate(("de", "en")):
        (tmp_path / f"raw.{language}").write_text("".join(pair[side] + "\n" for pair in PAIRS))
    make_run(tmp_path / "runs")  # of other data
    options = ["--runs", tmp_path / "runs", "--max-update", 9, "--batch-tokens", 400, "--average", 1]
    assert "cgc-1 was trained on other data than" in refused("experiment", "--data", prepared, *options)
    change_json(tmp_path / "runs" / "cgc-1" / "run.json", lambda record: record.update(done=0))
    with locked(tmp_path / "runs" / "cgc-1" / ".lock", "x"):  # in its first epoch
        assert "cgc-1 was trained on other data than" in refused("experiment", "--data", prepared, *options)
    options[1] = tmp_path / "new"
    prepare({"test": tmp_path / "raw"}, tmp_path / "test", workers=1, like=prepared)
    assert "has no train and no valid split, only test;" in refused("experiment", "--data", tmp_path / "test", *options)
    assert "has no train and no valid split" in refused(
        "train", "cgc", "--data", tmp_path / "test", "--runs", tmp_path / "r"
    )
    prepare({"train": tmp_path / "raw"}, tmp_path / "train", dataclasses.replace(SETTINGS, valid_every=2), workers=1)
    assert "has no test split to translate" in refused("experiment", "--data", tmp_path / "train", *options)


def test_the_table_compares_with_cgc_and_with_its_control(tmp_path):
    for row, score in (("cgc", 35.0), ("cgc-constant", 34.0), ("cgc-learned", 34.5)):
        for seed in (1, 2):
            folder = make_run(tmp_path, row, seed, score + seed)
            if row == "cgc":
                (folder / "test").rename(folder / SHUFFLED_TEST)
                change_json(
                    folder / SHUFFLED_TEST / "scores.json",
                    lambda content: content["scores"]["tokenised BLEU-4"].update(score=20.0),
                )
                make_run(tmp_path / "other", row, seed, score + seed)
                (tmp_path / "other" / folder.name / "test").rename(folder / "test")
                (folder / SHUFFLED_TEST / LOSS).write_text('{"valid_loss": 7.5}')
    text = make_table(tmp_path, tmp_path / "out")
    runs = read_runs(tmp_path)
    over = differences(runs, ["cgc-learned"], "cgc")["cgc-learned"].over_seeds
    least = detectable_difference(over.seed_noise, 2, over.sentence_error)
    assert f"{least:.2f} for `cgc-learned`" in text and "for `cgc-shuffled`" not in text, "no noise, nothing to say"
    found = rows(text)
    assert (
        found["`cgc`"]["difference to CGC"] == "–" and found["`cgc-constant`"]["difference to the constant gate"] == "–"
    )
    assert found["`cgc`"]["difference to the constant gate"].startswith("+15.92 [")
    assert found["`cgc-learned`"]["difference to CGC"].startswith("+27.43 [")
    assert found["`cgc-shuffled`"]["difference to CGC"].startswith("+0.00 [+0.00, +0.00], p = 1.000; ")
    assert found["`cgc-shuffled`"]["validation loss"] == "7.500" and found["`cgc`"]["validation loss"] == "4.000"
    assert (tmp_path / "out" / "table.png").stat().st_size > 10_000


def test_the_shuffled_loss_is_of_the_data_that_is_given(prepared, tmp_path):
    """Where the run found its own may have moved."""
    write_record(tmp_path, data={**DATA, "path": "/gone"})
    (tmp_path / SHUFFLED_TEST).mkdir()

    def validate(command, log):
        assert command[3] == str(prepared / "bin")
        log.write_text('x | INFO | valid | {"valid_loss": "4.5"}\n')

    experiment._validate_shuffled(prepared, tmp_path, validate)
    assert json.loads((tmp_path / SHUFFLED_TEST / "loss.json").read_text()) == {"valid_loss": 4.5}


def test_the_shuffled_evaluation_has_settings_of_its_own(tmp_path):
    folder = make_run(tmp_path, name="cgc-seed1")
    shutil.copytree(folder / "test", folder / SHUFFLED_TEST)
    change_json(folder / SHUFFLED_TEST / "scores.json", lambda scores: scores["generation"].update(beam=4))
    (folder / SHUFFLED_TEST / "loss.json").write_text('{"valid_loss": 4.0}')
    assert [run.settings["beam"] for run in experiment.read_experiment(tmp_path)] == ["6", "4"]


def test_a_design_is_held_against_its_own_shuffled_control_and_learned_gates(tmp_path):
    for row, score in (("cgc-summary", 35.0), ("cgc-learned", 34.5)):
        for seed in (1, 2):
            folder = make_run(tmp_path, row, seed, score + seed)
            if row == "cgc-summary":
                shutil.copytree(folder / "test", folder / SHUFFLED_TEST)
                (folder / SHUFFLED_TEST / LOSS).write_text('{"valid_loss": 7.5}')
    text = make_table(tmp_path, tmp_path / "out")
    assert {"`cgc-summary`", "`cgc-summary-shuffled`"} < rows(text).keys()
    assert "\n- `cgc-summary`, over `cgc-summary-shuffled`, which is the same models" in text and "+0.00 [+0.00" in text
    over = difference_cell(differences(read_runs(tmp_path), ["cgc-summary"], "cgc-learned")["cgc-summary"])
    assert f"\n- `cgc-summary`, over `cgc-learned`: {over}" in text
    assert "`cgc-shuffled`" not in text, "it is not in this table"
    assert len({row.title for row in ROWS.values()}) == len(ROWS), "titles name rows in plots"
    assert all(colour_of(row) for row in ROWS)


def test_the_table_names_settings_in_which_runs_differ(tmp_path, recwarn):
    for seed, tokens in ((1, 4000), (2, 800)):
        make_run(tmp_path, "cgc-max", seed, options=row_options("cgc-max"), batch_tokens=tokens)
    text = make_table(tmp_path, tmp_path / "out")
    assert not recwarn.list, "rows without any of the baselines leave the plot's legend empty"
    assert "**Not trained alike**" in text and "- `tokens an update`: 4,000 (cgc-max 1); 800 (cgc-max 2)" in text


def test_help_names_the_rows_and_the_defaults():
    done = run("bash", ROOT / "examples" / "ablations" / "run.sh", "--help")
    text = "".join(done.stdout.split())
    assert all(row in text for row in ROWS if ROWS[row].of) and "3000with--small" in text
