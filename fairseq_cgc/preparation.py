"""From two plain-text files a split to fairseq's binarised data.

Stages, in the order of fairseq's IWSLT'14 recipe: Moses tokenisation of every split, cleaning of
the training split on its tokenised lines, lowercasing, a joint BPE learned on both sides of what is
left of it, binarisation. The output folder:

    tok/{train,valid,test}.{src,tgt}    tokenised, lowercased, cleaned, before BPE
    bpe.codes                           the subword model
    bpe/{train,valid,test}.{src,tgt}
    bin/                                fairseq's binarised data and dictionaries, with copies of
                                        bpe.codes (as ``bpecodes``, where the hub looks) and of
    prepare.json                        settings, versions, counts, hashes
"""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

from .errors import CorpusError, UserError
from .files import read_json, read_lines, sha256_of, whole, write_json, write_lines
from .text import BPE_CODES, PREPARATION, MosesText

SPLITS = ("train", "valid", "test")
CHUNK = 2000  # lines a worker takes at a time


@dataclass(frozen=True)
class Settings:
    """What decides a preparation's content; the defaults are the IWSLT'14 recipe's."""

    source_lang: str = "de"
    target_lang: str = "en"
    lowercase: bool = True
    max_tokens: int = 175  # Moses tokens a side, of a training pair
    max_ratio: float = 1.5  # longer side to shorter, of a training pair
    bpe_operations: int = 10_000
    joined_dictionary: bool = False

    @property
    def languages(self):
        return self.source_lang, self.target_lang


def prepare(raw, out, settings=Settings(), workers=None):
    """Prepare a corpus. Stages whose output is there are skipped; each appears whole or not at all.

    Args:
        raw: dict of ``train``, ``valid``, ``test`` to the prefix of its two files, which end in
            ``.{source_lang}`` and ``.{target_lang}``
        out: the output folder
        settings: what to make
        workers: processes; default: one a core

    Returns:
        the content of ``prepare.json``

    Raises:
        CorpusError: missing or broken files, sides of different length, an empty corpus
        UserError: ``out`` holds another preparation
    """
    out = Path(out)
    workers = workers or os.cpu_count() or 1
    files = {
        f"{split}.{language}": Path(f"{raw[split]}.{language}") for split in SPLITS for language in settings.languages
    }
    for file in files.values():
        if not file.is_file():
            raise CorpusError(f"{file} does not exist or is not a file")
    identity = {
        "settings": asdict(settings),
        "raw": {name: sha256_of(file) for name, file in files.items()},
        "versions": {name: version(name) for name in ("sacremoses", "subword-nmt", "ve-fairseq")},
    }
    record = out / PREPARATION
    if record.exists():
        before = read_json(record)
        for part, wanted in identity.items():
            if before.get(part) != wanted:
                raise UserError(
                    f"{out} holds a preparation with other {part}: {_difference(before.get(part), wanted)}.\n"
                    "Choose another folder, or remove this one."
                )
        if "counts" in before:
            return before
    elif any((out / name).exists() for name in ("tok", "bpe", "bin")):
        raise UserError(f"{out} holds tok, bpe or bin but no {PREPARATION}; choose another folder, or remove this one")
    else:
        write_json(record, identity)

    with ProcessPoolExecutor(workers) as pool:
        if not (out / "tok").exists():
            _tokenise(files, out / "tok", settings, pool)
        if not (out / "bpe.codes").exists():
            learn_bpe(
                [out / "tok" / f"train.{language}" for language in settings.languages], out / "bpe.codes", settings
            )
        if not (out / "bpe").exists():
            _apply_bpe(out / "tok", out / "bpe.codes", out / "bpe", settings, pool)
    result = dict(identity, counts=_counts(out, files, settings))
    if not (out / "bin").exists():
        binarise(out, settings, workers, result)
    write_json(record, result)
    return result


def _difference(before, now):
    if not isinstance(before, dict):
        return f"{before} there, {now} asked for"
    return ", ".join(f"{k} {before.get(k)} there, {now.get(k)} asked for" for k in now if before.get(k) != now.get(k))


def _tokenise(files, out, settings, pool):
    with whole(out) as partial:
        partial.mkdir(parents=True)
        for split in SPLITS:
            sides = {language: files[f"{split}.{language}"] for language in settings.languages}
            lines = {language: read_lines(file) for language, file in sides.items()}
            (source, target), (source_file, target_file) = lines.values(), sides.values()
            if len(source) != len(target):
                raise CorpusError(
                    f"{source_file} has {len(source)} lines and {target_file} has {len(target)}; line n of one must "
                    "be the translation of line n of the other"
                )
            if not source:
                raise CorpusError(f"{source_file} and {target_file} are empty; the {split} split needs sentences")
            tokenised = [
                _parallel(pool, MosesText(language).tokenise, lines[language], f"tokenise {split}.{language}")
                for language in settings.languages
            ]
            if split == "train":
                pairs = clean_pairs(zip(*tokenised), settings.max_tokens, settings.max_ratio)
                if not pairs:
                    raise CorpusError(
                        f"none of the {len(source)} training pairs of {source_file} and {target_file} is left after "
                        f"cleaning (1 to {settings.max_tokens} tokens a side, ratio at most {settings.max_ratio}): "
                        "are the two sides aligned?"
                    )
                tokenised = zip(*pairs)
            for language, side in zip(settings.languages, tokenised):
                write_lines(partial / f"{split}.{language}", (s.lower() for s in side) if settings.lowercase else side)


def clean_pairs(pairs, max_tokens, max_ratio):
    """Moses' ``clean-corpus-n``: keep pairs of 1 to ``max_tokens`` tokens a side and a length ratio
    of at most ``max_ratio``; white space is folded.

    Args:
        pairs: iterable of pairs of tokenised sentences

    Returns:
        list of pairs
    """
    kept = []
    for pair in pairs:
        source, target = (side.split() for side in pair)
        shorter, longer = sorted((len(source), len(target)))
        if 1 <= shorter and longer <= max_tokens and longer / shorter <= max_ratio:
            kept.append((" ".join(source), " ".join(target)))
    return kept


def learn_bpe(files, codes, settings):
    """Learn joint BPE operations on the concatenation of the files (subword-nmt)."""
    from subword_nmt.learn_bpe import learn_bpe as learn

    lines = [line for file in files for line in read_lines(file)]
    print(f"learn {settings.bpe_operations} BPE operations on {len(lines)} lines")
    with whole(codes) as partial, open(partial, "w", encoding="utf-8") as out:
        learn(lines, out, settings.bpe_operations, num_workers=1)


class _SubwordSegmenter:
    """subword-nmt's BPE, loaded in the process that uses it."""

    def __init__(self, codes):
        self.codes = str(codes)
        self.bpe = None

    def __call__(self, line):
        if self.bpe is None:
            from subword_nmt.apply_bpe import BPE

            with open(self.codes, encoding="utf-8") as codes:
                self.bpe = BPE(codes)
        return self.bpe.process_line(line).strip()


def _apply_bpe(tok, codes, out, settings, pool):
    with whole(out) as partial:
        partial.mkdir(parents=True)
        for split in SPLITS:
            for language in settings.languages:
                lines = read_lines(tok / f"{split}.{language}")
                lines = _parallel(pool, _SubwordSegmenter(codes), lines, f"apply BPE {split}.{language}")
                write_lines(partial / f"{split}.{language}", lines)


def _parallel(pool, function, lines, title):
    """``[function(line) for line in lines]`` over the pool's processes, with a progress bar."""
    chunks = [lines[start : start + CHUNK] for start in range(0, len(lines), CHUNK)]
    results = []
    with tqdm(total=len(lines), desc=title, unit=" lines", disable=None) as bar:
        for chunk in pool.map(_map_chunk, [function] * len(chunks), chunks):
            results += chunk
            bar.update(len(chunk))
    return results


def _map_chunk(function, lines):
    return [function(line) for line in lines]


def binarise(prepared, settings, workers, result):
    """Run ``fairseq-preprocess`` on ``prepared/bpe``; make ``prepared/bin`` a folder complete in itself.

    Raises:
        UserError: fairseq-preprocess failed
    """
    with whole(prepared / "bin") as partial:
        command = [sys.executable, "-m", "fairseq_cli.preprocess"]
        command += ["--source-lang", settings.source_lang, "--target-lang", settings.target_lang]
        for split in SPLITS:
            command += [f"--{split}pref", str(prepared / "bpe" / split)]
        command += ["--destdir", str(partial), "--workers", str(workers)]
        if settings.joined_dictionary:
            command.append("--joined-dictionary")
        print("binarise with fairseq-preprocess")
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if run.returncode:
            raise UserError(
                f"fairseq-preprocess failed with exit status {run.returncode}; it ended with\n{run.stdout[-2000:]}"
            )
        (partial / "preprocess.log").unlink(missing_ok=True)
        shutil.copyfile(prepared / "bpe.codes", partial / BPE_CODES)
        write_json(partial / PREPARATION, result)


def _counts(out, files, settings):
    counts = {}
    for split in SPLITS:
        counts[split] = {"raw_pairs": len(read_lines(files[f"{split}.{settings.source_lang}"]))}
        for language in settings.languages:
            lines = read_lines(out / "bpe" / f"{split}.{language}")
            counts[split]["pairs"] = len(lines)
            counts[split][f"bpe_tokens_{language}"] = sum(len(line.split()) for line in lines)
    return counts
