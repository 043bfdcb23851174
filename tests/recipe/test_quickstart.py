import json
import re
import shutil
import subprocess

import pytest
from conftest import ROOT, command, run
from standin import write_wheel

from fairseq_cgc.recipe.files import locked, sha256_of


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return write_wheel(tmp_path_factory.mktemp("wheel") / "standin.whl")


def quickstart(work, wheel, *options, updates=10, **keywords):
    words = ["--work", work, "--archive", wheel, "--sha256", sha256_of(wheel)]
    words += ["--valid-size", 20, "--test-size", 30, "--updates", updates, *options]
    return command("quickstart", *words, **keywords)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, wheel):
    work = tmp_path_factory.mktemp("a folder")
    return work, quickstart(work, wheel, start=subprocess.Popen)  # and so are the processes that it starts


def test_a_run_goes_from_the_wheel_to_scores_and_a_command_to_go_on_with(finished):
    work, done = finished
    words = done.stdout
    assert f"A page about the run, to open in a browser: {work / 'lightconv_cgc-seed1' / 'report.html'}\n" in words
    for stage in ("1/6 corpus", "2/6 prepare", "3/6 train", "4/6 average", "5/6 translate", "6/6 report"):
        assert f"[{stage}" in words
    assert "train 430, valid 20, test 30 pairs" in words
    assert "--arch lightconv_cgc" in words
    scores = json.loads((work / "lightconv_cgc-seed1" / "test" / "scores.json").read_text())["scores"]
    assert set(scores) == {"tokenised BLEU-4", "BLEU", "chrF"}
    for score in scores.values():
        assert f"{score['score']:.2f}" in words and score["signature"] in words
    assert words.count("  source ") == words.count("  translation ") == 5
    translations = work / "lightconv_cgc-seed1" / "test"
    assert all(len((translations / f"test.{n}").read_text().splitlines()) == 30 for n in ("de", "en", "hyp"))


def test_the_last_command_translates_a_sentence(finished):
    last = finished[1].stdout.strip().splitlines()[-1]
    python, arguments, sentence = re.fullmatch(r"\s*(\S+) (.*) (\".*\")", last).groups()
    done = run("bash", "-c", f"{python} {arguments} {sentence}", cwd=ROOT)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""


def test_a_second_run_skips_what_is_done_and_says_the_same(finished, wheel):
    work, first = finished
    before = {file: file.stat().st_mtime_ns for file in work.rglob("*.pt")}
    second = quickstart(work, wheel)
    assert second.stdout.count("already done") == 3
    assert second.stdout.split("signature")[1] == first.stdout.split("signature")[1]
    assert before == {file: file.stat().st_mtime_ns for file in work.rglob("*.pt")}


def test_more_updates_train_on_and_the_baseline_uses_the_same_data(finished, wheel, tmp_path):
    work = shutil.copytree(finished[0], tmp_path / "work")
    before = (work / "data" / "bin" / "train.de-en.de.bin").stat().st_mtime_ns
    done = quickstart(work, wheel, updates=12)
    assert re.search("12 updates.*, seed 1", done.stdout)
    log = (work / "lightconv_cgc-seed1" / "train.log").read_text()
    assert "Loaded checkpoint" in log
    done = quickstart(work, wheel, "--arch", "lightconv_iwslt_de_en", "--seed", 2)
    assert (work / "lightconv_iwslt_de_en-seed2" / "model" / "model.pt").exists()
    assert re.search("lightconv_iwslt_de_en, 10 updates.*, seed 2", done.stdout)
    assert (work / "data" / "bin" / "train.de-en.de.bin").stat().st_mtime_ns == before
    less = quickstart(work, wheel, updates=4, check=False)
    assert less.returncode == 1 and "was trained for 12 updates and 4 are requested" in less.stderr


@pytest.mark.parametrize(("seed", "new"), [(1, False), (7, False), (1, True)])
def test_fresh_starts_over_and_with_another_seed_or_in_a_new_folder_too(finished, wheel, tmp_path, seed, new):
    """There, it locks folders that are not there yet."""
    work = tmp_path / "work" if new else shutil.copytree(finished[0], tmp_path / "work")
    done = quickstart(work, wheel, "--fresh", "--seed", seed, updates=2)
    assert f"2 updates, seed {seed}" in done.stdout and "already done" not in done.stdout
    assert (work / "data" / "bin").is_dir()


@pytest.mark.parametrize("lock, shared", [(".lock", True), ("data/.lock", False), ("lightconv_cgc-seed1/.lock", False)])
def test_fresh_leaves_what_another_quickstart_works_on_alone(finished, wheel, lock, shared):
    work = finished[0]
    before = {file: file.stat().st_mtime_ns for file in work.rglob("*.*") if file.is_file() and "raw" not in file.parts}
    with locked(work / lock, "x", shared=shared):
        done = quickstart(work, wheel, "--fresh", check=False)
    assert done.returncode == 1 and "is in use by another process" in done.stderr
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_fresh_removes_nothing_before_the_new_archive_has_been_checked(finished, wheel):
    work = finished[0]
    before = {file: file.stat().st_mtime_ns for file in work.rglob("*") if file.is_file()}
    done = quickstart(work, wheel, "--fresh", "--sha256", "0" * 64, check=False)
    assert done.returncode == 1 and "has the SHA-256" in done.stderr
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_a_stopped_training_is_taken_up_again(finished, wheel, tmp_path):
    """As after a kill between two epochs: the checkpoint is there, the record of the end is not."""
    work = shutil.copytree(finished[0], tmp_path / "work")
    run_folder = work / "lightconv_cgc-seed1"
    record = run_folder / "run.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "done": 0}))
    (run_folder / "train.log").unlink()
    quickstart(work, wheel, updates=12)
    log = (run_folder / "train.log").read_text()
    assert "Loaded checkpoint" in log and "@ 10 updates" in log


@pytest.mark.parametrize(
    "options, words",
    [
        (["--archive", "{tmp}/missing.whl"], "missing.whl does not exist"),
        (["--sha256", "0" * 64], "has the SHA-256"),
        (["--work", "{tmp}/file/work"], "cannot be written to"),
        (["--updates", "0"], "--updates is 0; it must be at least 1"),
        (["--test-size", "400"], "too few to hold 20 out for validation and 400 for test"),
    ],
)
def test_bad_input_ends_with_a_line_or_two_and_status_1(wheel, tmp_path, options, words):
    (tmp_path / "file").write_text("")
    done = quickstart(tmp_path / "work", wheel, *(o.format(tmp=tmp_path) for o in options), check=False)
    assert done.returncode == 1
    assert words in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") <= 2
    assert not (tmp_path / "work" / "raw").exists()


def test_other_holdout_sizes_than_before_are_refused(finished, wheel):
    done = quickstart(finished[0], wheel, "--valid-size", 10, check=False)
    assert done.returncode == 1 and "--fresh" in done.stderr


def test_help_needs_no_environment():
    done = run("bash", ROOT / "scripts" / "quickstart.sh", "--help")
    for option in ("--arch", "--archive", "--fresh", "--python", "--seed", "--updates", "--work"):
        assert option in done.stdout
