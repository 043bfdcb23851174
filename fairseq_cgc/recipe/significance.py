"""Whether two systems differ: over the sentences of a test set, and over training seeds as well.

All of it works on the statistics that a corpus score is computed from, a row a sentence: a resample's
score is that of a sum of rows, so that no sentence is looked at twice.
"""

from typing import NamedTuple

import numpy as np
import sacrebleu

from ..errors import OptionError


class Difference(NamedTuple):
    """How far one system is from another, with seeds and sentences as repeats."""

    difference: float  # mean over seeds
    low: float  # of the 95 % interval
    high: float
    p: float  # two-sided
    by_seed: list  # each seed's difference
    seed_noise: float  # standard deviation of a seed's difference (n - 1)
    sentence_error: float  # standard error of the mean that comes from the choice of sentences


def statistics(metric, hypotheses, references):
    """A corpus's statistics under ``sacrebleu.BLEU`` or another metric of sacreBLEU's: sentences x statistics, float64.

    Takes a list of sentences, and a list of lists of references.
    """
    return np.array(metric._extract_corpus_statistics(hypotheses, references), dtype=float)


def corpus_scores(metric, totals):
    """The corpus scores, of shape ..., of summed statistics, of shape ... x statistics, under a metric of sacreBLEU's."""
    if isinstance(metric, sacrebleu.BLEU):
        return bleu(totals, smooth=metric.smooth_method == "exp")
    rows = totals.reshape(-1, totals.shape[-1])
    found = [metric._compute_score_from_stats(row.tolist()).score for row in rows]
    return np.array(found).reshape(totals.shape[:-1])


def bleu(totals, smooth=False):
    """BLEU-4 of summed statistics (lengths of system and reference, matches and n-grams of each order).

    Args:
        totals: ... x 10
        smooth: sacreBLEU's ``exp``: the k-th order without a match counts as half to the k matches

    Returns:
        ... scores, 0 to 100
    """
    length, wanted, matches, ngrams = totals[..., 0], totals[..., 1], totals[..., 2:6], totals[..., 6:]
    scored = matches.any(-1) & (ngrams[..., -1] > 0)
    if smooth:
        missed = matches == 0
        matches = np.where(missed, 0.5 ** np.cumsum(missed, -1), matches)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(matches / ngrams).mean(-1) + np.minimum(0, 1 - wanted / length)
    return np.where(scored, 100 * np.exp(logarithm), 0.0)


def resample(statistics, samples, seed):
    """Bootstrap resamples of sentences x statistics, the same sentences for every system of so many.

    Returns samples x statistics: sums over each resample's sentences.
    """
    size, chance = len(statistics), np.random.default_rng(seed)
    at_once = [min(1000, samples - done) for done in range(0, samples, 1000)]  # in little memory
    return np.concatenate([chance.multinomial(size, np.full(size, 1 / size), n) @ statistics for n in at_once])


def bootstrap_p(resampled, difference):
    """The two-sided p of a difference by the paired bootstrap, from that in each resample and that of the test set.

    Ties count half, and equal scores have p = 1.
    """
    if difference == 0:
        return 1.0
    away, seen = np.abs(resampled - resampled.mean()), abs(difference)
    count = np.sum(away > seen) + np.sum(away == seen) / 2
    return min(1.0, float(count + 1) / (len(resampled) + 1))


def compare_statistics(ours, theirs, metric):
    """Two systems over the same seeds and sentences: does the difference hold for other seeds and other sentences?

    Both are a sample. Jackknife pseudo-values of the difference in corpus score, seeds x sentences, go
    through a two-way analysis of variance, as for several readers of several cases (Dorfman, Berbaum
    and Metz 1992): its mean squares R of seeds, C of sentences and E of what is left give the variance
    of the mean over S seeds and n sentences two parts, R / (S n) with S - 1 degrees of freedom, and
    max(C - E, 0) / (S n) with n - 1. The interval is Banerjee's (1960), the sum in quadrature of the
    half-widths that Student's t gives each part; p is the level at which it ends at 0. It errs on the
    safe side: whichever part is larger, no more than 5 % of equal systems have p < 0.05 (in simulations 1 to
    4 %). Others do not with so few seeds: a bootstrap over two makes half the variance, and one figure for the
    degrees of freedom (Satterthwaite, Hillis) found 8 to 13 % of equal systems different with two seeds.
    With two seeds that disagree the interval is wide, because it must be.

    Args:
        ours, theirs: seeds x sentences x statistics, seed for seed and sentence for sentence
        metric: as for ``statistics``

    Returns:
        Difference: ours - theirs

    Raises:
        OptionError: fewer than two seeds or sentences
    """
    ours, theirs = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    seeds, sentences = ours.shape[:2]
    if min(seeds, sentences) < 2:
        raise OptionError(f"{seeds} seeds of {sentences} sentences: a comparison over seeds needs two of each, or more")
    by_seed, without = 0, 0
    for sign, system in ((1, ours), (-1, theirs)):
        total = system.sum(1)
        by_seed = by_seed + sign * corpus_scores(metric, total)
        without = without + sign * corpus_scores(metric, total[:, None] - system)
    pseudo = by_seed[:, None] + (sentences - 1) * (without.mean(1, keepdims=True) - without)
    mean, of_sentence = by_seed.mean(), pseudo.mean(0)
    rest = pseudo - by_seed[:, None] - of_sentence + mean
    square_rest = (rest**2).sum() / ((seeds - 1) * (sentences - 1))
    square_sentences = max(seeds * of_sentence.var(ddof=1) - square_rest, 0.0)
    noise, sentence_error = by_seed.std(ddof=1), np.sqrt(square_sentences / (seeds * sentences))
    half_width = _half_width(0.05, noise, seeds, sentence_error, sentences)
    low, high, p = mean - half_width, mean + half_width, _p(mean, noise, seeds, sentence_error, sentences)
    return Difference(float(mean), float(low), float(high), p, by_seed.tolist(), float(noise), float(sentence_error))


def _half_width(level, seed_noise, seeds, sentence_error, sentences):
    from scipy.stats import t

    of_seeds = t.isf(level / 2, seeds - 1) * seed_noise / seeds**0.5
    return np.hypot(of_seeds, t.isf(level / 2, sentences - 1) * sentence_error)


def _p(difference, *noise):
    """The level at which the interval around a difference ends at 0."""
    from scipy.optimize import brentq

    def beyond(logarithm):
        return _half_width(np.exp(logarithm), *noise) - abs(difference)

    if difference == 0:
        return 1.0
    lowest = np.log(1e-12)
    return float(np.exp(brentq(beyond, lowest, 0))) if beyond(lowest) > 0 else 0.0


def detectable_difference(seed_noise, seeds, sentence_error=0.0, sentences=1000):
    """The smallest true difference that four of five studies find significant (``compare_statistics``, p < 0.05).

    Args:
        seed_noise: standard deviation of a seed's difference between two systems, as a ``Difference`` has it
            (for two systems whose seeds have nothing in common, the square root of 2 times that of one)
        seeds: how many each system is to be trained with, at least two
        sentence_error: standard error that comes from the sentences, whatever the number of seeds
        sentences: of the test set

    Returns:
        the difference, in the unit of the noise
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2, norm

    error = np.hypot(seed_noise / seeds**0.5, sentence_error)
    quantiles = (np.arange(10_000) + 0.5) / 10_000  # the noise that may be seen, each as probable
    seen = seed_noise * np.sqrt(chi2.ppf(quantiles, seeds - 1) / (seeds - 1))
    needed = _half_width(0.05, seen, seeds, sentence_error, sentences)

    def lacking(true):
        return (norm.sf((needed - true) / error) + norm.cdf((-needed - true) / error)).mean() - 0.8

    return float(brentq(lacking, 0, needed.max() + 10 * error))
