"""BLEU and chrF of translations, each with what it takes to reproduce the figure."""

import sacrebleu
import torch
from fairseq.data import Dictionary
from fairseq.scoring.bleu import BleuConfig, Scorer

from .errors import CorpusError


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
    for name, metric in (
        ("BLEU", sacrebleu.BLEU(lowercase=lowercase)),
        ("chrF", sacrebleu.CHRF(lowercase=lowercase)),
    ):
        score = metric.corpus_score(hypotheses, [references]).score
        scores[name] = {"score": score, "signature": str(metric.get_signature())}
    return scores


def check_aligned(hypotheses, references):
    if len(hypotheses) != len(references) or not references:
        raise CorpusError(
            f"{len(hypotheses)} hypotheses stand against {len(references)} references; one for one was wanted, and at "
            "least one"
        )
