"""Raw sentences to Moses tokens and back: one place for training data and for a user's own input."""

import hashlib
import json
import os
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from fairseq.data.encoders import register_tokenizer
from fairseq.dataclass import FairseqDataclass

from .errors import OptionError, UserError

PREPARATION = "prepare.json"  # beside the dictionaries of a preparation: its settings


class SubwordModel(NamedTuple):
    """The files and options of one of fairseq's ``--bpe``."""

    name: str  # of the file in a preparation
    hub_name: str  # of its copy beside the dictionaries: the name that fairseq's hub knows
    option: str  # fairseq's option for it
    remove_bpe: str  # fairseq-generate's --remove-bpe


SUBWORD_MODELS = {
    "subword_nmt": SubwordModel("bpe.codes", "bpecodes", "bpe_codes", "@@ "),
    "sentencepiece": SubwordModel("spm.model", "sentencepiece.bpe.model", "sentencepiece_model", "sentencepiece"),
}
HUB_NAMES = {model.name: model.hub_name for model in SUBWORD_MODELS.values()}

# Python takes these control characters for white space; Perl, and so Moses, deletes them.
NOT_SPACE_IN_PERL = dict.fromkeys(range(0x1C, 0x20))
# What Moses' detokeniser does not know: punctuation that stands at the word before it; the joiner inside words of Arabic
# script, and marks of scripts without spaces between words, at which the tokeniser tears words. A space that stood behind
# either is lost: the tokens do not tell it.
AT_THE_WORD_BEFORE = re.compile(r" +(?=[،؛؟۔।॥។။])")
JOINER = re.compile("(?<=[\u0600-\u06ff]) \u200c (?=[\u0600-\u06ff])")
_MARKS = "".join(chr(code) for code in range(0x0E00, 0x1800) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
MARKS = re.compile(f" +([{_MARKS}]+) *")  # of Thai to Khmer
CJK_PUNCTUATION = re.compile(r" *([，。、：；！？（）《》「」『』“”‘’]) *")


def is_blank(sentence: str) -> bool:
    """Whether a sentence has nothing to read: white space (U+00A0, U+3000 ...), control and format characters (U+200B ...)."""
    return all(letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf") for letter in sentence)


def lowercase(sentence: str) -> str:
    """Lower case as Moses' ``lowercase.perl``: letter by letter, so without Greek's final sigma."""
    return sentence.lower() if "\u03a3" not in sentence else "".join(map(str.lower, sentence))


# Three-letter codes of languages that have rules of their own, here, in sacremoses or in sacreBLEU.
TWO_LETTERS = dict(
    word.split(":")
    for word in """ara:ar cat:ca ces:cs cze:cs chi:zh cmn:zh zho:zh deu:de ger:de dut:nl nld:nl ell:el gre:el eng:en est:et
    fas:fa per:fa pes:fa fin:fi fra:fr fre:fr gle:ga guj:gu hin:hi hun:hu ice:is isl:is ita:it jpn:ja kan:kn khm:km kor:ko lao:lo
    lav:lv lit:lt mal:ml mar:mr bur:my mya:my mni:mn pol:pl por:pt ron:ro rum:ro rus:ru slk:sk slo:sk slv:sl spa:es swe:sv tam:ta
    tel:te tha:th""".split()
)


class MosesText:
    """Moses tokenisation of one language, as the Perl scripts of fairseq's recipes do it
    (``tokenizer.perl -l LANG``: special characters escaped, dashes left alone).

    Args:
        language: two-letter code, or the three-letter one (ISO 639) of a language with rules of its own here or in Moses;
            what comes after it (``zh-CN``, ``de_DE``) makes no difference

    Attributes:
        language: the two-letter code
    """

    def __init__(self, language):
        code = re.split("[-_.]", language)[0].lower()
        self.language = TWO_LETTERS.get(code, code)
        self._tokeniser = self._detokeniser = None

    def __getstate__(self):  # for another process: the compiled rules are built where they are used
        return {"language": self.language, "_tokeniser": None, "_detokeniser": None}

    def tokenise(self, sentence: str) -> str:
        """Raw sentence to tokens separated by single spaces."""
        if self._tokeniser is None:
            from sacremoses import MosesTokenizer

            self._tokeniser = MosesTokenizer(self.language)
        sentence = sentence.translate(NOT_SPACE_IN_PERL)
        return self._tokeniser.tokenize(sentence, aggressive_dash_splits=False, return_str=True, escape=True)

    def detokenise(self, sentence: str) -> str:
        """Tokens separated by spaces to a raw sentence."""
        if self._detokeniser is None:
            from sacremoses import MosesDetokenizer

            self._detokeniser = MosesDetokenizer(self.language)
        sentence = self._detokeniser.detokenize(sentence.split(), return_str=True, unescape=True)
        sentence = JOINER.sub("\u200c", AT_THE_WORD_BEFORE.sub("", sentence))
        if self.language in ("th", "lo", "km", "my"):
            return MARKS.sub(r"\1", sentence)
        return CJK_PUNCTUATION.sub(r"\1", sentence) if self.language in ("zh", "ja") else sentence


@dataclass  # fairseq makes command-line options of its fields, and reads no other form of Optional
class MosesConfig(FairseqDataclass):
    source_lang: Optional[str] = field(default=None, metadata={"help": "source language"})
    target_lang: Optional[str] = field(default=None, metadata={"help": "target language"})


@register_tokenizer("moses_cased", dataclass=MosesConfig)
class MosesCased:
    """``--tokenizer moses_cased``: a raw sentence to what a preparation with ``--keep-case`` trained on, and back.

    fairseq's own ``--tokenizer moses`` splits dashes where the recipe does not, and knows no regions (``de_DE``).

    Raises:
        OptionError: without ``--source-lang`` and ``--target-lang``, whose rules it is to follow
    """

    name = "moses_cased"

    def __init__(self, cfg):
        if not (cfg.source_lang and cfg.target_lang):
            raise OptionError(
                f"--tokenizer {self.name} is given with --source-lang {cfg.source_lang} and --target-lang "
                f"{cfg.target_lang}; give both, such as --source-lang de --target-lang en"
            )
        self._source, self._target = MosesText(cfg.source_lang), MosesText(cfg.target_lang)

    def encode(self, x: str) -> str:
        return self._source.tokenise(x)

    def decode(self, x: str) -> str:
        return self._target.detokenise(x)


@register_tokenizer("moses_lowercase", dataclass=MosesConfig)
class MosesLowercase(MosesCased):
    """``--tokenizer moses_lowercase``: the same for a lowercased preparation, which is the recipe's."""

    name = "moses_lowercase"

    def encode(self, x: str) -> str:
        return lowercase(super().encode(x))


def hub_options(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """fairseq's options that read and write raw text as the preparation in this folder did.

    Args:
        folder: holds ``prepare.json`` and the subword model

    Returns:
        dict of option to value

    Raises:
        UserError: ``prepare.json`` is damaged, or the subword model is missing or another than it says
    """
    path = os.path.join(folder, PREPARATION)
    try:
        with open(path, encoding="utf-8") as stream:
            record = json.load(stream)
        settings, subwords = record["settings"], SUBWORD_MODELS[record["settings"]["bpe"]]
        source, target, lowercased = settings["source_lang"], settings["target_lang"], settings["lowercase"]
        recorded = {subwords.name: None, **record.get("sha256", {})}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged or not ours ({type(error).__name__}: {error}); restore a copy, or make the folder again"
        ) from None
    model = os.path.abspath(os.path.join(folder, subwords.hub_name))
    for name, digest in recorded.items():
        if name.endswith((".bin", ".idx")):  # which a model folder has not
            continue
        file = os.path.join(folder, HUB_NAMES.get(name, os.path.basename(name)))
        found = _sha256_of(file)
        if found is None or digest not in (None, found):
            raise UserError(
                f"{file} is {f'damaged or was replaced: its SHA-256 is {found[:12]}' if found else 'missing'}, and "
                f"{PREPARATION} recorded {str(digest)[:12]}; restore it, or make the folder again"
            )
    return {
        "source_lang": source,
        "target_lang": target,
        "tokenizer": "moses_lowercase" if lowercased else "moses_cased",
        "bpe": settings["bpe"],
        subwords.option: model,
    }


def _sha256_of(path):
    try:
        with open(path if os.path.isfile(path) else "", "rb") as file:  # a device has no end
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
