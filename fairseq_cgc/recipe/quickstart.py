"""The quickstart: from nothing to a context-gated translator of interface strings, and its BLEU."""

import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from ..errors import MOST_SEED, UserError, check_at_least, check_within
from . import interface_strings, preparation
from .checkpoints import count_parameters, find_checkpoints, load_checkpoint
from .evaluation import RESULT, SCORES, average_into_model, score_table, translate_and_score
from .files import LOCK, discard_folder, locked, mark_of, read_json, read_lines, replaceable_folder, writable_folder
from .page import write_page
from .rows import row_options
from .run_folder import CHECKPOINTS, LAST, MODEL, MODEL_FOLDER
from .training import train
from .translate import BEAM

SETTINGS = preparation.Settings(bpe_size=2000, max_ratio=3.0)
AVERAGED = 5
FREE_BYTES = 500 * 2**20  # what a run leaves and needs in between: about 250 MiB, of which the wheel 41

# Small sizes, for two cores; the code is that of the paper's model.
SIZE = """
    --encoder-embed-dim 128 --encoder-ffn-embed-dim 256 --encoder-layers 3 --encoder-kernel-size-list [3,7,15]
    --decoder-embed-dim 128 --decoder-ffn-embed-dim 256 --decoder-layers 2 --decoder-kernel-size-list [3,7]
    --share-decoder-input-output-embed --dropout 0.1 --input-dropout 0 --attention-dropout 0 --weight-dropout 0
""".split()
TRAINING = "--lr 0.007 --warmup-updates 400 --max-tokens 3000".split()  # where it is not the paper's protocol
SYSTEM_OF = {"lightconv_cgc": "cgc", "lightconv_iwslt_de_en": "lightconv"}  # architecture to row


def main(args):
    """``fairseq-cgc quickstart``: run the stages whose output is not there yet."""
    check_within(0, MOST_SEED, seed=args.seed)
    check_at_least(1, updates=args.updates, valid_size=args.valid_size, test_size=args.test_size)
    work = writable_folder(args.work, FREE_BYTES)
    with locked(work / LOCK, f"the quickstart {work}", shared=not args.fresh):
        _quickstart(args, work)


def _quickstart(args, work):
    run = work / f"{args.arch}-seed{args.seed}"
    if args.fresh:
        replaceable_folder(work / "data", "preparation")
        replaceable_folder(run, "run")
    corpus(args, work)
    if args.fresh:
        data = work / "data"
        with locked(data / LOCK, f"the preparation {data}"), locked(run / LOCK, f"the run {run}"):
            discard_folder(data, "preparation")
            discard_folder(run, "run")
    stage("2/6 prepare: Moses tokens, lower case, cleaning, joint BPE, binarisation", work / "data")
    raw = {split: work / "raw" / split for split in preparation.SPLITS}
    for line in preparation.summary(preparation.prepare(raw, work / "data", SETTINGS)):
        print(f"    {line}")
    stage(f"3/6 train {args.arch} for {args.updates} updates", run / CHECKPOINTS)
    options = [*row_options(SYSTEM_OF[args.arch]), *SIZE, *TRAINING]
    train(run, SYSTEM_OF[args.arch], args.seed, options, work / "data", args.updates, keep=AVERAGED)
    with locked(run / LOCK, f"the run {run}"):
        average(run, work / "data")
        stage(f"5/6 translate the test split with beam {BEAM} and score it", run / "test")
        model, made = mark_of(run / MODEL_FOLDER), run / "test" / SCORES
        result = read_json(made, RESULT) if made.exists() else None
        if result and result["generation"].get("sha256") == model.get("sha256"):
            print("    already done")
            scores = result["scores"]
        else:
            scores = translate_and_score(run / MODEL_FOLDER, work / "data", run / "test")["scores"]
    stage("6/6 report: what was trained, how it translates, what its gates do", run / "report.html")
    write_page(run)
    report(args, run, scores)


def stage(title, output):
    print(f"[{title}] -> {output}", flush=True)


def corpus(args, work):
    """Stage 1: the wheel to ``raw/{train,valid,test}.{de,en}``."""
    raw = work / "raw"
    stage("1/6 corpus: German and English interface strings of Home Assistant", raw)
    asked = {
        "sha256": args.sha256 or interface_strings.SHA256,
        "valid_size": args.valid_size,
        "test_size": args.test_size,
    }
    record = raw / interface_strings.RECORD
    if args.archive:
        interface_strings.check_wheel(args.archive, asked["sha256"])
    if args.fresh or not record.exists():
        replaceable_folder(raw, "corpus")
        wheel = args.archive or interface_strings.download_wheel(work)
        interface_strings.write_corpus(wheel, raw, **asked)
    made = read_json(record, {"made_from": {str: object}, "pairs": {str: int}})
    if made["made_from"] != asked:
        raise UserError(
            f"{raw} was made from {made['made_from']}, and {asked} is requested; choose another --work, or --fresh"
        )
    print("    " + ", ".join(f"{split} {size}" for split, size in made["pairs"].items()) + " pairs")


def average(run, data):
    """Stage 4: the last epochs' checkpoints to ``model/``, a folder complete in itself."""
    checkpoints = find_checkpoints(run / CHECKPOINTS) or [run / CHECKPOINTS / LAST]
    epochs = "the only checkpoint" if len(checkpoints) == 1 else f"the last {len(checkpoints)} epochs"
    stage(f"4/6 average {epochs}: {', '.join(path.name for path in checkpoints)}", run / MODEL_FOLDER)
    if (run / MODEL_FOLDER / MODEL).exists():
        print("    already done")
        return
    average_into_model(checkpoints, data, run / MODEL_FOLDER)


def report(args, run, scores):
    translations = run / "test"
    print("", score_table(scores), sep="\n")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ve-fairseq", "sacrebleu"))
    state = load_checkpoint(run / MODEL_FOLDER / MODEL)
    parameters, last = count_parameters(state), state["optimizer_history"][-1]["num_updates"]
    averaged = "" if last == args.updates else f" (the model's last checkpoint is of update {last})"
    print(
        f"\n{args.arch}, {args.updates} updates{averaged}, seed {args.seed}, {parameters:,} parameters; Python {python_version()}, {versions}"
    )
    print(
        "Interface strings are repetitive: these figures show that the pipeline works, not how good a translator it is.\n"
    )
    columns = [read_lines(translations / name) for name in ("test.de", "test.en", "test.hyp")]
    triples = [triple for triple in zip(*columns) if 4 <= len(triple[0].split()) <= 14]
    for triple in triples[:: max(1, len(triples) // 5)][:5]:
        for label, sentence in zip(("source", "reference", "translation"), triple):
            print(f"  {label:12} {sentence}")
        print()
    python = sys.executable
    if Path(python).is_relative_to(Path.cwd()):
        python = Path(python).relative_to(Path.cwd())
    print(f"A page about the run, to open in a browser: {run / 'report.html'}\n")
    command = shlex.join(map(str, (python, "-m", "fairseq_cgc", "translate", run / MODEL_FOLDER)))
    print(f'Translate a sentence of your own:\n  {command} "Das Fenster im Wohnzimmer ist offen."')
