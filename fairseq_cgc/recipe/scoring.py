"""BLEU and chrF of translations, each with what it takes to reproduce the figure."""

import logging
import os
from contextlib import contextmanager
from importlib.metadata import version

import sacrebleu
import torch
from fairseq.data import Dictionary
from fairseq.scoring.bleu import BleuConfig, Scorer
from sacrebleu.significance import PairedTest

from ..errors import CorpusError, check_at_least
from ..text import MosesText
from .files import read_lines

TOKENISED_BLEU = "tokenised BLEU-4"
SAMPLES = 1000  # of the bootstrap
SEED = 12345  # sacreBLEU's own


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
    """Several systems against the first of them: sacreBLEU's paired bootstrap resampling.

    Tokenised BLEU-4 is ``tokenised_bleu``'s figure: no smoothing, and ``<unk>`` in a reference matches
    nothing. sacreBLEU would give a system that is the baseline word for word the smallest p there
    is; here its p is 1.

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
        95 % interval, and ``p``, which is None for the baseline

    Raises:
        CorpusError: lists of different length, or empty
        OptionError: fewer than one sample, or a seed below 1, which sacreBLEU takes for none
    """
    check_at_least(1, samples=samples, seed=seed)
    for hypotheses in systems.values():
        check_aligned(hypotheses, references)
    if tokenised:
        metrics = {TOKENISED_BLEU: sacrebleu.BLEU(lowercase=lowercase, tokenize="none", smooth_method="none")}
        references = [" ".join("<<unk>>" if word == "<unk>" else word for word in r.split()) for r in references]
    else:
        metrics = _raw_metrics(lowercase)
    with _sacrebleu_quiet_and_seeded(seed):
        test = PairedTest(list(systems.items()), metrics, [references], "bs", n_samples=samples, n_jobs=1)
        signatures, results = test()
    words = {name: _words(hypotheses, lowercase) for name, hypotheses in systems.items()}
    baseline = next(iter(systems))
    compared = {}
    for metric, theirs in zip(metrics, signatures):  # sacreBLEU names metrics in its own way, in our order
        figures = {}
        for name, result in zip(systems, results[theirs]):
            p = result.p_value
            if name != baseline and words[name] == words[baseline]:
                p = 1.0
            figures[name] = {"score": result.score, "mean": float(result.mean), "half_width": float(result.ci), "p": p}
        compared[metric] = {"signature": str(signatures[theirs]), "systems": figures}
    return compared


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


def _words(hypotheses, lowercase):
    return [(line.lower() if lowercase else line).split() for line in hypotheses]


@contextmanager
def _sacrebleu_quiet_and_seeded(seed):
    """sacreBLEU takes its seed from the environment when a test is made, and logs each step of it."""
    logger, variable = logging.getLogger("sacrebleu"), "SACREBLEU_SEED"
    level, before = logger.level, os.environ.get(variable)
    logger.setLevel(logging.ERROR)
    os.environ[variable] = str(seed)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def check_aligned(hypotheses, references):
    if len(hypotheses) != len(references) or not references:
        raise CorpusError(
            f"{len(hypotheses)} hypotheses stand against {len(references)} references; one for one was wanted, and at "
            "least one"
        )
