"""The gate's own learning rate, through fairseq's parameter groups."""

import argparse

import pytest
import torch
from conftest import TINY, Task, tiny_model
from fairseq.models import build_model
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, build_optimizer
from omegaconf import OmegaConf

from fairseq_cgc.context_gate import ContextGate
from fairseq_cgc.errors import OptionError
from fairseq_cgc.optimizer import exempt_from_weight_decay, scale_learning_rate


def optimizer(name, parameters, weight_decay=0.01):
    settings = OmegaConf.structured(OPTIMIZER_DATACLASS_REGISTRY[name])
    settings = OmegaConf.merge(settings, {"_name": name, "lr": [0.01], "weight_decay": weight_decay, "tpu": False})
    return build_optimizer(settings, parameters)


def parameters():
    torch.manual_seed(3)
    return [torch.nn.Parameter(torch.randn(4)), torch.nn.Parameter(torch.randn(5))]


def descend(optimizers, weights, rates):
    """Some updates towards zero; ``rates``: a list an update, one an optimizer."""
    for update in rates:
        for weight in weights:
            weight.grad = weight.detach() ** 3
        for one, rate in zip(optimizers, update):
            one.set_lr(rate)
            one.step()


def test_a_group_learns_as_with_an_optimizer_of_its_own():
    rates = [0.01, 0.02, 0.015, 0.005]
    apart = parameters()
    descend([optimizer("adam", [weight]) for weight in apart], apart, [(rate, 0.1 * rate) for rate in rates])
    together = parameters()
    scale_learning_rate([together[1]], 0.1)
    one = optimizer("cgc_adam", together)
    descend([one], together, [(rate,) for rate in rates])
    assert all(map(torch.equal, apart, together))
    assert one.get_lr() == rates[-1] and [group["lr"] for group in one.param_groups] == pytest.approx([0.005, 0.0005])


def test_with_no_scale_it_is_adam():
    theirs, ours = parameters(), parameters()
    descend([optimizer("adam", theirs)], theirs, [(0.01,), (0.02,)])
    descend([optimizer("cgc_adam", ours)], ours, [(0.01,), (0.02,)])
    assert all(map(torch.equal, theirs, ours))


def test_the_scale_is_kept_when_resuming_and_other_groups_are_an_error():
    weights = parameters()
    scale_learning_rate([weights[1]], 0.1)
    saved = optimizer("cgc_adam", weights)
    descend([saved], weights, [(0.01,)])
    resumed = optimizer("cgc_adam", weights)
    resumed.load_state_dict(saved.state_dict(), {"lr": 0.7})
    resumed.set_lr(0.02)
    assert [group["lr"] for group in resumed.param_groups] == pytest.approx([0.02, 0.002])
    scale_learning_rate([weights[1]], 0.5)  # asked for now: it goes before the checkpoint's
    other = optimizer("cgc_adam", weights)
    other.load_state_dict(saved.state_dict())
    other.set_lr(0.02)
    assert [group["lr"] for group in other.param_groups] == pytest.approx([0.02, 0.01])
    with pytest.raises(OptionError, match="groups of 1 and 1 parameters, and this training makes groups of 2"):
        optimizer("cgc_adam", parameters()).load_state_dict(saved.state_dict())


@pytest.mark.parametrize("options", [{}, {"cgc_gate": "learned"}, {"cgc_decoder": "source"}])
def test_the_model_marks_its_gates_parameters_and_no_others(options):
    model = tiny_model(cgc_lr_scale=0.1, optimizer="cgc_adam", **options)
    marked = {name for name, p in model.named_parameters() if hasattr(p, "optim_overrides")}
    assert marked == {name for name, _ in model.named_parameters() if ".conv.gate." in name} and marked
    assert any(name.startswith("decoder.") for name in marked) == ("cgc_decoder" in options)
    groups = optimizer("cgc_adam", list(model.parameters())).param_groups
    assert [group["lr_scale"] for group in groups] == [1.0, 0.1] and len(groups[1]["params"]) == len(marked)
    assert not any(hasattr(p, "optim_overrides") for p in tiny_model(**options).parameters())


@pytest.mark.parametrize(
    "options, words",
    [
        ({"optimizer": "adam"}, "--cgc-lr-scale 0.1 needs an optimizer with parameter groups.*--optimizer cgc_adam"),
        ({"fp16": True}, "--fp16-no-flatten-grads"),
        ({"ddp_backend": "fully_sharded"}, "--not-fsdp-flatten-parameters"),
        (
            {"cgc_lr_scale": 1.0, "encoder_gct": True, "fp16": True},
            "--encoder-gct with cgc_adam.*--fp16-no-flatten-grads",
        ),
        ({"cgc_gate": "constant"}, "--cgc-gate constant has none"),
        ({"cgc_gate": "none"}, "--cgc-gate none has none"),
        ({"cgc_lr_scale": 0.0}, "--cgc-lr-scale is 0.0; it must be a number above 0"),
        ({"cgc_lr_scale": float("inf")}, "--cgc-lr-scale is inf"),
        ({"cgc_lr_scale": float("nan")}, "--cgc-lr-scale is nan"),
    ],
)
def test_a_scale_that_nobody_would_see_is_refused(options, words):
    with pytest.raises(OptionError, match=words):
        tiny_model(**{"cgc_lr_scale": 0.1, "optimizer": "cgc_adam", **options})


@pytest.mark.parametrize(
    "options",
    [{"fp16": True, "fp16_no_flatten_grads": True}, {"bf16": True}, {"fp16": True, "memory_efficient_fp16": True}],
)
def test_half_precision_that_keeps_parameters_apart_is_taken(options):
    tiny_model(cgc_lr_scale=0.1, optimizer="cgc_adam", **options)


def model_of_hydra(optimizer, common=None, **options):
    """A model as fairseq-hydra-train builds it: its options are a part of a configuration that has all."""
    config = {"common": common or {}, "task": {"_name": "translation"}, "optimizer": {"_name": optimizer}, "bpe": None}
    config["model"] = {"_name": "lightconv_cgc", "cgc_lr_scale": 0.1, **TINY, **options}
    return build_model(OmegaConf.create(config).model, Task())


@pytest.mark.parametrize(
    ("optimizer", "common", "words"),
    [("adam", {}, "--cgc-lr-scale 0.1 needs an optimizer"), ("cgc_adam", {"fp16": True}, "--fp16-no-flatten-grads")],
)
def test_a_scale_that_nobody_would_see_is_refused_with_hydra_too(optimizer, common, words):
    with pytest.raises(OptionError, match=words):
        model_of_hydra(optimizer, common)


def test_with_hydra_too_gates_get_their_rate_and_gct_s_beta_no_decay():
    made = model_of_hydra("cgc_adam", encoder_gct=True)
    marked = {name for name, p in made.named_parameters() if hasattr(p, "optim_overrides")}
    wanted = {name for name, _ in made.named_parameters() if ".conv.gate." in name or name.endswith("gct.beta")}
    assert marked == wanted and any(name.endswith("gct.beta") for name in marked)


def test_the_latent_size_can_be_the_kernel_s():
    gates = [m for m in tiny_model(cgc_latent_dim="K").encoder.modules() if isinstance(m, ContextGate)]
    assert [tuple(gate.encode.weight.shape) for gate in gates] == [(3, 9), (7, 21), (15, 45)]


def test_a_checkpoint_is_used_with_any_precision():
    args = argparse.Namespace(arch="lightconv_cgc", **TINY, cgc_lr_scale=0.1, optimizer="cgc_adam")
    build_model(args, Task())  # as a training does it, which the checkpoint remembers
    args.optimizer, args.fp16, args.bpe = "sgd", True, "bytes"  # as fairseq-validate and the hub may have it
    build_model(args, Task(), from_checkpoint=True)
    del args.cgc_checked
    with pytest.raises(OptionError, match="bpe is bytes"):
        build_model(args, Task())


def test_gct_s_beta_is_not_decayed_also_when_resumed():
    model = tiny_model("lightconv_gct", optimizer="cgc_adam")
    one = optimizer("cgc_adam", list(model.parameters()), weight_decay=0.1)
    decayed = {id(p): group["weight_decay"] for group in one.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if decayed[id(p)] == 0}
    assert names == {name for name, _ in model.named_parameters() if name.endswith("gct.beta")} and names
    one.load_state_dict(one.state_dict(), {"weight_decay": 0.3})
    assert sorted(group["weight_decay"] for group in one.param_groups) == [0, 0.3]
    later = optimizer("cgc_adam", list(model.parameters()), weight_decay=0.5)
    later.load_state_dict(one.state_dict())  # fairseq's Adam goes on with the checkpoint's
    assert sorted(group["weight_decay"] for group in later.param_groups) == [0, 0.3]
    weights = parameters()
    exempt_from_weight_decay([weights[1]])
    descend([optimizer("cgc_adam", weights, 0.1)], weights, [(0.01,)] * 3)
    apart = parameters()
    descend([optimizer("adam", apart[:1], 0.1), optimizer("adam", apart[1:], 0)], apart, [(0.01, 0.01)] * 3)
    assert all(map(torch.equal, weights, apart))
