"""Average a run's checkpoints, translate, score; examples/iwslt14/generate.sh calls it."""

import argparse
from pathlib import Path


def parse(argv=None):
    """The options, and in ``fairseq`` those that are fairseq-generate's."""
    parser = argparse.ArgumentParser(
        prog="generate.sh",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Average the last epochs' checkpoints of a run, translate a split with beam search and score it. Further "
        "options are passed to fairseq-generate.",
    )
    parser.add_argument(
        "folder", type=Path, metavar="CHECKPOINT_DIR", help="a run folder of train.sh, or its checkpoints"
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter whose environment to use instead of making .venv")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="prepared folder; default: the one the run was trained on"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: the split's name in the run folder")
    parser.add_argument("--split", default="test", help="what to translate")
    parser.add_argument("--average", type=int, default=10, metavar="N", help="how many checkpoints")
    parser.add_argument(
        "--by", choices=["epoch", "update", "best"], default="epoch", help="which: the last ones or the best"
    )
    parser.add_argument("--beam", type=int, default=6, metavar="N", help="beam size; 6 is the paper's")
    parser.add_argument("--max-tokens", type=int, default=8000, metavar="N", help="source tokens a batch")
    args, args.fairseq = parser.parse_known_args(argv)
    return args


def main(args):
    from fairseq_cgc.recipe.evaluation import SCORES, average_and_score, score_table

    out, result = average_and_score(
        args.folder, args.out, args.data, args.split, args.average, args.by, args.beam, args.max_tokens, args.fairseq
    )
    print(*score_table(result["scores"]), sep="\n")
    speed = result["generation"]["sentences_per_second"]
    print(f"{result['generation']['sentences']} sentences, {speed} a second -> {out / SCORES}")


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds
    import logging

    from fairseq_cgc.recipe.files import run_command

    logging.disable(logging.INFO)
    run_command(lambda: main(arguments))
