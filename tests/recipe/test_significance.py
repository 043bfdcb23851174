import numpy as np
import pytest
import sacrebleu

from fairseq_cgc.errors import OptionError
from fairseq_cgc.recipe.significance import (
    bleu,
    bootstrap_p,
    compare_statistics,
    corpus_scores,
    detectable_difference,
    resample,
    statistics,
)

TOKENISED = sacrebleu.BLEU(tokenize="none", smooth_method="none", force=True)
REFERENCES = ["the cat sat on the mat .", "a dog in the garden of a house", "one two three four five six"]
HYPOTHESES = ["the cat sat on a mat .", "the dog in the garden", "one two three five six"]


def simulated(chance, seeds, sentences, quality, noise, words=12):
    """BLEU statistics of a system each of whose words is right or wrong: seeds x sentences x 10.

    Args:
        quality: log odds of a right word
        noise: its standard deviation between seeds; sentences differ in it too
    """
    odds = quality + chance.normal(0, noise, (seeds, 1, 1)) + chance.normal(0, 0.5, (1, sentences, 1))
    right = chance.random((seeds, sentences, words)) < 1 / (1 + np.exp(-odds))
    lengths, matches, run = np.full((seeds, sentences), words), [], right
    for order in range(4):
        matches.append(run.sum(-1))
        run = run[..., :-1] & right[..., order + 1 :]
    return np.stack([lengths, lengths, *matches, *(lengths - order for order in range(4))], -1).astype(float)


@pytest.mark.parametrize("smooth", ["none", "exp"])
@pytest.mark.parametrize("hypotheses", [HYPOTHESES, ["the cat", "dog", "one"], ["x"] * 3, ["", "", ""], REFERENCES])
def test_bleu_of_statistics_is_sacrebleu_s(smooth, hypotheses):
    metric = sacrebleu.BLEU(tokenize="none", smooth_method=smooth)
    found = statistics(metric, hypotheses, [REFERENCES])
    assert corpus_scores(metric, found.sum(0)) == pytest.approx(metric.corpus_score(hypotheses, [REFERENCES]).score)


def test_other_metrics_score_as_sacrebleu_does_over_several_references():
    metric, references = sacrebleu.CHRF(), [REFERENCES, HYPOTHESES[::-1]]
    found = statistics(metric, HYPOTHESES, references)
    assert corpus_scores(metric, found.sum(0)) == pytest.approx(metric.corpus_score(HYPOTHESES, references).score)


def test_resamples_are_those_of_numpy_at_once():
    column = np.arange(7.0)[:, None]
    times = np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), 2500)
    np.testing.assert_array_equal(resample(column, 2500, 5), times @ column)


def test_a_resample_is_as_large_as_the_corpus_and_the_same_for_every_system():
    column = np.arange(20.0)[:, None]
    one, other = resample(np.hstack([column, np.ones((20, 1))]), 50, 7), resample(column, 50, 7)
    assert (one[:, 1] == 20).all() and (one[:, :1] == other).all() and one[:, 0].std() > 0
    assert (resample(column, 50, 8) != other).any()


def test_equal_scores_have_p_1():
    assert bootstrap_p(np.zeros(1000), 0.0) == 1
    assert bootstrap_p(np.array([-1.0, 1, 0, 0]), 0.0) == 1
    system = simulated(np.random.default_rng(1), 3, 50, 1, 0.1)
    assert compare_statistics(system, system, TOKENISED)[:4] == (0, 0, 0, 1)
    assert compare_statistics(system, system[::-1], TOKENISED).p == 1  # seeds that differ, and means that do not


def test_ties_count_half():
    resampled = np.array([-2.0, -1, -1, 1, 1, 2])
    assert bootstrap_p(resampled, 1.0) == pytest.approx((2 + 4 / 2 + 1) / 7)


def test_the_bootstrap_s_p_is_two_sided():
    chance = np.random.default_rng(3)
    p = [bootstrap_p(chance.normal(size=1000), abs(chance.normal())) for _ in range(1000)]
    assert np.mean(np.array(p) < 0.1) == pytest.approx(0.1, abs=0.03)


def test_seeds_of_opposite_signs_are_no_significant_difference():
    chance = np.random.default_rng(5)
    ours = np.concatenate([simulated(chance, 1, 500, quality, 0) for quality in (1.4, 0.9)])
    theirs = simulated(chance, 2, 500, 1.1, 0)
    found = compare_statistics(ours, theirs, TOKENISED)
    assert found.by_seed[0] > 1 > -1 > found.by_seed[1] and found.low < 0 < found.high and found.p > 0.5
    by_sentence = [resample(np.hstack([ours[seed], theirs[seed]]), 500, 1) for seed in (0, 1)]
    by_sentence = [bleu(both[:, :10]) - bleu(both[:, 10:]) for both in by_sentence]
    assert all(bootstrap_p(*pair) < 0.05 for pair in zip(by_sentence, found.by_seed))


def test_the_interval_ends_at_0_where_p_is_the_level():
    chance = np.random.default_rng(8)
    ours, theirs = simulated(chance, 3, 100, 1.1, 0.05), simulated(chance, 3, 100, 1, 0.05)
    found = compare_statistics(ours, theirs, TOKENISED)
    assert (found.p < 0.05) == (found.low > 0) and found.difference == pytest.approx(np.mean(found.by_seed))
    other = compare_statistics(theirs, ours, TOKENISED)
    assert (other.low, other.high, other.p) == pytest.approx((-found.high, -found.low, found.p))


@pytest.mark.parametrize("noise", [0, 0.2])
@pytest.mark.parametrize("seeds", [2, 3])
def test_equal_systems_are_found_different_in_no_more_than_1_of_20_studies(seeds, noise):
    chance = np.random.default_rng(10 * seeds)
    systems = (simulated(chance, seeds, 100, 1, noise) for _ in range(600))
    wrong = [compare_statistics(ours, theirs, TOKENISED).p < 0.05 for ours, theirs in zip(systems, systems)]
    assert len(wrong) == 300 and np.mean(wrong) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_a_true_difference_lies_in_the_interval_in_19_of_20_studies():
    chance = np.random.default_rng(4)

    def pair(seeds, sentences):
        return simulated(chance, seeds, sentences, 1.3, 0.1), simulated(chance, seeds, sentences, 1, 0.1)

    truth = [np.mean(bleu(ours.sum(1)) - bleu(theirs.sum(1))) for ours, theirs in (pair(500, 100) for _ in range(20))]
    found = [compare_statistics(*pair(4, 100), TOKENISED) for _ in range(300)]
    inside = np.mean([one.low < np.mean(truth) < one.high for one in found])
    assert 0.95 - 2 * np.sqrt(0.05 * 0.95 / 300) < inside < 1


@pytest.mark.parametrize("seeds, sentence_error", [(2, 0.0), (3, 0.0), (3, 0.5), (5, 0.3)])
def test_the_detectable_difference_is_found_in_4_of_5_studies(seeds, sentence_error):
    from scipy.stats import t

    true = detectable_difference(1.0, seeds, sentence_error, sentences=1000)
    chance = np.random.default_rng(2)
    by_seed = chance.normal(true, 1, (20_000, seeds)) + chance.normal(0, sentence_error, (20_000, 1))
    half_width = np.hypot(
        t.ppf(0.975, seeds - 1) * by_seed.std(1, ddof=1) / seeds**0.5, t.ppf(0.975, 999) * sentence_error
    )
    assert np.mean(abs(by_seed.mean(1)) > half_width) == pytest.approx(0.8, abs=0.01)


def test_more_seeds_detect_a_smaller_difference():
    found = [detectable_difference(0.8, seeds) for seeds in (2, 3, 5, 10)]
    assert found == sorted(found, reverse=True) and found[1] == pytest.approx(0.8 * 3.264, rel=1e-3)


def test_a_single_seed_has_no_comparison_over_seeds():
    system = simulated(np.random.default_rng(1), 1, 50, 1, 0)
    with pytest.raises(OptionError, match="1 seeds of 50 sentences"):
        compare_statistics(system, system, TOKENISED)
