"""A checkpoint is data, also where fairseq would evaluate its options: nothing of a hostile one runs."""

import argparse
import copy

import pytest
import torch
from conftest import TINY, tiny_model
from fairseq import utils
from fairseq.checkpoint_utils import load_checkpoint_to_cpu, load_model_ensemble_and_task

from fairseq_cgc import LightConvCGCModel
from fairseq_cgc.errors import CheckpointError, UnsafeCheckpointError
from fairseq_cgc.safe_loading import load_checkpoint

SIZES = {"source": 40, "target": 30}


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "code-ran"


@pytest.fixture
def hostile(marker):
    """An option that, evaluated, is a list, and leaves a file behind."""
    yield f"[(32, 3)] * (1 + 0 * len([open({str(marker)!r}, 'w')]))"
    assert not marker.exists()


@pytest.fixture
def folder(tmp_path):
    """A folder with dictionaries."""
    for language, size in (("de", SIZES["source"]), ("en", SIZES["target"])):
        lines = (f"word{number} 1\n" for number in range(size - 4))
        (tmp_path / f"dict.{language}.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def state(folder):
    """A checkpoint of a tiny model that fairseq loads."""
    model = tiny_model("lightconv_cgc")
    options = argparse.Namespace(arch="lightconv_cgc", _name="lightconv_cgc", **TINY)
    task = {"_name": "translation", "data": str(folder), "source_lang": "de", "target_lang": "en"}
    return {
        "model": model.state_dict(),
        "cfg": {"model": options, "task": task, "criterion": {"_name": "cross_entropy"}, "bpe": None},
        "args": None,
        "optimizer_history": [{"num_updates": 3, "optimizer_name": "FairseqAdam", "lr_scheduler_state": {}}],
        "extra_state": {"train_iterator": {"epoch": 1}},
    }


def save(state, folder):
    torch.save(state, folder / "model.pt")
    return str(folder / "model.pt")


def test_a_checkpoint_of_a_known_architecture_is_loaded_and_built(state, folder):
    models, _, _ = load_model_ensemble_and_task([save(state, folder)])
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, state["model"][name])


def test_a_checkpoint_with_the_options_of_an_older_fairseq_is_loaded(state, folder):
    options, task = vars(state["cfg"]["model"]), state["cfg"]["task"]
    state.update(args=argparse.Namespace(**{**options, **task, "task": "translation"}), cfg=None)
    assert load_checkpoint(save(state, folder))["args"].arch == "lightconv_cgc"


# Every one reaches an eval of fairseq 0.12.3, a shell, a process or the network.
HOSTILE = {
    "fconv": ("model", {"arch": "fconv", "encoder_layers": "HOSTILE"}),
    "fconv-by-name": ("model", {"arch": "lightconv_cgc", "_name": "fconv_wmt_en_de", "encoder_layers": "HOSTILE"}),
    "fconv-in-a-dict": ("model", {"_name": "fconv", "encoder_layers": "HOSTILE"}),
    "fconv-nested": ("model", {"fconv": {"encoder_layers": "HOSTILE"}}),
    "fconv-self-attention": ("model", {"arch": "fconv_self_att", "pretrained": "HOSTILE"}),
    "wav2vec2": ("model", {"_name": "wav2vec2", "conv_feature_layers": "HOSTILE"}),
    "hubert": ("model", {"_name": "hubert", "conv_feature_layers": "HOSTILE"}),
    "transformer_lm": ("model", {"_name": "transformer_lm", "character_filters": "HOSTILE"}),
    "lstm": ("model", {"arch": "lstm", "decoder_attention": "HOSTILE"}),
    "task": ("task", {"_name": "audio_pretraining", "post_save_script": "HOSTILE"}),
    "old-task": ("task", {"task": "multilingual_translation", "left_pad_source": "HOSTILE"}),
    "criterion": ("criterion", {"_name": "ctc", "wer_args": "HOSTILE"}),
    "bpe": ("bpe", {"_name": "gpt2", "gpt2_encoder_json": "http://localhost/x"}),
    "bpe-address": ("bpe", {"_name": "subword_nmt", "bpe_codes": "http://localhost/x"}),
    "tokenizer": ("tokenizer", "nltk"),
    "shell": ("task", {"_name": "translation", "dataset_impl": "fasta", "source_lang": "$(HOSTILE)"}),
    "interpolation": ("task", {"_name": "translation", "data": "${oc.env:HOME}"}),
    "target": ("task", {"_name": "translation", "_target_": "os.system"}),
    "no-plain-data": ("task", {"_name": "translation", "data": torch.ones(1)}),
}


@pytest.mark.parametrize("options", ["dict", "Namespace"])
@pytest.mark.parametrize("case", HOSTILE)
def test_options_that_are_not_known_to_be_harmless_are_refused(state, folder, hostile, case, options):
    group, values = copy.deepcopy(HOSTILE[case])
    if isinstance(values, dict):
        values = {k: v.replace("HOSTILE", hostile) if isinstance(v, str) else v for k, v in values.items()}
        values = values if options == "dict" else argparse.Namespace(**values)
    state["cfg"][group] = values
    with pytest.raises(UnsafeCheckpointError, match="was refused: .*; nothing of it was run") as error:
        load_model_ensemble_and_task([save(state, folder)])
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: load_model_ensemble_and_task(
            [str(folder / "model.pt")]
        ),  # fairseq-generate, -interactive, -validate
        lambda folder: load_checkpoint_to_cpu(str(folder / "model.pt")),  # fairseq-train
        lambda folder: LightConvCGCModel.from_pretrained(str(folder)),
        lambda folder: load_checkpoint(folder / "model.pt"),  # the recipe's commands
    ],
    ids=["fairseq", "fairseq-train", "hub", "recipe"],
)
@pytest.mark.parametrize("form", ["cfg", "args"])
def test_no_way_of_loading_runs_a_checkpoint_s_options(state, folder, hostile, load, form):
    options = argparse.Namespace(arch="fconv", task="translation", encoder_layers=hostile)
    if form == "args":
        state.update(args=options, cfg=None)
    else:
        state["cfg"]["model"] = options
    save(state, folder)
    with pytest.raises(UnsafeCheckpointError, match="'fconv', which is not among those known to be harmless"):
        load(folder)


@pytest.mark.parametrize(
    "arch, option",
    [
        ("lightconv_cgc", "adaptive_softmax_cutoff"),
        ("lightconv", "adaptive_softmax_cutoff"),
        ("transformer", "adaptive_softmax_cutoff"),
        ("transformer", "xformers_att_config"),
    ],
)
def test_an_option_that_a_known_architecture_evaluates_is_refused(state, folder, hostile, arch, option):
    values = {
        "encoder_conv_type": "lightweight",
        "decoder_conv_type": "lightweight",
        "weight_softmax": True,
        option: hostile,
    }
    state["cfg"]["model"] = argparse.Namespace(arch=arch, **TINY, encoder_attention_heads=4, **values)
    with pytest.raises(UnsafeCheckpointError, match="fairseq would run it as Python .*uses len, open"):
        load_model_ensemble_and_task([save(state, folder)])


def test_fairseq_evaluates_literals_as_before():
    assert utils.eval_str_list("[(3, 1)] * 2 + [(5, 2)]", type=tuple) == [(3, 1), (3, 1), (5, 2)]
    assert utils.eval_str_list("10,-20.5") == [10.0, -20.5]
    assert utils.eval_bool("False") is False and utils.eval_str_dict("{'a': {1: None}}") == {"a": {1: None}}


@pytest.mark.parametrize("text", ["(lambda: 1)()", "[x for x in ().__class__.__bases__]", "open", "f'{open}'"])
def test_fairseq_evaluates_no_expression_that_could_do_something(text):
    with pytest.raises(UnsafeCheckpointError, match="is no literal"):
        utils.eval_str_dict(text)


def test_python_code_elsewhere_is_evaluated_as_ever():
    assert eval("len('abc')") == 3


def test_a_torchscript_program_is_refused_before_torch_opens_it(folder):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "model.pt"))
    with pytest.raises(UnsafeCheckpointError, match="is a TorchScript program"):
        load_checkpoint(folder / "model.pt")


def test_a_torch_that_would_not_be_safe_is_given_no_file_of_the_old_format(state, folder, monkeypatch):
    torch.save(state, folder / "model.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(folder / "model.pt")["cfg"]["model"].arch == "lightconv_cgc"
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1"))
    with pytest.raises(CheckpointError, match="torch 2.5.1 does not load safely"):
        load_checkpoint(folder / "model.pt")
