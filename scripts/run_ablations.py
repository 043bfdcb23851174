"""Train, translate and table variants of the gate; examples/ablations/run.sh calls it."""

import argparse
from pathlib import Path

from train_row import ROWS, VARIANTS

SHUFFLED = "cgc-shuffled"
ALL = [row for row in ROWS if row not in ("transformer", "cgc-rdrop")] + [VARIANTS[0], SHUFFLED, *VARIANTS[1:]]
# A model for two CPU cores and a corpus of some ten thousand sentences.
SMALL = """
    --encoder-embed-dim 128 --encoder-ffn-embed-dim 256 --encoder-layers 4 --encoder-kernel-size-list [3,7,15,15]
    --decoder-embed-dim 128 --decoder-ffn-embed-dim 256 --decoder-layers 3 --decoder-kernel-size-list [3,7,15]
    --share-decoder-input-output-embed --lr 0.005 --warmup-updates 400 --dropout 0.1 --attention-dropout 0 --weight-dropout 0
    --save-interval-updates 250 --keep-interval-updates 3
""".split()
SMALL_SETTINGS = {"max_update": 1500, "batch_tokens": 800, "average": 3, "by": "update"}
FULL_SETTINGS = {"max_update": 50000, "batch_tokens": 4000, "average": 10, "by": "epoch"}  # the paper's


def parse(argv=None):
    """The options, and in ``fairseq`` those that are fairseq-train's."""
    parser = argparse.ArgumentParser(
        prog="run.sh",
        allow_abbrev=False,
        description="Train rows over seeds, translate the test split with beam 6, and table BLEU, loss, parameters and speed. "
        "What is done is not done again. Further options are passed to fairseq-train, after the rows' own.",
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter whose environment to use instead of making .venv")
    parser.add_argument("--data", type=Path, metavar="DIR", help="prepared folder")
    parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/ablations"),
        metavar="DIR",
        help="for runs and tables (default: %(default)s)",
    )
    parser.add_argument("--rows", default="all", metavar="ROW,...", help=f"of {', '.join(ALL)} (default: %(default)s)")
    parser.add_argument("--seeds", default="1,2", metavar="N,...", help="random seeds (default: %(default)s)")
    parser.add_argument(
        "--small",
        action="store_true",
        help="a small model for two CPU cores and some ten thousand sentences: 128 channels, 4 + 3 layers, dropout 0.1, peak "
        "rate 0.005; changes the defaults below",
    )
    for name, text in (
        ("max_update", "updates of a run"),
        ("batch_tokens", "tokens an update"),
        ("average", "checkpoints to average"),
    ):
        default = f"default: {FULL_SETTINGS[name]}, the paper's; {SMALL_SETTINGS[name]} with --small"
        parser.add_argument("--" + name.replace("_", "-"), type=int, metavar="N", help=f"{text} ({default})")
    parser.add_argument("--by", choices=["epoch", "update", "best"], help="which (default: epoch; update with --small)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument(
        "--corpus", default="the corpus", metavar="NAME", help="for the table's title (default: %(default)s)"
    )
    parser.add_argument("--table", action="store_true", help="make the table of what is there, and nothing else")
    args, args.fairseq = parser.parse_known_args(argv)
    for name, value in (SMALL_SETTINGS if args.small else FULL_SETTINGS).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.small:
        args.fairseq = [*SMALL, *args.fairseq]
    if args.by == "update" and args.average > value_of("--keep-interval-updates", args.fairseq):
        args.fairseq += ["--keep-interval-updates", str(args.average)]
    return args


def value_of(option, words, default=0):
    """The whole number that an option of fairseq-train has last."""
    values = [word for before, word in zip(words, words[1:]) if before == option and word.isdigit()]
    return int(values[-1]) if values else default


def main(args):
    from fairseq_cgc.errors import OptionError, check_at_least
    from fairseq_cgc.recipe.ablations import make_table, run_all
    from fairseq_cgc.recipe.files import writable_folder
    from fairseq_cgc.recipe.training import prepared_folder

    check_at_least(1, max_update=args.max_update, batch_tokens=args.batch_tokens, average=args.average, jobs=args.jobs)
    rows = ALL if args.rows == "all" else args.rows.split(",")
    for row in rows:
        if row not in ALL and row not in ROWS:
            raise OptionError(f"--rows: there is no row '{row}'; choose from {', '.join(ALL)}, or all")
    try:
        seeds = [int(seed) for seed in args.seeds.split(",")]
    except ValueError:
        raise OptionError(
            f"--seeds is '{args.seeds}'; whole numbers with commas between were wanted, such as 1,2"
        ) from None
    if not args.table and args.by == "update":
        interval = value_of("--save-interval-updates", args.fairseq)
        saved = args.max_update // interval if interval else 0
        if saved < args.average:
            raise OptionError(
                f"--by update averages {args.average} checkpoints, and {args.max_update} updates leave {saved}: "
                f"--save-interval-updates is {interval or 'not given'}; save more often, or change --by or --average"
            )
    if not args.table and args.data is None:
        raise OptionError("give the prepared folder with --data; --table alone needs none")
    writable_folder(args.runs, option="--runs")
    if not args.table:
        prepared_folder(args.data)
        run_all(args, list(dict.fromkeys(rows)), list(dict.fromkeys(seeds)))
    print(make_table(args.runs, corpus=args.corpus), end="")


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds
    import logging

    from fairseq_cgc.recipe.files import run_command

    logging.disable(logging.INFO)
    run_command(lambda: main(arguments))
