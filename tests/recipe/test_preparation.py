import dataclasses
import functools
import gzip
import json
import re
import shutil
import sys

import pytest
from conftest import fairseq, refused, run
from fairseq.data import Dictionary, data_utils
from tqdm import tqdm

from fairseq_cgc.errors import CorpusError, OptionError, UserError
from fairseq_cgc.recipe import preparation
from fairseq_cgc.recipe.files import locked, read_json, read_lines
from fairseq_cgc.recipe.preparation import (
    SPLITS,
    Settings,
    clean_pairs,
    hold_out,
    prepare,
    repeated,
    summary,
)

SETTINGS = Settings(bpe_size=60)
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


def many(raw, count=300):
    """Replace the training text by pairs that have words in common."""
    words = ("rot", "grün", "blau", "hell", "dunkel"), ("red", "green", "blue", "light", "dark")
    for language, colours in zip(("de", "en"), words):
        lines = [f"{colours[n % 5]} {colours[n // 5 % 5]} {n} .\n" for n in range(count)]
        raw["train"].with_suffix(f".{language}").write_text("".join(lines), encoding="utf-8")


def test_without_validation_files_every_nth_cleaned_pair_is_held_out(raw, tmp_path):
    many(raw)
    german = raw["train"].with_suffix(".de")
    lines = german.read_text(encoding="utf-8").splitlines()
    lines[1] = ""  # cleaned away: the 4th pair left is line 5
    german.write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = dataclasses.replace(SETTINGS, valid_every=4)
    result = prepare({"train": raw["train"], "test": raw["test"]}, tmp_path / "data", settings, workers=1)
    assert result["counts"]["train"]["pairs"] == 299 - 74 and result["counts"]["valid"]["pairs"] == 74
    assert read(tmp_path / "data" / "tok", "valid")[0][:2] == ["dunkel rot 4 .", "hell grün 8 ."]
    assert read(tmp_path / "data" / "tok", "train")[1][:4] == [
        "red red 0 .",
        "blue red 2 .",
        "light red 3 .",
        "red green 5 .",
    ]
    assert not (tmp_path / "data" / "raw" / "valid.de").exists()


def test_too_few_pairs_to_hold_one_out_are_refused():
    with pytest.raises(CorpusError, match="3 training pairs are left .* one of every 4 for"):
        hold_out([("a", "b")] * 3, 4)


def test_held_out_splits_are_kept_as_given(raw, tmp_path):
    prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    for language in ("de", "en"):
        assert (tmp_path / "data" / "raw" / f"test.{language}").read_bytes() == (
            raw["test"].with_suffix(f".{language}").read_bytes()
        )


def test_gzipped_text_gives_the_same(raw, tmp_path):
    prepare(raw, tmp_path / "plain", SETTINGS, workers=1)
    for file in list(raw["train"].parent.iterdir()):
        (file.parent / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    prepare(raw, tmp_path / "gz", SETTINGS, workers=1)
    for name in ("bin/train.de-en.de.bin", "bin/dict.en.txt", "raw/test.de", "bpe/valid.en"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "gz" / name).read_bytes()


@pytest.mark.parametrize("chunk", [2000, 40], ids=["one process", "the training text in several"])
def test_sentencepiece_pieces_join_to_the_tokens_again(raw, tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(preparation, "CHUNK", chunk)
    many(raw)
    settings = dataclasses.replace(SETTINGS, bpe="sentencepiece", bpe_size=90)
    out = tmp_path / "data"
    result = prepare(raw, out, settings, workers=1)
    for split in SPLITS:
        for pieces, tokens in zip(read(out / "bpe", split), read(out / "tok", split)):
            assert [line.replace(" ", "").replace("\u2581", " ").strip() for line in pieces] == tokens
    assert any("\u2581" in line for line in read(out / "bpe", "train")[0])
    assert (out / "bin" / "sentencepiece.bpe.model").read_bytes() == (out / "spm.model").read_bytes()
    assert "sentencepiece" in result["versions"]


def test_a_corpus_too_small_for_sentencepiece_is_named(raw, tmp_path):
    settings = dataclasses.replace(SETTINGS, bpe="sentencepiece", bpe_size=5)
    with pytest.raises(CorpusError, match="sentencepiece could not learn 5 pieces"):
        prepare(raw, tmp_path / "data", settings, workers=1)
    with pytest.raises(CorpusError, match=r"10 pieces: the characters of the corpus alone are \d+; raise --bpe-size"):
        prepare(raw, tmp_path / "data", dataclasses.replace(settings, bpe_size=10), workers=1)
    prepare(raw, tmp_path / "data", dataclasses.replace(settings, bpe_size=60), workers=1)


def test_a_preparation_that_came_to_nothing_does_not_keep_the_folder(raw, tmp_path):
    for split in SPLITS:
        raw[split].with_suffix(".en").rename(raw[split].with_suffix(".zh"))
        for language in ("de", "zh"):
            raw[split].with_suffix(f".{language}").write_text(
                "ein langer Satz\n" * 2 if language == "de" else "a\n" * 2
            )
    settings = dataclasses.replace(SETTINGS, target_lang="zh")
    advice = r"left after cleaning .*: Moses takes whole clauses of zh for tokens.* --max-ratio 20 --bpe sentencepiece$"
    with pytest.raises(CorpusError, match=advice):
        prepare(raw, tmp_path / "data", settings, workers=1)
    again = dataclasses.replace(settings, max_ratio=20)
    assert prepare({**raw, "valid": raw["train"]}, tmp_path / "data", again, workers=1)["settings"]["max_ratio"] == 20
    with pytest.raises(UserError, match="max_ratio 20 there, 1.5 requested"):
        prepare(raw, tmp_path / "data", settings, workers=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "prepare.json").write_text('{"mine": 1}')
    with pytest.raises(UserError, match="prepare.json"):
        prepare(raw, tmp_path / "mine", again, workers=1)
    assert (tmp_path / "mine" / "prepare.json").read_text() == '{"mine": 1}'


@pytest.mark.parametrize(
    "options",
    [
        ["--bpe", "sentencepiece"],
        ["--bpe-size", "10000"],
        ["--max-ratio", "20"],
        ["--keep-case"],
        ["--joined-dictionary"],
    ],
    ids=" ".join,
)
def test_a_vocabulary_decides_its_settings(raw, tmp_path, options):
    prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    words = ["--vocabulary-of", tmp_path / "data", "--test", raw["test"], "--out", tmp_path / "new", *options]
    assert f"{options[0]} cannot be combined with --vocabulary-of" in refused("prepare", *words)
    assert not (tmp_path / "new").exists()


def test_options_of_no_effect_are_refused(raw, tmp_path):
    words = [
        "--source-lang",
        "de",
        "--target-lang",
        "en",
        "--train",
        raw["train"],
        "--test",
        raw["test"],
        "--out",
        tmp_path / "x",
    ]
    assert "leave one of the two out" in refused("prepare", *words, "--valid", raw["valid"], "--valid-every", 5)
    assert not (tmp_path / "x").exists()


def test_pairs_that_are_training_pairs_too_and_unknown_subwords_are_told(raw, tmp_path):
    held_out = {split: raw[split] for split in ("train", "test")}
    result = prepare(held_out, tmp_path / "data", dataclasses.replace(SETTINGS, valid_every=2), workers=1)
    assert repeated(tmp_path / "data", result) == ["WARNING: 2 of 6 test pairs are training pairs too"]
    for language, text in (("de", "Das Haus\n"), ("en", "ДОМ\n")):
        (tmp_path / f"new.{language}").write_text(text, encoding="utf-8")
    result = prepare({"test": tmp_path / "new"}, tmp_path / "out", workers=1, like=tmp_path / "data")
    assert repeated(tmp_path / "out", result, tmp_path / "data") == []
    again = prepare({"test": raw["train"]}, tmp_path / "again", workers=1, like=tmp_path / "data")
    assert repeated(tmp_path / "again", again, tmp_path / "data") == [
        "WARNING: 2 of 6 test pairs are training pairs too"
    ]
    shutil.rmtree(tmp_path / "again" / "tok")
    assert repeated(tmp_path / "again", again, tmp_path / "data") == []
    unknown = result["counts"]["test"]["en"]["unknown"], result["counts"]["test"]["de"]["unknown"]
    assert unknown == (3, 0)
    [warning] = [line for line in summary(result) if "WARNING" in line]
    assert "WARNING: 100% of the en subwords of test are unknown: is it the language of training?" in warning


def test_a_new_test_set_gets_the_vocabulary_of_an_existing_preparation(raw, tmp_path):
    prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    for language, line in (("de", "Das Haus ist Xylophon.\n"), ("en", "The house is a xylophone.\n")):
        (tmp_path / f"new.{language}").write_text(line, encoding="utf-8")
    new = {"test": tmp_path / "new"}
    result = prepare(new, tmp_path / "out", workers=1, like=tmp_path / "data")
    assert list(result["counts"]) == ["test"] and result["counts"]["test"]["de"]["unknown"] > 0
    for name in ("dict.de.txt", "dict.en.txt", "bpecodes"):
        assert (tmp_path / "out" / "bin" / name).read_bytes() == (tmp_path / "data" / "bin" / name).read_bytes()
    assert read(tmp_path / "out" / "tok", "test")[0] == ["das haus ist xylophon ."]
    assert (tmp_path / "out" / "bin" / "test.de-en.de.bin").exists()
    with pytest.raises(UserError, match="holds no finished preparation"):
        prepare(new, tmp_path / "out2", workers=1, like=tmp_path / "nowhere")


def test_a_corpus_to_fine_tune_on_gets_the_vocabulary_of_an_existing_preparation(raw, tmp_path):
    prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    for split in ("train", "test"):
        for language, line in (("de", "Das Haus ist Xylophon.\n"), ("en", "The house is a xylophone.\n")):
            (tmp_path / f"{split}2.{language}").write_text(line * 50, encoding="utf-8")
    new = {split: tmp_path / f"{split}2" for split in ("train", "test")}
    result = prepare(new, tmp_path / "out", workers=1, like=tmp_path / "data")
    assert result["counts"]["valid"]["pairs"] == 50 // SETTINGS.valid_every
    assert result["counts"]["train"]["de"]["unknown"] > 0
    for name in ("dict.de.txt", "dict.en.txt", "bpecodes"):
        assert (tmp_path / "out" / "bin" / name).read_bytes() == (tmp_path / "data" / "bin" / name).read_bytes()
    with pytest.raises(UserError, match="other vocabulary_of"):
        prepare(new, tmp_path / "out", SETTINGS, workers=1)


def test_the_summary_counts_tokens_and_unknown_ones_and_warns_of_other_numbers(raw, tmp_path):
    result = prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    tokens = sum(len(line.split()) for line in read(tmp_path / "data" / "bpe", "train")[0])
    assert result["counts"]["train"]["de"] == {"tokens": tokens, "unknown": 0}
    expected = {"train": 4, "valid": 6, "test": 6}
    lines = summary(result, expected)
    assert len(lines) == 5 and f"{tokens}" in lines[1] and f"{tokens / 4:.2f}" in lines[1]
    assert "train 4 instead of 5" in summary(result, {**expected, "train": 5})[-2]


def test_the_summary_says_what_cleaning_dropped_and_warns_where_there_are_no_spaces(raw, tmp_path):
    dropped = "cleaning dropped 2 of 6 training pairs (kept: 1 to 175 Moses tokens a side, ratio at most 1.5)"
    assert summary(prepare(raw, tmp_path / "data", SETTINGS, workers=1))[-1] == dropped
    held_out = prepare({**raw, "valid": raw["train"]}, tmp_path / "held", SETTINGS, workers=1)
    del held_out["counts"]["valid"]["raw_pairs"]  # of which one was held out of the training part
    held_out["counts"]["valid"]["pairs"] = 1
    assert "cleaning dropped 1 of 6" in summary(held_out)[-1]
    for split in SPLITS:
        raw[split].with_suffix(".en").rename(raw[split].with_suffix(".zh"))
    chinese = prepare(raw, tmp_path / "zh", dataclasses.replace(SETTINGS, target_lang="zh"), workers=1)
    assert (
        "clauses of zh for tokens" in summary(chinese)[-1]
        and "--max-ratio 20 --bpe sentencepiece" in summary(chinese)[-1]
    )


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"target_lang": "de"}, "both 'de'"),
        ({"bpe": "word"}, "subword model is 'word'"),
        ({"bpe_size": 0}, "--bpe-size is 0"),
        ({"max_tokens": 0}, "--max-tokens is 0"),
        ({"max_ratio": 0.5}, "--max-ratio is 0.5"),
        ({"max_ratio": float("inf")}, "--max-ratio is inf"),
        ({"valid_every": 1}, "--valid-every is 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_written(raw, tmp_path, settings, words):
    with pytest.raises(OptionError, match=words):
        prepare(raw, tmp_path / "data", dataclasses.replace(SETTINGS, **settings))
    assert not (tmp_path / "data").exists()


def test_two_processes_do_not_write_the_same_preparation(raw, tmp_path):
    with (
        locked(tmp_path / "data" / ".lock", "x"),
        pytest.raises(UserError, match="is in use by another process"),
    ):
        prepare(raw, tmp_path / "data", SETTINGS, workers=1)


def test_every_stage_has_a_bar_that_is_not_shown_in_a_log(raw, tmp_path, monkeypatch, capfd):
    prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    assert "%|" not in capfd.readouterr().err
    monkeypatch.setattr(preparation, "tqdm", functools.partial(tqdm, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    prepare(raw, tmp_path / "again", SETTINGS, workers=1)
    bars = capfd.readouterr().err
    assert re.search(r"learn subwords: +\d+%\|.* merges/s", bars)
    for stage in ("tokenise", "segment", "count words of", "binarise"):
        assert re.search(rf"{stage} train.en: 100%\|.* lines/s", bars), stage


def test_cleaning_drops_a_token_of_more_than_1000_characters():
    pairs = [("a" * 1000, "b"), ("a" * 1001, "b"), ("a", "b" * 1001)]
    assert clean_pairs(pairs, 175, 1.5) == pairs[:1]


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
    with pytest.raises(UserError, match="other settings: bpe_size 60 there, 50 requested"):
        prepare(raw, out, dataclasses.replace(SETTINGS, bpe_size=50), workers=1)
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
        (
            "shorter",
            "train.de has 5 lines and .*train.en has 6: train.de ends after line 5, where train.en continues with 'Line",
        ),
        ("empty", "are empty"),
        ("not UTF-8", "train.de, line 2: byte 0xe4"),
        ("missing", "neither .*train.de nor .*train.de with .gz, .bz2, .xz exists"),
        ("all cleaned away", "none of the 6 training pairs .* is left after cleaning"),
    ],
)
def test_a_corpus_that_cannot_be_is_named_and_nothing_half_written(raw, tmp_path, kind, words):
    corrupt(tmp_path / "raw" / "train.de", kind)
    with pytest.raises(CorpusError, match=words) as error:
        prepare(raw, tmp_path / "data", SETTINGS, workers=1)
    assert str(error.value).count("\n") <= 1
    assert {path.name for path in (tmp_path / "data").glob("*")} <= {"prepare.json", ".lock"}


def test_the_binarised_data_is_fairseq_preprocess_s(raw, tmp_path):
    settings = dataclasses.replace(SETTINGS, joined_dictionary=True)
    prepare(raw, tmp_path / "data", settings, workers=1)
    texts = [word for split in SPLITS for word in (f"--{split}pref", tmp_path / "data" / "bpe" / split)]
    options = ["--source-lang", "de", "--target-lang", "en", "--joined-dictionary", "--destdir", tmp_path / "theirs"]
    fairseq("preprocess", *options, *texts)
    (tmp_path / "theirs" / "preprocess.log").unlink()
    for file in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "data" / "bin" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("text", ["a b\nb a\n", "abc d\nd\n"])
def test_a_corpus_without_subwords_is_named(raw, tmp_path, text):
    for language, said in (("de", text), ("en", text.translate(str.maketrans("abcd", "efgh")))):
        raw["train"].with_suffix(f".{language}").write_text(said)
    with pytest.raises(
        CorpusError, match="no subwords can be learned from .*: no two characters stand beside each other"
    ):
        prepare(raw, tmp_path / "data", SETTINGS, workers=1)
