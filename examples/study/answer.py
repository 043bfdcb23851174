"""How far the paper's gate is from what it is held against, in each setting of the study and in several together.

    python examples/study/answer.py

prints the tables of the study's page and draws ``answer.png``, of the records beside this file. Within a corpus, the runs of all
settings are repeats of one comparison, over seeds and sentences (``compare_statistics``). What the corpora say together is the
mean of both, whose interval is half as wide as those of both in quadrature.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairseq_cgc.errors import UserError
from fairseq_cgc.recipe.experiment import read_experiment
from fairseq_cgc.recipe.files import atomic_write, run_command
from fairseq_cgc.recipe.report import WITHOUT_PLOTS, has_matplotlib, new_figure, render_table, save_figure
from fairseq_cgc.recipe.rows import CGC, CONTROL, LEARNED, SHUFFLED
from fairseq_cgc.recipe.scoring import token_metric
from fairseq_cgc.recipe.significance import compare_statistics, detectable_difference
from fairseq_cgc.recipe.table import colour_of, finished

HERE = Path(__file__).parent
POST, PRE, FAST, SLOW = SETTINGS = "multi30k", "multi30k-pre-norm", "libreoffice", "libreoffice-rate-0.002"
WORDS = "Multi30k, post-norm", "Multi30k, pre-norm", "LibreOffice, rate 0.005", "LibreOffice, rate 0.002"
LEARNING = "**three, without rate 0.005**"  # at which models without a gate do not learn
TOGETHER = {  # settings by corpus
    "**both of Multi30k**": ([POST, PRE],),
    "**all four settings**": ([POST, PRE], [FAST, SLOW]),
    LEARNING: ([POST, PRE], [SLOW]),
}
THIRDS = "short sentences", "middling ones", "long ones"
AGAINST = SHUFFLED[CGC], LEARNED, CONTROL, "cgc-none", "lightconv"
EDGE = 2.5  # of the plot, in BLEU


class Found(NamedTuple):
    """CGC's BLEU minus another row's, with its 95 % interval."""

    by_seed: list
    difference: float
    low: float
    high: float
    seen: float  # the true difference that four studies of five like this one would find

    def __str__(self):
        difference, low, high = (round(value, 2) + 0.0 for value in (self.difference, self.low, self.high))  # no -0.00
        return f"{difference:+.2f} [{low:+.2f}, {high:+.2f}]; {self.seen:.2f}".replace("-", "−")


def compare(settings, row, third=None):
    """``Found`` over the runs of some settings of a corpus, lists of ``table.Run``; None with fewer than two pairs of a seed.

    A ``third`` is that of the test set's sentences by the lengths of their references: 0, 1 or 2.
    """
    pairs = []
    for runs in settings:
        ours, theirs = finished(runs, CGC), finished(runs, row)
        pairs += [(ours[seed].statistics, theirs[seed].statistics) for seed in ours if seed in theirs]
    if len(pairs) < 2:
        return None
    ours, theirs = np.array(pairs).swapaxes(0, 1)  # pairs x sentences x statistics, of which the second is that length
    if third is not None:
        chosen = np.array_split(ours[0, :, 1].argsort(kind="stable"), 3)[third]
        ours, theirs = ours[:, chosen], theirs[:, chosen]
    over = compare_statistics(ours, theirs, token_metric())
    seen = detectable_difference(over.seed_noise, len(ours), over.sentence_error, len(ours[0]))
    return Found(over.by_seed, over.difference, over.low, over.high, seen)


def together(corpora):
    """``Found`` of those of several corpora, each with the same weight; None where one is."""
    if None in corpora:
        return None
    middle = float(np.mean([one.difference for one in corpora]))
    half_width, seen = (
        np.hypot.reduce(values) / len(corpora)
        for values in zip(*((one.high - one.difference, one.seen) for one in corpora))
    )
    by_seed = [gap for one in corpora for gap in one.by_seed]
    return Found(by_seed, middle, middle - half_width, middle + half_width, float(seen))


def read(folder):
    """The runs of each setting, of the records in a folder: dict of name to list of ``table.Run``."""
    return {name: read_experiment(folder / name) for name in SETTINGS}


def answers(runs):
    """What the runs that ``read`` returns tell: dict of row to dict of line (settings) to ``Found`` or None."""
    found = {row: {words: compare([runs[name]], row) for name, words in zip(SETTINGS, WORDS)} for row in AGAINST}
    for row, lines in found.items():
        for words, corpora in TOGETHER.items():
            lines[words] = together([compare([runs[name] for name in names], row) for names in corpora])
    return found


def by_length(runs):
    """The same for the sentences of each third by length, over the settings in which all rows learn."""
    corpora = [[runs[name] for name in names] for names in TOGETHER[LEARNING]]
    return {
        row: {words: together([compare(part, row, third) for part in corpora]) for third, words in enumerate(THIRDS)}
        for row in AGAINST
    }


def last_loss(run):
    """A run's validation loss after its last update. Raises UserError if its log tells of none."""
    if not run.losses:
        raise UserError(f"{run.folder / 'log.jsonl'} tells of no validation; record the run again")
    return run.losses[-1][1]


def losses(runs):
    """Markdown: by how much CGC's validation loss differs from another row's after the last update, a seed each."""
    rows = []
    for name, words in zip(SETTINGS, WORDS):
        last = {
            row: {seed: last_loss(run) for seed, run in finished(runs[name], row).items()} for row in (CGC, *AGAINST)
        }
        gaps = ([last[CGC][seed] - loss for seed, loss in last[row].items() if seed in last[CGC]] for row in AGAINST)
        rows.append([words, *(", ".join(f"{gap:+.3f}".replace("-", "−") for gap in of_row) or "–" for of_row in gaps)])
    return render_table(["loss of `cgc` minus that of", *(f"`{row}`" for row in AGAINST)], rows)


def render(found):
    """Markdown: a line for settings or sentences, a column a row."""
    rows = [[words, *(str(found[row][words] or "–") for row in found)] for words in found[LEARNED]]
    return render_table(["`cgc` minus", *(f"`{row}`" for row in found)], rows)


def plot(found):
    """A panel a row, a line for settings: each seed's difference, their mean and its interval, cut off at the edges."""
    figure, axes = new_figure(13, 3.4, 1, len(found), sharex=True, sharey=True)
    for panel, (row, lines) in zip(axes, found.items()):
        panel.axvline(0, color="k", linewidth=0.8)
        for place, (words, one) in enumerate(lines.items()):
            style = {"color": colour_of(row)}
            if one is None:
                continue
            bold = words in TOGETHER
            panel.plot(np.clip([one.low, one.high], -EDGE, EDGE), [place] * 2, linewidth=2.5 if bold else 1.2, **style)
            if not bold:
                inside = [gap for gap in one.by_seed if abs(gap) < EDGE]
                panel.plot(inside, [place] * len(inside), "o", markersize=3, alpha=0.5, **style)
            if abs(one.difference) < EDGE:
                panel.plot(one.difference, place, "D", markersize=7 if bold else 5, **style)
            else:
                words = f"{abs(one.difference):.1f} →" if one.difference > 0 else f"← {abs(one.difference):.1f}"
                edge, side = (EDGE, "right") if one.difference > 0 else (-EDGE, "left")
                panel.text(edge, place - 0.15, words, ha=side, fontsize=9)
        panel.set(title=f"minus {row}", xlim=(-EDGE, EDGE))
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right", "left"]].set_visible(False)
    names = [words.strip("*") for words in found[LEARNED]]
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.supxlabel("BLEU of cgc minus that of a row: each seed, the mean and its 95 % interval", fontsize=10)
    return figure


def main():
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    runs = read(HERE)
    found = answers(runs)
    print(render(found), losses(runs), render(by_length(runs)), sep="\n\n")
    if not has_matplotlib():
        raise UserError(f"no answer.png {WITHOUT_PLOTS}")
    with atomic_write(HERE / "answer.png") as partial:
        save_figure(plot(found), partial)


if __name__ == "__main__":
    run_command(main)
