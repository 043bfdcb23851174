"""SimCut: its loss against the sum that it stands for, what it cuts, and what it leaves alone."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Task, tiny_model
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from torch import nn

from fairseq_cgc import SimCutCriterion
from fairseq_cgc.errors import OptionError
from fairseq_cgc.simcut import cut_second_half

PAD = 1
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "weight_dropout": 0.0}


class Zeros(nn.Embedding):
    def forward(self, tokens):
        return super().forward(tokens) * 0


@pytest.fixture
def task():
    task = Task()
    task.target_dictionary.pad_index = PAD
    return task


@pytest.fixture
def sample():
    """Two pairs, of which the second is padded on both sides."""
    source, target = torch.randint(4, 30, (2, 6)), torch.randint(4, 30, (2, 5))
    source[1, :2] = target[1, 3:] = PAD
    previous = torch.cat([torch.full((2, 1), 2), target[:, :-1]], 1)
    inputs = {"src_tokens": source, "src_lengths": torch.tensor([6, 4]), "prev_output_tokens": previous}
    return {"net_input": inputs, "target": target, "ntokens": 8}


def criterion(task, alpha=3.0, p=0.05):
    return SimCutCriterion(task, False, 0.1, simcut_alpha=alpha, simcut_p=p)


@pytest.mark.parametrize("arch", ["lightconv_cgc", "transformer_iwslt_de_en"])
def test_the_loss_is_cross_entropy_and_the_divergence_from_what_is_said_without_words(task, sample, arch):
    """With p = 1 every embedding is zero, so there is nothing random in it."""
    sizes = {} if arch == "lightconv_cgc" else {"max_source_positions": 99, "max_target_positions": 99}
    model = tiny_model(arch, task, **NO_DROPOUT, **sizes).train()
    loss, size, logged = criterion(task, p=1.0)(model, sample)
    smoothed, _, _ = LabelSmoothedCrossEntropyCriterion(task, False, 0.1)(model, sample)
    log_p = torch.log_softmax(model(**sample["net_input"])[0].double(), 2)
    for side in (model.encoder, model.decoder):
        side.embed_tokens.__class__ = Zeros
    log_q = torch.log_softmax(model(**sample["net_input"])[0].double(), 2)
    tokens = (log_p.exp() * (log_p - log_q)).sum(2)[sample["target"] != PAD]
    assert len(tokens) == size == 8 and tokens.sum() > 0.1
    torch.testing.assert_close(logged["simcut_kl_loss"].double(), tokens.sum(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss.double(), smoothed.double() + 3 * tokens.sum(), rtol=1e-5, atol=1e-6)


def test_without_cut_words_and_dropout_nothing_diverges(task, sample):
    model = tiny_model("lightconv_cgc", task, **NO_DROPOUT).train()
    loss, _, logged = criterion(task, p=0.0)(model, sample)
    smoothed, _, _ = LabelSmoothedCrossEntropyCriterion(task, False, 0.1)(model, sample)
    assert abs(logged["simcut_kl_loss"]) < 1e-5
    torch.testing.assert_close(loss, smoothed)


def test_gradients_go_through_both_predictions(task, sample):
    """The divergence's own gradient by finite differences, of a parameter that both depend on."""
    model = tiny_model("lightconv_cgc", task, **NO_DROPOUT).train()
    one, two = (criterion(task, alpha, p=1.0) for alpha in (0.0, 1.0))
    weight = model.decoder.layers[-1].fc2.bias  # behind every ReLU

    def divergence():
        return two(model, sample)[0] - one(model, sample)[0]

    divergence().backward()
    step = 1e-2
    with torch.no_grad():
        place = weight.grad.abs().argmax()
        weight[place] += step
        above = divergence()
        weight[place] -= 2 * step
        below = divergence()
    assert float(weight.grad[place]) == pytest.approx(float((above - below) / (2 * step)), rel=0.02)


def test_the_sample_is_left_as_it_was_and_validation_is_cross_entropy_alone(task, sample):
    model = tiny_model("lightconv_cgc", task)
    before = {name: value.clone() for name, value in sample["net_input"].items()}
    criterion(task)(model.train(), sample)
    assert all(torch.equal(value, before[name]) for name, value in sample["net_input"].items())
    loss, _, logged = criterion(task)(model.eval(), sample)
    assert loss == LabelSmoothedCrossEntropyCriterion(task, False, 0.1)(model, sample)[0]
    assert "simcut_kl_loss" not in logged


def test_the_share_of_cut_words_is_p_and_the_first_half_keeps_all(task):
    model = tiny_model("lightconv_cgc", task)
    table, tokens = model.encoder.embed_tokens, torch.randint(4, 30, (2, 20_000))
    with cut_second_half(model, 0.05):
        whole, cut = table(tokens)
    assert torch.equal(whole, F.embedding(tokens[0], table.weight))
    zero = (cut == 0).all(1)
    assert 0.04 < zero.float().mean() < 0.06
    assert torch.equal(cut[~zero], F.embedding(tokens[1], table.weight)[~zero])
    assert torch.equal(table(tokens)[1], F.embedding(tokens[1], table.weight))  # afterwards nothing is cut


@pytest.mark.parametrize("wrong", [{"alpha": -1.0}, {"alpha": float("nan")}, {"p": 1.5}, {"p": -0.1}])
def test_values_that_no_training_can_have_are_refused(task, wrong):
    with pytest.raises(OptionError, match=f"--simcut-{next(iter(wrong))} is .*; it must be"):
        criterion(task, **wrong)


def test_a_model_without_embeddings_of_that_name_is_refused(task, sample):
    with pytest.raises(OptionError, match="embed_tokens"), cut_second_half(nn.Linear(1, 1), 0.1):
        pass


def test_without_reduction_the_loss_is_one_of_each_token_and_accuracy_is_the_whole_pair_s(task, sample):
    model = tiny_model("lightconv_cgc", task, **NO_DROPOUT).train()
    own = SimCutCriterion(task, False, 0.1, report_accuracy=True, simcut_p=1.0)
    total, _, logged = own(model, sample)
    each, *_ = own(model, sample, reduce=False)
    assert each.shape == (10, 1) and (each[sample["target"].flatten() == PAD] == 0).all()
    torch.testing.assert_close(each.sum(), total)
    best = model(**sample["net_input"])[0].argmax(2)
    assert (
        logged["n_correct"] == ((best == sample["target"]) & (sample["target"] != PAD)).sum() and logged["total"] == 8
    )
