"""The quickstart's command line; scripts/quickstart.sh sets up the environment and calls it."""

import argparse
import logging
from pathlib import Path


def parse():
    parser = argparse.ArgumentParser(
        prog="scripts/quickstart.sh",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Learn German-English from Home Assistant's interface strings with a small context-gated LightConv, "
        "translate held-out ones with beam 6 and score them. A second run skips what is done and goes on where the "
        "first one stopped.",
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter whose environment to use instead of making .venv")
    parser.add_argument("--work", type=Path, default=Path("runs/quickstart"), metavar="DIR", help="work folder")
    parser.add_argument(
        "--arch",
        default="lightconv_cgc",
        choices=["lightconv_cgc", "lightconv_iwslt_de_en"],
        help="the second is fairseq's LightConv: the same model without the gate",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed of the training")
    parser.add_argument(
        "--updates", type=int, default=1700, metavar="N", help="more than a run had before trains it on"
    )
    parser.add_argument("--archive", type=Path, metavar="PATH", help="a local copy of the homeassistant 2025.4.4 wheel")
    parser.add_argument("--sha256", metavar="HEX", help="hash that the wheel must have, if not the pinned one's")
    parser.add_argument("--valid-size", type=int, default=500, metavar="N", help="pairs held out for validation")
    parser.add_argument("--test-size", type=int, default=1000, metavar="N", help="pairs held out for test")
    parser.add_argument("--fresh", action="store_true", help="start over: remove this run and the prepared data")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds and need the environment
    from fairseq_cgc.recipe.files import run_command
    from fairseq_cgc.recipe.quickstart import quickstart

    logging.disable(logging.INFO)
    run_command(lambda: quickstart(arguments))
