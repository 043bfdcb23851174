"""Prepare a parallel corpus of one's own for fairseq: tokens, cleaning, subwords, binarised data."""

import argparse
from pathlib import Path


def parse(argv=None):
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="From plain text to fairseq's binarised data, as the IWSLT'14 recipe does it: Moses tokens, cleaning, "
        "lower case, joint subwords. PREFIX stands for PREFIX.SOURCE and PREFIX.TARGET, plain or .gz. With "
        "--vocabulary-of, a new test set gets the settings, subwords and dictionaries of an existing preparation.",
    )
    parser.add_argument("--source-lang", metavar="LANG", help="needed, but with --vocabulary-of")
    parser.add_argument("--target-lang", metavar="LANG", help="needed, but with --vocabulary-of")
    parser.add_argument("--train", metavar="PREFIX")
    parser.add_argument("--valid", metavar="PREFIX", help="default: pairs held out of the training part: --valid-every")
    parser.add_argument("--test", metavar="PREFIX", required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="output folder")
    parser.add_argument("--vocabulary-of", type=Path, metavar="DIR", help="a preparation, for a new --test set alone")
    add_settings(parser)
    return parser.parse_args(argv)


def add_settings(parser):
    """The options that this command and prepare_iwslt14.py have in common."""
    parser.add_argument("--bpe", choices=["subword_nmt", "sentencepiece"], default="subword_nmt", help="subword model")
    parser.add_argument("--bpe-size", type=int, default=10000, metavar="N", help="merge operations, or pieces")
    parser.add_argument("--keep-case", action="store_true", help="do not lowercase")
    parser.add_argument("--joined-dictionary", action="store_true", help="one dictionary for both sides")
    parser.add_argument(
        "--max-tokens", type=int, default=175, metavar="N", help="longest side of a training pair, in tokens"
    )
    parser.add_argument(
        "--max-ratio", type=float, default=1.5, metavar="R", help="longer side to shorter, of a training pair"
    )
    parser.add_argument(
        "--valid-every", type=int, default=23, metavar="N", help="hold out every Nth cleaned training pair"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes; default: one a core")


def settings_of(args, source_lang, target_lang):
    from fairseq_cgc.recipe.preparation import Settings

    return Settings(
        source_lang=source_lang,
        target_lang=target_lang,
        lowercase=not args.keep_case,
        max_tokens=args.max_tokens,
        max_ratio=args.max_ratio,
        valid_every=args.valid_every,
        bpe=args.bpe,
        bpe_size=args.bpe_size,
        joined_dictionary=args.joined_dictionary,
    )


def main(args):
    from fairseq_cgc.errors import OptionError
    from fairseq_cgc.recipe.files import writable_folder
    from fairseq_cgc.recipe.preparation import prepare, prepare_test_set, summary

    if args.vocabulary_of:
        for option in ("train", "valid", "source_lang", "target_lang"):
            if getattr(args, option):
                raise OptionError(
                    f"--{option.replace('_', '-')} does not go with --vocabulary-of, which knows it already"
                )
        writable_folder(args.out, option="--out")
        result = prepare_test_set(args.test, args.vocabulary_of, args.out, args.workers)
    else:
        for option in ("train", "source_lang", "target_lang"):
            if not getattr(args, option):
                raise OptionError(f"--{option.replace('_', '-')} is missing; see --help")
        raw = {"train": args.train, "valid": args.valid, "test": args.test}
        settings = settings_of(args, args.source_lang, args.target_lang)
        writable_folder(args.out, option="--out")
        result = prepare({split: prefix for split, prefix in raw.items() if prefix}, args.out, settings, args.workers)
    print(*summary(result), sep="\n")
    print(f"-> {args.out} (binarised data: {args.out / 'bin'})")


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds
    from fairseq_cgc.recipe.files import run_command

    run_command(lambda: main(arguments))
