import hashlib
import json
import pickle
from argparse import Namespace

import pytest
from fairseq.data import encoders

from fairseq_cgc.errors import OptionError, UserError
from fairseq_cgc.text import MosesText, hub_options, is_blank, lowercase

SETTINGS = json.dumps(
    {
        "settings": {"source_lang": "de", "target_lang": "en", "lowercase": True, "bpe": "subword_nmt"},
        "sha256": {"bpe.codes": hashlib.sha256(b"x").hexdigest()},
    }
)


@pytest.mark.parametrize(
    "language, raw, tokens",
    [
        ("de", "Das ist z.B. ein Test, oder?", "Das ist z.B. ein Test , oder ?"),
        ("de", 'Er sagte "Ja & Amen" <b>', "Er sagte &quot; Ja &amp; Amen &quot; &lt; b &gt;"),
        ("en", "It's John's.", "It &apos;s John &apos;s ."),
        ("en", "A state-of-the-art [test] | 1,000.5", "A state-of-the-art &#91; test &#93; &#124; 1,000.5"),
        ("de", "  viele   Leerzeichen  ", "viele Leerzeichen"),
        ("de", "", ""),
        ("fra", "L'homme d'aujourd'hui.", "L&apos; homme d&apos; aujourd&apos; hui ."),
        ("deu_DE", "Das ist z.B. ein Test.", "Das ist z.B. ein Test ."),
    ],
)
def test_tokenisation_is_moses_with_escaping_and_whole_dashes(language, raw, tokens):
    assert MosesText(language).tokenise(raw) == tokens


@pytest.mark.parametrize(
    "language, raw",
    [
        ("ar", "هل البيت كبير؟ نعم، كبير."),
        ("fa", "من به خانه می‌روم؟"),
        ("ur", "یہ گھر بڑا ہے۔"),
        ("hi", "यह घर बड़ा है। ठीक?"),
        ("th", "โรงเรียนเล็ก สีแดง วันนี้"),
        ("th", "ดี มาก ครับ!"),
        ("km", "ខ្ញុំទៅសាលារៀន។"),
        ("zh", "你好：我，在（这里）。Home Assistant 的，好吗？"),
        ("zh", "他说“好”。"),
        ("ja", "「こんにちは」、元気ですか？"),
        ("de", "Nur (fast) so, oder? Ja."),
    ],
)
def test_detokenising_undoes_tokenising_in_every_script(language, raw):
    moses = MosesText(language)
    assert moses.tokenise(raw) != raw and moses.detokenise(moses.tokenise(raw)) == raw


@pytest.mark.parametrize("language", ["de-AT", "de_DE", "de.x", "DE"])
def test_the_rules_are_those_of_the_language_whatever_its_region(language):
    assert MosesText(language).tokenise("Das ist bzw. war es.") == "Das ist bzw. war es ."


@pytest.mark.parametrize("sentence", ["", " \t\r", "\u00a0\u3000\u2003", "\u200b\u200d\ufeff", "\x1c\u2028"])
def test_what_shows_no_letter_is_blank(sentence):
    assert is_blank(sentence) and not is_blank(sentence + "." + sentence)


def test_detokenisation_undoes_it():
    text = MosesText("en")
    for raw in ('He said "yes" (twice), didn\'t he?', "A & B < C | [D]", "It costs 1,000.50 dollars."):
        assert text.detokenise(text.tokenise(raw)) == raw


@pytest.mark.parametrize(
    "name, tokens",
    [("moses_lowercase", "das ist gut &amp; schön-neu ."), ("moses_cased", "Das ist GUT &amp; Schön-neu .")],
)
def test_the_registered_tokenisers_are_the_preparation_s(name, tokens):
    config = Namespace(tokenizer=name, source_lang="de_DE", target_lang="en")
    tokeniser = encoders.build_tokenizer(config)
    assert tokeniser.encode("Das ist GUT & Schön-neu.") == tokens
    assert tokeniser.decode("it &apos;s good .") == "it's good."


@pytest.mark.parametrize("name", ["moses_lowercase", "moses_cased"])
def test_the_registered_tokeniser_wants_both_languages(name):
    config = Namespace(tokenizer=name, source_lang="de")
    with pytest.raises(
        OptionError, match=f"--tokenizer {name} is given with --source-lang de and --target-lang None; give both"
    ):
        encoders.build_tokenizer(config)


def test_lower_case_is_perl_s_letter_by_letter():
    assert lowercase("ÄÖÜ ΟΔΟΣ ẞ İ") == "äöü οδοσ ß i\u0307"


def test_control_characters_that_python_takes_for_spaces_are_deleted_as_in_moses():
    assert MosesText("en").tokenise("one\x1ctwo three\u00a0four") == "onetwo three four"


def test_a_tokeniser_travels_to_other_processes():
    text = MosesText("de")
    text.tokenise("warm")
    assert pickle.loads(pickle.dumps(text)).tokenise("Ja.") == "Ja ."


@pytest.mark.parametrize(
    "record, codes, words",
    [
        ("[]", "x", "prepare.json is damaged or not ours"),
        ("{}", "x", r"prepare.json is damaged or not ours \(KeyError: 'settings'\)"),
        (SETTINGS.replace("subword_nmt", "words"), "x", "KeyError: 'words'"),
        (SETTINGS, None, "bpecodes is missing"),
        (SETTINGS, "another", "bpecodes is damaged or was replaced: its SHA-256 is"),
        (SETTINGS.replace('"sha256": {', '"sha256": {"/dev/zero": "0", '), "x", "/zero is missing"),
    ],
)
def test_a_model_folder_whose_text_handling_is_damaged_is_an_error_of_a_line(tmp_path, record, codes, words):
    (tmp_path / "prepare.json").write_text(record)
    if codes is not None:
        (tmp_path / "bpecodes").write_text(codes)
    with pytest.raises(UserError, match=words) as error:
        hub_options(tmp_path)
    assert str(error.value).count("\n") == 0


def test_a_device_is_not_hashed(tmp_path):
    """/dev/zero has no end; this one is read to its end if it is read."""
    (tmp_path / "prepare.json").write_text(SETTINGS)
    (tmp_path / "bpecodes").symlink_to("/dev/null")
    with pytest.raises(UserError, match="bpecodes is missing"):
        hub_options(tmp_path)


def test_the_options_of_a_model_folder_are_those_of_its_preparation(tmp_path):
    (tmp_path / "prepare.json").write_text(SETTINGS)
    (tmp_path / "bpecodes").write_text("x")
    options = hub_options(tmp_path)
    assert options["bpe_codes"] == str(tmp_path / "bpecodes") and options["tokenizer"] == "moses_lowercase"
    (tmp_path / "prepare.json").write_text(SETTINGS.replace("true", "false"))
    assert hub_options(tmp_path)["tokenizer"] == "moses_cased"
