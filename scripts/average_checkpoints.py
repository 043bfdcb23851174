"""Average the parameters of fairseq checkpoints; the options are those of fairseq's script of this name."""

import argparse
from pathlib import Path


def parse():
    parser = argparse.ArgumentParser(
        description="Average the parameters of checkpoints of one model, in float64, and write one checkpoint without "
        "optimizer state. Checkpoints are loaded as data only; those of different models are refused."
    )
    parser.add_argument(
        "--inputs", required=True, nargs="+", type=Path, metavar="PATH", help="checkpoints, or a folder of them"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="where to write the average")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--num-epoch-checkpoints", type=int, metavar="N", help="of a folder: the last N epochs' (checkpoint7.pt)"
    )
    which.add_argument(
        "--num-update-checkpoints", type=int, metavar="N", help="the last N saved between epochs (checkpoint_2_1500.pt)"
    )
    which.add_argument(
        "--num-best-checkpoints",
        type=int,
        metavar="N",
        help="the N of lowest validation loss (checkpoint.best_loss_3.217.pt)",
    )
    return parser.parse_args()


def main(args):
    from fairseq_cgc.errors import OptionError, check_at_least
    from fairseq_cgc.recipe.checkpoints import average_checkpoints, find_checkpoints, save_checkpoint

    wanted = {
        "epoch": args.num_epoch_checkpoints,
        "update": args.num_update_checkpoints,
        "best": args.num_best_checkpoints,
    }
    wanted = {kind: count for kind, count in wanted.items() if count is not None}
    folders = [path for path in args.inputs if path.is_dir()]
    if not wanted:
        if folders:
            raise OptionError(
                f"{folders[0]} is a folder; say which of its checkpoints: --num-epoch-checkpoints N, for one"
            )
        paths = args.inputs
    else:
        ((kind, count),) = wanted.items()
        check_at_least(1, **{f"num_{kind}_checkpoints": count})
        if len(args.inputs) != 1 or not folders:
            raise OptionError(f"--num-{kind}-checkpoints wants --inputs to be one folder that exists")
        paths = find_checkpoints(args.inputs[0], kind, count)
    print("average of", *(path.name for path in paths))
    save_checkpoint(average_checkpoints(paths), args.output)
    print(f"-> {args.output}")


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds
    from fairseq_cgc.recipe.files import run_command

    run_command(lambda: main(arguments))
