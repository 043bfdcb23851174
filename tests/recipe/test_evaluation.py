import argparse
from contextlib import contextmanager

import pytest
import sacrebleu
from conftest import refused

from fairseq_cgc.errors import UserError
from fairseq_cgc.recipe import evaluation, translate
from fairseq_cgc.recipe.files import read_lines
from fairseq_cgc.recipe.preparation import SPLITS, Settings, prepare

GERMAN = ["Der Hund ist im Haus.", "Ein Baum steht dort.", "Home Assistant ist aus.", "Wo ist der Baum?"]
CHINESE = ["狗在房子里。", "那里有一棵树。", "Home Assistant 已关闭。", "树在哪里？"]
SAID = [
    "狗 在 屋子 里 。",
    "那里有 一棵树 。",
    "home assistant 关闭 。",
    "树在这里 ？",
]  # with spaces of no meaning, as a model's


@pytest.mark.parametrize(
    "option, given",
    [
        *((name, name) for name in ("--gen-subset", "--quiet", "--results-path", "--score-reference", "--num-shards")),
        *(("--remove-bpe", "--post-process"), ("--source-lang", "-s"), ("--source-lang", "-sen")),
    ],
)
def test_options_by_which_translations_would_not_be_read_are_refused(option, given):
    assert f"{option} is decided by this command" in refused("generate", "run", given, "x")


@pytest.mark.parametrize(
    "options, words",
    [
        (["--lenpenn", "1"], "unrecognized arguments: --lenpenn 1"),
        (["--no-repeat-ngram-size", "x"], "--no-repeat-ngram-size: invalid int value: 'x'"),
    ],
)
def test_what_fairseq_generate_would_refuse_is_refused_before_any_work(options, words):
    assert f"fairseq-generate would refuse this: {words}" in refused("generate", "run", *options).replace(
        "argument ", ""
    )


@pytest.mark.parametrize(
    "options, words",
    [
        (["--lenpen", "nan"], "--lenpen is nan; it must be from"),
        (["--max-len-a", "nan"], "--max-len-a is nan; it must be from"),
        (["--user-dir", "/nowhere"], "fairseq-generate would refuse this: FileNotFoundError: /nowhere"),
        (["--lenpen"], "argument --lenpen: expected one argument"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(options, words):
    assert words in refused("generate", "run", *options)


@pytest.mark.parametrize(
    "options", ["--unkpen inf", "--max-len-a 1 --max-len-b -1", "--batch-size 0", "--nbest 3", "--lenpen -1"]
)
def test_a_search_that_fairseq_makes_sense_of_is_left_to_it(options):
    translate.check_passed_on(options.split())


def test_of_several_translations_of_a_sentence_the_best_is_counted(tmp_path, monkeypatch, capsys):
    lines = [f"{kind}-0\t{text}\n" for text in ("-0.1\ta b", "-0.2\ta c") for kind in "HD"]
    lines += [f"P-{number}\t-0.1 -0.2 -0.3\n" for number in (0, 0, 0)]
    process = argparse.Namespace(stdout=lines, wait=lambda: 0)
    monkeypatch.setattr(translate, "child", contextmanager(lambda *_, **__: (yield process)))
    options = ["--nbest", "3", "--max-len-b", "2"]
    assert translate.generate("model.pt", "bin", "test", tmp_path / "out", 1, options=options) == {0: "a b"}
    assert "ended at the limit of 2 tokens: 1;" in capsys.readouterr().out


def test_a_folder_without_a_translation_is_not_written(tmp_path, monkeypatch):
    silent = contextmanager(lambda *_, **__: (yield argparse.Namespace(stdout=[], wait=lambda: 0)))
    monkeypatch.setattr(translate, "child", silent)
    with pytest.raises(UserError, match="printed no translation of 3 sentences; .*an option .*--lenpen 1"):
        translate.generate("model.pt", "bin", "test", tmp_path / "out", 3, options=["--lenpen", "1"])
    assert not (tmp_path / "out").exists()


def test_words_of_chinese_in_tokenised_bleu_are_sacrebleu_s(tmp_path, monkeypatch):
    for split in SPLITS:
        for language, lines in (("de", GERMAN), ("zh", CHINESE)):
            (tmp_path / f"{split}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = Settings(target_lang="zh", bpe_size=60, max_ratio=20)
    prepare({split: tmp_path / split for split in SPLITS}, tmp_path / "data", settings, workers=1)

    def generate(model, data, split, output, *_):
        for file in (output, output.with_name(f"{output.name}.log")):
            file.write_text("")
        return dict(enumerate(SAID))

    monkeypatch.setattr(evaluation, "generate", generate)
    monkeypatch.setattr(evaluation, "load_checkpoint", lambda path: {})
    monkeypatch.setattr(evaluation, "check_dictionaries", lambda *_: None)
    monkeypatch.setattr(evaluation, "position_limit", lambda state: 1024)
    monkeypatch.setattr(evaluation, "count_parameters", lambda state: 1)
    scores = evaluation.translate_and_score(tmp_path / "model", tmp_path / "data", tmp_path / "test")["scores"]
    said = [line.replace(" ", "").replace("homeassistant", "home assistant ") for line in SAID]
    wanted = sacrebleu.corpus_bleu(said, [CHINESE], lowercase=True, tokenize="zh", smooth_method="none").score
    assert 50 < wanted < 100 and abs(scores["tokenised BLEU-4"]["score"] - wanted) < 0.01
    assert "zh tokens, lowercased" in scores["tokenised BLEU-4"]["signature"]
    assert read_lines(tmp_path / "test" / "test.tok.zh")[0] == "狗 在 房 子 里 。"
    assert read_lines(tmp_path / "test" / "test.tok.hyp")[3] == "树 在 这 里 ？"
