"""Split LibreOffice's help, a .tsv of German and English paragraphs, into parts that share no sentence.

    python examples/study/split_libreoffice.py deu-eng.tsv.xz corpora/libreoffice

writes {train,valid,test}.{de,en} there: the first 1,000 pairs that are new are the test set, the next 1,000 the
validation set, and the rest, without any pair of which a side stands in one of these, is trained on.
"""

import lzma
import sys
from pathlib import Path

HELD_OUT = {"test": 1000, "valid": 1000}


def split(pairs):
    """Dict of split to its pairs, in their order."""
    parts, seen, rest = {}, set(), list(dict.fromkeys(pairs))
    for name, size in HELD_OUT.items():
        new = [pair for pair in rest if seen.isdisjoint(pair)]
        parts[name] = new[:size]
        seen.update(side for pair in parts[name] for side in pair)
    parts["train"] = [pair for pair in rest if seen.isdisjoint(pair)]
    return parts


def main(source, out):
    with lzma.open(source, "rt", encoding="utf-8") as file:
        pairs = [tuple(line.rstrip("\n").split("\t")) for line in file]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=False)
    for name, part in split(pairs).items():
        for side, language in enumerate(("de", "en")):
            text = "".join(pair[side] + "\n" for pair in part)
            (out / f"{name}.{language}").write_text(text, encoding="utf-8")
        print(f"{name}: {len(part):,} pairs")


if __name__ == "__main__":
    main(*sys.argv[1:])
