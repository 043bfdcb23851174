import dataclasses
import json

import pytest
from conftest import run
from fairseq.data import Dictionary, data_utils

from fairseq_cgc.errors import CorpusError, UserError
from fairseq_cgc.files import read_json, read_lines
from fairseq_cgc.preparation import SPLITS, Settings, clean_pairs, prepare

SETTINGS = Settings(bpe_operations=60)
PAIRS = [
    ("Das Haus ist groß.", "The house is big."),
    ("Der Hund ist klein & alt.", "The dog is small & old."),
    ("Ein Baum steht dort, oder?", "A tree is there, isn't it?"),
    ("Ja.", "Yes, this one is much, much too long for its source."),  # dropped: ratio
    ("", "Nothing there."),  # dropped: empty
    ("Zeile\u2028mit Trenner", "Line\u2028with separator"),
]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for split in SPLITS:
        for side, language in enumerate(("de", "en")):
            (folder / f"{split}.{language}").write_text("".join(p[side] + "\n" for p in PAIRS), encoding="utf-8")
    return {split: folder / split for split in SPLITS}


def read(folder, split):
    return [read_lines(folder / f"{split}.{language}") for language in ("de", "en")]


def test_the_stages_follow_the_recipe(raw, tmp_path):
    out = tmp_path / "data"
    result = prepare(raw, out, SETTINGS, workers=1)
    german, english = read(out / "tok", "train")
    assert german[:3] == ["das haus ist groß .", "der hund ist klein &amp; alt .", "ein baum steht dort , oder ?"]
    assert english[2] == "a tree is there , isn &apos;t it ?"
    assert len(german) == len(english) == 4  # cleaned
    assert len(read(out / "tok", "test")[0]) == len(PAIRS)  # other splits stay whole
    segmented = read(out / "bpe", "train")[0]
    assert [line.replace("@@ ", "") for line in segmented] == german
    assert any("@@" in line for line in segmented)
    assert result["counts"]["train"]["pairs"] == 4 and result["counts"]["train"]["raw_pairs"] == 6
    assert read_json(out / "prepare.json") == result
    assert (out / "bin" / "bpecodes").read_bytes() == (out / "bpe.codes").read_bytes()
    assert read_json(out / "bin" / "prepare.json")["settings"] == dataclasses.asdict(SETTINGS)


def test_the_binarised_data_is_the_segmented_text(raw, tmp_path):
    out = tmp_path / "data"
    prepare(raw, out, SETTINGS, workers=2)
    for language, lines in zip(("de", "en"), read(out / "bpe", "test")):
        symbols = Dictionary.load(str(out / "bin" / f"dict.{language}.txt"))
        binary = data_utils.load_indexed_dataset(str(out / "bin" / f"test.de-en.{language}"), symbols)
        assert len(binary) == len(lines)
        for sentence, line in zip(binary, lines):
            known = [word if symbols.index(word) != symbols.unk() else "<unk>" for word in line.split()]
            assert symbols.string(sentence).split() == known


def test_one_process_and_several_give_the_same(raw, tmp_path):
    for workers in (1, 3):
        prepare(raw, tmp_path / str(workers), SETTINGS, workers=workers)
    for file in sorted((tmp_path / "1").rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "3" / file.relative_to(tmp_path / "1")).read_bytes(), file


def test_case_and_joined_dictionary_are_settings(raw, tmp_path):
    settings = dataclasses.replace(SETTINGS, lowercase=False, joined_dictionary=True)
    prepare(raw, tmp_path / "data", settings, workers=1)
    assert read(tmp_path / "data" / "tok", "train")[0][0] == "Das Haus ist groß ."
    dictionaries = [(tmp_path / "data" / "bin" / f"dict.{language}.txt").read_text() for language in ("de", "en")]
    assert dictionaries[0] == dictionaries[1]


@pytest.mark.parametrize(
    "source, target, kept",
    [
        (1, 1, True),
        (2, 3, True),
        (3, 2, True),
        (2, 4, False),
        (5, 3, False),
        (0, 1, False),
        (1, 0, False),
        (175, 175, True),
        (176, 175, False),
    ],
)
def test_cleaning_keeps_1_to_175_tokens_and_a_ratio_of_1_5(source, target, kept):
    pairs = [("a " * source, "b  " * target)]
    assert clean_pairs(pairs, 175, 1.5) == ([(" ".join("a" * source), " ".join("b" * target))] if kept else [])


def test_a_second_run_does_nothing_and_a_stopped_one_goes_on(raw, tmp_path):
    out = tmp_path / "data"
    first = prepare(raw, out, SETTINGS, workers=1)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    assert prepare(raw, out, SETTINGS, workers=1) == first
    assert times == {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    # as if stopped before binarisation: prepare.json without counts, no bin
    before = {name: value for name, value in first.items() if name != "counts"}
    (out / "prepare.json").write_text(json.dumps(before), encoding="utf-8")
    run("rm", "-r", out / "bin")
    assert prepare(raw, out, SETTINGS, workers=1) == first
    assert (out / "bin" / "train.de-en.de.bin").exists()
    assert (out / "tok" / "train.de").stat().st_mtime_ns == times[out / "tok" / "train.de"]


def test_a_folder_of_other_settings_or_other_text_is_refused(raw, tmp_path):
    out = tmp_path / "data"
    prepare(raw, out, SETTINGS, workers=1)
    with pytest.raises(UserError, match="other settings: bpe_operations 60 there, 50 asked for"):
        prepare(raw, out, dataclasses.replace(SETTINGS, bpe_operations=50), workers=1)
    (tmp_path / "raw" / "train.de").write_text("Neu.\n" * 6, encoding="utf-8")
    with pytest.raises(UserError, match="other raw: train.de"):
        prepare(raw, out, SETTINGS, workers=1)
    (out / "prepare.json").unlink()
    with pytest.raises(UserError, match="no prepare.json"):
        prepare(raw, out, SETTINGS, workers=1)


def corrupt(file, kind):
    lines = file.read_bytes().split(b"\n")
    if kind == "shorter":
        file.write_bytes(b"\n".join(lines[1:]))
    elif kind == "empty":
        for side in ("de", "en"):
            file.with_suffix(f".{side}").write_bytes(b"")
    elif kind == "not UTF-8":
        file.write_bytes(b"\n".join([lines[0], b"\xe4", *lines[2:]]))
    elif kind == "missing":
        file.unlink()
    elif kind == "all cleaned away":
        file.write_bytes(b"\n" * 6)


@pytest.mark.parametrize(
    "kind, words",
    [
        ("shorter", "train.de has 5 lines and .*train.en has 6"),
        ("empty", "are empty"),
        ("not UTF-8", "train.de, line 2: byte 0xe4"),
        ("missing", "train.de does not exist"),
        ("all cleaned away", "none of the 6 training pairs .* is left after cleaning"),
    ],
)
def test_a_corpus_that_cannot_be_is_named_and_nothing_half_written(raw, tmp_path, kind, words):
    corrupt(tmp_path / "raw" / "train.de", kind)
    with pytest.raises(CorpusError, match=words) as error:
        prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    assert str(error.value).count("\n") <= 1
    assert {path.name for path in (tmp_path / "data").glob("*")} <= {"prepare.json"}
