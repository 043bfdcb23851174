"""What is compared: convolution layers, models, and batches with IWSLT'14's lengths."""

import argparse
import csv
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.modules.dynamic_convolution import DynamicConv1dTBC
from fairseq.modules.lightweight_convolution import LightweightConv1dTBC
from torch import nn

import fairseq_cgc

LENGTHS = Path(__file__).with_name("iwslt14_lengths.csv")
SIZES = 8848, 6632  # entries of the dictionaries of IWSLT'14 De-En (Table 6)
LIGHTWEIGHT = {"encoder_conv_type": "lightweight", "decoder_conv_type": "lightweight", "weight_softmax": True}
MODELS = {
    "LightConv": ("lightconv_iwslt_de_en", LIGHTWEIGHT),
    "dynamic encoder": ("lightconv_iwslt_de_en", {**LIGHTWEIGHT, "encoder_conv_type": "dynamic"}),
    "CGC": ("lightconv_cgc", {}),
    "CGC, constant gate": ("lightconv_cgc", {"cgc_gate": "constant"}),
    "CGC, dynamic encoder": ("lightconv_cgc", {"encoder_conv_type": "dynamic"}),
}


class Conv1d(nn.Module):
    """LightConv through ``torch.nn.functional.conv1d``, as a user would write it: one kernel for all sentences."""

    def __init__(self, channels, kernel_size, heads, weight_dropout):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads, 1, kernel_size))
        nn.init.xavier_uniform_(self.weight)
        self.channels, self.weight_dropout = channels, weight_dropout

    def forward(self, x):
        """T x B x C to T x B x C."""
        weight = F.dropout(torch.softmax(self.weight, dim=2), self.weight_dropout, self.training)
        weight = weight.repeat_interleave(self.channels // weight.size(0), dim=0)
        y = F.conv1d(x.permute(1, 2, 0), weight, padding=weight.size(2) // 2, groups=self.channels)
        return y.permute(2, 0, 1).contiguous()


def layers(kernel_size, channels=512, heads=4, weight_dropout=0.1):
    """One encoder layer's convolution, of each kind, in training mode: {name: module}; the first is the measure."""
    K = kernel_size
    common = {"num_heads": heads, "weight_dropout": weight_dropout, "weight_softmax": True}
    return {
        "LightConv": LightweightConv1dTBC(channels, K, K // 2, **common),
        "DynamicConv": DynamicConv1dTBC(channels, K, K // 2, **common),
        "conv1d": Conv1d(channels, K, heads, weight_dropout),
        "CGC": fairseq_cgc.ContextGatedLightweightConv(channels, K, K // 2, **common),
        "CGC, constant gate": fairseq_cgc.ContextGatedLightweightConv(channels, K, K // 2, gate="constant", **common),
    }


def forward_and_backward(call, x, grad, parameters):
    """A function of no arguments that runs both, and leaves no gradients.

    Args:
        call: a module, or another function of x
        parameters: the tensors beside x that get gradients
    """
    tensors = [x, *parameters]

    def run():
        call(x).backward(grad)
        for tensor in tensors:
            tensor.grad = None

    return run


class Task:
    """What fairseq's build_model asks of a translation task."""

    def __init__(self, source_size=SIZES[0], target_size=SIZES[1]):
        self.source_dictionary, self.target_dictionary = dictionary(source_size), dictionary(target_size)


def dictionary(size):
    """A fairseq dictionary of ``size`` entries, specials included."""
    symbols = Dictionary()
    for number in range(size - len(symbols)):
        symbols.add_symbol(f"w{number}")
    return symbols


def build_model(arch, task, **options):
    """The model that fairseq would build for ``--arch`` and these options."""
    args = argparse.Namespace(arch=arch, **options)
    ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def model(name, task, **options):
    """One of ``MODELS`` at the paper's size with Table 6's options, untrained, from seed 1."""
    arch, own = MODELS[name]
    dropouts = {"dropout": 0.3, "attention_dropout": 0.1, "weight_dropout": 0.1}
    torch.manual_seed(1)
    return build_model(arch, task, encoder_glu=False, decoder_glu=False, **dropouts, **own, **options)


def batches(max_tokens, number, seed):
    """Batches as fairseq forms them of IWSLT'14 De-En's training set: sorted by length, cut at ``max_tokens``.

    Args:
        max_tokens: of either side with its padding
        number: how many, drawn without preference among all of the corpus
        seed: of that draw and of the words

    Returns:
        fairseq samples: net_input (src_tokens, padded on the left; src_lengths; prev_output_tokens), target, ntokens
    """
    with LENGTHS.open() as file:
        rows = [tuple(map(int, row)) for row in list(csv.reader(file))[1:]]
    pairs = [(source, target) for source, target, count in rows for _ in range(count)]
    pairs.sort(key=lambda pair: (pair[0], pair[1]))
    cut, current, longest = [], [], 0
    for pair in pairs:
        if max(longest, *pair) * (len(current) + 1) > max_tokens and current:
            cut.append(current)
            current, longest = [], 0
        current.append(pair)
        longest = max(longest, *pair)
    cut.append(current)
    draw = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    return [_sample(batch, generator) for batch in draw.sample(cut, number)]


def _sample(pairs, generator):
    source = [_words(n, SIZES[0], generator) for n, _ in pairs]
    target = [_words(n, SIZES[1], generator) for _, n in pairs]
    previous = [torch.cat([words[-1:], words[:-1]]) for words in target]
    return {
        "net_input": {
            "src_tokens": _pad(source, left=True),
            "src_lengths": torch.tensor([n for n, _ in pairs]),
            "prev_output_tokens": _pad(previous),
        },
        "target": _pad(target),
        "ntokens": sum(n for _, n in pairs),
        "source_tokens": sum(n for n, _ in pairs),
    }


def _words(n, size, generator):
    words = torch.randint(4, size, (n,), generator=generator)
    words[-1] = 2  # the end of the sentence
    return words


def _pad(sentences, left=False):
    table = torch.full((len(sentences), max(map(len, sentences))), 1)
    for row, words in zip(table, sentences):
        row[len(row) - len(words) if left else 0 : len(row) if left else len(words)] = words
    return table
