"""From two plain-text files a split to fairseq's binarised data.

Stages, in the order of fairseq's IWSLT'14 recipe: Moses tokenisation of every split, cleaning of
the training split on its tokenised lines, lowercasing, validation pairs taken out of it where no
validation files are given, a joint subword model learned on both sides of what is left, binarisation.
The output folder:

    raw/{valid,test}.{src,tgt}          the held-out splits as given, for detokenised scores
    tok/{train,valid,test}.{src,tgt}    tokenised, lowercased, cleaned, before the subword model
    bpe.codes (or spm.model)            the subword model
    bpe/{train,valid,test}.{src,tgt}
    bin/                                fairseq's binarised data and dictionaries, with copies of
                                        the subword model (under the name that the hub looks for)
    prepare.json                        and of this: settings, versions, counts, hashes
"""

import functools
import re
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

from fairseq.binarizer import FileBinarizer, VocabularyDatasetBinarizer
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_dataset
from fairseq.tokenizer import tokenize_line
from tqdm import tqdm

from ..errors import CorpusError, OptionError, UserError, check_at_least, check_within, flag
from ..text import HUB_NAMES, PREPARATION, SUBWORD_MODELS, MosesText, lowercase
from . import files
from .processes import parallel_map
from .report import render_table
from .scoring import UNSPACED, sacrebleu_tokeniser

SPLITS = ("train", "valid", "test")
CHUNK = 2000  # lines a worker takes at a time
WITHOUT_SPACES = UNSPACED.keys() - {"ko"}  # languages written without spaces between words
MAX_TOKEN_LENGTH = 1000  # characters; clean-corpus-n's
MANY_UNKNOWN, MANY_REPEATED = 0.1, 0.1  # shares of a split's subwords and pairs that are told with a warning


@dataclass(frozen=True)
class Settings:
    """What decides a preparation's content; the defaults are the IWSLT'14 recipe's."""

    source_lang: str = "de"
    target_lang: str = "en"
    lowercase: bool = True
    max_tokens: int = 175  # Moses tokens a side, of a training pair
    max_ratio: float = 1.5  # longer side to shorter, of a training pair
    valid_every: int = 23  # where no validation files are given: every 23rd cleaned training pair
    bpe: str = "subword_nmt"  # or sentencepiece: fairseq's names
    bpe_size: int = 10_000  # merge operations of subword_nmt, pieces of sentencepiece
    joined_dictionary: bool = False

    @property
    def languages(self):
        return self.source_lang, self.target_lang

    @property
    def subword_model(self):
        return SUBWORD_MODELS[self.bpe].name

    def check(self):
        """Raises OptionError for settings that cannot be."""
        for language in self.languages:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", language):
                raise OptionError(f"the language is '{language}'; expected letters and digits, such as de or zh-CN")
        if self.source_lang == self.target_lang:
            raise OptionError(f"source and target language are both '{self.source_lang}'; they must differ")
        if self.bpe not in SUBWORD_MODELS:
            raise OptionError(f"the subword model is '{self.bpe}'; choose from {', '.join(SUBWORD_MODELS)}")
        check_within(1, 1_000_000, max_tokens=self.max_tokens, max_ratio=self.max_ratio)
        check_within(1, 1_000_000, bpe_size=self.bpe_size)
        check_at_least(2, valid_every=self.valid_every)


RECORD = {
    "settings": {field.name: field.type for field in fields(Settings)},
    "raw": {str: str},
    "versions": {str: str},
    "vocabulary_of?": {str: str},
    "counts?": object,
    "sha256?": {str: str},
}


def prepare(raw, out, settings=Settings(), workers=None, like=None):
    """Prepare a corpus. Stages whose output is there are skipped; each appears whole or not at all.

    Args:
        raw: dict of ``train``, ``valid``, ``test`` to the prefix of its two files, which end in
            ``.{source_lang}`` and ``.{target_lang}``, or those with ``.gz``, ``.bz2`` or ``.xz``; ``valid`` may be
            missing: see ``Settings.valid_every``
        out: the output folder
        settings: what to make
        workers: processes; default: one a core
        like: another preparation, to use its settings and vocabulary, for a new test set or a corpus to fine-tune on;
            ``train`` may be missing then

    Returns:
        the content of ``prepare.json``

    Raises:
        CorpusError: missing or broken files, sides of different length, an empty corpus
        OptionError: settings that cannot be
        UserError: ``out`` holds another preparation, or another process writes it
    """
    if like:
        like, vocabulary = Path(like), read_preparation(like)
        check_files(like, vocabulary)
        settings = Settings(**vocabulary["settings"])
    settings.check()
    out = Path(out)
    check_at_least(1, workers=workers)
    paths = {
        split: {language: _raw_file(raw[split], language) for language in settings.languages}
        for split in SPLITS
        if split in raw
    }
    identity = {
        "settings": asdict(settings),
        "raw": {f"{split}.{language}": files.sha256_of(f) for split, fs in paths.items() for language, f in fs.items()},
        "versions": {name: version(name) for name in ("sacremoses", "subword-nmt", "ve-fairseq")},
    }
    if settings.bpe == "sentencepiece":
        identity["versions"]["sentencepiece"] = version("sentencepiece")
    if like:
        identity["vocabulary_of"] = vocabulary["sha256"]
    record, names = out / PREPARATION, ("raw", "tok", "bpe", "bin", settings.subword_model)
    if not record.exists() and (there := [name for name in names if (out / name).exists()]):
        raise UserError(
            f"{out} holds {' and '.join(there)} but no {PREPARATION}: fairseq-cgc did not make that and left it alone; choose another "
            "folder, or move it away"
        )
    with files.locked(out / ".lock", f"the preparation {out}"):
        begun = {path.name for path in out.iterdir()} - {record.name, ".lock"}  # else it never got as far as a stage
        before = files.read_json(record, RECORD) if record.exists() else None  # or an error: it is somebody's
        if before and begun:
            for part in (*identity, "vocabulary_of"):
                if before.get(part) != identity.get(part):
                    raise UserError(
                        f"{out} holds a preparation with other {part}: {_difference(before.get(part), identity.get(part))}.\n"
                        "Choose another folder for the new preparation."
                    )
            if "counts" in before and (out / "bin").exists():
                return before
        else:
            files.write_json(record, identity)
        result = _run_stages(paths, out, settings, workers, like, identity)
        files.write_json(record, result)
        return result


def read_preparation(folder):
    """The record of a finished preparation. Raises UserError if it is not finished, or damaged."""
    path = Path(folder) / "bin" / PREPARATION
    if not path.is_file():
        raise CorpusError(
            f"{folder} holds no finished preparation (bin/{PREPARATION}); make one with fairseq-cgc prepare or "
            "prepare-iwslt14, or give the folder of another"
        )
    record = files.read_json(path, {**RECORD, "counts": {str: {"pairs": int}}, "sha256": {str: str}})
    Settings(**record["settings"]).check()
    return record


def check_files(folder, record=None):
    """Raises CorpusError for the first file of a preparation that is not the one it made."""
    record = record or read_preparation(folder)
    for name, recorded in record["sha256"].items():
        path = Path(folder) / "bin" / HUB_NAMES.get(name, name)
        found = files.sha256_of(path)[:12] if path.is_file() else "not there"
        if found != recorded[:12]:
            raise CorpusError(
                f"{path} is damaged or was replaced: its SHA-256 is {found}, and the preparation recorded "
                f"{recorded[:12]}; restore it, or prepare the corpus again"
            )


def _run_stages(paths, out, settings, workers, like, identity):
    model = out / settings.subword_model
    if not (out / "tok").exists():
        _tokenise(paths, out, settings, workers)
    if not model.exists() and like:
        with files.atomic_write(model) as file:
            shutil.copyfile(like / settings.subword_model, file)
    elif not model.exists():
        try:
            learn_subwords([out / "tok" / f"train.{language}" for language in settings.languages], model, settings)
        except CorpusError:  # another size or corpus is needed, for which the folder is left
            files.discard_folder(out / "tok", "tokens")
            files.discard_folder(out / "raw", "held-out text")
            raise
    if not (out / "bpe").exists():
        _apply_subwords(out, settings, workers)
    if not (out / "bin").exists():
        binarise(out, settings, identity, paths, like)
    return read_preparation(out)


def _raw_file(prefix, language):
    plain = Path(f"{prefix}.{language}")
    for file in (plain, *(Path(f"{plain}{suffix}") for end in files.COMPRESSED for suffix in (end, end.upper()))):
        if file.is_file():
            return file
    raise CorpusError(
        f"neither {plain} nor {plain} with {', '.join(files.COMPRESSED)} exists as a file; give what stands before the language"
    )


def _difference(before, now):
    before, now = ({k: str(v)[:12] for k, v in (values or {}).items()} for values in (before, now))  # hashes, in part
    return ", ".join(
        f"{k} {before.get(k, 'none')} there, {now.get(k, 'none')} requested"
        for k in {**now, **before}
        if before.get(k) != now.get(k)
    )


def _tokenise(paths, out, settings, workers):
    """Make ``raw/`` and ``tok/``."""
    with files.atomic_folder(out / "tok", "tokens") as tok, files.atomic_folder(out / "raw", "held-out text") as raw:
        for split, sides in paths.items():
            lines = {language: files.read_lines(file) for language, file in sides.items()}
            check_sides(*sides.values(), *lines.values(), f"the {split} split")
            tokenised = [
                _parallel(MosesText(language).tokenise, lines[language], workers, f"tokenise {split}.{language}")
                for language in settings.languages
            ]
            made = {split: tokenised}
            if split == "train":
                pairs = clean_pairs(zip(*tokenised), settings.max_tokens, settings.max_ratio)
                if not pairs:
                    why = _clauses(settings.languages) or "are the two sides aligned?"
                    raise CorpusError(
                        f"none of the {len(tokenised[0])} training pairs of {' and '.join(map(str, sides.values()))} is "
                        f"left after cleaning (1 to {settings.max_tokens} tokens a side, ratio at most "
                        f"{settings.max_ratio}): {why}"
                    )
                made = {"train": list(zip(*pairs))}
                if "valid" not in paths:
                    made = dict(zip(("train", "valid"), hold_out(pairs, settings.valid_every)))
            else:
                for language in settings.languages:
                    files.write_lines(raw / f"{split}.{language}", lines[language])
            for name, tokenised in made.items():
                for language, side in zip(settings.languages, tokenised):
                    files.write_lines(tok / f"{name}.{language}", map(lowercase, side) if settings.lowercase else side)


def check_sides(source_file, target_file, source, target, what):
    """Raises CorpusError unless two files have the same number of lines, and some."""
    if len(source) != len(target):
        (shorter, n), (longer, lines) = sorted(
            [(source_file, source), (target_file, target)], key=lambda side: len(side[1])
        )
        raise CorpusError(
            f"{source_file} has {len(source)} lines and {target_file} has {len(target)}: {shorter.name} ends after line "
            f"{len(n)}, where {longer.name} continues with '{lines[len(n)][:60]}'.\n"
            "Line n of one must be the translation of line n of the other."
        )
    if not source:
        raise CorpusError(f"{source_file} and {target_file} are empty; {what} needs sentences")


def clean_pairs(pairs, max_tokens, max_ratio):
    """Moses' ``clean-corpus-n`` over pairs of tokenised sentences: a list of those that it keeps.

    These have 1 to ``max_tokens`` tokens a side, a length ratio of at most ``max_ratio`` and no token of more than
    1,000 characters; white space is folded.
    """
    cleaned = []
    for pair in pairs:
        source, target = (side.split() for side in pair)
        shorter, longer = sorted((len(source), len(target)))
        if not (1 <= shorter and longer <= max_tokens and longer / shorter <= max_ratio):
            continue
        if max(map(len, source + target)) <= MAX_TOKEN_LENGTH:
            cleaned.append((" ".join(source), " ".join(target)))
    return cleaned


def hold_out(pairs, every):
    """The recipe's validation split: pairs ``every``, 2 * ``every`` ... (counted from 1) are held out.

    Returns ((source, target) of the training pairs, (source, target) of the validation pairs), lists of lines. Raises
    CorpusError for fewer than ``every`` pairs.
    """
    if len(pairs) < every:
        raise CorpusError(
            f"{len(pairs)} training pairs are left after cleaning, too few to hold out one of every {every} for validation; "
            "give validation files, or a smaller --valid-every"
        )
    training = [pair for number, pair in enumerate(pairs, 1) if number % every]
    return list(zip(*training)), list(zip(*pairs[every - 1 :: every]))


def learn_subwords(paths, model, settings):
    """Learn a joint subword model on the concatenation of the files. Raises CorpusError if there is too little text."""
    print(f"learn {settings.bpe_size} {settings.bpe} subwords on {' and '.join(f.name for f in paths)}", flush=True)
    if settings.bpe == "sentencepiece":
        _learn_sentencepiece(paths, model, settings)
        return
    from unittest.mock import patch

    from subword_nmt import learn_bpe

    lines = [line for file in paths for line in files.read_lines(file)]
    labelled = functools.partial(tqdm, desc="learn subwords", unit=" merges", disable=None)  # its own bar is neither
    with (
        files.atomic_write(model) as partial,
        open(partial, "w", encoding="utf-8") as out,
        patch.object(learn_bpe, "tqdm", labelled),
    ):
        try:
            learn_bpe.learn_bpe(lines, out, settings.bpe_size, num_workers=1)
            out.flush()
            if partial.read_bytes().count(b"\n") < 2:  # the version's line alone
                raise ValueError
        except (ValueError, IndexError):
            raise CorpusError(
                f"no subwords can be learned from {' and '.join(map(str, paths))}: no two characters stand beside each other in "
                "their words twice"
            ) from None


def _learn_sentencepiece(paths, model, settings):
    import sentencepiece

    with files.atomic_write(model) as partial, open(partial, "wb") as out:
        try:
            sentencepiece.SentencePieceTrainer.train(
                input=[str(file) for file in paths],
                model_writer=out,
                model_type="bpe",
                vocab_size=settings.bpe_size,
                hard_vocab_limit=False,  # a small corpus has fewer
                character_coverage=1.0,
                normalization_rule_name="identity",  # the pieces must join to the tokens again
                max_sentence_length=2**16,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            if found := re.search(r"smaller than required_chars. \d+ vs (\d+)", reason):
                reason = f"the characters of the corpus alone are {found[1]}; raise --bpe-size"
            raise CorpusError(f"sentencepiece could not learn {settings.bpe_size} pieces: {reason}") from None


class _SubwordSegmenter:
    """A subword model, loaded in the process that uses it, which cannot pass it on to another then."""

    def __init__(self, kind, model):
        self.kind, self.model = kind, str(model)

    def __call__(self, line):
        return self.segment(line).strip()

    @functools.cached_property
    def segment(self):
        if self.kind == "sentencepiece":
            import sentencepiece

            processor = sentencepiece.SentencePieceProcessor(model_file=self.model)
            return lambda line: " ".join(processor.encode(line, out_type=str))
        from subword_nmt.apply_bpe import BPE

        with open(self.model, encoding="utf-8") as codes:
            return BPE(codes).process_line


def _apply_subwords(out, settings, workers):
    with files.atomic_folder(out / "bpe", "subwords") as partial:
        for file in sorted((out / "tok").glob("[!.]*")):
            segmenter = _SubwordSegmenter(settings.bpe, out / settings.subword_model)
            files.write_lines(
                partial / file.name, _parallel(segmenter, files.read_lines(file), workers, f"segment {file.name}")
            )


def _parallel(function, lines, workers, title):
    """``[function(line) for line in lines]`` over processes, with a progress bar."""
    results = parallel_map(function, lines, workers, CHUNK)
    return list(tqdm(results, title, len(lines), unit=" lines", disable=None))


def binarise(out, settings, identity, paths, like=None):
    """Make of ``out/bpe`` what ``fairseq-preprocess`` makes, in this process; ``out/bin`` is complete in itself.

    Args:
        identity: what its ``prepare.json`` is to hold besides counts and hashes
        paths: of the raw files, a split and language
        like: a preparation whose dictionaries to use
    """
    counts = {split: {} for split in SPLITS if (out / "bpe" / f"{split}.{settings.source_lang}").exists()}
    for split in counts.keys() & paths.keys():
        counts[split]["raw_pairs"] = len(files.read_lines(paths[split][settings.source_lang]))
    with files.atomic_folder(out / "bin", "binarised data") as partial:
        print("binarise", flush=True)
        for language, vocabulary in zip(settings.languages, _vocabularies(out / "bpe", settings, like)):
            vocabulary.save(str(partial / f"dict.{language}.txt"))
            for split, count in counts.items():
                text = out / "bpe" / f"{split}.{language}"
                binary = partial / f"{split}.{'-'.join(settings.languages)}.{language}"
                with _words_of_lines(text, "binarise") as words:
                    numbers = VocabularyDatasetBinarizer(vocabulary, words)
                    made = FileBinarizer.multiprocess_dataset(str(text), "mmap", numbers, str(binary), len(vocabulary))
                count["pairs"] = made.num_seq
                count[language] = {"tokens": made.num_tok - made.num_seq, "unknown": made.num_replaced}
        shutil.copyfile(out / settings.subword_model, partial / SUBWORD_MODELS[settings.bpe].hub_name)
        dictionaries = [partial / f"dict.{language}.txt" for language in settings.languages]
        data = sorted([*partial.glob("*.bin"), *partial.glob("*.idx")])
        sha256 = {file.name: files.sha256_of(file) for file in (out / settings.subword_model, *dictionaries, *data)}
        files.write_json(partial / PREPARATION, {**identity, "counts": counts, "sha256": sha256})


def _vocabularies(folder, settings, like):
    """fairseq's dictionaries, one a language: those of a preparation, or of the training text, with its defaults."""
    if like:
        return [Dictionary.load(str(like / "bin" / f"dict.{language}.txt")) for language in settings.languages]
    texts = [folder / f"train.{language}" for language in settings.languages]
    if settings.joined_dictionary:
        return [_vocabulary(sorted(texts))] * 2
    return [_vocabulary([text]) for text in texts]


def _vocabulary(texts):
    """What ``FairseqTask.build_dictionary`` makes of files, with a progress bar."""
    vocabulary = Dictionary()
    for text in texts:
        with _words_of_lines(text, "count words of") as words:
            Dictionary.add_file_to_dictionary(str(text), vocabulary, words, num_workers=1)
    vocabulary.finalize()
    return vocabulary


@contextmanager
def _words_of_lines(text, title):
    """Yield what tells fairseq the words of a line, and moves a progress bar over the file's lines."""
    lines = text.read_bytes().count(b"\n")
    with tqdm(desc=f"{title} {text.name}", total=lines, unit=" lines", disable=None) as bar:

        def words(line):
            bar.update()
            return tokenize_line(line)

        yield words


def longest_sentence(prepared, split, limit):
    """Tokens of the longest sentence of a split that a model takes, of both sides, EOS counted.

    Takes the folder of a preparation, and the limit of the model's positions.
    """
    settings = Settings(**files.read_json(prepared / "bin" / PREPARATION)["settings"])
    pair = "-".join(settings.languages)
    longest = 0
    for side in settings.languages:
        data = make_dataset(f"{prepared / 'bin' / split}.{pair}.{side}", "mmap")
        if data:  # whose file the sizes are part of
            longest = max(longest, int(data.sizes[data.sizes <= limit].max(initial=0)))
    return longest


def summary(result, expected=None):
    """A preparation as a table, lines of text: pairs, subword tokens, mean length and unknown tokens a split.

    One more line is for the pairs that cleaning dropped, and those of a warning for numbers of pairs that are not the
    ``expected`` ones (a split), if these are known.
    """
    languages = result["settings"]["source_lang"], result["settings"]["target_lang"]
    header = ["split", "pairs", *["expected"] * bool(expected)]
    header += [f"{name} {language}" for language in languages for name in ("tokens", "mean", "OOV")]
    rows, other, strange = [], [], []
    for split, counts in result["counts"].items():
        row = [split, f"{counts['pairs']:,}"]
        if expected:
            row.append(f"{expected[split]:,}")
            if counts["pairs"] != expected[split]:
                other.append(f"{split} {counts['pairs']:,} instead of {expected[split]:,}")
        for language in languages:
            tokens, unknown = counts[language]["tokens"], counts[language]["unknown"]
            mean, rate = tokens / max(1, counts["pairs"]), unknown / max(1, tokens)
            row += [f"{tokens:,}", f"{mean:.2f}", f"{rate:.3%}"]
            if rate > MANY_UNKNOWN:
                strange.append(
                    f"WARNING: {rate:.0%} of the {language} subwords of {split} are unknown: is it the language of training?"
                )
        rows.append(row)
    lines = render_table(header, rows, style="plain").splitlines() + strange
    lines += _dropped(result["counts"], result["settings"])
    if other:
        lines += [
            "WARNING " * 9,
            f"WARNING: the numbers of pairs are not the recipe's: {'; '.join(other)}.",
            "WARNING: this is another corpus or another version of it; its scores cannot be compared with published ones.",
        ]
    return lines


def _dropped(counts, settings):
    """Lines on the training pairs that cleaning dropped, if it did."""
    if not (raw := counts.get("train", {}).get("raw_pairs")):
        return []
    held_out = 0 if "raw_pairs" in counts["valid"] else counts["valid"]["pairs"]
    if not (dropped := raw - counts["train"]["pairs"] - held_out):
        return []
    rule = f"1 to {settings['max_tokens']} Moses tokens a side, ratio at most {settings['max_ratio']:g}"
    lines = [f"cleaning dropped {dropped:,} of {raw:,} training pairs (kept: {rule})"]
    languages = settings["source_lang"], settings["target_lang"]
    if dropped > raw / 4 and (why := _clauses(languages)):
        lines.append(f"WARNING: {why}")
    return lines


def repeated(folder, result, like=None):
    """Lines on the pairs of each other split of a preparation that the training part has too, if there are any.

    Without a training part of its own, that of ``like``, whose vocabulary it has. Nothing of what has been removed.
    """
    languages = [result["settings"][side] for side in ("source_lang", "target_lang")]

    def pairs(folder, split):
        paths = [Path(folder, "tok", f"{split}.{language}") for language in languages]
        return zip(*map(files.read_lines, paths)) if all(path.is_file() for path in paths) else ()

    others, lines = {split: list(pairs(folder, split)) for split in result["counts"] if split != "train"}, []
    trained = set().union(*others.values()).intersection(pairs(like or folder, "train"))
    for split, there in others.items():
        if count := sum(pair in trained for pair in there):
            warning = "WARNING: " * (count > MANY_REPEATED * len(there))
            lines.append(f"{warning}{count:,} of {len(there):,} {split} pairs are training pairs too")
    return lines


def _clauses(languages):
    """Words on languages whose lengths in Moses tokens tell little, if one of these is."""
    unspaced = [name for name in languages if MosesText(name).language in WITHOUT_SPACES]
    if not unspaced:
        return ""
    return (
        f"Moses takes whole clauses of {' and '.join(unspaced)} for tokens, so the ratio tells little: prepare again with "
        "--max-ratio 20 --bpe sentencepiece"
    )


def settings_of(args):
    """The settings that the options of ``prepare`` and ``prepare-iwslt14`` describe."""
    given = {field.name: getattr(args, field.name) for field in fields(Settings)}
    return Settings(**{name: value for name, value in given.items() if value is not None})


def main(args):
    """``fairseq-cgc prepare``."""
    raw = {"train": args.train, "valid": args.valid, "test": args.test}
    raw, settings = {split: prefix for split, prefix in raw.items() if prefix}, settings_of(args)
    for field in fields(Settings) if args.vocabulary_of else ():
        if getattr(args, field.name) is not None:
            option = flag("keep_case" if field.name == "lowercase" else field.name)
            raise OptionError(f"{option} cannot be combined with --vocabulary-of, which already sets it")
    for name in () if args.vocabulary_of else ("train", "source_lang", "target_lang"):
        if not getattr(args, name):
            raise OptionError(f"{flag(name)} is missing; see --help")
    if args.valid and not args.train:
        raise OptionError("--valid needs --train; give both, or leave it out")
    if args.valid and args.valid_every is not None:
        raise OptionError("--valid-every holds out pairs where there are no --valid files; leave one of the two out")
    files.writable_folder(args.out, option="--out")
    result = prepare(raw, args.out, settings, args.workers, args.vocabulary_of)
    print(*summary(result), *repeated(args.out, result, not args.train and args.vocabulary_of), sep="\n")
    try:
        sacrebleu_tokeniser(result["settings"]["target_lang"])
    except OptionError as error:  # better known now than after a training
        print(f"WARNING: {error}")
    print(f"-> {args.out} (binarised data: {args.out / 'bin'})")
