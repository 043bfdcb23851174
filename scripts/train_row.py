"""Train one row of the paper's Table 6; examples/iwslt14/train.sh sets up the environment and calls it."""

import argparse
from pathlib import Path

ROWS = (
    "transformer",
    "lightconv",
    "dynamic",
    "cgc",
    "cgc-constant",
    "gct",
    "cgc-gct",
    "cgc-dynamic",
    "cgc-source",
    "cgc-rdrop",
)
VARIANTS = (
    "cgc-learned",
    "cgc-pool-1",
    "cgc-pool-2",
    "cgc-pool-6",
    "cgc-max",
    "cgc-latent-k",
    "cgc-first",
    "cgc-last",
    "cgc-logits",
    "cgc-heads-latent",
    "cgc-tanh",
    "cgc-zero",
    "cgc-tanh-zero",
    "cgc-slow",
)


def parse(argv=None):
    """The options, and in ``fairseq`` those that are fairseq-train's."""
    parser = argparse.ArgumentParser(
        prog="train.sh",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Train one row of Table 6 by the paper's protocol, or go on with it. Further options are passed to "
        "fairseq-train, after the row's own: the last one counts.",
    )
    parser.add_argument(
        "row",
        choices=[*ROWS, *VARIANTS],
        help="the system; those after cgc-rdrop change something in cgc (examples/ablations)",
    )
    parser.add_argument("--python", metavar="PATH", help="interpreter whose environment to use instead of making .venv")
    parser.add_argument("--data", type=Path, default=Path("data/iwslt14.de-en"), metavar="DIR", help="prepared folder")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/iwslt14"), metavar="DIR", help="the run goes to DIR/ROW-seedN"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed")
    parser.add_argument("--max-update", type=int, default=50000, metavar="N", help="more than before trains a run on")
    parser.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="of this machine; without any, CPU processes (gloo)"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="machines, with a file system in common; run the same command on each",
    )
    parser.add_argument("--node-rank", type=int, default=0, metavar="R", help="which of them this is, from 0")
    parser.add_argument("--master", metavar="HOST:PORT", help="of the first machine")
    parser.add_argument(
        "--batch-tokens", type=int, default=4000, metavar="N", help="an update's, over all devices together"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="a device's at a time; default: its share. Accumulation makes up the rest",
    )
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32")
    parser.add_argument("--keep", type=int, default=10, metavar="N", help="epoch checkpoints to keep")
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard logs to the run folder")
    args, args.fairseq = parser.parse_known_args(argv)
    return args


def main(args):
    import importlib.util

    import torch

    from fairseq_cgc.errors import OptionError, check_at_least
    from fairseq_cgc.recipe.files import writable_folder
    from fairseq_cgc.recipe.training import (
        batch_options,
        join_training,
        launcher,
        precision_options,
        prepared_folder,
        row_options,
        train,
        train_command,
    )

    check_at_least(1, max_update=args.max_update, keep=args.keep)
    run = args.runs / f"{args.row}-seed{args.seed}"
    layout = batch_options(args.gpus * args.nodes, args.max_tokens, args.batch_tokens)
    layout += precision_options(args.precision, torch.cuda.is_available())
    if args.tensorboard:
        if importlib.util.find_spec("tensorboard") is None:
            raise OptionError(
                "--tensorboard needs the package tensorboard; pip install -c constraints.txt -e .[tensorboard]"
            )
        layout += ["--tensorboard-logdir", str(run / "tensorboard")]
    launch = launcher(args.gpus, args.nodes, args.node_rank, args.master)
    writable_folder(args.runs, option="--runs")
    options = [*row_options(args.row), *args.fairseq]
    print(f"[train {args.row}, seed {args.seed}, for {args.max_update} updates] -> {run}", flush=True)
    if args.node_rank > 0:  # the first machine keeps the record
        data = prepared_folder(args.data)
        join_training(train_command(run, args.seed, options, data, args.max_update, launch, layout, args.keep))
        return
    train(run, args.row, args.seed, options, args.data, args.max_update, launch, layout, args.batch_tokens, args.keep)
    print(f"[trained] -> {run}; translate and score it with examples/iwslt14/generate.sh {run}")


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds
    from fairseq_cgc.recipe.files import run_command

    run_command(lambda: main(arguments))
