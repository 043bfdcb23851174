import random
import re

import pytest
from conftest import fairseq
from fairseq.data import Dictionary
from fairseq.scoring.bleu import BleuConfig, Scorer

from fairseq_cgc.errors import CorpusError
from fairseq_cgc.recipe.scoring import compare, detokenised_scores, tokenised_bleu

REFERENCES = ["the cat sat on the mat .", "there is a dog &quot; in &quot; the garden", "a <unk> word here , now"]
HYPOTHESES = ["the cat sat on a mat .", "there is the dog &quot; in &quot; the big garden", "a <unk> word here"]


def test_tokenised_bleu_is_fairseq_score_s(tmp_path):
    for name, lines in (("ref", REFERENCES), ("sys", HYPOTHESES)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    done = fairseq("score", "--sys", tmp_path / "sys", "--ref", tmp_path / "ref")
    score, line = tokenised_bleu(HYPOTHESES, REFERENCES)
    assert line in done.stdout
    assert float(re.search(r"BLEU4 = ([\d.]+)", done.stdout)[1]) == pytest.approx(score, abs=0.005) and score > 10


def test_it_is_what_fairseq_counts_whatever_the_lines_hold():
    """Empty ones, which count a token, and its own symbols, some of which it cuts off."""
    symbols, chance = Dictionary(), random.Random(1)
    words = ["a", "b", "c", "d"] * 5 + ["<unk>", "</s>", "<pad>", "<s>"]
    for _ in range(300):
        references = [" ".join(chance.choices(words, k=chance.randrange(9))) for _ in range(chance.randrange(1, 6))]
        hypotheses = [" ".join(w for w in line.split() if chance.random() < 0.8) for line in references]
        scorer = Scorer(BleuConfig(pad=symbols.pad(), eos=symbols.eos(), unk=symbols.unk()))
        for sides in zip(references, hypotheses):
            scorer.add(*(symbols.encode_line(line).int() for line in sides))
        score, line = tokenised_bleu(hypotheses, references)
        assert (score, line) == (pytest.approx(scorer.score(), abs=1e-9), scorer.result_string())
        compared = compare({"a": references, "b": hypotheses}, [references], True, False, samples=2)
        assert compared["tokenised BLEU-4"]["systems"]["b"]["score"] == pytest.approx(score, abs=1e-9)


def test_a_perfect_translation_scores_100():
    assert tokenised_bleu(REFERENCES[:2], REFERENCES[:2])[0] == pytest.approx(100)
    assert detokenised_scores(REFERENCES, [REFERENCES], lowercase=False)["BLEU"]["score"] == pytest.approx(100)


def test_empty_hypotheses_score_0():
    assert tokenised_bleu(["", "", ""], REFERENCES)[0] == 0


def test_signatures_tell_of_case_and_version():
    scores = detokenised_scores(["The Cat"] * 3, [["the cat"] * 3], lowercase=True)
    assert scores["BLEU"]["signature"].startswith("nrefs:1|case:lc|") and "version:" in scores["chrF"]["signature"]
    assert scores["chrF"]["score"] == pytest.approx(100)
    assert detokenised_scores(["The Cat"] * 3, [["the cat"] * 3], lowercase=False)["chrF"]["score"] < 100


@pytest.mark.parametrize("hypotheses, references", [(["a"], ["a", "b"]), ([], [])])
def test_sides_that_do_not_match_are_refused(hypotheses, references):
    for score in (tokenised_bleu, lambda h, r: detokenised_scores(h, [r], False)):
        with pytest.raises(CorpusError, match=f"{len(hypotheses)} hypotheses .* {len(references)} references"):
            score(hypotheses, references)
