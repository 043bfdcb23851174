"""BLEU and chrF of translations, each with what it takes to reproduce the figure."""

from importlib.metadata import version

import numpy as np
import sacrebleu
import torch
from fairseq.data import Dictionary
from fairseq.scoring.bleu import BleuConfig, Scorer

from ..errors import CorpusError, OptionError, UserError, check_at_least
from ..text import MosesText
from .files import read_lines, write_json
from .report import render_table
from .significance import bootstrap_p, compare_statistics, corpus_scores, resample, statistics

TOKENISED_BLEU = "tokenised BLEU-4"
SAMPLES = 1000  # of the bootstrap
SEED = 12345


def tokenised_bleu(hypotheses, references):
    """BLEU-4 of sentences as they stand, split on white space: ``fairseq-score``'s figure, the paper's.

    Args:
        hypotheses, references: lists of tokenised sentences, one for one

    Returns:
        (score, fairseq's line with precisions, brevity penalty and lengths)

    Raises:
        CorpusError: lists of different length, or empty
    """
    check_aligned(hypotheses, references)
    symbols = Dictionary()
    scorer = Scorer(BleuConfig(pad=symbols.pad(), eos=symbols.eos(), unk=symbols.unk()))
    for hypothesis, reference in zip(hypotheses, references):
        reference = symbols.encode_line(reference)
        scorer.add(reference.to(torch.int32), symbols.encode_line(hypothesis).to(torch.int32))
    return scorer.score(), scorer.result_string()


def detokenised_scores(hypotheses, references, lowercase):
    """sacreBLEU and chrF of raw text.

    Args:
        hypotheses, references: lists of raw sentences, one for one
        lowercase: compare without case, for systems that write lower case

    Returns:
        dict of ``BLEU`` and ``chrF`` to dict of ``score`` and ``signature``

    Raises:
        CorpusError: lists of different length, or empty
    """
    check_aligned(hypotheses, references)
    scores = {}
    for name, metric in _raw_metrics(lowercase).items():
        score = metric.corpus_score(hypotheses, [references]).score
        scores[name] = {"score": score, "signature": str(metric.get_signature())}
    return scores


def compare(systems, references, tokenised, lowercase, samples=SAMPLES, seed=SEED):
    """Several systems against the first of them: paired bootstrap resampling over sentences (Koehn 2004).

    Tokenised BLEU-4 is ``tokenised_bleu``'s figure: no smoothing, and ``<unk>`` in a reference matches
    nothing. Equal scores have p = 1, where sacreBLEU's own test can give them the smallest p there is.

    Args:
        systems: dict of name to hypotheses, one for one with the references; the first is the baseline
        references: list of sentences
        tokenised: the sentences are tokens with white space between them; else raw text
        lowercase: compare without case
        samples: number of resamples
        seed: of the resampling

    Returns:
        dict of metric (``tokenised BLEU-4``, or ``BLEU`` and ``chrF``) to dict of ``signature`` (with
        samples and seed) and ``systems``: name to dict of ``score``, ``mean`` and ``half_width`` of the
        95 % interval, and ``p``, two-sided, which is None for the baseline

    Raises:
        CorpusError: lists of different length, or empty
        OptionError: fewer than one sample, or a seed below 1
    """
    check_at_least(1, samples=samples, seed=seed)
    for hypotheses in systems.values():
        check_aligned(hypotheses, references)
    if tokenised:
        metrics, references = {TOKENISED_BLEU: token_metric(lowercase)}, _without_unknown(references)
    else:
        metrics = _raw_metrics(lowercase)
    compared = {}
    for name, metric in metrics.items():
        rows = {system: statistics(metric, hypotheses, [references]) for system, hypotheses in systems.items()}
        signature = metric.get_signature()
        signature.update("bs", samples)
        signature.update("seed", seed)
        compared[name] = {"signature": str(signature), "systems": bootstrap(metric, rows, samples, seed)}
    return compared


def bootstrap(metric, rows, samples=SAMPLES, seed=SEED):
    """What ``compare`` says of systems under one metric.

    Args:
        rows: dict of name to sentences x statistics; the first is the baseline
        metric, samples, seed: see ``compare`` and ``significance.statistics``

    Returns:
        dict of name to dict of ``score``, ``mean``, ``half_width`` and ``p``
    """
    figures, baseline = {}, None
    for system, row in rows.items():
        score, resampled = float(corpus_scores(metric, row.sum(0))), corpus_scores(metric, resample(row, samples, seed))
        low, high = np.quantile(resampled, (0.025, 0.975))
        p = bootstrap_p(resampled - baseline[1], score - baseline[0]) if baseline else None
        baseline = baseline or (score, resampled)
        figures[system] = {"score": score, "mean": float(resampled.mean()), "half_width": float(high - low) / 2, "p": p}
    return figures


def compare_over_seeds(ours, theirs, references):
    """The difference of two systems in tokenised BLEU-4, with seeds and sentences as repeats.

    Args:
        ours, theirs: lists of hypotheses, one list a seed, in the same order of seeds
        references: list of sentences, tokenised as the hypotheses are

    Returns:
        Difference: its mean over seeds (ours - theirs), 95 % interval and p; see ``compare_statistics``

    Raises:
        CorpusError: lists of different length, or empty
        OptionError: fewer than two seeds, or another number of them
    """
    if len(ours) != len(theirs):
        raise OptionError(f"{len(ours)} seeds of one system and {len(theirs)} of the other; the same were wanted")
    ours, theirs = ([token_statistics(hypotheses, references) for hypotheses in seeds] for seeds in (ours, theirs))
    return compare_statistics(ours, theirs, token_metric())


def token_statistics(hypotheses, references):
    """Statistics of tokenised BLEU-4, as ``significance.statistics`` returns them."""
    check_aligned(hypotheses, references)
    return statistics(token_metric(), hypotheses, [_without_unknown(references)])


def token_metric(lowercase=False):
    """Tokenised BLEU-4 as one of sacreBLEU's metrics, for references in which ``<unk>`` is replaced."""
    return sacrebleu.BLEU(lowercase=lowercase, tokenize="none", smooth_method="none", force=True)


def _without_unknown(references):
    """``<unk>`` in a reference matches nothing, as in fairseq-score."""
    return [" ".join("<<unk>>" if word == "<unk>" else word for word in line.split()) for line in references]


def read_sides(paths, reference):
    """Read the files of one or several systems, and of their reference.

    Args:
        paths: of the systems' files
        reference: path

    Returns:
        (dict of path to hypotheses, list of references); a path's second time is named ``PATH (2)``

    Raises:
        CorpusError: a file that is missing, empty or no UTF-8 text, or files of different length
    """
    references, systems = _read_side(reference), {}
    for number, path in enumerate(paths):
        hypotheses = _read_side(path)
        if len(hypotheses) != len(references):
            raise CorpusError(
                f"{path} has {len(hypotheses)} lines and {reference} has {len(references)}; one for one was wanted"
            )
        times = paths[:number].count(path)
        systems[f"{path} ({times + 1})" if times else str(path)] = hypotheses
    return systems, references


def _read_side(path):
    lines = read_lines(path)
    if not lines:
        raise CorpusError(f"{path} is empty; one sentence a line was wanted")
    return lines


def score_systems(systems, references, language, tokenised, lowercase, samples=SAMPLES, seed=SEED):
    """Tokenised BLEU-4, sacreBLEU and chrF of one system, or of several with what ``compare`` tells of them.

    Raw text is Moses-tokenised for the first figure; tokens are Moses-detokenised for the other two.

    Args:
        systems: dict of name to hypotheses; the first is the baseline
        references: list of sentences
        language: theirs, a two-letter code
        tokenised: all sentences are Moses tokens; else raw text
        lowercase, samples, seed: see ``compare``

    Returns:
        dict of metric to dict of ``signature`` and ``systems``, as ``compare`` returns it; of a single
        system there is the ``score`` alone

    Raises:
        see ``compare``
    """
    moses = MosesText(language)

    def each(change):
        changed = {name: [change(line) for line in hypotheses] for name, hypotheses in systems.items()}
        return changed, [change(line) for line in references]

    tool = f"sacremoses {version('sacremoses')}, {language}"
    if tokenised:
        sides = {True: (systems, references), False: each(moses.detokenise)}
        notes = {True: "tokens as given", False: f"both sides detokenised ({tool})"}
    else:
        sides = {True: each(moses.tokenise), False: (systems, references)}
        notes = {True: f"both sides tokenised ({tool})", False: "text as given"}
    scores = {}
    for tokens, (hypotheses, wanted) in sides.items():
        if len(systems) > 1:
            found = compare(hypotheses, wanted, tokens, lowercase, samples, seed)
        else:
            found = _score_one(hypotheses, wanted, tokens, lowercase)
        for metric, figures in found.items():
            scores[metric] = {**figures, "signature": f"{figures['signature']}, {notes[tokens]}"}
    return scores


def _score_one(systems, references, tokenised, lowercase):
    """What ``compare`` returns, without the comparison."""
    [(name, hypotheses)] = systems.items()
    if tokenised:
        sides = [[line.lower() for line in side] if lowercase else side for side in (hypotheses, references)]
        score, line = tokenised_bleu(*sides)
        found = {TOKENISED_BLEU: {"score": score, "signature": line + (", lowercased" if lowercase else "")}}
    else:
        found = detokenised_scores(hypotheses, references, lowercase)
    return {
        metric: {"signature": figure["signature"], "systems": {name: {"score": figure["score"]}}}
        for metric, figure in found.items()
    }


def _raw_metrics(lowercase):
    return {"BLEU": sacrebleu.BLEU(lowercase=lowercase), "chrF": sacrebleu.CHRF(lowercase=lowercase)}


def check_aligned(hypotheses, references):
    if len(hypotheses) != len(references) or not references:
        raise CorpusError(
            f"{len(hypotheses)} hypotheses stand against {len(references)} references; one for one was wanted, and at "
            "least one"
        )


def main(args):
    """``fairseq-cgc score``."""
    systems, references = read_sides(args.systems, args.ref)
    options = {name: getattr(args, name) for name in ("tokenised", "lowercase", "samples", "seed")}
    scores = score_systems(systems, references, args.lang, **options)
    print(score_table(scores))
    if args.json:
        record = {"reference": args.ref, "language": args.lang, "sentences": len(references), **options}
        try:
            write_json(args.json, {**record, "scores": scores})
        except OSError as error:
            raise UserError(f"--json {args.json} cannot be written ({error.strerror}); choose another file") from None


def score_table(scores):
    """The figures as plain text, a block a metric, its signature below."""
    rows = []
    for metric, figures in scores.items():
        several = len(figures["systems"]) > 1
        rows.append([metric, "score", *["95 % interval", "p"] * several])
        for name, figure in figures["systems"].items():
            rows.append([name, f"{figure['score']:.2f}"])
            if several:
                p = "" if figure["p"] is None else f"{figure['p']:.4f}"
                rows[-1] += [f"{figure['mean']:.2f} ± {figure['half_width']:5.2f}", p]
    lines = iter(render_table([], rows, style="plain").splitlines())
    blocks = []
    for figures in scores.values():
        block = [next(lines).rstrip() for _ in range(1 + len(figures["systems"]))]
        blocks.append("\n".join([*block, f"  {figures['signature']}"]))
    return "\n\n".join(blocks)
