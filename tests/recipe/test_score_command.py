import gzip
import io
import json
import random
import re
import sys
from importlib.metadata import version

import pytest
import sacrebleu
from conftest import command

from fairseq_cgc.errors import CorpusError, OptionError, UserError
from fairseq_cgc.recipe.command_line import parse
from fairseq_cgc.recipe.scoring import (
    compare,
    detokenised_scores,
    main,
    sacrebleu_tokeniser,
    score_systems,
    tokenised_bleu,
)
from fairseq_cgc.text import MosesText

METRICS = ["tokenised BLEU-4", "BLEU", "chrF"]


def corpus(size=60):
    """Raw references with a quotation mark and upper case, and a function that damages a share of their words."""
    chance = random.Random(1)
    words = [f"Word{number}" for number in range(50)]
    references = [
        f'He said "{" ".join(chance.choices(words, k=chance.randint(4, 12)))}", didn\'t he?' for _ in range(size)
    ]

    def damaged(share, seed):
        change = random.Random(seed)
        return [" ".join("X" if change.random() < share else w for w in line.split()) for line in references]

    return references, damaged


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder with ref, and good and bad translations of it."""
    monkeypatch.chdir(tmp_path)
    references, damaged = corpus()
    for name, lines in (("ref", references), ("good", damaged(0.1, 2)), ("bad", damaged(0.3, 3))):
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return tmp_path


def lines(path):
    return path.read_text(encoding="utf-8").splitlines()


def figures(capsys, *options):
    """What the command prints as a dict of metric to list of scores, and the words."""
    main(parse(["score", *map(str, options)]))
    words = capsys.readouterr().out
    names = {"sacreBLEU": "BLEU"}  # as people read it, and as our files have it
    blocks = {
        names.get(name := re.match(r"(.*?) +score", block)[1], name): block.splitlines()
        for block in words.split("\n\n")
    }
    return {m: [float(re.search(r" +(\d+\.\d\d)\b", row)[1]) for row in b[1:-1]] for m, b in blocks.items()}, words


def test_raw_text_is_scored_as_it_stands_and_tokenised_for_bleu_4(files, capsys):
    found, _ = figures(capsys, "good", "--ref", "ref")
    hypotheses, references = lines(files / "good"), lines(files / "ref")
    wanted = detokenised_scores(hypotheses, [references], lowercase=False)
    moses = MosesText("en")
    wanted["tokenised BLEU-4"] = {
        "score": tokenised_bleu(*([*map(moses.tokenise, s)] for s in (hypotheses, references)))[0]
    }
    assert list(found) == METRICS
    assert {m: [pytest.approx(wanted[m]["score"], abs=0.005)] for m in METRICS} == found


def test_tokens_are_scored_as_they_stand_and_detokenised_for_the_others(files, capsys):
    raw, _ = figures(capsys, "bad", "--ref", "ref")
    moses = MosesText("en")
    for name in ("bad", "ref"):
        (files / f"{name}.tok").write_text("".join(moses.tokenise(line) + "\n" for line in lines(files / name)))
    tokenised, words = figures(capsys, "bad.tok", "--ref", "ref.tok", "--tokenised")
    assert tokenised == raw  # the text is what Moses' round trip gives back
    assert "tokens as given" in words and "both sides detokenised" in words
    assert figures(capsys, "bad.tok", "--ref", "ref.tok")[0]["BLEU"] != raw["BLEU"]


def test_the_language_is_the_tokeniser_s(files, capsys):
    (files / "ref").write_text("heute bzw. Morgen oder nie wieder\n")  # an abbreviation of German alone
    (files / "good").write_text("heute bzw Morgen oder nie wieder\n")
    english, german = (figures(capsys, "good", "--ref", "ref", "--lang", lang)[0] for lang in ("en", "de"))
    assert english["tokenised BLEU-4"] != german["tokenised BLEU-4"] and english["BLEU"] == german["BLEU"]


def test_chinese_is_scored_by_its_characters_unless_told_otherwise(files, capsys):
    (files / "ref").write_text("我们今天去公园。\n他在家里看书。\n")
    (files / "good").write_text("我们今天去公园。\n他在家里写书。\n")
    found, words = figures(capsys, "good", "--ref", "ref", "--lang", "zh")
    assert 50 < found["BLEU"][0] < 100 and found["tokenised BLEU-4"][0] == found["BLEU"][0] and "tok:zh" in words
    assert "tok:zh" in figures(capsys, "good", "--ref", "ref", "--lang", "zh-CN")[1]
    assert "tok:char" in figures(capsys, "good", "--ref", "ref", "--lang", "th")[1]
    german = [
        figures(capsys, "good", "--ref", "ref", "--lang", "de", *more)[0] for more in ([], ["--tokenize", "char"])
    ]
    assert german[0]["tokenised BLEU-4"] == german[1]["tokenised BLEU-4"] and german[0]["BLEU"] != german[1]["BLEU"]
    assert figures(capsys, "good", "--ref", "ref", "--lang", "zh", "--tokenize", "13a")[0]["BLEU"] < [50]
    assert "tok:char" in figures(capsys, "good", "--ref", "ref", "--tokenize", "char")[1]
    found, words = figures(capsys, "good", "--ref", "ref", "--lang", "zh", "--tokenize", "char")
    assert found["tokenised BLEU-4"] == found["BLEU"] > [50] and "char)" in words  # not Moses', whose words are clauses


def test_another_tokeniser_is_advised_where_there_is_an_option_for_it(files, monkeypatch):
    def missing(_, tokenize):
        raise RuntimeError("no MeCab")

    monkeypatch.setattr(sacrebleu.BLEU, "__init__", missing)
    with pytest.raises(OptionError, match=r"no MeCab\); pip install 'sacrebleu\[ja\]', or choose --tokenize char$"):
        main(parse(["score", "good", "--ref", "ref", "--lang", "ja"]))
    with pytest.raises(OptionError, match=r"pip install 'sacrebleu\[ja\]'$"):  # of generate, which has none
        sacrebleu_tokeniser("ja")


def test_the_best_of_several_references_counts(files, capsys):
    (files / "other").write_text((files / "good").read_text())
    alone, _ = figures(capsys, "good", "--ref", "ref")
    both, words = figures(capsys, "good", "--ref", "ref", "--ref", "other")
    assert all(value == [100] for value in both.values()) and alone["BLEU"] < [99] and words.count("nrefs:2") == 2
    compared, _ = figures(capsys, "good", "bad", "--ref", "ref", "--ref", "other", "--samples", 20)
    assert all(one == 100 > other for one, other in compared.values())


def test_standard_input_is_a_file_too(files, capsys, monkeypatch):
    wanted = figures(capsys, "good", "--ref", "ref")[0]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((files / "good").read_bytes())))
    assert figures(capsys, "-", "--ref", "ref")[0] == wanted


def test_a_reference_with_a_byte_order_mark_scores_as_without(files, capsys):
    (files / "marked").write_text("\ufeff" + (files / "ref").read_text(), encoding="utf-8")
    assert figures(capsys, "ref", "--ref", "marked")[0] == {metric: [100] for metric in METRICS}


def test_a_test_set_of_sacrebleu_s_is_its_reference(files, capsys, monkeypatch):
    monkeypatch.setattr(sacrebleu.utils, "get_reference_files", lambda name, pair: ["ref"])
    wanted = figures(capsys, "good", "--ref", "ref", "--lang", "de")[0]
    options = ["--test-set", "wmt14/full", "--language-pair", "en-de"]
    assert figures(capsys, "good", *options)[0] == wanted
    monkeypatch.setattr(sacrebleu.utils, "get_reference_files", lambda name, pair: sys.exit("no network"))
    with pytest.raises(CorpusError, match="wmt14/full could not be fetched .*no network.* --ref"):
        figures(capsys, "good", *options)


def test_lowercase_compares_without_case(files, capsys):
    (files / "lower").write_text((files / "ref").read_text().lower())
    assert all(value < 99 for [value] in figures(capsys, "lower", "--ref", "ref")[0].values())
    found, words = figures(capsys, "lower", "--ref", "ref", "--lowercase")
    assert found == {metric: [100] for metric in METRICS}
    assert words.count("case:lc") == 2 and ", lowercased" in words


def test_lowercase_counts_in_a_comparison_too(files, capsys):
    (files / "lower").write_text((files / "ref").read_text().lower())
    found, words = figures(capsys, "lower", "bad", "--ref", "ref", "--lowercase")
    assert all(values[0] == 100 > values[1] for values in found.values()) and words.count("case:lc") == 3


def test_each_metric_has_its_signature_below(files, capsys):
    _, words = figures(capsys, "good", "--ref", "ref")
    signatures = [block.splitlines()[-1].strip() for block in words.split("\n\n")]
    assert signatures[0].startswith("BLEU4 = ") and f"sacremoses {version('sacremoses')}, en" in signatures[0]
    assert "tok:13a" in signatures[1] and "nc:6" in signatures[2]
    assert all(f"version:{version('sacrebleu')}" in line for line in signatures[1:])


def test_several_systems_have_intervals_and_p_values_against_the_first(files, capsys):
    _, words = figures(capsys, "bad", "good", "--ref", "ref")
    header, baseline, other, signature = words.split("\n\n")[1].splitlines()
    assert re.fullmatch(r"sacreBLEU +score +95 % interval +p", header)
    assert re.fullmatch(r"bad +\d+\.\d\d +\d+\.\d\d ± +\d+\.\d\d", baseline)
    assert re.fullmatch(r"good +\d+\.\d\d +\d+\.\d\d ± +\d+\.\d\d +0\.0010", other)
    assert "|bs:1000|seed:12345|" in signature


def test_columns_are_aligned_whatever_the_names_lengths(files, capsys):
    (files / "a-rather-long-name-of-a-system").write_text((files / "good").read_text())
    _, words = figures(capsys, "bad", "a-rather-long-name-of-a-system", "--ref", "ref", "--samples", 20)
    points = {row.index(".") for block in words.split("\n\n") for row in block.splitlines()[1:-1]}
    assert len(points) == 1


def test_a_file_given_twice_is_no_different_from_itself(files, capsys):
    _, words = figures(capsys, "bad", "bad", "--ref", "ref", "--samples", 50)
    rows = [line.split() for line in words.splitlines() if line.startswith("bad (2)")]
    assert len(rows) == 3 and all(row[-1] == "1.0000" for row in rows)


def test_files_of_one_name_are_told_apart_by_their_folders(files, capsys):
    for folder in ("one", "two"):
        (files / folder).mkdir()
        (files / folder / "hyp").write_text((files / ("bad" if folder == "one" else "good")).read_text())
    _, words = figures(capsys, "one/hyp", "two/hyp", "--ref", "ref", "--samples", 20)
    assert words.count("one/hyp") == words.count("two/hyp") == 3


def test_gzip_is_read(files, capsys):
    plain = figures(capsys, "good", "--ref", "ref")[0]
    for name in ("good", "ref"):
        (files / f"{name}.gz").write_bytes(gzip.compress((files / name).read_bytes()))
    assert figures(capsys, "good.gz", "--ref", "ref.gz")[0] == plain


def test_json_has_what_is_printed(files, capsys):
    options = ["bad", "good", "--ref", "ref", "--samples", 50, "--seed", 7, "--json", "deep/out.json"]
    found, words = figures(capsys, *options)
    record = json.loads((files / "deep" / "out.json").read_text())
    assert {m: [round(s["score"], 2) for s in f["systems"].values()] for m, f in record["scores"].items()} == found
    assert all(f["signature"] in words for f in record["scores"].values())
    good = record["scores"]["BLEU"]["systems"]["good"]
    assert f"{good['mean']:.2f} ±" in words and f"{good['p']:.4f}" in words
    assert (record["references"], record["sentences"], record["samples"], record["seed"]) == (["ref"], 60, 50, 7)


def test_figures_that_were_written_are_replaced(files, capsys):
    for name in ("bad", "good"):
        figures(capsys, name, "--ref", "ref", "--json", "out.json")
    assert list(json.loads((files / "out.json").read_text())["scores"]["BLEU"]["systems"]) == ["good"]


@pytest.mark.parametrize(
    "line, options, words",
    [
        (
            "the dog &apos;s tail is wet .",
            [],
            "seem to hold Moses tokens, which are tokenised once more here; give --tokenised",
        ),
        ("the dog &apos;s tail is wet .", ["--tokenised"], None),
        ("The dog's tail is wet.", [], None),
        ("那只狗的尾巴是湿的因为它刚刚在河里游了很久。", [], "scored as 'en'; give their language with --lang"),
        ("那只狗的尾巴是湿的因为它刚刚在河里游了很久。", ["--lang", "ZH"], None),
        ("那只狗的尾巴是湿的因为它刚刚在河里游了很久。", ["--tokenize", "zh"], None),
    ],
)
def test_text_that_is_scored_by_other_rules_than_its_own_is_told(files, capsys, line, options, words):
    for name in ("system", "reference"):
        (files / name).write_text(f"{line}\n" * 120, encoding="utf-8")
    main(parse(["score", "system", "--ref", "reference", *options]))
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 if words else said == ""


def test_an_empty_name_is_refused_before_any_work(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(["score", "bad", "--ref", "ref", "--json", ""])
    assert "--json: expected a path, found an empty text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, words",
    [
        (
            "good/out.json",
            "good cannot be written to .it, or a folder of its path, is a file.; choose another with --json",
        ),
        (".", "is a folder, and a file is to be written there"),
        ("ref", "--json ref is an input, and would be replaced"),
        ("link", "--json link is an input, and would be replaced"),
        ("good", "--json good is there and holds no scores; choose another name"),
    ],
)
def test_a_json_file_that_cannot_be_written_or_is_an_input_is_refused_before_the_figures(files, capsys, name, words):
    (files / "link").symlink_to("bad")
    before = (files / "ref").read_bytes()
    with pytest.raises(UserError, match=words):
        main(parse(["score", "bad", "--ref", "ref", "--json", name]))
    assert capsys.readouterr().out == "" and (files / "ref").read_bytes() == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["missing", "--ref", "ref"], "missing does not exist"),
        (["good", "--ref", "missing"], "missing does not exist"),
        (["empty", "--ref", "ref"], "empty is empty; expected one sentence per line"),
        (["good", "--ref", "empty"], "empty is empty"),
        (["latin1", "--ref", "ref"], "latin1, line 1: byte 0xe4 .* is not valid UTF-8"),
        (["good", "short", "--ref", "ref"], "short has 5 lines and ref has 60; expected the same number"),
        (["good"], "give --ref FILE, or --test-set NAME"),
        (["good", "--ref", "ref", "--lang", "german"], "--lang is 'german'; expected a code of two or three letters"),
        (["good", "--test-set", "wmt14"], "give --ref FILE, or --test-set NAME with --language-pair"),
        (["good", "--test-set", "none", "--language-pair", "de-en"], "no test set 'none' for --language-pair de-en"),
        (["good", "--test-set", "wmt14", "--language-pair", "xx-en"], "no test set 'wmt14' .* it has .*de-en"),
        (["-", "-", "--ref", "ref"], "- is standard input, which can stand for one file only"),
        (["good", "--ref", "ref", "--tokenize", "perl"], "--tokenize is 'perl'; choose from none, zh, 13a"),
        (["good", "bad", "--ref", "ref", "--samples", "0"], "--samples is 0; it must be from 1 to 1000000"),
        (["good", "bad", "--ref", "ref", "--seed", "0"], "--seed is 0; it must be at least 1"),
        (["good", "--ref", "ref", "--seed", "0"], "--seed is 0; it must be at least 1"),
    ],
)
def test_bad_input_is_named(files, options, words):
    (files / "empty").write_text("")
    (files / "latin1").write_bytes("äh\n".encode("latin1"))
    (files / "short").write_text("a\n" * 5)
    with pytest.raises(UserError, match=words) as error:
        main(parse(["score", *options]))
    assert str(error.value).count("\n") <= 1


def test_an_error_ends_the_command_with_status_1_and_a_line(tmp_path):
    done = command("score", tmp_path / "a", "--ref", tmp_path / "b", check=False)
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path / 'b'} does not exist\n")


def compared(**changes):
    references, damaged = corpus()
    systems = {"base": damaged(0.3, 3), "good": damaged(0.1, 2), "same": damaged(0.3, 3)}
    changes["references"] = [changes.get("references", references)]
    return compare(**{"systems": systems, "tokenised": False, "lowercase": False, **changes})


def test_a_comparison_is_the_same_each_time_and_another_with_another_seed():
    assert compared() == compared()
    one, other = compared()["BLEU"], compared(seed=3)["BLEU"]
    assert one["systems"]["base"]["mean"] != other["systems"]["base"]["mean"]  # the first's interval is seeded too
    assert one["systems"]["good"]["mean"] != other["systems"]["good"]["mean"]
    assert "|bs:1000|seed:12345|" in one["signature"] and "|seed:3|" in other["signature"]


def test_the_number_of_samples_is_honoured_and_in_the_signature():
    good = {samples: compared(samples=samples)["BLEU"] for samples in (20, 100)}
    assert "|bs:20|" in good[20]["signature"] and good[20]["systems"]["good"]["p"] == pytest.approx(1 / 21)
    assert "|bs:100|" in good[100]["signature"] and good[100]["systems"]["good"]["p"] == pytest.approx(1 / 101)


def test_systems_of_equal_scores_have_p_1_though_their_words_differ():
    references, damaged = ["a b c d e f"] * 50, ["a b c d e x", "x b c d e f"] * 25
    systems = {"base": damaged, "other": damaged[::-1]}
    found = compared(references=references, systems=systems, tokenised=True)["tokenised BLEU-4"]["systems"]
    assert found["base"]["score"] == found["other"]["score"] and found["other"]["p"] == 1


def test_a_clear_difference_is_significant_and_none_is_not():
    for figure in compared().values():
        systems = figure["systems"]
        assert systems["base"]["p"] is None and systems["good"]["p"] < 0.01 and systems["same"]["p"] == 1


def test_systems_that_differ_in_case_alone_are_the_same_without_case():
    references, damaged = corpus()
    systems = {"base": damaged(0.3, 3), "lower": [line.lower() for line in damaged(0.3, 3)]}
    p = [compared(systems=systems, lowercase=lowercase)["BLEU"]["systems"]["lower"]["p"] for lowercase in (True, False)]
    assert p[0] == 1 > p[1]


def test_the_interval_holds_the_score_and_narrows_with_more_sentences():
    widths = []
    for size in (40, 400):
        references, damaged = corpus(size)
        figure = compared(references=references, systems={"a": damaged(0.2, 1)})["BLEU"]["systems"]["a"]
        assert abs(figure["score"] - figure["mean"]) < figure["half_width"]
        widths.append(figure["half_width"])
    assert widths[1] < widths[0] / 2


def test_compared_tokens_score_as_fairseq_scores_them():
    references = ["the cat sat on the mat .", "a <unk> word here , now", "one two"]
    systems = {
        "a": ["the cat sat on a mat .", "a <unk> word here , then", "one two"],
        "no four-gram": ["the cat sat down here"] * 3,
    }
    systems["exact"] = references
    found = compared(references=references, systems=systems, tokenised=True)["tokenised BLEU-4"]["systems"]
    for name, hypotheses in systems.items():
        assert found[name]["score"] == pytest.approx(tokenised_bleu(hypotheses, references)[0], abs=1e-4)
    assert found["exact"]["score"] < 100 and found["no four-gram"]["score"] == 0


def test_a_comparison_says_nothing_itself(capfd, caplog):
    caplog.set_level("INFO")
    compared(samples=5, tokenised=True, references=["a b c ."] * 200, systems={"a": ["a b c ."] * 200})
    assert capfd.readouterr() == ("", "") and not caplog.records


@pytest.mark.parametrize("option", ["samples", "seed"])
def test_a_comparison_refuses_options_below_1(option):
    with pytest.raises(OptionError, match=f"--{option} is 0"):
        compared(**{option: 0})


def test_a_comparison_refuses_sides_that_do_not_match():
    with pytest.raises(CorpusError, match="1 hypotheses .* 2 references"):
        compared(systems={"a": ["a", "b"], "b": ["a"]}, references=["a", "b"])


def test_one_system_alone_has_scores_without_a_comparison():
    references, damaged = corpus()
    for figure in score_systems({"a": damaged(0.1, 1)}, [references], "en", False, False).values():
        assert list(figure["systems"]["a"]) == ["score"] and "bs:" not in figure["signature"]
