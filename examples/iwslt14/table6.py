"""The paper's Table 6 from run folders, with its plots."""

import argparse
import logging
from pathlib import Path


def parse(argv=None):
    parser = argparse.ArgumentParser(
        prog="examples/iwslt14/table6.py",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Make Table 6 of the paper from the runs of a folder: table.md, table.png and curves.png, and the "
        "table on standard output. Runs that are missing or not finished are named under it.",
    )
    parser.add_argument("runs", type=Path, metavar="RUNS_DIR", help="folder of run folders")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for what is made, if not RUNS_DIR")
    parser.add_argument(
        "--corpus",
        default="IWSLT'14 De-En",
        metavar="NAME",
        help="for the title; with another corpus than the paper's, the paper's figures are left out",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds and need the environment
    from fairseq_cgc.recipe.files import run_command
    from fairseq_cgc.recipe.table import make_table

    logging.disable(logging.INFO)
    run_command(lambda: print(make_table(arguments.runs, arguments.out, arguments.corpus), end=""))
