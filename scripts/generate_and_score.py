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
    from fairseq_cgc.checkpoints import average_checkpoints, check_dictionaries, find_checkpoints, write_model
    from fairseq_cgc.errors import CheckpointError, OptionError, check_at_least
    from fairseq_cgc.evaluation import SCORES, refuse_unfinished, score_table, translate_and_score
    from fairseq_cgc.files import read_json, writable_folder
    from fairseq_cgc.text import PREPARATION
    from fairseq_cgc.training import MODEL_FOLDER, RUN, prepared_folder

    check_at_least(1, average=args.average, beam=args.beam, max_tokens=args.max_tokens)
    if not args.folder.is_dir():
        raise CheckpointError(f"{args.folder} does not exist or is not a folder; a run folder of train.sh was wanted")
    run, checkpoints = args.folder, args.folder / "checkpoints"
    if not checkpoints.is_dir():
        checkpoints = args.folder
        run = args.folder.parent if (args.folder.parent / RUN).exists() else args.folder
    refuse_unfinished(run)
    data = args.data
    if data is None:
        if not (run / RUN).exists():
            raise OptionError(f"{run} has no {RUN} that tells its data; give the prepared folder with --data")
        data = read_json(run / RUN)["data"]["path"]
    prepared = prepared_folder(data)
    paths = find_checkpoints(checkpoints, args.by, args.average)
    out = args.out or run / args.split
    writable_folder(out.parent, option="--out")

    print(f"[average] {', '.join(path.name for path in paths)} -> {run / MODEL_FOLDER}", flush=True)
    state = average_checkpoints(paths)
    languages = read_json(prepared / "bin" / PREPARATION)["settings"]
    check_dictionaries(state, prepared / "bin", languages["source_lang"], languages["target_lang"])
    write_model(state, prepared / "bin", run / MODEL_FOLDER)
    print(f"[translate] {prepared}, {args.split}, beam {args.beam} -> {out}", flush=True)
    result = translate_and_score(
        run / MODEL_FOLDER,
        prepared,
        out,
        args.split,
        args.beam,
        ["--max-tokens", str(args.max_tokens), *args.fairseq],
        {"checkpoints": [path.name for path in paths]},
    )
    print(*score_table(result["scores"]), sep="\n")
    speed = result["generation"]["sentences_per_second"]
    print(f"{result['generation']['sentences']} sentences, {speed} a second -> {out / SCORES}")


if __name__ == "__main__":
    arguments = parse()  # before the imports, which take seconds
    import logging

    from fairseq_cgc.files import run_command

    logging.disable(logging.INFO)
    run_command(lambda: main(arguments))
