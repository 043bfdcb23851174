"""The quickstart: from nothing to a context-gated translator of interface strings, and its BLEU.

``scripts/quickstart.sh --help`` tells of its options.
"""

import json
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from platform import python_version

from tqdm import tqdm

from . import interface_strings, preparation
from .checkpoints import average_checkpoints, epoch_checkpoints, load_checkpoint, write_model
from .compat import EVERY_SENTENCE, NO_WORKERS, SAME_BATCHES_WHEN_RESUMED, USER_DIR
from .errors import UserError
from .files import read_json, read_lines, remove, sha256_of, writable_folder, write_json, write_lines
from .scoring import detokenised_scores, tokenised_bleu
from .text import MosesText
from .translate import BEAM, generate, read_hypotheses

SETTINGS = preparation.Settings(bpe_size=2000, max_ratio=3.0)
AVERAGED = 5
FREE_BYTES = 500 * 2**20  # what a run leaves and needs in between: about 250 MiB, of which the wheel 41

# Small sizes, for two cores; the code is that of the paper's model.
MODEL = """
    --encoder-embed-dim 128 --encoder-ffn-embed-dim 256 --encoder-layers 3 --encoder-kernel-size-list [3,7,15]
    --decoder-embed-dim 128 --decoder-ffn-embed-dim 256 --decoder-layers 2 --decoder-kernel-size-list [3,7]
    --share-decoder-input-output-embed --dropout 0.1 --attention-dropout 0 --weight-dropout 0
""".split()
TRAINING = """
    --optimizer adam --adam-betas (0.9,0.98) --weight-decay 0.0001
    --lr 0.007 --lr-scheduler inverse_sqrt --warmup-updates 400 --warmup-init-lr 1e-07
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 3000
""".split()
ARCHITECTURES = {
    "lightconv_cgc": [],
    "lightconv_iwslt_de_en": ["--encoder-conv-type", "lightweight", "--decoder-conv-type", "lightweight"],
}


def quickstart(args):
    """Run the stages whose output is not there yet.

    Args:
        args: the options of ``scripts/quickstart.py``

    Raises:
        UserError: for whatever the user can mend
    """
    for option in ("updates", "valid_size", "test_size"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} is {getattr(args, option)}; it must be at least 1")
    work = writable_folder(args.work, FREE_BYTES)
    run = work / f"{args.arch}-seed{args.seed}"
    if args.fresh:
        for folder in (work / "raw", work / "data", run):
            remove(folder)
    corpus(args, work)
    stage("2/6 prepare: Moses tokens, lower case, cleaning, joint BPE, binarisation", work / "data")
    raw = {split: work / "raw" / split for split in preparation.SPLITS}
    for line in preparation.summary(preparation.prepare(raw, work / "data", SETTINGS)):
        print(f"    {line}")
    train(args, work / "data" / "bin", run)
    average(run, work / "data" / "bin")
    report(args, run, translate_and_score(work, run))


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
    if not record.exists():
        wheel = args.archive or interface_strings.download_wheel(work)
        interface_strings.write_corpus(wheel, raw, **asked)
    made = read_json(record)
    if made["made_from"] != asked:
        raise UserError(
            f"{raw} was made from {made['made_from']}, and {asked} is asked for; choose another --work, or --fresh to "
            "start over"
        )
    print("    " + ", ".join(f"{split} {size}" for split, size in made["pairs"].items()) + " pairs")


def train_command(args, data, checkpoints):
    """The whole ``fairseq-train`` command."""
    command = [sys.executable, "-m", "fairseq_cli.train", str(data), "--user-dir", USER_DIR, "--arch", args.arch]
    command += [*ARCHITECTURES[args.arch], *MODEL, *TRAINING]
    command += [*EVERY_SENTENCE, *SAME_BATCHES_WHEN_RESUMED, *NO_WORKERS]
    command += ["--max-update", str(args.updates), "--seed", str(args.seed)]
    return command + ["--save-dir", str(checkpoints), "--keep-last-epochs", str(AVERAGED)]


def train(args, data, run):
    """Stage 3: train until ``--updates``, from the last checkpoint if there is one."""
    checkpoints = run / "checkpoints"
    stage(f"3/6 train {args.arch} for {args.updates} updates", checkpoints)
    record = run / "trained.json"
    data_hash = sha256_of(data / "train.de-en.de.bin")
    before = read_json(record) if record.exists() else {"updates": 0, "data": data_hash}
    if before["data"] != data_hash:
        raise UserError(f"{run} was trained on other data than {data} holds; choose another --work, or --fresh")
    if before["updates"] > args.updates:
        raise UserError(
            f"{run} was trained for {before['updates']} updates and --updates is {args.updates}; ask for as many or more, "
            "choose another --work, or --fresh to start over"
        )
    if before["updates"] == args.updates:
        print("    done before")
        return
    for name in ("model", "translations"):  # of fewer updates
        remove(run / name)
    command = train_command(args, data, checkpoints)
    print(f"    {shlex.join(command)}", flush=True)
    write_json(record, before)
    follow_training([*command, "--log-format", "json", "--log-interval", "20"], run / "train.log", args.updates)
    write_json(record, {"updates": args.updates, "data": data_hash})


def follow_training(command, log, updates):
    """Run fairseq-train, its words to a log file, its progress to a bar (or a line now and then).

    Raises:
        UserError: it failed; with the end of its words
    """
    tail, valid = [], ""
    with open(log, "a", encoding="utf-8") as file, tqdm(total=updates, unit=" updates", disable=None) as bar:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                tail = [*tail[-14:], line]
                _, found, values = line.partition("| train_inner | ")
                if not found:
                    _, found, values = line.partition("| valid | ")
                if not found or not values.startswith("{"):
                    continue
                values = json.loads(values)
                if "valid_ppl" in values:
                    valid = f", valid ppl {values['valid_ppl']}"
                    continue
                done, text = int(values["num_updates"]), f"loss {values['loss']}{valid}"
                bar.set_postfix_str(text)
                bar.update(done - bar.n)
                if bar.disable and done % 200 == 0:
                    print(f"    {done}/{updates} updates, {text}", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.wait():
        words = "".join(tail)
        raise UserError(
            f"fairseq-train failed with exit status {process.returncode}; the whole of {log} ends with\n{words}"
        )


def average(run, data):
    """Stage 4: the last epochs' checkpoints to ``model/``, a folder complete in itself."""
    stage(f"4/6 average the last {AVERAGED} epochs", run / "model")
    if (run / "model").exists():
        print("    done before")
        return
    checkpoints = epoch_checkpoints(run / "checkpoints") or [run / "checkpoints" / "checkpoint_last.pt"]
    print("    " + ", ".join(path.name for path in checkpoints))
    write_model(average_checkpoints(checkpoints), data, run / "model")


def translate_and_score(work, run):
    """Stages 5 and 6: the test split with beam 6 to ``translations/``, and ``scores.json`` there.

    Returns:
        the content of ``scores.json``
    """
    source, target = SETTINGS.languages
    translations = run / "translations"
    stage(f"5/6 translate the test split with beam {BEAM}", translations)
    output = translations / "generate-test.txt"
    references = read_lines(work / "data" / "tok" / f"test.{target}")
    if output.exists():
        print("    done before")
        hypotheses = read_hypotheses(output)
    else:
        model, data = run / "model" / "model.pt", work / "data" / "bin"
        hypotheses = generate(model, data, "test", output, len(references), options=["--max-tokens", "3000"])

    stage("6/6 score", translations / "scores.json")
    raw = {language: read_lines(work / "raw" / f"test.{language}") for language in SETTINGS.languages}
    skipped = [number for number in range(len(references)) if number not in hypotheses]
    if skipped:
        print(f"    {len(skipped)} sentences were too long and skipped; they count as empty translations: {skipped}")
    tokenised = [hypotheses.get(number, "") for number in range(len(references))]
    detokenised = [MosesText(target).detokenise(line) for line in tokenised]
    for name, lines in (
        (f"test.{source}", raw[source]),
        (f"test.{target}", raw[target]),
        ("test.hyp", detokenised),
        (f"test.tok.{target}", references),
        ("test.tok.hyp", tokenised),
    ):
        write_lines(translations / name, lines)
    score, line = tokenised_bleu(tokenised, references)
    scores = {
        "tokenised BLEU-4": {"score": score, "signature": f"{line}, Moses tokens, lowercased, beam {BEAM}"},
        **detokenised_scores(detokenised, raw[target], lowercase=SETTINGS.lowercase),
    }
    write_json(translations / "scores.json", scores)
    return scores


def report(args, run, scores):
    translations = run / "translations"
    print(f"\n{'score':18} {'':>6}  signature")
    for name, score in scores.items():
        print(f"{name:18} {score['score']:6.2f}  {score['signature']}")
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "ve-fairseq", "sacrebleu"))
    parameters = sum(
        p.numel() for n, p in load_checkpoint(run / "model" / "model.pt")["model"].items() if "version" not in n
    )
    print(
        f"\n{args.arch}, {args.updates} updates, seed {args.seed}, {parameters:,} parameters; Python {python_version()}, {versions}"
    )
    print(
        "Interface strings repeat themselves: these figures say that the chain works, not how good a translator it is.\n"
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
    print("Translate a sentence of your own:")
    print(f'  {python} -m fairseq_cgc.translate {run / "model"} "Das Fenster im Wohnzimmer ist offen."')
