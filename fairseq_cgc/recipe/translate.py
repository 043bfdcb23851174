"""Translate with a trained model: a binarised test set, or raw sentences."""

import os
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from ..compat import EVERY_SENTENCE, NO_WORKERS, SKIP_TOO_LONG, USER_DIR
from ..errors import OptionError, UserError, check_at_least
from .fairseq_options import check_numbers, check_words, option_values
from .files import atomic_write, decode_lines, from_command_line, read_lines
from .models import load_hub
from .processes import child
from .report import last_words
from .rows import PAPER

BEAM = PAPER["beam"]
LONGEST = 200  # tokens: fairseq's --max-len-b
INSTEAD = {  # of options of fairseq-generate's that ``fairseq-cgc generate`` decides
    **dict.fromkeys("--quiet --score-reference --num-shards --shard-id".split(), "leave it out"),
    **dict.fromkeys("--source-lang --target-lang --remove-bpe".split(), "leave it out"),
    "--gen-subset": "give --split",
    "--path": "name the model",
    "--results-path": "give --out",
}


def generate(model, data, split, output, sentences=None, beam=BEAM, remove_bpe="@@ ", options=()):
    """Run ``fairseq-generate`` with a progress bar and keep its output.

    Args:
        model: a checkpoint
        data: a folder of binarised data
        split: ``valid``, ``test`` ...
        output: file for what it prints, which appears whole; its log goes to ``{output}.log``
        sentences: how many there are, for the progress bar
        beam: beam size
        remove_bpe: what joins subwords: fairseq-generate's ``--remove-bpe``
        options: further options of fairseq-generate

    Returns:
        dict of sentence number to tokenised hypothesis, without BPE; too long a source sentence is
        skipped, as fairseq says in the log, and missing here

    Raises:
        UserError: fairseq-generate failed, or translated nothing
    """
    command = [sys.executable, "-m", "fairseq_cli.generate", str(data), "--user-dir", USER_DIR, "--path", str(model)]
    command += ["--gen-subset", split, "--beam", str(beam), "--remove-bpe", remove_bpe]
    command += [*SKIP_TOO_LONG, *EVERY_SENTENCE, *NO_WORKERS]
    log = Path(f"{output}.log")
    hypotheses, lengths = {}, {}
    with (
        open(log, "w", encoding="utf-8") as log_file,
        atomic_write(output) as partial,
        open(partial, "w", encoding="utf-8") as file,
        tqdm(total=sentences, desc="translate", unit=" sentences", disable=None) as bar,
        child(
            [*command, "--no-progress-bar", *options], stdout=subprocess.PIPE, stderr=log_file, encoding="utf-8"
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            if match := re.fullmatch(r"H-(\d+)\t[^\t]*\t(.*)\n", line):
                hypotheses.setdefault(int(match[1]), match[2])  # of several the best, which is the first
                bar.update(len(hypotheses) - bar.n)
            elif match := re.match(r"P-(\d+)\t(.*)", line):  # a score a token, that of the end included
                lengths.setdefault(int(match[1]), len(match[2].split()) - 1)
        if process.wait():
            words = last_words(log.read_text(encoding="utf-8", errors="replace").splitlines())
            raise UserError(f"fairseq-generate failed with exit status {process.returncode}: {words}")
        if sentences and not hypotheses:
            raise UserError(
                f"fairseq-generate printed no translation of {sentences} sentences; are all longer than the model's limit, or does "
                f"an option keep them from it ({shlex.join(options)})?"
            )
    values = option_values(options)
    longest = int(values.get("--max-len-b", LONGEST))
    cut = sum(length >= longest for length in lengths.values())
    if cut and not float(values.get("--max-len-a", 0)):
        print(f"    translations that ended at the limit of {longest} tokens: {cut}; --max-len-b raises it", flush=True)
    return hypotheses


def check_passed_on(options):
    """Raises OptionError for an option that ``fairseq-cgc generate`` decides, or whose output it could not read, and for what
    fairseq-generate's parser would refuse."""
    for name in option_values(options):
        if name in INSTEAD:
            raise OptionError(
                f"{name} is decided by this command, which reads fairseq-generate's output; {INSTEAD[name]}"
            )
    check_numbers(options)
    check_words(["data", "--path", "model.pt", "--user-dir", USER_DIR, *options], "generate")


def main(args):
    """``fairseq-cgc translate``."""
    check_at_least(1, beam=args.beam, batch=args.batch)
    sentences = list(map(from_command_line, args.sentences))
    for sentence in sentences:
        if os.path.isfile(sentence):
            raise OptionError(f"{sentence} is a file, not a sentence; to translate its lines: --input {sentence}")
    if args.input and args.sentences:
        raise OptionError("--input and sentences exclude each other; leave one of them out")
    waits = not args.input and not args.sentences and sys.stdin.isatty()  # someone does, for each
    if waits:
        print(f"loading {args.model} ...", file=sys.stderr)
    with redirect_stdout(sys.stderr):  # where fairseq looks for its CUDA layers it prints
        hub = load_hub(args.model, args.data)
    if waits:
        print("enter one sentence per line; Ctrl-D ends", file=sys.stderr)
    batch = 1 if waits else args.batch
    given = read_lines(args.input) if args.input else sentences
    lines = iter(given if args.input or given else decode_lines(sys.stdin.buffer, "standard input"))
    progress = {"desc": "translate", "unit": " sentences", "disable": True if waits or sys.stdout.isatty() else None}
    with tqdm(total=len(given) or None, **progress) as bar:
        while group := list(islice(lines, batch)):
            for translation in hub.sample(group, args.beam):
                print(translation, flush=True)
                bar.update()
