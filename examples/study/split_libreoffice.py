"""Split LibreOffice's help, a .tsv of German and English paragraphs, into parts that share no sentence.

    python examples/study/split_libreoffice.py deu-eng.tsv.xz corpora/libreoffice

writes {train,valid,test}.{de,en} there: the first 1,000 pairs that are new are the test set, the next 1,000 the
validation set, and the rest, without any pair of which a side stands in one of these, is trained on.
"""

import argparse
from pathlib import Path

from fairseq_cgc.errors import CorpusError
from fairseq_cgc.recipe.files import atomic_folder, read_lines, run_command, write_lines

HELD_OUT = {"test": 1000, "valid": 1000}


def split(pairs):
    """Dict of split to its pairs, in their order."""
    parts, seen, rest = {}, set(), list(dict.fromkeys(pairs))
    for name, size in HELD_OUT.items():
        parts[name] = [pair for pair in rest if seen.isdisjoint(pair)][:size]
        seen.update(side for pair in parts[name] for side in pair)
    parts["train"] = [pair for pair in rest if seen.isdisjoint(pair)]
    return parts


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", type=Path, help="the .tsv, plain or .gz, .bz2, .xz")
    parser.add_argument("out", type=Path, help="folder to write")
    args = parser.parse_args()
    pairs = [tuple(line.split("\t")) for line in read_lines(args.source)]
    for number, pair in enumerate(pairs, 1):
        if len(pair) != 2 or not all(map(str.strip, pair)):
            raise CorpusError(
                f"{args.source}, line {number}: expected two paragraphs with a tab between them, none blank"
            )
    parts = split(pairs)
    if not parts["train"]:
        wanted = sum(HELD_OUT.values())
        raise CorpusError(
            f"{args.source} has {len(pairs):,} pairs, of which none is left after {wanted:,} held out; expected more"
        )
    with atomic_folder(args.out, "corpus") as folder:
        for name, part in parts.items():
            for side, language in enumerate(("de", "en")):
                write_lines(folder / f"{name}.{language}", [pair[side] for pair in part])
            print(f"{name}: {len(part):,} pairs")


if __name__ == "__main__":
    run_command(main)
