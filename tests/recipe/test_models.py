"""Which model a path means, and how ``translate`` and ``generate`` say so."""

import io
import json
from types import SimpleNamespace

import pytest
from conftest import DATA, refused, write_record

from fairseq_cgc.errors import CheckpointError, OptionError, UserError
from fairseq_cgc.recipe import models, translate
from fairseq_cgc.recipe.command_line import parse
from fairseq_cgc.recipe.files import sha256_of
from fairseq_cgc.recipe.models import checkpoints_to_average, data_of, load_hub, locate


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    return path


@pytest.fixture
def run_folder(tmp_path):
    """A run with three epochs' checkpoints, the best and the last, and its data."""
    folder = tmp_path / "cgc-seed1"
    for name in ("checkpoint1.pt", "checkpoint2.pt", "checkpoint3.pt", "checkpoint_best.pt", "checkpoint_last.pt"):
        touch(folder / "checkpoints" / name)
    touch(tmp_path / "data" / "bin" / "dict.de.txt")
    write_record(folder, data={**DATA, "path": str(tmp_path / "data")})
    return folder


@pytest.fixture
def loaded(monkeypatch):
    """The arguments with which models were loaded."""
    calls = []
    monkeypatch.setattr(models.LightConvCGCModel, "from_pretrained", lambda *args: calls.append(args))
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: False)
    return calls


def test_a_run_its_checkpoints_and_one_of_them_are_of_one_run(run_folder):
    checkpoints = run_folder / "checkpoints"
    assert locate(run_folder) == (run_folder, None, checkpoints, None)
    assert locate(checkpoints) == (run_folder, None, checkpoints, None)
    one = checkpoints / "checkpoint2.pt"
    assert locate(one) == (run_folder, None, checkpoints, one)
    assert data_of(locate(one)).name == "data"


def test_dictionaries_that_are_not_the_run_s_are_refused_and_a_folder_without_a_record_is_told(
    run_folder, loaded, capsys
):
    """Ones of the same size would translate, into other words."""
    other = touch(run_folder.parent / "other" / "dict.de.txt").parent
    record = json.loads((run_folder / "run.json").read_text())
    record["data"]["sha256"] = {"dict.de.txt": sha256_of(other / "dict.de.txt"), "train.de-en.de.bin": "gone"}
    (run_folder / "run.json").write_text(json.dumps(record))
    load_hub(run_folder, other)
    assert "other has no prepare.json: sentences are taken as tokens and subwords already" in capsys.readouterr().err
    (other / "dict.de.txt").write_text("x 1")
    with pytest.raises(CheckpointError, match="other and the data that .* was trained on differ in dict.de.txt"):
        load_hub(run_folder, other)
    assert len(loaded) == 1


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"row": "cgc", "seed": 1, "data": "x"}'])
def test_a_damaged_record_of_the_run_is_named(run_folder, content):
    (run_folder / "run.json").write_text(content)
    with pytest.raises(UserError, match="run.json"):
        data_of(locate(run_folder))


def test_a_model_folder_and_its_file_need_no_run(tmp_path, run_folder):
    file = touch(tmp_path / "copied" / "model.pt")
    assert locate(file.parent) == locate(file) == (file.parent, file.parent, None, None)
    assert data_of(locate(file)) is None
    file = touch(run_folder / "model" / "model.pt")
    assert locate(file.parent) == (run_folder, file.parent, None, None)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no model and no checkpoints; give a run folder or a model folder"):
        locate(tmp_path)
    with pytest.raises(
        CheckpointError, match="nothing does not exist; give a run folder, a model folder or a checkpoint"
    ):
        locate(tmp_path / "nothing")


def test_a_run_s_averaged_model_is_taken_and_else_its_best_checkpoint_aloud(run_folder, loaded, capsys):
    data = str(run_folder.parent / "data" / "bin")
    load_hub(run_folder)
    assert loaded == [(str(run_folder / "checkpoints"), "checkpoint_best.pt", data)]
    assert "no averaged model" in capsys.readouterr().err
    touch(run_folder / "model" / "model.pt")
    touch(run_folder / "model" / "dict.de.txt")
    touch(run_folder / "model" / "prepare.json")
    load_hub(run_folder)
    assert loaded[1] == (str(run_folder / "model"), "model.pt", str(run_folder / "model"))
    assert capsys.readouterr().err == ""


def test_a_checkpoint_elsewhere_wants_the_prepared_folder(run_folder, tmp_path, loaded):
    file = touch(tmp_path / "elsewhere" / "best.pt")
    with pytest.raises(CheckpointError, match=r"elsewhere has no dictionaries \(dict.\*.txt\); .* with --data"):
        load_hub(file)
    load_hub(file, tmp_path / "data")
    assert loaded == [(str(file.parent), "best.pt", str(tmp_path / "data" / "bin"))]


def test_a_model_in_a_folder_that_fairseq_would_take_for_two_is_refused(tmp_path):
    folder = tmp_path / "a:b"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"")
    with pytest.raises(UserError, match="the model .* has a ':', which separates paths in fairseq"):
        load_hub(folder)


def test_dictionaries_in_such_a_folder_are_refused_too(run_folder, tmp_path, loaded):
    file, data = touch(tmp_path / "elsewhere" / "best.pt"), touch(tmp_path / "a:b" / "dict.de.txt").parent
    with pytest.raises(UserError, match="the prepared folder .* has a ':'"):
        load_hub(file, data)
    assert not loaded


def test_a_short_run_is_averaged_from_what_it_has_aloud(run_folder, capsys):
    checkpoints = run_folder / "checkpoints"
    assert len(checkpoints_to_average(checkpoints, "epoch", None)) == 3
    assert "fewer than 10 epoch checkpoints; averaging the 3 there" in capsys.readouterr().out
    assert [path.name for path in checkpoints_to_average(checkpoints, "update", None)] == ["checkpoint_last.pt"]
    assert "fewer than 10 update checkpoints; using checkpoint_last.pt" in capsys.readouterr().out
    assert [path.name for path in checkpoints_to_average(checkpoints, "epoch", 2)] == [
        "checkpoint2.pt",
        "checkpoint3.pt",
    ]


def test_folders_may_be_paths(run_folder, monkeypatch):
    calls = []

    def from_pretrained(cls, *args, **kwargs):
        calls.append(args)
        raise CheckpointError("not loaded")

    monkeypatch.setattr("fairseq.models.BaseFairseqModel.from_pretrained", classmethod(from_pretrained))
    checkpoints, data = run_folder / "checkpoints", run_folder.parent / "data"
    with pytest.raises(CheckpointError, match="not loaded"):
        models.LightConvCGCModel.from_pretrained(checkpoints, "checkpoint1.pt", data_name_or_path=data)
    assert calls == [(str(checkpoints), "checkpoint1.pt", str(data))]


def test_too_few_checkpoints_for_average_are_named_with_what_is_there(run_folder):
    with pytest.raises(CheckpointError) as error:
        checkpoints_to_average(run_folder / "checkpoints", "epoch", 5)
    assert "has 3 epoch checkpoints and 5 are needed: give --average 3, or train longer" in str(error.value)
    with pytest.raises(CheckpointError) as error:
        checkpoints_to_average(run_folder / "checkpoints", "update", 2)
    assert "has 0 update checkpoints and 2 are needed (and 3 by epoch): choose another kind" in str(error.value)
    with pytest.raises(CheckpointError, match="has 0 epoch checkpoints up to 0 and 10 are needed"):
        checkpoints_to_average(run_folder / "checkpoints", "epoch", None, upper_bound=0)


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.fixture
def translating(monkeypatch):
    """``translate`` in upper case, without a model, beside a library that prints."""
    hub = SimpleNamespace(sample=lambda lines, beam: [line.upper() for line in lines])
    monkeypatch.setattr(translate, "load_hub", lambda *_: print("No module named 'lightconv_cuda'") or hub)
    return lambda *words: translate.main(parse(["translate", "model", *map(str, words)]))


def test_a_file_in_place_of_a_sentence_is_offered_as_input(translating, tmp_path, capsys):
    file = tmp_path / "text.de"
    file.write_text("eins\nzwei\n")
    with pytest.raises(OptionError, match=f"{file} is a file, .* --input {file}"):
        translating(file)
    translating("--input", file)
    assert capsys.readouterr().out == "EINS\nZWEI\n"


@pytest.mark.parametrize("typed, shown", [(False, False), (False, True), (True, False)])
def test_no_bar_stands_among_translations_or_typed_sentences(translating, tmp_path, monkeypatch, capsys, typed, shown):
    """But in a file's translation to another file, on a terminal that shows nothing else."""
    bars = []

    class Bar(translate.tqdm):
        def __init__(self, **options):
            bars.append(options)
            super().__init__(**options)

    monkeypatch.setattr(translate, "tqdm", Bar)
    monkeypatch.setattr("sys.stdin", (Terminal if typed else io.TextIOWrapper)(io.BytesIO(b"eins\n")))
    monkeypatch.setattr("sys.stdout", (Terminal if shown else io.TextIOWrapper)(io.BytesIO()))
    translating()
    assert [bar["disable"] for bar in bars] == [True if typed or shown else None]


def test_a_terminal_is_told_what_is_waited_for(translating, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal(io.BytesIO(b"eins\n")))
    translating()
    out, err = capsys.readouterr()
    assert out == "EINS\n" and err.index("loading model") < err.index("enter one sentence per line; Ctrl-D ends")


@pytest.mark.parametrize("name", ["checkpoint1.pt", "model/model.pt"])
@pytest.mark.parametrize("option", ["--average", "--checkpoint-upper-bound"])
def test_generate_refuses_to_choose_among_one_model(tmp_path, name, option):
    (tmp_path / "model").mkdir()
    (tmp_path / name).write_bytes(b"")
    words = f"{option} chooses among a run's checkpoints, and {tmp_path / name} is one model"
    assert words in refused("generate", tmp_path / name, option, 5)
