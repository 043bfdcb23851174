"""Translate a run's test set with each sentence given the context of another one of any length, to standard output.

``--cgc-shuffle-context`` gives it its neighbour's in a batch that fairseq has sorted by length, which is nearly always as
long. Here a batch is 64 sentences drawn at random, and the other one is drawn from it.
"""

import argparse
import random
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
from tqdm import tqdm

from fairseq_cgc.context_gate import SentenceGate
from fairseq_cgc.recipe.files import read_lines, run_command
from fairseq_cgc.recipe.models import load_hub
from fairseq_cgc.recipe.translate import BEAM
from fairseq_cgc.text import is_blank


def another(gate):
    """The gates of a batch (B x ...), each those of another sentence: the same one in every layer."""
    ring = torch.randperm(gate.size(0), generator=torch.Generator().manual_seed(1))
    return torch.empty_like(gate).index_copy_(0, ring, gate[ring.roll(1)])


def translate(hub, sentences, size):
    """Translations, in the order of the sentences; ``size`` of them at a time draw their contexts from each other."""
    sizes = []
    for module in hub.modules():
        if isinstance(module, SentenceGate):
            module.shuffle, module.another_sentences = True, lambda gate: sizes.append(len(gate)) or another(gate)
    # By it fairseq would cut a batch in two, the short sentences and the long ones.
    hub.cfg.dataset.max_tokens = None
    order = random.Random(1).sample(range(len(sentences)), len(sentences))
    translations = {}
    for start in tqdm(range(0, len(order), size), unit=" batches", disable=None):
        rows = order[start : start + size]
        sizes.clear()
        translations |= zip(rows, hub.sample([sentences[row] for row in rows], BEAM))
        assert set(sizes) <= {sum(not is_blank(sentences[row]) for row in rows)}, "one batch"
    return [translations[row] for row in range(len(sentences))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder that fairseq-cgc generate has translated")
    parser.add_argument("--source-lang", default="de")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    with redirect_stdout(sys.stderr):
        hub = load_hub(args.run)
    print(*translate(hub, read_lines(args.run / "test" / f"test.{args.source_lang}"), args.batch), sep="\n")


if __name__ == "__main__":
    run_command(main)
