"""SimCut, a regularisation that asks for the same translation when some words are missing."""

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
)
from fairseq.logging import metrics

from .errors import OptionError, check_within


@dataclass
class SimCutConfig(LabelSmoothedCrossEntropyCriterionConfig):
    simcut_alpha: float = field(default=3.0, metadata={"help": "weight of SimCut's divergence (IWSLT'14: 3)"})
    simcut_p: float = field(
        default=0.05, metadata={"help": "share of the words whose embeddings SimCut sets to zero (IWSLT'14: 0.05)"}
    )


@register_criterion("label_smoothed_cross_entropy_with_simcut", dataclass=SimCutConfig)
class SimCutCriterion(LabelSmoothedCrossEntropyCriterion):
    """Label-smoothed cross entropy + alpha * KL(P || P_cut), summed over the target's tokens (Gao et al. 2022).

    P is what the model says of a sentence pair, P_cut what it says where each token's embedding, on either side, is
    zero with probability p; its position stays. Gradients go through both. A sentence pair and its cut one are two
    rows of one batch, so each has dropout of its own. In validation it is the label-smoothed cross entropy alone.

    Args:
        simcut_alpha: the divergence's weight
        simcut_p: p

    Raises:
        OptionError: a negative weight, p outside 0 ... 1, or a model without ``embed_tokens`` in encoder and decoder
    """

    def __init__(
        self,
        task,
        sentence_avg,
        label_smoothing,
        ignore_prefix_size=0,
        report_accuracy=False,
        simcut_alpha=3.0,
        simcut_p=0.05,
    ):
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        check_within(0, math.inf, simcut_alpha=simcut_alpha)
        check_within(0, 1, simcut_p=simcut_p)
        self.alpha, self.p = simcut_alpha, simcut_p

    def forward(self, model, sample, reduce=True):
        """Returns the loss (a sum), the sample size and what is logged, as fairseq's criteria do."""
        if not model.training:
            return super().forward(model, sample, reduce)
        twice = {
            name: torch.cat([value, value]) if isinstance(value, torch.Tensor) else value
            for name, value in sample["net_input"].items()
        }
        with cut_second_half(model, self.p):
            output = model(**twice)
        log_probs, target = self.get_lprobs_and_target(model, output, sample)
        log_p, log_q = log_probs.chunk(2)
        loss, nll_loss = label_smoothed_nll_loss(log_p, target, self.eps, self.padding_idx, reduce)
        divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1, keepdim=True)
        divergence = divergence.masked_fill(target.unsqueeze(1) == self.padding_idx, 0.0)
        total = divergence.sum()
        loss = loss + self.alpha * (total if reduce else divergence)
        logged = {
            "loss": loss.data,
            "nll_loss": nll_loss.data,
            "simcut_kl_loss": total.data,
            "ntokens": sample["ntokens"],
            "nsentences": sample["target"].size(0),
            "sample_size": sample["target"].size(0) if self.sentence_avg else sample["ntokens"],
        }
        if self.report_accuracy:
            uncut = output[0].chunk(2)[0], output[1]
            logged["n_correct"], logged["total"] = (n.data for n in self.compute_accuracy(model, uncut, sample))
        return loss, logged["sample_size"], logged

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        if any("simcut_kl_loss" in log for log in logging_outputs):
            total, size = (
                sum(log.get(name, 0) for log in logging_outputs) for name in ("simcut_kl_loss", "sample_size")
            )
            metrics.log_scalar("simcut_kl_loss", total / size / math.log(2), size, round=3)


@contextmanager
def cut_second_half(model, p):
    """While it lasts, embeddings of words in the second half of a batch are zero with probability p.

    fairseq's models take no such argument, but all have their embeddings in modules of one name. The model must not be
    used by another thread meanwhile.
    """

    def cut(module, inputs, output):
        first, second = output.chunk(2)
        mask = torch.rand(second.shape[:2], device=second.device) >= p
        return torch.cat([first, second * mask.unsqueeze(2)])

    try:
        tables = {model.encoder.embed_tokens, model.decoder.embed_tokens}
    except AttributeError as error:
        raise OptionError(
            f"SimCut needs an encoder and a decoder with embed_tokens; this model has not ({error})"
        ) from None
    with ExitStack() as stack:
        for table in tables:
            stack.callback(table.register_forward_hook(cut).remove)
        yield
