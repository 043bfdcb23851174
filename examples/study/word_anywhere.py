"""Can a gate use its context? Layers that learn to imitate one whose kernels depend on a word anywhere in the sentence.

A sentence is 24 words, each a fixed random vector; the frequencies of the 500 words fall as Zipf's law says. The teacher
convolves it with one of two random kernels: which one, is decided by whether one of five certain words is
anywhere in the sentence. Each gate is learned in a whole layer, linear - gated convolution - linear, as in an encoder. Printed are
the mean squared errors on new sentences, as shares of that of gates that are the same for all sentences, and what
they are with another sentence's context.

    python examples/study/word_anywhere.py
"""

import argparse

import torch
from torch import nn

from fairseq_cgc import ContextGatedLightweightConv
from fairseq_cgc.errors import check_at_least
from fairseq_cgc.ops.lightconv import lightconv
from fairseq_cgc.recipe.files import run_command
from fairseq_cgc.recipe.report import render_table

WORDS, CHANNELS, HEADS, KERNEL, LENGTH, BATCH = 500, 64, 4, 7, 24, 64
LEARNED = "learned"
GATES = LEARNED, "context", "summary"


class Layer(nn.Module):
    """An encoder layer's convolution block, without its residual connection and norm."""

    def __init__(self, gate):
        super().__init__()
        self.linear1 = nn.Linear(CHANNELS, CHANNELS)
        self.conv = ContextGatedLightweightConv(CHANNELS, KERNEL, num_heads=HEADS, gate=gate, shuffle=True)
        self.linear2 = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        return self.linear2(self.conv(self.linear1(x)))


class Language:
    """Words, their vectors and frequencies, the class that decides, and the teacher's kernels."""

    def __init__(self):
        self.vectors = torch.randn(WORDS, CHANNELS)
        self.frequencies = 1 / torch.arange(10, WORDS + 10)
        self.deciding = torch.randperm(WORDS // 5)[:5]
        self.kernels = torch.rand(2, HEADS, KERNEL)

    def batch(self, sentences=BATCH):
        """Sentences, T x B x C, and what the teacher makes of them."""
        words = self.frequencies.multinomial(LENGTH * sentences, replacement=True).view(LENGTH, sentences)
        kernels = self.kernels[torch.isin(words, self.deciding).any(0).long()]
        x = self.vectors[words]
        return x, lightconv(x, kernels, KERNEL // 2)


def errors(gate, seed, updates):
    """A trained layer's mean squared error on new sentences, and that with another sentence's context."""
    torch.manual_seed(seed)
    language, layer = Language(), Layer(gate)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.003)
    for _ in range(updates):
        x, y = language.batch()
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
    x, y = language.batch(2000)
    with torch.no_grad():
        return tuple(
            (layer.train(own)(x) - y).square().mean().item() for own in (True, False)
        )  # shuffles in evaluation


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--updates", type=int, default=4000, help="default: 4000")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    args = parser.parse_args()
    check_at_least(1, updates=args.updates, seeds=args.seeds)
    found = {gate: [errors(gate, seed, args.updates) for seed in range(1, args.seeds + 1)] for gate in GATES}
    rows = []
    for gate in GATES:
        shares = [[a / b[0] for a in own] for own, b in zip(found[gate], found[LEARNED])]
        parameters = sum(parameter.numel() for parameter in Layer(gate).conv.gate.parameters())
        columns = [", ".join(f"{share:.2f}" for share in column) for column in zip(*shares)]
        rows.append([f"`{gate}`", *columns, f"{parameters:,}"])
    print(render_table(["gate", "error", "with another sentence's context", "gate's parameters"], rows))


if __name__ == "__main__":
    run_command(main)
