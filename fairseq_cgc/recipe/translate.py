"""Translate with a trained model: a binarised test set, or raw sentences."""

import logging
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from ..compat import EVERY_SENTENCE, NO_WORKERS, USER_DIR
from ..errors import OptionError, UserError, check_at_least
from .files import read_lines, whole
from .models import load_hub
from .rows import PAPER

logger = logging.getLogger(__name__)
BEAM = PAPER["beam"]


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
        UserError: fairseq-generate failed
    """
    command = [sys.executable, "-m", "fairseq_cli.generate", str(data), "--user-dir", USER_DIR, "--path", str(model)]
    command += ["--gen-subset", split, "--beam", str(beam), "--remove-bpe", remove_bpe]
    command += ["--skip-invalid-size-inputs-valid-test", *EVERY_SENTENCE, *NO_WORKERS]
    log = Path(f"{output}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log, "w", encoding="utf-8") as log_file,
        whole(output) as partial,
        open(partial, "w", encoding="utf-8") as file,
        tqdm(total=sentences, desc="translate", unit=" sentences", disable=None) as bar,
        subprocess.Popen(
            [*command, "--no-progress-bar", *options], stdout=subprocess.PIPE, stderr=log_file, encoding="utf-8"
        ) as process,
    ):
        for line in process.stdout:
            file.write(line)
            bar.update(line.startswith("H-"))
        if process.wait():
            raise UserError(
                f"fairseq-generate failed with exit status {process.returncode}; its log ends with\n"
                + "\n".join(read_lines(log)[-15:])
            )
    return read_hypotheses(output)


def read_hypotheses(path):
    """The ``H-`` lines of fairseq-generate's output: dict of sentence number to best hypothesis."""
    hypotheses = {}
    for line in read_lines(path):
        match = re.fullmatch(r"H-(\d+)\t[^\t]*\t(.*)", line)
        if match:
            hypotheses.setdefault(int(match[1]), match[2])
    return hypotheses


def encode(hub, sentence, number):
    """The tokens of a raw sentence, cut, with a warning, at the model's position limit.

    Args:
        hub: what ``LightConvCGCModel.from_pretrained`` returns
        number: of the sentence, for the warning

    Returns:
        token numbers, EOS the last
    """
    tokens, limit = hub.encode(sentence), hub.max_positions[0]
    if len(tokens) > limit:
        logger.warning("sentence %d has %d tokens and is cut to the model's limit of %d", number, len(tokens), limit)
        tokens = torch.cat([tokens[: limit - 1], tokens[-1:]])
    return tokens


def translate(hub, sentences, beam=BEAM, batch=1):
    """Translate raw sentences.

    A sentence longer than the model's position limit is cut there, with a warning.

    Args:
        hub: what ``LightConvCGCModel.from_pretrained`` returns
        sentences: iterable of raw sentences
        beam: beam size
        batch: how many to translate together; it changes nothing but the speed

    Yields:
        raw translations
    """
    encoded = (encode(hub, sentence, number) for number, sentence in enumerate(sentences, 1))
    while group := list(islice(encoded, batch)):
        for hypotheses in hub.generate(group, beam=beam):
            yield hub.decode(hypotheses[0]["tokens"])


def main(args):
    """``fairseq-cgc translate``."""
    check_at_least(1, beam=args.beam, batch=args.batch)
    for sentence in args.sentences:
        if os.path.isfile(sentence):
            raise OptionError(
                f"{sentence} is a file, where a sentence was wanted; to translate its lines: --input {sentence}"
            )
    if args.input and args.sentences:
        raise OptionError("--input and sentences exclude each other; leave one of them out")
    waits = not args.input and not args.sentences and sys.stdin.isatty()  # someone does, for each
    if waits:
        print(f"loading {args.model} ...", file=sys.stderr)
    hub = load_hub(args.model, args.data)
    if waits:
        print("a sentence a line, please; Ctrl-D ends", file=sys.stderr)
    batch = 1 if waits else args.batch
    given = read_lines(args.input) if args.input else args.sentences
    lines = given if args.input or given else map(str.rstrip, sys.stdin)
    with tqdm(total=len(given) or None, unit=" sentences", disable=True if batch == 1 else None) as bar:
        for translation in translate(hub, lines, args.beam, batch):
            print(translation, flush=True)
            bar.update()
