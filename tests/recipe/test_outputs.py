"""What a user names is the user's: outputs that are somebody's are refused before any work."""

import errno
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import sacrebleu
from conftest import refused, write_record
from test_preparation import SETTINGS, raw  # noqa: F401 (a fixture)

from fairseq_cgc.errors import CorpusError, UserError
from fairseq_cgc.recipe import command_line, evaluation, interface_strings, iwslt14, training
from fairseq_cgc.recipe.files import MARK, locked, mark_folder, read_json, usable_path
from fairseq_cgc.recipe.preparation import prepare


@pytest.fixture
def run_folder(prepared, tmp_path):
    """A run of which nothing has been made; its checkpoint is none, so that work on it would fail."""
    run = tmp_path / "runs" / "cgc-seed1"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "checkpoint1.pt").write_text("checkpoint")
    write_record(run, data=training.data_record(prepared))
    return run


def generate(folder, out=None, split="test", average=1):
    options = {"data": None, "average": average, "by": "epoch", "beam": 2, "max_tokens": 100, "fairseq": []}
    evaluation.main(Namespace(folder=folder, out=out, split=split, checkpoint_upper_bound=None, **options))


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", [".", "..", "checkpoints", "../../results", "test"])
def test_generate_leaves_a_folder_that_is_not_its_own_alone(run_folder, tmp_path, place):
    for name in ("results", "runs/cgc-seed1/test"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "test.hyp").write_text("mine")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="not part of our translations; nothing was changed"):
        generate(run_folder, run_folder / place)
    assert files_of(tmp_path) == before


def test_generate_leaves_a_model_folder_that_is_not_its_own_alone(run_folder, tmp_path):
    (run_folder / "model").mkdir()
    (run_folder / "model" / "notes.txt").write_text("mine")
    before = files_of(tmp_path)
    with pytest.raises(UserError, match="holds notes.txt, which is not part of our model"):
        generate(run_folder)
    assert files_of(tmp_path) == before


@pytest.fixture
def translated(run_folder, monkeypatch):
    """A run with the model of its translations; every further model says where it was made. And how translating goes: a list."""
    goes = [{"scores": {}, "generation": {"sentences": 1, "sentences_per_second": None}}]

    def average(paths, data, folder):
        folder.mkdir()
        (folder / "model.pt").write_text(str(folder))
        mark_folder(folder, "model")

    def translate(*_):
        if isinstance(goes[0], BaseException):
            raise goes[0]
        return goes[0]

    monkeypatch.setattr(evaluation, "average_into_model", average)
    monkeypatch.setattr(evaluation, "translate_and_score", translate)
    average([], None, run_folder / "model")
    (run_folder / ".lock").touch()
    return run_folder, goes


def test_translations_elsewhere_leave_a_run_its_model(translated, tmp_path):
    run_folder, _ = translated
    before = files_of(run_folder)
    for folder, option in ((run_folder, 1), (run_folder / "checkpoints" / "checkpoint1.pt", None)):
        generate(folder, tmp_path / "out", average=option)
    assert files_of(run_folder) == before
    (tmp_path / "link").symlink_to(run_folder)
    generate(run_folder, tmp_path / "link" / "another")
    changed = {name for name, content in files_of(run_folder).items() if before.get(name) != content}
    assert changed == {run_folder / "model" / "model.pt"}


def test_a_run_that_can_only_be_read_is_translated_elsewhere(translated, tmp_path, monkeypatch):
    run_folder, _ = translated
    real_open = os.open

    def refuse(path, flags, *mode):
        if flags & os.O_RDWR and Path(path).is_relative_to(run_folder):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    generate(run_folder, tmp_path / "out")
    with pytest.raises(UserError, match=r"cgc-seed1 cannot be written to \(Read-only file system\)"):
        generate(run_folder)


def test_a_model_that_lies_elsewhere_is_replaced_where_it_lies(translated, tmp_path):
    """Which may be another disk, onto which no folder can be renamed."""
    run_folder, _ = translated
    elsewhere = tmp_path / "elsewhere" / "model"
    elsewhere.parent.mkdir()
    (run_folder / "model").rename(elsewhere)
    (run_folder / "model").symlink_to(elsewhere)
    generate(run_folder)
    made_in = Path((elsewhere / "model.pt").read_text())
    assert (run_folder / "model").is_symlink() and made_in.parent.parent == elsewhere.parent


@pytest.mark.parametrize(
    "end", [UserError("fairseq-generate failed"), KeyboardInterrupt()], ids=["fails", "is stopped"]
)
def test_a_translation_that_fails_leaves_a_run_the_model_of_those_that_it_has(translated, end):
    run_folder, goes = translated
    before, goes[0] = files_of(run_folder), end
    with pytest.raises(type(end)):
        generate(run_folder)
    assert files_of(run_folder) == before


def test_generate_waits_for_nobody_who_writes_the_run(run_folder, tmp_path):
    (run_folder / "model").mkdir()
    (run_folder / "model" / "model.pt").write_text("")
    mark_folder(run_folder / "model", "model")
    checkpoint = run_folder / "checkpoints" / "checkpoint1.pt"
    for folder, out in ((run_folder, None), (run_folder, tmp_path / "out"), (checkpoint, run_folder / "other")):
        with locked(run_folder / ".lock", "x"), pytest.raises(UserError, match="is in use by another process"):
            generate(folder, out, average=None)
    with locked(run_folder / ".lock", "x"), pytest.raises(UserError, match="is in use by another process"):
        generate(run_folder / "model", run_folder / "test", average=None)
    assert not any((run_folder / name).exists() for name in ("test", "other")) and not (tmp_path / "out").exists()


def test_what_generate_only_reads_may_be_another_s(run_folder, tmp_path):
    """It comes as far as the checkpoint, which is none, and leaves nothing in a run, be that in training."""
    checkpoint = run_folder / "checkpoints" / "checkpoint1.pt"
    before = files_of(run_folder)
    with pytest.raises(UserError, match="the checkpoint .*checkpoint1.pt was refused"):
        generate(checkpoint, tmp_path / "out", average=None)
    assert files_of(run_folder) == before
    with (
        locked(run_folder / ".lock", "x"),
        pytest.raises(UserError, match="the checkpoint .*checkpoint1.pt was refused"),
    ):
        generate(checkpoint, tmp_path / "out", average=None)


def test_nothing_is_trained_or_averaged_whose_translations_cannot_be_scored(
    run_folder, prepared, tmp_path, monkeypatch, capfd
):
    def missing(_, tokenize):
        raise RuntimeError("no MeCab")

    monkeypatch.setattr(sacrebleu.BLEU, "__init__", missing)
    before = files_of(run_folder)
    with pytest.raises(UserError, match=r"is not available \(no MeCab\)"):
        generate(run_folder)
    assert "is not available (no MeCab)" in refused(
        "experiment", "--data", prepared, "--runs", run_folder.parent, "--average", 1
    )
    assert files_of(run_folder.parent) == before
    words = "prepare", "--vocabulary-of", prepared, "--test", prepared / "raw" / "test", "--out", tmp_path / "new"
    command_line.main([*map(str, words)])
    assert "WARNING: sacreBLEU's tokeniser 13a is not available (no MeCab)" in capfd.readouterr().out


def test_a_split_that_is_not_there_costs_no_model(run_folder):
    before = files_of(run_folder)
    with pytest.raises(UserError, match="has no split 'dev'; it has train, valid, test"):
        generate(run_folder, split="dev")
    assert files_of(run_folder) == before


def test_an_average_does_not_replace_what_it_is_made_of(run_folder):
    checkpoint = run_folder / "checkpoints" / "checkpoint1.pt"
    for output, words in ((checkpoint, "is an input, and would be replaced"), (run_folder, "is a folder")):
        assert words in refused("average", "--inputs", checkpoint, "--output", output)
    assert checkpoint.read_text() == "checkpoint"


def test_a_link_to_itself_is_no_output(run_folder, tmp_path):
    (tmp_path / "self").symlink_to("self")
    with pytest.raises(UserError, match="self is no folder"):
        generate(run_folder, tmp_path / "self")


def test_the_quickstart_downloads_nothing_for_a_folder_that_it_may_not_write(tmp_path, monkeypatch):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "notes").write_text("mine")
    monkeypatch.setattr(interface_strings, "download_wheel", lambda *_: pytest.fail("it downloaded"))
    assert "holds notes, which is not part of our corpus" in refused("quickstart", "--work", tmp_path)


def test_training_on_removes_what_was_made_of_fewer_updates_and_nothing_of_the_user_s(run_folder, tmp_path, capsys):
    for name, updates in (
        ("model", 1),
        ("test", 1),
        ("test-shuffled", 1),
        ("valid", 2),
        ("test-kept", 1),
        ("beam1", 1),
    ):
        (run_folder / name).mkdir()
        (run_folder / name / "part").write_text("")
        mark_folder(run_folder / name, "model" if name == "model" else "translations", updates=updates)
    for name in ("testimonials", "test-mine"):
        (run_folder / name).mkdir()
        (run_folder / name / "letter").write_text("mine")
    another = shutil.copytree(run_folder / "model", tmp_path / "another" / "model")
    (run_folder / "teacher").symlink_to(another)
    (run_folder / "train").symlink_to(run_folder / "beam1")
    training._discard_results(run_folder, 2, ["train", "valid", "test"])
    left = {path.name for path in run_folder.iterdir() if path.is_dir()}
    users = {"testimonials", "test-mine", "test-kept", "beam1", "teacher", "train"}
    assert left == {"checkpoints", "valid", *users} and (another / "part").is_file()
    told = capsys.readouterr().out
    assert told.count("removing") == 3 and f"{run_folder}/train is a link" in told


def test_a_run_whose_last_checkpoint_has_the_updates_that_are_asked_for_is_done(run_folder, prepared, monkeypatch):
    """Killed after the last checkpoint, before the record said so."""
    record = read_json(run_folder / "run.json")
    (run_folder / "run.json").write_text(json.dumps({**record, "done": 0}))
    monkeypatch.setattr(training, "mend_last_checkpoint", lambda _: 2)
    monkeypatch.setattr(training, "follow_training", lambda *_: pytest.fail("it trained"))
    training.train(run_folder, "cgc", 1, [], prepared, 2)
    assert read_json(run_folder / "run.json")["done"] == 2


def test_a_preparation_s_file_that_was_replaced_is_refused_before_training(run_folder, prepared, tmp_path):
    data = shutil.copytree(prepared, tmp_path / "data")
    for name in ("train.de-en.de.bin", "train.de-en.de.idx"):
        file = data / "bin" / name
        before = file.read_bytes()
        file.write_bytes(b"\1" + before[1:])
        with pytest.raises(CorpusError, match=f"{name} is damaged or was replaced: its SHA-256 is"):
            training.train(tmp_path / "run", "cgc", 1, [], data, 2)
        file.write_bytes(before)


@pytest.mark.parametrize("name", ["tok", "bin", "bpe.codes"])
def test_prepare_uses_and_replaces_nothing_that_it_did_not_make(raw, tmp_path, name):  # noqa: F811
    (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / name / "mine").write_text("mine")
    with pytest.raises(UserError, match=f"holds {name} but no prepare.json: fairseq-cgc did not make that"):
        prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [name]


def test_prepare_iwslt14_leaves_an_archive_in_orig_alone(tmp_path):
    archive = tmp_path / "orig" / "de-en.tgz"
    archive.parent.mkdir()
    archive.write_bytes(b"archive")
    with pytest.raises(UserError, match="holds de-en.tgz, which is not part of our corpus"):
        iwslt14._sentences(archive, None, tmp_path / "orig", ("de", "en"))
    assert archive.read_bytes() == b"archive"


def test_the_quickstart_s_corpus_leaves_a_folder_raw_alone(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.de").write_text("mine")
    with pytest.raises(UserError, match="holds train.de, which is not part of our corpus"):
        with interface_strings.atomic_folder(tmp_path / "raw", "corpus"):
            raise AssertionError("work")
    assert MARK not in {path.name for path in (tmp_path / "raw").iterdir()}


@pytest.mark.parametrize(
    "name, words",
    [
        ("a:b", "has a ':'"),
        ("a${b}", r"has a '\$\{', which begins a variable in fairseq"),
        ("a\\'b", "which ends a text"),
        ("a\udcff", "is not valid UTF-8"),
        ("a\udcc3\udcbc", "aü is not in this locale's encoding .* LC_ALL=C.UTF-8"),
    ],
)
def test_a_path_that_fairseq_would_not_understand_is_refused_before_any_work(tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        usable_path(tmp_path / name, "--runs")


@pytest.mark.parametrize("name", ["a,b", "-a", "a b", "ä"])
def test_other_paths_are_made_absolute(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert usable_path(name, "--runs") == tmp_path / name
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    assert usable_path(f"link/../{name}", "--runs") == tmp_path / "far" / name, "as the system has it"
