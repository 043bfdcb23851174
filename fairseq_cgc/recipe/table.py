"""The paper's Table 6 from run folders alone: scores over seeds, held against LightConv and the paper.

A run folder holds ``run.json`` (what was asked for), ``log.jsonl`` (what training said), and, once
there, ``test/`` (translations and ``scores.json``).
"""

import json
import shlex
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import mean, median, stdev
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ..errors import UserError
from .checkpoints import KINDS
from .evaluation import RESULT, SCORES, split_hashes
from .fairseq_options import option_values
from .files import LOCK, Between, check_own_files, check_writable, is_locked, read_json, read_lines, sha256_of
from .iwslt14 import EXPECTED_PAIRS, LANGUAGES
from .report import new_figure, render_table, write_text_and_plots
from .rows import BASELINE, CGC, CONTROL, PAPER, ROWS, SHUFFLED, SYSTEMS, has_kernels, row_options
from .run_folder import RECORD, RUN
from .scoring import LABELS, SAMPLES, SEED, TOKENISED_BLEU, bootstrap, token_metric, token_statistics
from .significance import Difference, compare_statistics

PROTOCOL = {
    "updates": f"{PAPER['max_update']:,}",
    "checkpoints averaged": f"{PAPER['average']:,}",
    "chosen by": PAPER["by"],
    "beam": f"{PAPER['beam']:,}",
}
OF_RESULTS = {*PROTOCOL, "last update averaged"}  # settings that finished runs alone have
FIGURES = (TOKENISED_BLEU, "BLEU", "chrF")
STATISTICS_OF_BLEU = 10  # of a sentence: two lengths, four numbers of matches, four of n-grams
# In the record of a run, in place of translations and references: see examples/study/record.py.
STATISTICS_FILE, RECORDED = "statistics.json", {"test_set": str, "sentences": [[Between(0, kind=int)]]}
LOGGED = {  # of fairseq's events: the number of updates, and the value that is of use here
    "train_inner": ("num_updates", "loss"),
    "valid": ("valid_num_updates", "valid_loss"),
    "train": ("train_num_updates", "train_wpb"),
}


@dataclass
class Run:
    """A training run, with what its folder tells."""

    folder: Path
    row: str  # a key of ROWS
    seed: int
    updates: int  # asked for
    data: dict
    versions: dict
    command: list  # fairseq-train's
    of_row: dict = field(default_factory=dict)  # its row's options: name to value
    settings: dict = field(default_factory=dict)  # what it was told beyond them
    done: int = 0  # updates
    tokens: float = 0.0  # target tokens trained on
    losses: list = field(default_factory=list)  # of (update, validation loss)
    speeds: list = field(default_factory=list)  # target tokens a second, as training went along
    unfinished: str | None = None  # why it has no part in the means; None: it has
    parameters: int | None = None
    scores: dict | None = None  # figure to dict of score and signature
    decoding: float | None = None  # sentences a second
    hypotheses: list | None = None  # tokenised, as the references
    references: list | None = None
    test_set: str | None = None  # hash of its tokenised references
    recorded: np.ndarray | None = None  # its statistics, of a record without translations

    @property
    def sentences(self):
        """How many the test set has."""
        return len(self.references if self.recorded is None else self.recorded)

    @cached_property
    def statistics(self):
        """Of its tokenised BLEU-4: sentences x statistics."""
        return token_statistics(self.hypotheses, self.references) if self.recorded is None else self.recorded

    def setting(self, name):
        """What it was told of a setting, by its row or beyond."""
        return self.settings.get(name, self.of_row.get(name, "not given"))

    def __str__(self):
        return f"{self.row}, seed {self.seed} ({self.folder})"


MOST_UPDATES = 10**9
MADE = "table.md", "table.png", "curves.png"


def make_table(runs_folder, out=None, corpus=None):
    """Write ``table.md`` and, with matplotlib, ``table.png`` and ``curves.png``. Returns the table as Markdown.

    They are made of the run folders in a folder, and written there, or to ``out``; for the title, see ``corpus_name``.
    Raises UserError for no runs, runs that do not belong in one table, or a folder that is damaged.
    """
    check_own_files(out or runs_folder, MADE)
    runs = [run for run in read_runs(runs_folder) if run.row in SYSTEMS]
    if not runs:
        raise UserError(f"{runs_folder} has only runs of variants; fairseq-cgc table --experiment makes their table")
    check_writable(Path(out or runs_folder), "fairseq-cgc table --out")  # before the comparisons, which take a while
    corpus = corpus or corpus_name(runs)
    return write_table(out or runs_folder, markdown(runs, corpus), runs, corpus)


def write_table(out, text, runs, corpus):
    """Write a table's text, and the plots of its runs; the curves are those of the systems alone. Returns the text."""
    plots = {
        "table.png": lambda: plot_scores(runs, corpus),
        "curves.png": lambda: plot_curves([run for run in runs if run.row in SYSTEMS], corpus),
    }
    return write_text_and_plots(Path(out), "table.md", text, plots)


def is_papers_corpus(runs):
    """Whether the runs' data has the languages and the numbers of pairs of the paper's IWSLT'14 De-En."""
    data = runs[0].data
    return data["pairs"] == EXPECTED_PAIRS and (data["source_lang"], data["target_lang"]) == LANGUAGES


def corpus_name(runs):
    """IWSLT'14's, where it is that, or that of the folder of the data."""
    return PAPER["corpus"] if is_papers_corpus(runs) else Path(runs[0].data["path"]).name


def other_sizes(runs):
    """Words on the rows whose models are not of the paper's size."""
    sizes = {run.row: run for run in runs if run.parameters and ROWS[run.row].paper_parameters}
    return [
        f"{row} has {run.parameters / 1e6:.2f}M parameters instead of {ROWS[row].paper_parameters}"
        for row, run in sizes.items()
        if abs(run.parameters / 1e6 - float(ROWS[row].paper_parameters[:-1])) > 0.02
    ]


def has_papers_figures(runs):
    """Whether the paper's figures may stand beside the runs': they are of its corpus and its sizes."""
    return is_papers_corpus(runs) and not other_sizes(runs)


def read_runs(folder):
    """The runs of a folder, in the table's order.

    Raises UserError if there is none, if two are of one row and seed, or if they are not of the same data and test set.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"the folder of runs {folder} does not exist")
    runs = [read_run(path.parent) for path in sorted(folder.glob(f"*/{RUN}"))]
    if not runs:
        raise UserError(f"{folder} has no run folder (a folder with run.json); give the folder that holds them")
    seen = {}
    for run in runs:
        other = seen.setdefault((run.row, run.seed), run)
        if other is not run:
            raise UserError(f"{other.folder} and {run.folder} are both {run.row} with seed {run.seed}; remove one")
    check_same_data(runs)
    for row in ROWS:
        counts = {run.parameters: run for run in runs if run.row == row and run.parameters}
        if len(counts) > 1:
            (one, first), (two, second) = list(counts.items())[:2]
            raise _not_comparable(first, second, f"both {row}, of {one:,} and {two:,} parameters")
    order = list(ROWS)
    return sorted(runs, key=lambda run: (order.index(run.row), run.seed))


def check_same_data(runs):
    """Raises UserError unless runs are of the same data and, as far as they have been translated, test set."""
    tested = [run for run in runs if run.unfinished is None]
    for run in runs:
        if run.data["sha256"] != runs[0].data["sha256"]:
            raise _not_comparable(runs[0], run, "trained on different data (data.sha256 in run.json)")
    for run in tested:
        if run.test_set != tested[0].test_set:
            raise _not_comparable(tested[0], run, f"scored on different test sets (test/{_reference(run)})")
        if run.sentences != tested[0].sentences:
            raise UserError(
                f"{tested[0]} and {run} are of one test set, and of {tested[0].sentences:,} and {run.sentences:,} sentences: one is "
                "damaged; record it, or generate, again"
            )


def _not_comparable(one, other, why):
    return UserError(
        f"{one} and {other} do not belong in one table: they are {why}.\n"
        "Put the runs of one data set, test set and model a row into a folder of their own."
    )


def read_run(folder):
    """Read a run folder; a run without scores yet is read as far as it has come.

    Raises UserError for what is damaged or does not fit together.
    """
    folder = Path(folder)
    writing = is_locked(folder / LOCK)  # before the log: a run that ends meanwhile is called unfinished
    run = _read_record(folder)
    read_log(run)
    of_all = f"{run.done:,} of {run.updates:,} updates"
    if writing:
        run.unfinished = f"training, {of_all}" if run.done < run.updates else f"still being written, {of_all} done"
    elif run.done < run.updates:
        run.unfinished = f"stopped at {of_all}; resume it"
    elif not (folder / "test" / SCORES).exists():
        run.unfinished = "not translated yet: fairseq-cgc generate"
    else:
        read_results(run, folder / "test")
    return run


def _read_record(folder):
    path = folder / RUN
    record = read_json(path, RECORD)
    row = record["row"]
    if row not in ROWS:
        raise UserError(f"{path}: the row is {row!r}; expected one of {', '.join(ROWS)}")
    content = {name: record[name] for name in ("seed", "updates", "data", "versions")}
    of_row, given = option_values(row_options(row)), option_values(record["options"])
    settings = {"tokens an update": f"{record['batch_tokens']:,}"} if "batch_tokens" in record else {}
    settings |= {name: value for name, value in given.items() if of_row.get(name) != value}
    settings |= {name: "left out" for name in of_row if name not in given}
    return Run(folder, row, **content, command=record.get("command", []), of_row=of_row, settings=settings)


def read_log(run):
    """Read ``log.jsonl`` into ``done``, ``tokens``, ``losses`` and ``speeds`` of a run.

    A resumed run says the same update numbers again: from the first of them on, what was said before
    does not count. A line that a stop has cut off is left out, aloud unless it is the last, which is still being written.
    """
    path = run.folder / "log.jsonl"
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    events, broken = [], []  # (update, kind, value), in the order of updates
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line or b"{}")
            kind = event.get("event")
            if kind not in LOGGED:
                continue
            count, value = LOGGED[kind]
            update, value = int(event[count]), float(event[value])
            if not 0 <= update <= MOST_UPDATES or not isfinite(value):
                raise ValueError
            value = (value, event.get("epoch")) if kind == "train" else value
            value = float(event.get("wps") or 0) if kind == "train_inner" else value
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            broken.append(number)
            continue
        while events and events[-1][0] > update:
            events.pop()
        events.append((update, kind, value))
    if broken := [number for number in broken if number < len(lines)]:
        print(f"{path}: line {', '.join(map(str, broken))} is broken and left out", file=sys.stderr)
    run.done = events[-1][0] if events else 0
    run.speeds = [speed for _, kind, speed in events if kind == "train_inner" and speed]
    run.losses = list({update: loss for update, kind, loss in events if kind == "valid"}.items())
    # Of each epoch its number, first and last update, and tokens an update; a stop in the middle tells of a part too.
    epochs, start = [], 0
    for end, kind, value in events:
        if kind == "train":
            tokens, epoch = value
            if epochs and epochs[-1][0] == epoch is not None:
                _, start, _, _ = epochs.pop()
            epochs.append((epoch, start, end, tokens))
            start = end
    run.tokens = sum((end - start) * tokens for _, start, end, tokens in epochs)


def _reference(run):
    return f"test.tok.{run.data['target_lang']}"


def read_results(run, test):
    """Read a folder of translations and scores into a run. Raises UserError for what is damaged or does not fit."""
    path = test / SCORES
    content = read_json(path, RESULT)
    generation = content["generation"]
    translated = generation.get("updates")
    if translated not in (None, run.done):
        run.unfinished = f"translated after {translated:,} updates, trained for {run.done:,}: generate again"
        return
    own = split_hashes(run.data["sha256"], "test")
    if generation.get("text", own) != own:
        run.unfinished = "translated another test set than its data has: generate again"
        return
    averaged = generation.get("checkpoints", [])
    made = {"updates": run.done, "checkpoints averaged": len(averaged), "beam": generation.get("beam")}
    made["last update averaged"] = generation.get("last")
    settings = {name: f"{value:,}" for name, value in made.items() if value}
    if averaged:
        single = averaged[0].removeprefix("checkpoint_").removesuffix(".pt")  # best, last
        settings["chosen by"] = next((kind for kind in KINDS if KINDS[kind].fullmatch(averaged[0])), single)
    run.settings = {**run.settings, **settings}  # which another evaluation of the run shares
    if run.row not in SHUFFLED.values():  # which its options make
        run.settings |= option_values(generation.get("options", []))
    run.decoding = generation.get("sentences_per_second")
    run.scores = {figure: content["scores"][figure] for figure in FIGURES}
    run.parameters = generation["parameters"]
    if (test / STATISTICS_FILE).exists():
        record = read_json(test / STATISTICS_FILE, RECORDED)
        if {len(sentence) for sentence in record["sentences"]} != {STATISTICS_OF_BLEU}:
            raise UserError(
                f"{test / STATISTICS_FILE} does not hold {STATISTICS_OF_BLEU} numbers a sentence; make it again"
            )
        run.test_set, run.recorded = record["test_set"], np.array(record["sentences"], dtype=float)
        return
    hypothesis, reference = test / "test.tok.hyp", test / _reference(run)
    run.hypotheses, run.references = read_lines(hypothesis), read_lines(reference)
    if len(run.hypotheses) != len(run.references) or not run.references:
        raise UserError(
            f"{hypothesis} has {len(run.hypotheses)} lines and {reference} has {len(run.references)}; expected the "
            "same number, at least one: generate again"
        )
    run.test_set = sha256_of(reference)


def finished(runs, row):
    """The runs of a row that have scores: dict of seed to run."""
    return {run.seed: run for run in runs if run.row == row and run.unfinished is None}


def bleu_of(runs, row):
    """Tokenised BLEU-4 of a row's runs that have scores, one a seed."""
    return [run.scores[TOKENISED_BLEU]["score"] for run in finished(runs, row).values()]


class Against(NamedTuple):
    """How far a row is from a baseline in tokenised BLEU-4, over the seeds that both have."""

    by_seed: dict  # seed to (difference, p of the bootstrap over sentences)
    over_seeds: Difference | None  # None with fewer than two seeds


def differences(runs, rows, baseline):
    """How far the systems of some rows are from a baseline, a row too: dict of row to ``Against``."""
    bases, metric = finished(runs, baseline), token_metric()
    others = {row: finished(runs, row) if row != baseline else {} for row in rows}
    by_seed, over_seeds = {row: {} for row in rows}, dict.fromkeys(rows)
    for seed, base in tqdm(bases.items(), desc=f"compare with {baseline}", unit=" seeds", leave=False, disable=None):
        found = {row: others[row][seed].statistics for row in rows if seed in others[row]}
        compared = bootstrap(metric, {baseline: base.statistics, **found})
        for row in found:
            by_seed[row][seed] = compared[row]["score"] - compared[baseline]["score"], compared[row]["p"]
    for row, common in by_seed.items():
        if len(common) > 1:
            ours, theirs = ([side[seed].statistics for seed in common] for side in (others[row], bases))
            over_seeds[row] = compare_statistics(ours, theirs, metric)
    return {row: Against(by_seed[row], over_seeds[row]) for row in rows}


def markdown(runs, corpus):
    """The table and what belongs under it."""
    with_paper = has_papers_figures(runs)
    columns = ["parameters", TOKENISED_BLEU, "difference to LightConv", "sacreBLEU", "chrF", "updates"]
    columns += ["training tokens (M)"]
    header = ["system", *columns, *["paper's BLEU", "paper's parameters"] * with_paper]
    against = {"difference to LightConv": (BASELINE, differences(runs, SYSTEMS, BASELINE))}
    cells = {row: [system.title, *row_cells(runs, row, columns, against)] for row, system in SYSTEMS.items()}
    rows = [[*found, *_paper_cells(row)[: 2 * with_paper]] for row, found in cells.items()]
    title = f"# Table 6 of the paper on {corpus}" if with_paper else f"# The systems of the paper's Table 6 on {corpus}"
    return "\n\n".join([title, render_table(header, rows), *_notes(runs, with_paper)]) + "\n"


def deviation_of(values):
    """The mean of some figures, with their standard deviation (n - 1) and number."""
    deviation = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{deviation} (n = {len(values)})"


def updates_cell(runs):
    """The updates that runs were trained for: one number, or from the least to the most."""
    updates = sorted(run.done for run in runs)
    return "–".join(f"{number:,}" for number in dict.fromkeys((updates[0], updates[-1])))


def _average(figures, form, of=mean):
    return format(of(figures), form) if figures else "–"


COLUMNS = {  # of a table: what a row's finished runs say there
    "parameters": lambda runs: f"{runs[0].parameters:,}",
    TOKENISED_BLEU: lambda runs: deviation_of([run.scores[TOKENISED_BLEU]["score"] for run in runs]),
    "sacreBLEU": lambda runs: _average([run.scores["BLEU"]["score"] for run in runs], ".2f"),
    "chrF": lambda runs: _average([run.scores["chrF"]["score"] for run in runs], ".2f"),
    "validation loss": lambda runs: _average([run.losses[-1][1] for run in runs if run.losses], ".3f"),
    "updates": updates_cell,
    "training tokens (M)": lambda runs: _average([run.tokens / 1e6 for run in runs], ",.1f"),
    "training tokens a second": lambda runs: _average([s for run in runs for s in run.speeds], ",.0f", median),
    "sentences a second": lambda runs: _average([run.decoding for run in runs if run.decoding], ",.0f", median),
}


def row_cells(runs, row, columns, against):
    """A row's cells in columns of ``COLUMNS``, and of ``against``: dict of name to (baseline, its ``differences``)."""
    scored = list(finished(runs, row).values())
    if not scored:
        state = "not finished" if any(run.row == row for run in runs) else "no run"
        return [state if column == TOKENISED_BLEU else "–" for column in columns]
    cells = {name: "–" if row == to else difference_cell(found[row]) for name, (to, found) in against.items()}
    return [cells[column] if column in cells else COLUMNS[column](scored) for column in columns]


def _paper_cells(row):
    system = SYSTEMS[row]
    return [f"{system.paper_bleu:.2f}" if system.paper_bleu else "–", system.paper_parameters or "–"]


def difference_cell(against):
    """What ``differences`` found of a row: the mean over seeds with its interval and p, then seed by seed."""
    if not against.by_seed:
        return "no common seed"
    seeds = ", ".join(f"{gap:+.2f} (seed {seed}, p = {p:.3f})" for seed, (gap, p) in against.by_seed.items())
    over = against.over_seeds
    if over is None:
        return seeds
    return f"{over.difference:+.2f} [{over.low:+.2f}, {over.high:+.2f}], p = {over.p:.3f}; {seeds}"


def _notes(runs, with_paper):
    """What stands under the table: paragraphs and lists."""
    notes = unfinished_notes(runs) + settings_notes(runs) + _paper_notes(runs)
    control = differences(runs, [CGC], CONTROL)[CGC]
    notes.append(
        "Credit a gain over LightConv to the context only if CGC also beats the constant-gate control. CGC against the "
        f"control: {difference_cell(control)}."
    )
    notes.append(
        f"{STATISTICS} sacreBLEU and chrF are on detokenised text. Training tokens are target tokens, summed over updates."
        + (" The paper gives one figure a system." if with_paper else "")
    )
    return notes + provenance(runs)


def _paper_notes(runs):
    """What keeps the runs from being the paper's."""
    if not is_papers_corpus(runs):
        words = " / ".join(f"{number:,}" for number in runs[0].data["pairs"].values())
        return [f"This is not the paper's corpus but one of {words} pairs: the paper's figures cannot be compared."]
    others = other_sizes(runs)
    for name, wanted in PROTOCOL.items():
        found = {run.settings[name] for run in runs if name in run.settings} - {wanted}
        others += [f"{name}: {', '.join(sorted(found))} instead of {wanted}"] if found else []
    return [f"**Not as in the paper**: {'; '.join(others)}."] if others else []


STATISTICS = (
    "± is the standard deviation over seeds (n − 1). Differences are in tokenised BLEU-4, over the seeds that both systems "
    "have: the mean with a 95 % interval and the p-value of an analysis of variance in which seeds and sentences are "
    "repeats, then each seed's with its p-value over sentences alone, two-sided, of a paired bootstrap "
    f"({SAMPLES} samples, seed {SEED}). **Only the first speaks of the systems; the others are of two trained models.**"
)


def unfinished_notes(runs):
    """A list of the runs that have no part in the means, where there are any."""
    unfinished = [f"- {run}: {run.unfinished}" for run in runs if run.unfinished]
    return ["Left out of the means:\n\n" + "\n".join(unfinished)] if unfinished else []


def settings_notes(runs):
    """Lists of the settings in which runs differ though their rows do not, and of those that all have beyond their rows'."""
    lines, shared = [], []
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        runs_with_it = [run for run in runs if name in run.settings or name not in OF_RESULTS and _has(run, name)]
        values = _names_by(runs_with_it, [run.setting(name) for run in runs_with_it])
        if len(values) > 1:
            lines.append(f"- `{name}`: " + "; ".join(f"{value} ({names})" for value, names in values.items()))
        elif name.startswith("-"):
            shared += [name, *[value for value in values if value != "on"]]
    why = "**Not trained alike**: a difference between rows may come from these settings.\n\n"
    notes = [why + "\n".join(lines)] if lines else []
    return notes + ([f"Options of the runs beyond their rows': `{shlex.join(shared)}`."] if shared else [])


def _has(run, name):
    """Whether a run's model could have been told a setting."""
    return has_kernels(run.row) or "kernel-size" not in name


def _names_by(runs, values):
    """Dict of the values, one a run, to the rows and seeds of the runs that have each."""
    names = {}
    for run, value in zip(runs, values):
        names.setdefault(value, []).append(f"{run.row} {run.seed}")
    return {value: ", ".join(found) for value, found in names.items()}


def provenance(runs):
    """What reproduces the figures: signatures, seeds, versions, data."""
    notes = []
    scored = [run for run in runs if run.unfinished is None]
    if scored:
        notes.append("Signatures:\n\n" + "\n".join(_signatures(scored)))
        seeds = {row: ", ".join(map(str, finished(runs, row))) for row in ROWS}
        notes.append("Seeds: " + "; ".join(f"{ROWS[row].title} {found}" for row, found in seeds.items() if found) + ".")
    versions = Counter(f"{name} {version}" for run in runs for name, version in run.versions.items())
    parts = (
        version if count == len(runs) else f"{version} ({count} of {len(runs)} runs)"
        for version, count in versions.items()
    )
    notes.append(f"Versions: {', '.join(parts)}. Data (SHA-256): {short_hashes(runs[0].data['sha256'])}.")
    return notes


def short_hashes(sha256):
    """The hashes of files, by their first 12 digits."""
    return ", ".join(f"{name} {digits[:12]}" for name, digits in sha256.items())


def _signatures(scored):
    """A line a signature; fairseq's tells the run's own precisions, so that there it is a line a run."""
    for figure in FIGURES:
        by_signature = _names_by(scored, [run.scores[figure]["signature"] for run in scored])
        for signature, names in by_signature.items():
            whose = "" if len(by_signature) == 1 else f", {names}"
            yield f"- {LABELS.get(figure, figure)}{whose}: `{signature}`"


def colour_of(row):
    """A row's own colour, or that of the row that it is a variant of."""
    return ROWS[row].colour or colour_of(ROWS[row].of)


def plot_scores(runs, corpus):
    """BLEU per row: one dot per seed, their mean ± standard deviation, and the paper's figure where it may stand there.

    The means of LightConv, CGC and its control go through all rows as lines.
    """
    paper = {row: ROWS[row].paper_bleu for row in ROWS if has_papers_figures(runs) and ROWS[row].paper_bleu}
    scores = {row: found for row in reversed(ROWS) if (found := bleu_of(runs, row)) or row in paper}
    figure, axes = new_figure(9, 2.2 + 0.3 * len(scores))
    for row in (BASELINE, CONTROL, CGC):
        if scores.get(row):
            label = f"mean of {ROWS[row].title}"
            axes.axvline(mean(scores[row]), color=colour_of(row), linewidth=1, alpha=0.7, label=label)
    for place, (row, found) in enumerate(scores.items()):
        words, style = "no scores", {"color": colour_of(row)}
        if found:
            axes.plot(found, [place] * len(found), "o", markersize=4, alpha=0.6, **style)
            deviation = stdev(found) if len(found) > 1 else None
            axes.errorbar(mean(found), place, xerr=deviation, fmt="D", markersize=6, capsize=3, **style)
            words = f"{mean(found):.2f} (n = {len(found)})"
        axes.text(1.01, place, words, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
    if paper:
        places = [list(scores).index(row) for row in paper]
        axes.plot(list(paper.values()), places, "k*", fillstyle="none", markersize=9, label="the paper's Table 6")
    axes.set_yticks(range(len(scores)), [ROWS[row].title for row in scores])
    label = f"{TOKENISED_BLEU}: one dot per seed, the mean ± standard deviation"
    axes.set(ylim=(-0.6, len(scores) - 0.4), xlabel=label, title=corpus)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def plot_curves(runs, corpus, names=None):
    """Validation loss against updates, a line a run, its colour the row's.

    The axis ends where each run is past the first fifth of its updates: what tells runs apart is below.

    Args:
        names: of the runs, where two are to be told apart; ``None``: their rows'
    """
    figure, axes = new_figure(9, 5)
    named = set()
    for number, run in enumerate(runs):
        if run.losses:
            label = names[number] if names else ROWS[run.row].title
            style = {"marker": "o" * (len(run.losses) == 1), "linestyle": "--" if names and number else "-"}
            style["label"] = None if label in named else label
            named.add(label)
            axes.plot(*zip(*run.losses), color=colour_of(run.row), linewidth=1.2, alpha=0.8, **style)
    if named:
        figure.legend(loc="outside lower center", ncols=1 if names else 3, frameon=False)
    else:
        axes.text(0.5, 0.5, "no run has been validated yet", ha="center", transform=axes.transAxes)
    late = [loss for run in runs for update, loss in run.losses if update > run.done / 5 and isfinite(loss)]
    if late:
        margin = max(0.1 * (max(late) - min(late)), 0.01)
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    title = corpus if len(runs) == 1 else f"{corpus}: one line per run"
    axes.set(xlabel="updates", ylabel="validation loss, bits a token (high values cut off)", title=title)
    axes.grid(alpha=0.3)
    return figure


def main(args):
    """``fairseq-cgc table``."""
    if args.experiment:
        from .experiment import make_table as make
    else:
        make = make_table
    print(make(args.runs, args.out, args.corpus), end="")
