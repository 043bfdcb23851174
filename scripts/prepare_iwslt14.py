"""Prepare IWSLT'14 German-English by fairseq's recipe; examples/iwslt14/prepare.sh calls it."""

import argparse
from pathlib import Path

from prepare_corpus import add_settings, settings_of


def parse(argv=None):
    parser = argparse.ArgumentParser(
        prog="prepare.sh",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="From the IWSLT'14 archive to fairseq's binarised data, the tokens of fairseq's prepare-iwslt14.sh. "
        "A second run skips what is done; a download that was cut off goes on.",
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter whose environment to use instead of making .venv")
    parser.add_argument("--archive", type=Path, metavar="PATH", help="a local copy of de-en.tgz; default: download it")
    parser.add_argument("--url", metavar="URL", help="where to download it from, if not where fairseq's recipe does")
    parser.add_argument("--out", type=Path, default=Path("data/iwslt14.de-en"), metavar="DIR", help="output folder")
    add_settings(parser)
    return parser.parse_args(argv)


def main(args):
    from fairseq_cgc.errors import CorpusError, UserError
    from fairseq_cgc.recipe import iwslt14
    from fairseq_cgc.recipe.download import download
    from fairseq_cgc.recipe.files import read_json, sha256_of, writable_folder
    from fairseq_cgc.recipe.preparation import prepare, summary

    settings = settings_of(args, *iwslt14.LANGUAGES)
    settings.check()
    writable_folder(args.out, 500 * 2**20, "--out")
    original, archive = args.out / "orig", args.archive
    if archive is not None and not archive.is_file():
        raise CorpusError(
            f"the archive {archive} does not exist or is not a file; --archive wants a copy of {iwslt14.ARCHIVE}"
        )
    record = original / iwslt14.RECORD
    if record.exists():
        made = read_json(record)
        if archive is not None and sha256_of(archive) != made["sha256"]:
            raise UserError(
                f"{original} is from another archive than {archive} (SHA-256 {made['sha256'][:12]}...); choose another "
                "--out, or remove that folder"
            )
    else:
        if archive is None:
            archive = args.out / iwslt14.ARCHIVE
            print(f"[download] {args.url or iwslt14.URL} -> {archive}", flush=True)
            download(args.url or iwslt14.URL, archive)
        print(f"[read] {archive} -> {original}", flush=True)
        made = iwslt14.write_raw(archive, original)
    print(f"archive: {made['bytes']:,} bytes, SHA-256 {made['sha256']}")
    print(f"[prepare] {original} -> {args.out}", flush=True)
    raw = {split: original / split for split in ("train", "test")}
    result = prepare(raw, args.out, settings, args.workers)
    print(*summary(result, iwslt14.EXPECTED_PAIRS), sep="\n")
    print(f"[prepared] -> {args.out} (binarised data: {args.out / 'bin'})")


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds
    from fairseq_cgc.recipe.files import run_command

    run_command(lambda: main(arguments))
