"""One HTML page, complete in itself, that shows a run, two runs side by side, or an experiment."""

import base64
import re
import shlex
from difflib import SequenceMatcher
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import jinja2
import sacrebleu
from markupsafe import Markup, escape

from ..errors import CheckpointError, OptionError, UserError
from ..text import is_blank
from . import inspection
from .evaluation import RESULT, SCORES
from .experiment import contents, failures, read_experiment
from .files import atomic_write, check_output, check_own_files, mark_of, read_json, read_lines
from .report import WITHOUT_PLOTS, has_matplotlib, new_figure, save_figure
from .rows import ROWS, SYSTEMS
from .run_folder import MODEL_FOLDER, RUN
from .scoring import LABELS, SAMPLES, SEED, TOKENISED_BLEU, bootstrap, compare, sacrebleu_tokeniser, token_metric
from .significance import corpus_scores, statistics
from .table import Run, check_same_data, colour_of, corpus_name, plot_curves, plot_scores, read_run, short_hashes

SHOWN = 10  # sentences of a list
ENCODED = 1000  # sentences whose gates are looked at
WORDS = re.compile(r"\s+|[\u2e80-\u9fff]|[^\W\u2e80-\u9fff]+|[^\w\s]")  # a Chinese or Japanese character is a word


class Translated(NamedTuple):
    """A run with the raw text of its test set.

    Attributes:
        name: how the page calls it
        run: ``table.Run``
        sources, references, hypotheses: lists of raw sentences, one for one
    """

    name: str
    run: Run
    sources: list
    references: list
    hypotheses: list

    @property
    def languages(self):
        return self.run.data["source_lang"], self.run.data["target_lang"]

    @property
    def lowercase(self):
        """Whether its scores ignore case."""
        return "case:lc" in self.run.scores["BLEU"]["signature"]


def read_translated(folder, name):
    """Read a run. Raises UserError unless it has been translated and scored, and what is there is whole."""
    run = read_run(folder)
    if run.unfinished:
        raise UserError(f"{folder} has no translations to show: {run.unfinished}")
    if run.recorded is not None:
        raise UserError(
            f"{folder} is a run's record, without the corpus's sentences; give the run, or the folder of records"
        )
    names = [run.data["source_lang"], run.data["target_lang"], "hyp"]
    sides = [read_lines(run.folder / "test" / f"test.{name}") for name in names]
    for side, of in zip(sides, names):
        if len(side) != len(run.references):
            raise UserError(
                f"{run.folder}/test/test.{of} has {len(side)} lines and the test set {len(run.references)}: generate again"
            )
    return Translated(name, run, *sides)


def write_page(folder, other=None, out=None):
    """Write the page of a run folder, of two, or of a folder of them, and return its path.

    That is ``out``, or ``report.html`` in the folder, of two runs ``report-OTHER.html``. Raises UserError for no runs,
    no translations, runs of different data, or a file that cannot be written.
    """
    folder, other = Path(folder), other and Path(other)
    for place in filter(None, (folder, other)):
        if not place.exists():
            raise UserError(f"{place} does not exist; give a run folder, two, or a folder of runs")
        if not (place / RUN).is_file() and (other or not any(place.glob(f"*/{RUN}"))):
            also = "" if other else ", nor has a folder in it; give a run folder, two, or a folder of runs"
            raise UserError(f"{place} has no {RUN}{also}")
    if other and other.resolve() == folder.resolve():
        raise OptionError(f"{folder} and {other} are one run; give two, or one alone")
    out = Path(out or folder / (f"report-{other.resolve().name}.html" if other else "report.html"))
    check_output(out, "--out")
    check_own_files(out.parent, [out.name])
    content = of_runs(folder, other) if (folder / RUN).is_file() else of_experiment(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # sentences are anybody's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.jinja").render(without_plots=WITHOUT_PLOTS, **content)
    with atomic_write(out) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")
    return out


def of_experiment(folder):
    """The template's variables for a folder of runs."""
    runs = read_experiment(folder)
    corpus = corpus_name(runs)
    title, header, rows, notes = contents(runs, corpus, failures(folder, runs))
    systems = [run for run in runs if run.row in SYSTEMS]
    dots = f"{TOKENISED_BLEU} per row: one dot per seed and their mean; the figures are in the table."
    lines = "Validation loss against updates, one line per run; the last losses are in the table."
    plots = [image(dots, plot_scores, runs, corpus), image(lines, plot_curves, systems, corpus)]
    rows = [[cell.strip("`") for cell in row] for row in rows]
    return {"title": title, "header": header, "rows": rows, "plots": plots, "notes": prose("\n\n".join(notes))}


def of_runs(folder, other=None):
    """The template's variables for a run, or for two."""
    both = [read_translated(folder, "A" if other else Path(folder).resolve().name)]
    if other:
        both.append(read_translated(other, "B"))
        check_same_data([side.run for side in both])
    corpus, runs = corpus_name([both[0].run]), [side.run for side in both]
    titles = [f"{side.name}: " * bool(other) + f"{ROWS[side.run.row].title}, seed {side.run.seed}" for side in both]
    lengths = by_length(both)
    losses = [f"{side.name}: {side.run.losses[-1][1]:.3f}" for side in both if side.run.losses]
    curve = f"Validation loss against updates. After the last one: {', '.join(losses) or 'none'}."
    points = f"{TOKENISED_BLEU} by the length of the source; the figures are in the table."
    return {
        "title": f"{'; '.join(titles)}; on {corpus}",
        "names": [side.name for side in both],
        "languages": [language.replace("_", "-") for language in both[0].languages],
        "facts": fact_table(both),
        "commands": [(side.name, shlex.join(side.run.command)) for side in both],
        "hashes": short_hashes(runs[0].data["sha256"]),
        "curve": image(curve, plot_curves, runs, corpus, titles),
        "scores": score_table(both),
        "resampling": f"{SAMPLES} samples, seed {SEED}",
        "lengths": length_table(lengths),
        "length_plot": image(points, plot_lengths, lengths, runs),
        **sentences(both),
        "layer_columns": inspection.LAYER_COLUMNS,
        "gates": [gates(side) for side in both],
    }


def facts(run):
    """What a run is: dict of names to words."""
    data = run.data
    return {
        "system": f"{ROWS[run.row].title} ({run.row})",
        "folder": str(run.folder),
        "data": f"{data['path']}, {data['source_lang']}–{data['target_lang']}, "
        + ", ".join(f"{split} {count:,}" for split, count in data["pairs"].items())
        + " pairs",
        "seed": f"{run.seed}",
        "parameters": f"{run.parameters:,}",
        "target tokens trained on": f"{run.tokens / 1e6:,.1f} million",
        "sentences translated a second": f"{run.decoding:,.0f}" if run.decoding else "not known",
        **run.settings,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }


def fact_table(both):
    """``facts`` side by side."""
    tables = [facts(side.run) for side in both]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [[name, *(table.get(name, side.run.setting(name)) for table, side in zip(tables, both))] for name in names]
    header, caption = ["what", *(side.name for side in both)], "The run"
    if len(both) > 1:
        header, caption = [*header, "differs"], "The runs, and where they differ"
        rows = [[*row, "yes" if row[1] != row[2] else ""] for row in rows]
        rows.sort(key=lambda row: row[3] == "")
    return {"caption": caption, "header": header, "rows": rows, "align": "llll"}


def score_table(both):
    """Each score with half the width of its 95 % interval, the p of its difference to the first run's, and its signature."""
    first = both[0]
    tokenise = sacrebleu_tokeniser(first.languages[1])
    tokens = {side.name: side.run.hypotheses for side in both}
    raw = {side.name: side.hypotheses for side in both}
    compared = compare(tokens, [first.run.references], True, False)
    compared |= compare(raw, [first.references], False, first.lowercase, tokenize=tokenise)
    rows = []
    for metric, figures in compared.items():
        for side in both:
            found, recorded = figures["systems"][side.name], side.run.scores[metric]
            figure = f"{recorded['score']:.2f} ± {found['half_width']:.2f}"
            rows.append([LABELS.get(metric, metric), side.name, figure, p_cell(found["p"]), recorded["signature"]])
    header = ["score", "run", "figure", "p of the difference", "signature"]
    if len(both) == 1:
        header, *rows = [[row[0], row[2], row[4]] for row in [header, *rows]]
    caption = "Scores of the test set, with 95 % intervals over its sentences"
    return {"caption": caption, "header": header, "rows": rows, "align": "llrrl" if len(both) > 1 else "lrl"}


def p_cell(p):
    return "" if p is None else f"{p:.4f}"


def by_length(both):
    """Fifths of the test set by the source's number of words: (label, sentences, dict of name to what ``bootstrap`` tells)."""
    first = both[0]
    lengths = [sum(not piece.isspace() for piece in WORDS.findall(line)) for line in first.sources]
    labels = inspection.sentence_classes("length", first.sources, lengths, None)
    rows = []
    for label in sorted(set(labels), key=inspection.by_number):
        chosen = [number for number, of in enumerate(labels) if of == label]
        found = bootstrap(token_metric(), {side.name: side.run.statistics[chosen] for side in both})
        rows.append((label, len(chosen), found))
    return rows


def length_table(rows):
    """What ``by_length`` returns, as a table."""
    names = list(rows[0][2])
    cells = [
        [label, f"{count:,}", *(f"{found[name]['score']:.2f} ± {found[name]['half_width']:.2f}" for name in names)]
        + [p_cell(found[names[1]]["p"]) for _ in names[1:]]
        for label, count, found in rows
    ]
    header = ["words", "sentences", *names, *["p of the difference"] * (len(names) - 1)]
    caption = f"{TOKENISED_BLEU} by the words of the source, with 95 % intervals"
    return {"caption": caption, "header": header, "rows": cells}


def plot_lengths(rows, runs):
    """BLEU of ``by_length`` with its intervals."""
    figure, axes = new_figure(7, 3.5)
    for number, (name, run) in enumerate(zip(rows[0][2], runs)):
        found = [figures[name] for *_, figures in rows]
        places = [place + 0.12 * number for place in range(len(rows))]
        style = {"color": colour_of(run.row), "fmt": "s--" if number else "o-", "capsize": 3, "label": name}
        axes.errorbar(places, [f["score"] for f in found], yerr=[f["half_width"] for f in found], **style)
    axes.set_xticks(range(len(rows)), [f"{label}\n({count})" for label, count, _ in rows])
    axes.set(xlabel="words of the source (sentences)", ylabel=f"{TOKENISED_BLEU}, 95 % interval", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(runs) > 1:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def sentences(both):
    """The sentences to show: of one run the worst and the best, of two those that lost and gained most, by chrF."""
    first, second = both[0], both[-1]
    metric = sacrebleu.CHRF(lowercase=first.lowercase)
    values = [corpus_scores(metric, statistics(metric, side.hypotheses, [side.references])) for side in both]
    measured = values[1] - values[0] if len(both) > 1 else values[0]
    order = [number for number, line in enumerate(first.sources) if not is_blank(line)]
    lists, words = {}, ""
    for sign, name, names in ((1, "Worst", "Where B lost most"), (-1, "Best", "Where B gained most")):
        chosen = sorted(order, key=lambda number: (sign * measured[number], -len(first.sources[number])))
        if len(both) > 1:
            name, chosen = names, [number for number in chosen if sign * measured[number] < 0]
        lists[name] = [shown(both, values, number) for number in chosen[:SHOWN]]
    if len(both) > 1:
        same = sum(one == other for one, other in zip(first.hypotheses, second.hypotheses))
        words = (
            f"By chrF, B is better in {(measured > 0).sum():,} sentences and worse in {(measured < 0).sum():,}, of "
            f"{len(measured):,}; {same:,} translations are the same."
        )
    return {"lists": lists, "changed": words}


def shown(both, values, number):
    """A sentence of the page: the words by which translations differ, from the reference or from each other, are marked."""
    texts = [side.hypotheses[number] for side in both]
    source, reference = both[0].sources[number], both[0].references[number]
    if len(both) > 1:
        of_reference, marks = [(reference, False)], marked(*texts)
    else:
        of_reference, *marks = marked(reference, *texts, both[0].lowercase)
    chrf = [f"{side.name + ': ' if len(both) > 1 else ''}{of[number]:.1f}" for side, of in zip(both, values)]
    names = [f"translation {side.name}" if len(both) > 1 else "translation" for side in both]
    return {
        "number": number + 1,
        "chrf": ", ".join(chrf),
        "source": source,
        "reference": of_reference,
        "translations": list(zip(names, marks)),
    }


def marked(one, other, fold=False):
    """Two sentences, each as a list of (text, whether the other lacks that word there); ``fold`` compares without case."""
    pieces = [WORDS.findall(text) for text in (one, other)]
    words = [[p.casefold() if fold else p for p in side if not p.isspace()] for side in pieces]
    blocks = SequenceMatcher(None, *words, autojunk=False).get_matching_blocks()
    sides = []
    for side, place in zip(pieces, ("a", "b")):
        common = {getattr(block, place) + step for block in blocks for step in range(block.size)}
        numbers = iter(range(len(side)))
        sides.append([(piece, not piece.isspace() and next(numbers) not in common) for piece in side])
    return sides


def gates(side):
    """What a run's gates are on its test set."""
    lines = [line for line in side.sources if not is_blank(line)]
    lines = lines[:: -(-len(lines) // ENCODED) or 1]
    try:
        translated = read_json(side.run.folder / "test" / SCORES, RESULT)["generation"].get("sha256")
        if translated and mark_of(model := side.run.folder / MODEL_FOLDER).get("sha256") != translated:
            raise CheckpointError(f"{model} is not the model that made the translations; generate them again")
        layers, lengths = inspection.gates_of(inspection.load_model(side.run.folder), lines)
    except CheckpointError as error:
        return {"name": side.name, "missing": str(error)}
    summaries = [inspection.summarise(layer, lengths) for layer in layers]
    header, rows = inspection.layer_rows(summaries)
    most = max(summaries, key=lambda layer: layer["gate"]["between_share"])
    share = most["gate"]["between_share"]
    verdict = f"Over {len(lines):,} sentences, no layer's gate depends on the sentence."
    if share >= 0.0005:
        verdict = (
            f"Over {len(lines):,} sentences, layer {most['layer']}'s gate depends most on the sentence: {share:.1%} of its "
            "variance is between sentences. The rest is a pattern that a gate without a context could learn."
        )
    kernels = "The kernels of each layer and head without the gate, and with it, over the sentences."
    bars = "Each layer's variance of the gate, of its pattern and between sentences; the figures are in the table."
    heads = range(layers[0].gates.shape[1])
    plots = [image(kernels, inspection.plot_kernels, layers, heads), image(bars, inspection.plot_variances, summaries)]
    return {"name": side.name, "missing": "", "verdict": verdict, "header": header, "rows": rows, "plots": plots}


def image(alt, plot, *arguments):
    """The figure that ``plot(*arguments)`` draws as (PNG in base64, ``alt``, width, height); None without matplotlib."""
    if not has_matplotlib():
        return None
    save_figure(figure := plot(*arguments), content := BytesIO())
    size = (round(inches * 96) for inches in figure.get_size_inches())  # a screen has 96 an inch
    return base64.b64encode(content.getvalue()).decode(), alt, *size


def prose(text):
    """HTML of what our notes use of Markdown: paragraphs, lists, ``code`` and **bold**."""
    text = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    blocks = []
    for block in re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text).split("\n\n"):
        items = re.split(r"(?:^|\n)- ", block)
        lines = "".join(f"<li>{item}</li>" for item in items[1:])
        blocks.append(f"<ul>{lines}</ul>" if lines and not items[0] else f"<p>{block}</p>")
    return Markup("\n".join(blocks))


def main(args):
    """``fairseq-cgc report``."""
    print(write_page(args.run, args.other, args.out))
