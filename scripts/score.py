"""BLEU and chrF of translations that lie in files; of several, with intervals and p-values."""

import argparse
from pathlib import Path


def parse(argv=None):
    parser = argparse.ArgumentParser(
        prog="scripts/score.py",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Score translations against a reference: tokenised BLEU-4 (fairseq-score's figure), sacreBLEU and "
        "chrF, each with its signature. Files are UTF-8 text, one sentence a line, plain or .gz. Several systems are "
        "compared with the first one by paired bootstrap resampling.",
    )
    parser.add_argument("systems", nargs="+", metavar="SYS", help="file of hypotheses; the first is the baseline")
    parser.add_argument("--ref", required=True, metavar="REF", help="file of references")
    parser.add_argument(
        "--tokenised",
        action="store_true",
        help="the files hold Moses tokens with spaces between them, as fairseq-generate --remove-bpe writes them; "
        "without this option, raw text",
    )
    parser.add_argument("--lang", default="en", metavar="LANG", help="their language, for Moses (de)tokenisation")
    parser.add_argument("--lowercase", action="store_true", help="compare without case")
    parser.add_argument("--samples", type=int, default=1000, metavar="N", help="bootstrap resamples")
    parser.add_argument("--seed", type=int, default=12345, metavar="N", help="seed of the resampling, at least 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args(argv)


def main(args):
    from fairseq_cgc.errors import UserError
    from fairseq_cgc.recipe.files import write_json
    from fairseq_cgc.recipe.scoring import read_sides, score_systems

    systems, references = read_sides(args.systems, args.ref)
    options = {name: getattr(args, name) for name in ("tokenised", "lowercase", "samples", "seed")}
    scores = score_systems(systems, references, args.lang, **options)
    print(table(scores))
    if args.json:
        record = {"reference": args.ref, "language": args.lang, "sentences": len(references), **options}
        try:
            write_json(args.json, {**record, "scores": scores})
        except OSError as error:
            raise UserError(f"--json {args.json} cannot be written ({error.strerror}); choose another file") from None


def table(scores):
    """The figures as plain text, a block a metric, its signature below."""
    width = max(len(name) for metric, figures in scores.items() for name in [metric, *figures["systems"]]) + 1
    blocks = []
    for metric, figures in scores.items():
        several = len(figures["systems"]) > 1
        lines = [f"{metric:{width}} {'score':>6}" + f"   {'95 % interval':14} {'p':>6}" * several]
        for name, figure in figures["systems"].items():
            line = f"{name:{width}} {figure['score']:6.2f}"
            if several:
                p = "" if figure["p"] is None else f"{figure['p']:.4f}"
                line += f"   {figure['mean']:6.2f} ± {figure['half_width']:5.2f} {p:>6}"
            lines.append(line.rstrip())
        blocks.append("\n".join([*lines, f"  {figures['signature']}"]))
    return "\n\n".join(blocks)


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds and need the environment
    from fairseq_cgc.recipe.files import run_command

    run_command(lambda: main(arguments))
