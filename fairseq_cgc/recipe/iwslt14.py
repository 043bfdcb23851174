"""IWSLT'14 German-English: its archive to raw sentences, as fairseq's recipe takes them out.

``examples/translation/prepare-iwslt14.sh`` unpacks the archive and runs grep and sed over twelve of its
files; what is here reads the archive without unpacking it and leaves the same lines. The recipe then
tokenises, cleans and lowercases the training sentences and holds every 23rd pair out for validation.
"""

import gzip
import re
import tarfile
import zlib
from itertools import zip_longest
from pathlib import Path

from ..errors import CorpusError, OptionError, UserError
from .download import download, looks_like_html
from .files import (
    atomic_folder,
    decode_lines,
    locked,
    read_json,
    replaceable_folder,
    sha256_of,
    writable_folder,
    write_json,
    write_lines,
)
from .preparation import prepare, repeated, settings_of, summary

URL = "http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz"
ARCHIVE = "de-en.tgz"
RECORD = "archive.json"
EXPECTED_PAIRS = {"train": 160239, "valid": 7283, "test": 6750}
LANGUAGES = ("de", "en")
TRAINING = "train.tags"
TEST_SETS = (
    "IWSLT14.TED.dev2010",
    "IWSLT14.TEDX.dev2012",
    "IWSLT14.TED.tst2010",
    "IWSLT14.TED.tst2011",
    "IWSLT14.TED.tst2012",
)

# The largest of the files, a side of the training data, has about 20 MiB, and all of the archive about 60.
MAX_BYTES = 256 * 2**20
MAX_FILE_BYTES = 64 * 2**20
CHUNK = 2**16
# What reading a damaged archive raises.
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError, RecursionError, ValueError, OverflowError)

DROPPED = ("<url>", "<talkid>", "<keywords>")
REMOVED = ("<title>", "</title>", "<description>", "</description>")
# What GNU sed's \s matches in a UTF-8 locale: not U+0085, nor the spaces that do not break (U+00A0, U+2007, U+202F).
SPACES = "\t\v\f\r \u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u2028\u2029\u205f\u3000"
SEGMENT_START = re.compile(f'<seg id="[0-9]*">[{SPACES}]*')
SEGMENT_END = "</seg>"


def files_of(pair, languages=LANGUAGES):
    """Dict of (part, language) to the file's name, in the archive's folder of a pair such as ``de-en``."""
    files = {(TRAINING, language): f"{TRAINING}.{pair}.{language}" for language in languages}
    return files | {(stem, language): f"{stem}.{pair}.{language}.xml" for stem in TEST_SETS for language in languages}


def training_lines(text):
    """Sentences of the text of a ``train.tags`` file, before tokenisation.

    Lines with ``<url>``, ``<talkid>`` or ``<keywords>`` are dropped; the tags of title and description are removed, and
    all other lines kept, empty ones and those on speakers and translators too.
    """
    sentences = [line for line in _lines(text) if not _dropped(line)]
    for tag in REMOVED:  # one after the other, as the recipe does it
        sentences = [sentence.replace(tag, "") for sentence in sentences]
    return sentences


def segments(text):
    """Sentences of the text of an XML set, before tokenisation: its lines with ``<seg id``, without the tags.

    Typographic apostrophes (U+2019) become ASCII ones. Entities stay as they are, and an empty segment is an empty
    line.
    """
    sentences = []
    for line in _lines(text):
        if "<seg id" in line:
            # A pattern with white space before the tag would take quadratic time on a long run of it.
            parts = SEGMENT_START.sub("", line).split(SEGMENT_END)
            parts[1:] = [part.lstrip(SPACES) for part in parts[1:]]
            parts[:-1] = [part.rstrip(SPACES) for part in parts[:-1]]
            sentences.append("".join(parts).replace("\u2019", "'"))
    return sentences


def _lines(text):
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _dropped(line):
    return any(tag in line for tag in DROPPED)


def read_archive(path, languages=LANGUAGES):
    """The files that the recipe reads (of German and English, twelve), out of the ``.tgz`` and into memory.

    Nothing is written. An archive that could do harm when unpacked, or that unpacks to far more than the
    real one, is refused.

    Args:
        path: a copy of ``de-en.tgz``, or of another pair's archive of that layout
        languages: the pair; the folder may be named after either direction, and of other pairs than German and
            English there may be fewer test sets

    Returns:
        dict of file name, such as ``train.tags.de-en.de``, to its text

    Raises:
        CorpusError: no archive, a damaged or a hostile one, missing files, invalid UTF-8 (naming the line)
    """
    path = Path(path)
    if not path.is_file():
        found = "is not a file" if path.exists() else "does not exist"
        raise CorpusError(f"the archive {path} {found}; expected a copy of {ARCHIVE}")
    with open(path, "rb") as file:
        start = file.read(1024)
    if not start.startswith(b"\x1f\x8b"):
        found = "is an HTML page" if looks_like_html(start) else f"begins with {start[:8]}" if start else "is empty"
        raise CorpusError(f"{path} {found}, and is not a gzip file; get {ARCHIVE} again")
    folders = {"-".join(pair): files_of("-".join(pair), languages) for pair in (languages, languages[::-1])}
    content, found = {folder: {} for folder in folders}, {}
    try:
        with _Capped(path) as file:
            for name, member in _members(file, path):
                folder, *rest = [part for part in name.split("/") if part not in ("", ".")] or [""]
                if re.fullmatch("[a-z]{2,3}-[a-z]{2,3}", folder) and len(found) < 100:
                    found |= {folder: None}
                if folder not in folders or len(rest) != 1 or rest[0] not in folders[folder].values():
                    continue
                if rest[0] in content[folder]:
                    raise CorpusError(f"{path} holds {_shown(name)} twice; get {ARCHIVE} again")
                content[folder][rest[0]] = member.read()
    except DAMAGED as error:
        raise CorpusError(f"{path} is truncated or damaged ({error}); get {ARCHIVE} again") from None
    folder = max(folders, key=lambda name: len(content[name]))
    content, files = content[folder], folders[folder]
    if set(languages) != set(LANGUAGES):
        there = {stem for (stem, _), name in files.items() if name in content and stem != TRAINING} or {TEST_SETS[0]}
        files = {(stem, side): name for (stem, side), name in files.items() if stem in there or stem == TRAINING}
    missing = [name for name in files.values() if name not in content]
    if missing:
        if found and not found.keys() & folders.keys():
            raise CorpusError(
                f"{path} has no folder {folder}/, but {', '.join(list(found)[:3])}; give the languages of the archive with "
                "--source-lang and --target-lang, or another archive"
            )
        raise CorpusError(
            f"{path} lacks {len(missing)} of the {len(files)} files expected in its folder {folder}/; get {ARCHIVE} "
            f"again.\nMissing: {', '.join(missing)}"
        )
    return {
        name: "\n".join(decode_lines(content.pop(name).split(b"\n"), f"{folder}/{name} in {path}"))
        for name in files.values()
    }


class _Capped(gzip.GzipFile):
    """What a gzip file holds, up to a limit: ``tarfile`` reads a header whole, whatever size it claims."""

    def read(self, size):
        if not 0 <= size <= MAX_FILE_BYTES:
            raise CorpusError(f"{self.name} holds a file or a header of {size:,} bytes; get {ARCHIVE} again")
        self._check(self.tell() + size)
        return super().read(size)

    def seek(self, offset, whence=0):
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, end):
        if end > MAX_BYTES:
            raise CorpusError(
                f"{self.name} unpacks to more than {MAX_BYTES:,} bytes, so it is not a copy of {ARCHIVE}; get it again"
            )


def _members(file, path):
    """Each regular file of a tar archive, as (name, what reads its content)."""
    with tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="backslashreplace") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # of which it would keep all
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise CorpusError(f"{path} holds {_shown(member.name)}, a path out of its folder; get {ARCHIVE} again")
            if member.size < 0 or member.issparse() or not (member.isdir() or member.isreg()):
                raise CorpusError(f"{path} holds {_shown(member.name)}, which is no plain file; get {ARCHIVE} again")
            if not member.isdir():
                yield member.name, archive.extractfile(member)
    while file.read(CHUNK):  # to the end, where gzip's checksum is
        pass


def _shown(text):
    """Text of an archive in an error: not too much of it, and nothing that drives a terminal."""
    return repr(text if len(text) <= 100 else text[:100] + "...")


def write_raw(archive, folder, languages=LANGUAGES):
    """Write the archive's sentences to ``folder/{train,test}.{de,en}``, or another pair's; see ``read_archive``.

    ``folder/archive.json``, whose content is returned, says what they were made from and how many lines each file gave.
    The folder appears whole or not at all.

    Raises:
        CorpusError: as ``read_archive``; a side without sentences; sides of different length (saying where they part)
    """
    texts = read_archive(archive, languages)
    pair = next(iter(texts)).split(".")[-2]  # train.tags.de-en.de
    files = files_of(pair, languages)
    test_sets = [stem for stem in TEST_SETS if files[stem, languages[0]] in texts]
    sentences, lines = {}, {}
    for stem in (TRAINING, *test_sets):
        names = [files[stem, language] for language in languages]
        sides = [(training_lines if stem == TRAINING else segments)(texts[name]) for name in names]
        for name, side in zip(names, sides):
            if not any(line.strip() for line in side):
                raise CorpusError(f"{pair}/{name} in {archive} holds no sentences; get {ARCHIVE} again")
        if len(sides[0]) != len(sides[1]):
            parting = _parting(names, [texts[name] for name in names], _talks if stem == TRAINING else _segment_ids)
            raise CorpusError(
                f"{names[0]} in {archive} has {len(sides[0]):,} sentences and {names[1]} {len(sides[1]):,}; get "
                f"{ARCHIVE} again.\nThey diverge where {parting}"
            )
        sentences[stem] = sides
        lines["train" if stem == TRAINING else stem] = dict(zip(languages, map(len, sides)))
    record = {
        "name": Path(archive).name,
        "bytes": Path(archive).stat().st_size,
        "sha256": sha256_of(archive),
        "lines": lines,
    }
    with atomic_folder(folder, "corpus") as partial:
        for side, language in enumerate(languages):
            write_lines(partial / f"train.{language}", sentences[TRAINING][side])
            write_lines(partial / f"test.{language}", [line for stem in test_sets for line in sentences[stem][side]])
        write_json(partial / RECORD, record)
    return record


def _parting(names, texts, parts):
    """Where the sides first have another part: what ``parts`` returns for a text."""
    for sides in zip_longest(*map(parts, texts)):
        if not all(sides) or sides[0][0] != sides[1][0]:
            return " and ".join(f"{name} has {side[1]}" if side else f"{name} ends" for name, side in zip(names, sides))


def _talks(text):
    """(number of sentences, the talk in words) of each talk; one more for the lines before the first."""
    talks = [["before the first", 1, 0]]
    for number, line in enumerate(_lines(text), 1):
        if "<url>" in line:
            talks.append([line.replace("<url>", "").replace("</url>", "").strip(), number, 0])
        elif not _dropped(line):
            talks[-1][2] += 1
    return [(size, f"{size} sentences in the talk {_shown(url)} of line {number}") for url, number, size in talks]


def _segment_ids(text):
    """((document, segment), the segment in words) of each segment of an XML set, as its attributes name them."""
    document, ids = "", []
    for line in _lines(text):
        if "<doc " in line:
            document = _attribute(line, "docid")
        if "<seg id" in line:
            segment = _attribute(line.partition("<seg ")[2], "id")
            ids.append(((document, segment), f"segment {_shown(segment)} of document {_shown(document)}"))
    return ids


def _attribute(tag, name):
    return tag.partition(f'{name}="')[2].partition('"')[0]


def main(args):
    """``fairseq-cgc prepare-iwslt14``."""
    languages = (args.source_lang, args.target_lang)
    known = set(languages) == set(LANGUAGES)
    if not (known or args.archive or args.url):
        raise OptionError(
            f"no address is known for the archive of {' and '.join(languages)}; give a copy of it with --archive, or --url"
        )
    if args.archive and args.url:
        raise OptionError("--archive is a copy that is here and --url where to get one; leave one of the two out")
    settings = settings_of(args)
    settings.check()
    args.out = args.out or Path(f"data/iwslt14.{'-'.join(languages)}")
    out, archive = writable_folder(args.out, 500 * 2**20, "--out"), args.archive
    original = out / "orig"
    if archive is not None and not archive.is_file():
        raise CorpusError(f"the archive {archive} does not exist or is not a file; --archive needs a copy of {ARCHIVE}")
    with locked(out / ".lock", f"the preparation {out}"):
        made = _sentences(archive, args.url or URL, original, languages)
    print(f"archive: {made['bytes']:,} bytes, SHA-256 {made['sha256']}")
    print(f"[prepare] {original} -> {out}", flush=True)
    raw = {split: original / split for split in ("train", "test")}
    result = prepare(raw, out, settings, args.workers)
    print(*summary(result, EXPECTED_PAIRS if known else None), *repeated(out, result), sep="\n")
    print(f"[prepared] -> {out} (binarised data: {out / 'bin'})")


def _sentences(archive, url, folder, languages):
    """Make ``orig/``, unless it is there, from the user's archive or one that is downloaded beside it."""
    record = folder / RECORD
    if record.exists():
        made = read_json(record, {"bytes": int, "sha256": str, "lines": {str: {str: int}}})
        there = made["lines"].get("train", {}).keys()
        if there != set(languages):
            raise UserError(
                f"{folder} is of {' and '.join(there)}, and {' and '.join(languages)} are requested; choose another --out"
            )
        if archive is not None and sha256_of(archive) != made["sha256"]:
            raise UserError(
                f"{folder} was made from an archive other than {archive} (SHA-256 {made['sha256'][:12]}...); choose another "
                "--out, or remove that folder"
            )
        return made
    replaceable_folder(folder, "corpus")
    mine = archive or folder.with_name(ARCHIVE)
    if archive is None:
        print(f"[download] {url} -> {mine}", flush=True)
        download(url, mine)
    print(f"[read] {mine} -> {folder}", flush=True)
    try:
        return write_raw(mine, folder, languages)
    except CorpusError as error:
        if archive is not None:
            raise
        raise CorpusError(
            f"{error}\nIf {mine} is damaged, move it away: the same command then downloads it again"
        ) from None
