"""What a trained gate looks at: its values, their variance, classes of sentences (supplement A.1), minimal pairs."""

import textwrap
from importlib.metadata import version
from os.path import commonprefix
from statistics import mean
from typing import NamedTuple

import numpy as np
import torch
from fairseq.data.data_utils import collate_tokens
from tqdm import tqdm

from ..errors import (
    MOST_SAMPLES,
    MOST_SEED,
    CheckpointError,
    CorpusError,
    OptionError,
    check_at_least,
    check_within,
    flag,
)
from ..lightconv_cgc import LightConvCGCEncoder
from .files import OURS, check_own_files, read_lines, writable_folder, write_json
from .models import load_hub
from .report import new_figure, render_table, write_text_and_plots
from .rows import ROWS

UNGATED, GATED = ROWS["lightconv"].colour, ROWS["cgc"].colour


class Layer(NamedTuple):
    """What the sentences' gates are in one layer, as float32 arrays.

    Attributes:
        number: from 1
        offset: of the first tap from the position it serves
        gates: n x H x K
        kernels: n x H x K, gated; of a dynamic encoder each sentence's mean over its tokens
        ungated: 1 x H x K, or as ``kernels``, where tokens have kernels of their own
    """

    number: int
    offset: int
    gates: np.ndarray
    kernels: np.ndarray
    ungated: np.ndarray


def load_model(path, data=None):
    """What ``load_hub`` returns. Raises CheckpointError if it is missing, or no model of this plugin."""
    hub = load_hub(path, data)
    encoder = hub.models[0].encoder
    if not isinstance(encoder, LightConvCGCEncoder):
        raise CheckpointError(f"{path} holds a {type(encoder).__name__}, which has no gates; give a lightconv_cgc")
    return hub


def gates_of(hub, sentences, batch=64):
    """The gates of raw sentences (at least one), in every layer; the size of a batch changes nothing but the speed.

    Takes what ``load_model`` returns. Returns a list of one ``Layer`` a layer, and the number of tokens of each
    sentence.
    """
    encoder, tokens = hub.models[0].encoder, [hub.encode(sentence) for sentence in sentences]
    order = sorted(range(len(tokens)), key=lambda number: len(tokens[number]))
    found = [([], [], []) for _ in encoder.layers]
    with tqdm(total=len(tokens), desc="gates", unit=" sentences", disable=None) as bar:
        for start in range(0, len(order), batch):
            group = [tokens[number] for number in order[start : start + batch]]
            record, _, mask = _encoded(hub, group)
            for (gates, kernels, ungated), layer in zip(found, record):
                gates.append(layer.gate.float().cpu())
                kernels.append(_of_sentences(layer.kernel, mask).float().cpu())
                ungated.append(_of_sentences(layer.ungated, mask).float().cpu())
            bar.update(len(group))
    place = np.argsort(order)
    layers = []
    for number, (layer, values) in enumerate(zip(encoder.layers, found), start=1):
        gates, kernels, ungated = (torch.cat(value).numpy()[place] for value in values)
        if np.array_equal(ungated, np.broadcast_to(ungated[:1], ungated.shape)):
            ungated = ungated[:1]
        layers.append(Layer(number, -layer.conv.padding_l, gates, kernels, ungated))
    return layers, [len(sentence) for sentence in tokens]


def source_batch(hub, tokens):
    """(tokens, mask of the real ones), both B x T and on the model's device, of token lists."""
    device, pad = next(hub.models[0].parameters()).device, hub.task.source_dictionary.pad()
    batch = collate_tokens(tokens, pad, left_pad=True).to(device)
    return batch, batch.ne(pad)


def _encoded(hub, tokens, gates=None):
    """(record of the layers' gates, output T x B x C, mask B x T of real tokens) of token lists."""
    batch, real = source_batch(hub, tokens)
    record = []
    with torch.no_grad():
        output = hub.models[0].encoder(batch, real.sum(1), record, gates)["encoder_out"][0]
    return record, output, real


def _of_sentences(kernel, mask):
    """B x H x K; of kernels one a token (T x B x H x K) each sentence's mean over its real tokens."""
    if kernel.dim() == 3:
        return kernel
    real = mask.t()[:, :, None, None].to(kernel.dtype)
    return (kernel * real).sum(0) / real.sum(0)


def variances(gates):
    """How a layer's gate varies: over heads and taps, and between sentences.

    The total variance is ``pattern`` + ``between``: that of the mean gate over heads and taps, which a
    learned constant could have too, and the mean variance between sentences, which only a context can
    have.

    Args:
        gates: n x H x K

    Returns:
        dict of ``mean``, ``minimum``, ``maximum``, ``total``, ``pattern``, ``between``, ``within`` (the
        mean over sentences of the variance over heads and taps) and ``between_share`` of the total
    """
    gates = np.asarray(gates, dtype=np.float64)
    total, pattern, between = gates.var(), gates.mean(0).var(), gates.var(0).mean()
    return {
        "mean": float(gates.mean()),
        "minimum": float(gates.min()),
        "maximum": float(gates.max()),
        "total": float(total),
        "pattern": float(pattern),
        "between": float(between),
        "within": float(gates.var((1, 2)).mean()),
        "between_share": float(between / total) if total > 1e-12 else 0.0,
    }


def share_by_length(gates, lengths):
    """The share of the variance between sentences that goes with their length.

    The variance among sentences of equal length is what does not; lengths that occur once are left out.

    Args:
        gates: n x H x K
        lengths: n, in tokens

    Returns:
        1: sentences of equal length have equal gates; 0 (or a little below): the length has no part in it; None:
        there is no variance, or no two sentences are of equal length
    """
    gates, lengths = np.asarray(gates, dtype=np.float64), np.asarray(lengths)
    groups = [gates[lengths == length] for length in np.unique(lengths)]
    groups = [group for group in groups if len(group) > 1]
    between = gates.var(0, ddof=1).mean() if len(gates) > 1 else 0.0
    if not groups or between < 1e-15:
        return None
    among_equal = sum(group.var(0, ddof=1).mean() * len(group) for group in groups) / sum(map(len, groups))
    return float(1 - among_equal / between)


def sentence_classes(kind, sentences, lengths, files):
    """A label per sentence.

    Args:
        kind: ``file``: where it comes from; ``length``: about fifths of the corpus by number of tokens, of two sentences at least;
            ``question``: whether it ends with a question mark
        sentences: raw
        lengths: their numbers of tokens
        files: the name of each one's file

    Returns:
        list of labels
    """
    if kind == "file":
        return list(files)
    if kind == "question":
        bare = (sentence.rstrip().rstrip("\"'”“»«」』") for sentence in sentences)
        return ["question" if sentence.endswith(("?", "？", "؟")) else "statement" for sentence in bare]
    edges = sorted(set(np.quantile(lengths, (0.2, 0.4, 0.6, 0.8), method="higher").astype(int)))
    lows = [min(lengths)]
    for edge in edges:  # a class of one sentence joins its neighbour
        if sum(lows[-1] <= length < edge for length in lengths) > 1 < sum(length >= edge for length in lengths):
            lows.append(edge)
    names = [
        f"{low}–{high - 1}" if high > low + 1 else f"{low}" for low, high in zip(lows, [*lows[1:], max(lengths) + 1])
    ]
    return [names[np.searchsorted(lows, length, side="right") - 1] for length in lengths]


def compare_classes(kernels, labels, lengths=None, permutations=1000, seed=1):
    """The paper's analysis (supplement A.1): are gated kernels nearer to their class than classes to each other?

    A class's centre is the mean of its kernels; its within-class distance their mean L2 distance to it;
    the between-class distance of two classes that of their centres.

    Args:
        kernels: n x H x K, or gates where tokens have kernels of their own
        labels: n
        lengths: of the sentences: if given, a second test permutes labels among sentences of the same
            length alone, which tells the class from its lengths
        permutations: of the labels
        seed: of the permutations

    Returns:
        dict: ``classes``, ``sizes``, ``within`` (a class), ``between`` (two classes), ``difference``
        (between - within of the row's class), ``share`` of pairs where that is above 0, ``statistic`` (its
        mean over pairs), and ``permuted``: the share's mean and the p-values of share and statistic when the
        labels mean nothing; ``permuted_within_length`` likewise, or None

    Raises:
        OptionError: fewer than two classes, or a class of one sentence
    """
    classes = sorted(set(labels), key=by_number)
    codes = np.array([classes.index(label) for label in labels])
    sizes = np.bincount(codes, minlength=len(classes))
    if len(classes) < 2:
        raise OptionError(f"all sentences are of one class, {classes[0]!r}; at least two classes are needed")
    if sizes.min() < 2:
        raise OptionError(
            f"the class {classes[int(sizes.argmin())]!r} has one sentence; distances need at least two: merge classes"
        )
    vectors = np.asarray(kernels, dtype=np.float64).reshape(len(labels), -1)
    within, between = _distances(vectors, codes, sizes)
    difference = between - within[:, None]
    pairs = ~np.eye(len(classes), dtype=bool)
    share, statistic = (difference[pairs] > 0).mean(), difference[pairs].mean()

    def permuted(groups):
        chance = np.random.default_rng(seed)
        shares, statistics = [], []
        for _ in tqdm(range(permutations), desc="permutations", leave=False, disable=None):
            shuffled = codes.copy()
            for group in groups:
                shuffled[group] = codes[chance.permutation(group)]
            inside, across = _distances(vectors, shuffled, sizes)
            found = (across - inside[:, None])[pairs]
            shares.append((found > 0).mean())
            statistics.append(found.mean())
        return {
            "permutations": permutations,
            "share": float(np.mean(shares)),
            "p_share": float((1 + np.sum(np.array(shares) >= share - 1e-12)) / (1 + permutations)),
            "p_statistic": float((1 + np.sum(np.array(statistics) >= statistic - 1e-12)) / (1 + permutations)),
        }

    within_length = None
    if lengths is not None:
        lengths = np.asarray(lengths)
        groups = [np.flatnonzero(lengths == length) for length in np.unique(lengths)]
        if any(len(set(codes[group])) > 1 for group in groups):
            within_length = permuted(groups)
    return {
        "classes": classes,
        "sizes": sizes.tolist(),
        "within": within.tolist(),
        "between": between.tolist(),
        "difference": difference.tolist(),
        "share": float(share),
        "statistic": float(statistic),
        "permuted": permuted([np.arange(len(codes))]),
        "permuted_within_length": within_length,
    }


def by_number(label):
    """The key that sorts classes of lengths by their number, and others behind them."""
    head = str(label).split("–")[0]
    return (0, int(head), label) if head.isdecimal() else (1, 0, label)


def _distances(vectors, codes, sizes):
    """Within-class (C) and between-class (C x C) distances of n vectors."""
    members = np.zeros((len(sizes), len(codes)))
    members[codes, np.arange(len(codes))] = 1
    centres = members @ vectors / sizes[:, None]
    own = np.sqrt(np.square(vectors - centres[codes]).sum(1))
    between = np.sqrt(np.square(centres[:, None] - centres[None]).sum(2))
    return members @ own / sizes, between


def read_pairs(lines, path):
    """Sentence pairs, one a line, a tab between. Raises CorpusError for other lines, or one sentence twice."""
    pairs = []
    for number, line in enumerate(lines, 1):
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) != 2 or not all(parts) or parts[0] == parts[1]:
            raise CorpusError(
                f"{path}, line {number}: expected two different sentences separated by a tab, found {line!r}"
            )
        pairs.append(tuple(parts))
    if not pairs:
        raise CorpusError(f"{path} is empty; expected two sentences per line, separated by a tab")
    return pairs


def compare_pair(hub, one, other):
    """How far a changed word moves the gates, and the encoder's output far from it.

    The position looked at is the token that both sentences have and that is the farthest from what
    differs. There, the output of the first sentence is compared with that of the second, and with its
    own output under the second sentence's gates: what the gates alone do.

    Args:
        hub: what ``load_model`` returns
        one, other: raw sentences

    Returns:
        dict: ``sentences``, ``changed`` (tokens of each), ``token``, ``distance`` in tokens, ``reach`` (how
        far the layers see without the context gates; None: everywhere), ``gates`` (a layer: relative L2
        distance), ``output`` and ``output_by_gates`` (relative L2 distance at the position)

    Raises:
        CorpusError: the sentences are the same to the model, or have no token in common at their start, or at
            their end in the same position
    """
    sentences = [hub.encode(sentence) for sentence in (one, other)]
    words = [[hub.task.source_dictionary[token] for token in sentence] for sentence in sentences]
    prefix = len(commonprefix(words))
    suffix = len(commonprefix([tokens[prefix:][::-1] for tokens in words]))
    changed = [sentence[prefix : len(sentence) - suffix] for sentence in words]
    if words[0] == words[1]:
        raise CorpusError(f"{one!r} and {other!r} are the same tokens to the model; change a word that it knows")
    # From the first (last) common token to the nearest token that differs; EOS is not a word to look at. Behind a
    # difference in length every token stands in another position, which is a difference too.
    before, after = prefix, max(0, suffix - 1) if len(words[0]) == len(words[1]) else 0
    if not before and not after:
        raise CorpusError(
            f"{one!r} and {other!r} share no token at their start, and none at their end in the same position; change one "
            "word in the middle or at the end"
        )
    at_start = before >= after
    places = [0, 0] if at_start else [len(sentence) - 2 for sentence in sentences]
    (record, output, mask), (record_other, output_other, mask_other) = (_encoded(hub, [s]) for s in sentences)
    _, output_forced, _ = _encoded(hub, [sentences[0]], [layer.gate for layer in record_other])
    here, there, forced = output[places[0], 0], output_other[places[1], 0], output_forced[places[0], 0]
    convolutions = [layer.conv for layer in hub.models[0].encoder.layers]
    reach = sum(conv.kernel_size - 1 - conv.padding_l if at_start else conv.padding_l for conv in convolutions)
    if any(conv.gct is not None for conv in convolutions):
        reach = None  # a channel gate sees the whole sentence too
    return {
        "sentences": [one, other],
        "changed": [" ".join(tokens) for tokens in changed],
        "token": words[0][places[0]],
        "distance": before if at_start else after,
        "reach": reach,
        "gates": [_moved(a.gate, b.gate) for a, b in zip(record, record_other)],
        "output": _moved(here, there),
        "output_by_gates": _moved(here, forced),
    }


def _compare_pairs(hub, pairs):
    """What ``compare_pair`` finds of each pair, and why others could not be compared: they have no common token.

    Raises CorpusError if that goes for all of them.
    """
    compared, left_out = [], []
    for pair in pairs:
        try:
            compared.append(compare_pair(hub, *pair))
        except CorpusError as error:
            left_out.append(str(error))
    if pairs and not compared:
        raise CorpusError(left_out[0])
    return compared, left_out


def _moved(here, there):
    return float((there.double() - here.double()).norm() / here.double().norm().clamp_min(1e-12))


# What a command makes of it


LAYER_COLUMNS = (
    "K is the kernel size. Kernel sum: of a gated kernel's taps, in the mean over sentences and heads; ungated, it is 1 with "
    "weight softmax. Mean, min and max are the gate's over sentences, heads and taps. The variance is the sum of "
    "two: that of the pattern (of the mean gate over heads and taps), which a gate without a context can learn too, and that "
    "between sentences, which only a context can give; the share is the second's. The last column is how much of that goes "
    "with the length of the sentence (–: there is none, or no two sentences are of equal length)."
)
CLASS_COLUMNS = (
    "Within: the mean L2 distance of a sentence to the centre of its class, the mean of its sentences. The other column: "
    "that of the centre to those of the other classes."
)
PAIR_COLUMNS = (
    "Changed: the words that differ. Looked at: the token that both sentences have and that is the farthest from the change; "
    "how many tokens away, and how many the encoder's convolutions reach. Gate: how far a layer's gate moves, as a share of "
    "its L2 norm. Output: the same of the encoder's output at that token, and by the gates: if only they are exchanged."
)


def layer_rows(summaries):
    """A row a layer, from ``summarise``: the header, and rows of cells; ``LAYER_COLUMNS`` says what they are."""
    header = ["layer", "K", "kernel sum", "mean", "min", "max", "variance", "of the pattern", "between sentences"]
    header += ["share between", "of that with the length"]
    rows = [
        [
            f"{layer['layer']}",
            f"{layer['kernel_size']}",
            f"{np.sum(layer['kernel_mean']) / layer['heads']:.3f}",
            *(f"{layer['gate'][name]:.3f}" for name in ("mean", "minimum", "maximum")),
            *(f"{layer['gate'][name]:.2e}" for name in ("total", "pattern", "between")),
            f"{layer['gate']['between_share']:.1%}",
            "–" if layer["gate"]["share_by_length"] is None else f"{layer['gate']['share_by_length']:.0%}",
        ]
        for layer in summaries
    ]
    return header, rows


def class_verdict(found):
    """A sentence that says what ``compare_classes`` found."""
    p, of_length = found["permuted"]["p_statistic"], found["permuted_within_length"]
    if p >= 0.05:
        return f"The classes are not told apart: labels without a meaning do as well (p = {p:.3f})."
    words = f"The classes are told apart (p = {p:.3f})"
    if of_length is None:
        return f"{words}, but no length has two of them: it may be lengths that are told apart."
    if of_length["p_statistic"] >= 0.05:
        return (
            f"{words}, but not among sentences of equal length (p = {of_length['p_statistic']:.3f}): it may be lengths."
        )
    return f"{words}, among sentences of equal length too (p = {of_length['p_statistic']:.3f})."


def class_table(found, title):
    """Markdown: the classes, and around them what the permutations say."""
    rows = [
        [str(name), f"{size}", f"{inside:.4f}", f"{mean(b for b in across if b):.4f}" if any(across) else "0"]
        for name, size, inside, across in zip(found["classes"], found["sizes"], found["within"], found["between"])
    ]
    table = render_table([title, "sentences", "within", "mean distance to other classes"], rows)
    lines = [f"between exceeds within in {found['share']:.1%} of the pairs; mean difference {found['statistic']:+.4f}"]
    equal = "among sentences of equal length"
    for words, chance in (("labels permuted", found["permuted"]), (equal, found["permuted_within_length"])):
        lines.append(
            f"{words}, {chance['permutations']} times: share {chance['share']:.1%} (p = {chance['p_share']:.3f}), p of the "
            f"mean difference = {chance['p_statistic']:.3f}"
            if chance
            else f"{words}: no length has two classes, so classes cannot be told apart from lengths"
        )
    return "\n\n".join([f"{class_verdict(found)} {CLASS_COLUMNS}", table, "\n".join(lines)])


def pair_table(pairs):
    """Markdown: a row a pair, from ``compare_pair``."""
    layers = range(1, len(pairs[0]["gates"]) + 1)
    header = ["changed", "looked at", "distance (reach)", *(f"gate {number}" for number in layers)]
    header += ["output", "by the gates"]
    rows = [
        [
            f"{pair['changed'][0] or '–'} / {pair['changed'][1] or '–'}",
            pair["token"],
            f"{pair['distance']} ({'all' if pair['reach'] is None else pair['reach']})",
            *(f"{moved:.2%}" for moved in [*pair["gates"], pair["output"], pair["output_by_gates"]]),
        ]
        for pair in pairs
    ]
    return render_table(header, rows)


def summarise(layer, lengths):
    """A layer's part of the JSON."""
    return {
        "layer": layer.number,
        "kernel_size": layer.gates.shape[2],
        "heads": layer.gates.shape[1],
        "first_tap": layer.offset,
        "gate": {**variances(layer.gates), "share_by_length": share_by_length(layer.gates, lengths)},
        "gate_mean": layer.gates.mean(0).tolist(),
        "gate_deviation": layer.gates.std(0).tolist(),
        "kernel_mean": layer.kernels.mean(0).tolist(),
        "ungated_mean": layer.ungated.mean(0).tolist(),
    }


# Plots: figures of matplotlib


def _grid(layers, heads, title, quantity):
    """A figure of a row a layer and a column a head, and its axes as (layer, its taps, head, axes)."""
    width, height = 1.5 + 2.4 * len(heads), 0.9 + 1.7 * len(layers)
    figure, grid = new_figure(width, height, len(layers), len(heads), squeeze=False, sharey="row")
    figure.suptitle(title)
    figure.supylabel(quantity)
    for head, axes in zip(heads, grid[0]):
        axes.set_title(f"head {head + 1}", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("tap, from the position", fontsize=8)
    for axes in grid.flat:
        axes.tick_params(labelsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    cells = []
    for row, layer in zip(grid, layers):
        row[0].set_ylabel(f"layer {layer.number}")
        taps = np.arange(layer.gates.shape[2]) + layer.offset
        cells += [(layer, taps, head, axes) for head, axes in zip(heads, row)]
    return figure, cells


def plot_kernels(layers, heads):
    """The gated kernels beside the ungated ones: means, and the band from the 5th to the 95th percentile."""
    figure, cells = _grid(layers, heads, "kernels: ungated, and gated over the sentences (mean, 5–95 %)", "weight")
    style = {"markersize": 2.5, "linewidth": 1}
    for layer, taps, head, axes in cells:
        axes.plot(taps, layer.ungated[:, head].mean(0), "o-", color=UNGATED, label="ungated", **style)
        low, high = np.quantile(layer.kernels[:, head], (0.05, 0.95), axis=0)
        axes.fill_between(taps, low, high, color=GATED, alpha=0.25, linewidth=0)
        axes.plot(taps, layer.kernels[:, head].mean(0), "o-", color=GATED, label="gated", **style)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_gates(layers, heads, shown, sentences):
    """The gate over K for a few sentences, and in grey the mean of all."""
    figure, cells = _grid(layers, heads, "the gate over the taps, for a few sentences", "gate")
    for layer, taps, head, axes in cells:
        axes.plot(taps, layer.gates[:, head].mean(0), color="#999999", linewidth=3, alpha=0.6, label="mean of all")
        for number in shown:
            axes.plot(taps, layer.gates[number, head], linewidth=1, label=_short(sentences[number]))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=8)
    return figure


def _short(sentence):
    sentence = " ".join(sentence.split())
    sentence = f" {sentence}" if sentence.startswith("_") else sentence  # matplotlib leaves that out of a legend
    return sentence if len(sentence) <= 80 else sentence[:79] + "…"


def plot_variances(summaries):
    """A bar a layer: the variance of the gate's pattern, and that between sentences."""
    figure, axes = new_figure(7, 3.5)
    places = np.arange(len(summaries))
    for shift, name, label, colour in (
        (-0.2, "pattern", "over heads and taps (mean gate)", UNGATED),
        (0.2, "between", "between sentences", GATED),
    ):
        heights = [layer["gate"][name] for layer in summaries]
        axes.bar(places + shift, heights, 0.4, color=colour, alpha=0.8, label=label)
    words = [f"{s['layer']}\nK = {s['kernel_size']}\n{s['gate']['between_share']:.0%}" for s in summaries]
    axes.set_xticks(places, words)
    axes.set_xlabel("layer, kernel size, share of the variance that is between sentences")
    axes.set_ylabel("variance of the gate")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _ending(name):
    """The end of a long name, a path's say: whole, it would leave a plot no room."""
    return name if len(name) <= 24 else f"…{name[-23:]}"


def plot_classes(found, title):
    """The matrix of between-class minus within-class distances (Fig. 5 of the supplement)."""
    matrix, classes = np.array(found["difference"]), [_ending(str(name)) for name in found["classes"]]
    side = 3 + 0.45 * min(len(classes), 20)
    figure, axes = new_figure(side + 1, side)
    np.fill_diagonal(matrix, np.nan)
    limit = np.nanmax(np.abs(matrix)) or 1.0
    image = axes.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
    figure.colorbar(image, label="distance to the other class\n− distance within the row's class")
    if len(classes) <= 20:
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
    if len(classes) <= 8:
        for (row, column), value in np.ndenumerate(matrix):
            if row != column:
                colour = "white" if abs(value) > 0.6 * limit else "black"
                axes.text(column, row, f"{value:+.2g}", ha="center", va="center", fontsize=10, color=colour)
    axes.set_xlabel("the other class")
    axes.set_ylabel("the row's class")
    verdict = textwrap.fill(class_verdict(found).replace(" = ", "\u00a0=\u00a0"), round(10 * side))
    axes.set_title(f"{title}: above 0 in {found['share']:.1%} of the pairs\n{verdict}", fontsize=10)
    return figure


def main(args):
    """``fairseq-cgc inspect``."""
    check_within(0, MOST_SEED, seed=args.seed)
    check_at_least(1, batch=args.batch)
    check_within(1, MOST_SAMPLES, permutations=args.permutations)
    if not args.input and not args.pairs:
        raise OptionError("give sentences with --input, minimal pairs with --pairs, or both")
    for name in ("classes", "labels", "layers", "heads", "show", "class_layer"):
        if getattr(args, name) is not None and not args.input:
            raise OptionError(f"{flag(name)} is about the sentences of --input; give them")
    if args.classes and args.labels:
        raise OptionError("--classes and --labels exclude each other; leave one of them out")
    sentences, files = [], []
    repeated = len({path.name for path in args.input or ()}) < len(args.input or ())
    for path in args.input or ():
        lines = read_lines(path)
        if not any(line.strip() for line in lines):
            raise CorpusError(f"{path} is empty; expected raw sentences, one per line")
        sentences += lines
        files += [str(path) if repeated else path.name] * len(lines)
    pairs = read_pairs(read_lines(args.pairs), args.pairs) if args.pairs else []
    labels = read_lines(args.labels) if args.labels else None
    if labels is not None and len(labels) != len(sentences):
        raise CorpusError(
            f"{args.labels} has {len(labels)} lines and the input {len(sentences)}; expected one label per sentence"
        )
    out = writable_folder(args.out, option="--out")
    check_own_files(out, ["gates.json", "gates.md", "kernels.png", "gates.png", "variance.png", "classes.png"])
    hub = load_model(args.checkpoint, args.data)
    compared, left_out = _compare_pairs(hub, pairs)
    report = {
        "written_by": OURS,
        "checkpoint": str(args.checkpoint),
        "input": [str(path) for path in args.input or ()],
        "versions": {name: version(name) for name in ("torch", "ve-fairseq")},
    }
    source = f"Model: `{args.checkpoint}`. Input: "
    source += ", ".join(f"`{path}`" for path in [*(args.input or ()), args.pairs] if path)
    source += f", {len(sentences):,} sentences" * bool(sentences) + f", {len(pairs):,} pairs" * bool(pairs)
    made = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    texts, plots = ["# What the gates look at", f"{source}. Command: `{args.command_line}`. Versions: {made}."], {}
    if sentences:
        convolutions = [layer.conv for layer in hub.models[0].encoder.layers]  # for what can be refused at once
        chosen = _places("--layers", args.layers, len(convolutions))
        heads = _places("--heads", args.heads, convolutions[0].num_heads)
        few = min(5, len(sentences))
        spread = ",".join(str(1 + len(sentences) * part // few) for part in range(few))
        shown = _places("--show", args.show or spread, len(sentences))
        if len(_places("--class-layer", args.class_layer or "1", len(convolutions))) != 1:
            raise OptionError(f"--class-layer is {args.class_layer}; give one layer")
        layers, lengths = gates_of(hub, sentences, args.batch)
        chosen = [layers[number] for number in chosen]
        report["sentences"] = len(sentences)
        report["layers"] = [summarise(layer, lengths) for layer in layers]
        report["shown"] = [
            {"sentence": sentences[n], "tokens": lengths[n], "gates": [layer.gates[n].tolist() for layer in chosen]}
            for n in shown
        ]
        texts += [LAYER_COLUMNS, render_table(*layer_rows(report["layers"]))]
        plots |= {
            "kernels.png": lambda: plot_kernels(chosen, heads),
            "gates.png": lambda: plot_gates(chosen, heads, shown, sentences),
            "variance.png": lambda: plot_variances(report["layers"]),
        }
    if args.classes or labels:
        kind = args.classes or args.labels.name
        labels = labels or sentence_classes(args.classes, sentences, lengths, files)
        varying = [layer.number for layer in layers if layer.gates.std(0).max() > 1e-7]
        number = int(args.class_layer or (varying or [len(layers)])[-1])
        layer = layers[number - 1]
        # Where tokens have kernels of their own, these differ between sentences whatever the gate does.
        what, values = ("kernels", layer.kernels) if len(layer.ungated) == 1 else ("gates", layer.gates)
        found = compare_classes(values, labels, lengths, args.permutations, args.seed)
        report["classes"] = {"of": kind, "compared": what, "layer": number, "seed": args.seed, **found}
        title = f"{kind}, {what} of layer {number}"
        texts.append(class_table(found, title))
        plots["classes.png"] = lambda: plot_classes(found, title)
    if pairs:
        report["pairs"] = compared
        texts += [PAIR_COLUMNS, pair_table(compared), *(f"Left out: {why}." for why in left_out)]
    write_json(out / "gates.json", report)  # before what can fail: it is the figures themselves
    text = write_text_and_plots(out, "gates.md", "\n\n".join(texts) + "\n", plots)
    print(text, end="")


def _places(option, text, count):
    """Places, from 0, of a list of numbers from 1."""
    if text is None:
        return list(range(count))
    try:
        found = [int(number) - 1 for number in text.split(",")]
    except ValueError:
        found = [-1]
    if any(not 0 <= number < count for number in found):
        raise OptionError(f"{option} is {text}; expected numbers from 1 to {count}, separated by commas")
    return found
