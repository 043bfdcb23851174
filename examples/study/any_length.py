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
from fairseq_cgc.recipe.files import read_lines
from fairseq_cgc.recipe.models import load_hub
from fairseq_cgc.recipe.translate import BEAM


def another(gate):
    """The gates of a batch (B x ...), each those of another sentence: the same one in every layer."""
    ring = torch.randperm(gate.size(0), generator=torch.Generator().manual_seed(1))
    return torch.empty_like(gate).index_copy_(0, ring, gate[ring.roll(1)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a run folder that fairseq-cgc generate has translated")
    parser.add_argument("--source-lang", default="de")
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    with redirect_stdout(sys.stderr):
        hub = load_hub(args.run)
    for module in hub.modules():
        if isinstance(module, SentenceGate):
            module.shuffle, module.another_sentences = True, another
    sentences = read_lines(args.run / "test" / f"test.{args.source_lang}")
    order = random.Random(1).sample(range(len(sentences)), len(sentences))
    translations = dict.fromkeys(order)
    for start in tqdm(range(0, len(order), args.batch), unit=" batches", disable=None):
        rows = order[start : start + args.batch]
        translations |= zip(rows, hub.sample([sentences[row] for row in rows], BEAM))
    print("\n".join(translations[row] for row in range(len(sentences))))


if __name__ == "__main__":
    main()
