"""A checkpoint is data, also where fairseq would evaluate its options: nothing of a hostile one runs."""

import argparse
import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import LIGHTWEIGHT, TINY, tiny_model
from fairseq import utils
from fairseq.checkpoint_utils import load_checkpoint_to_cpu, load_model_ensemble_and_task
from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

from fairseq_cgc import LightConvCGCModel, checkpoint_arrays
from fairseq_cgc.errors import CheckpointError, UnsafeCheckpointError, UserError
from fairseq_cgc.safe_loading import explained, load_checkpoint

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
    "wav2vec2-nested": ("model", {"wav2vec2": {"conv_feature_layers": "HOSTILE", "bpe": "subword_nmt"}}),
    "list": ("model", {"arch": "lightconv_cgc", "_name": ["wav2vec2"], "conv_feature_layers": "HOSTILE"}),
    "wav2vec2": ("model", {"_name": "wav2vec2", "conv_feature_layers": "HOSTILE"}),
    "hubert": ("model", {"_name": "hubert", "conv_feature_layers": "HOSTILE"}),
    "transformer_lm": ("model", {"_name": "transformer_lm", "character_filters": "HOSTILE"}),
    "lstm": ("model", {"arch": "lstm", "decoder_attention": "HOSTILE"}),
    "task": ("task", {"_name": "audio_pretraining", "post_save_script": "HOSTILE"}),
    "old-task": ("task", {"task": "multilingual_translation", "left_pad_source": "HOSTILE"}),
    "criterion": ("criterion", {"_name": "ctc", "wer_args": "HOSTILE"}),
    "bpe": ("bpe", {"_name": "gpt2", "gpt2_encoder_json": "http://localhost/x"}),
    "bpe-address": ("bpe", {"_name": "subword_nmt", "bpe_codes": "http://localhost/x"}),
    "tokenizer": ("tokenizer", "shell"),
    "shell": ("task", {"_name": "translation", "dataset_impl": "fasta", "source_lang": "$(HOSTILE)"}),
    "interpolation": ("task", {"_name": "translation", "data": "${oc.env:HOME}"}),
    "target": ("task", {"_name": "translation", "_target_": "os.system"}),
    "embeddings-of-a-device": ("model", {"arch": "lightconv_cgc", "encoder_embed_path": "/dev/zero"}),
    "generation-number": ("generation", {"lenpen": "x"}),
    "generation-switch": ("generation", {"sampling": "yes"}),
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


@pytest.mark.parametrize("name, value", [("cgc_gate", "nonsense"), ("adaptive_softmax_cutoff", "len")])
def test_an_option_of_a_checkpoint_s_is_not_told_as_if_somebody_had_typed_it(state, folder, name, value):
    setattr(state["cfg"]["model"], name, value)
    save(state, folder)
    with pytest.raises(UserError, match=f"^{folder}/model.pt cannot be used: "):
        LightConvCGCModel.from_pretrained(folder)


def test_a_pickle_of_a_newer_protocol_is_refused_without_torch_s_warnings(folder, recwarn):
    (folder / "model.pt").write_bytes(pickle.dumps({"a": [1]}, protocol=4))
    with pytest.raises(CheckpointError, match="model.pt is truncated"):  # more words with torch < 2.6
        load_checkpoint(folder / "model.pt")
    assert not recwarn.list


def test_fairseq_evaluates_literals_as_before():
    assert utils.eval_str_list("[(3, 1)] * 2 + [(5, 2)]", type=tuple) == [(3, 1), (3, 1), (5, 2)]
    assert utils.eval_str_list("10,-20.5") == [10.0, -20.5]
    many = {f"option {number}": [number] for number in range(40)}  # which Python builds step by step
    assert utils.eval_str_dict(str(many)) == many
    assert utils.eval_bool("False") is False and utils.eval_str_dict("{'a': {1: None}}") == {"a": {1: None}}


@pytest.mark.parametrize(
    "text",
    [
        "9**9**9",
        "[0] * 10**9",
        "[0] * 99999 * 99999",
        f"[{'0,' * 9999}] * 9999",
        "f'{1:999999999}'",
        "'%999999999d' % 1",
    ],
)
def test_fairseq_evaluates_nothing_that_would_not_end(text):
    with pytest.raises(UnsafeCheckpointError, match="it is not a literal"):
        utils.eval_str_list(text)


@pytest.mark.parametrize(
    "text", ["(lambda: 1)()", "{x: 1 for x in (1, 2)}", "[x for x in ().__class__.__bases__]", "open", "f'{open}'"]
)
def test_fairseq_evaluates_no_expression_that_could_do_something(text):
    with pytest.raises(UnsafeCheckpointError, match="is not a literal"):
        utils.eval_str_dict(text)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("task", "translation_lev"),
        ("criterion", "ctc"),
        ("bpe", "gpt2"),
        ("eval_bleu_detok", "x"),
        ("dataset_impl", "fasta"),
    ],
)
def test_a_training_whose_checkpoints_would_be_refused_is_refused(option, value):
    words = f"--{option.replace('_', '-')} is {value}, and this plugin would not load the checkpoints .*; choose from "
    with pytest.raises(UserError, match=words):
        ARCH_CONFIG_REGISTRY["lightconv_cgc"](argparse.Namespace(**TINY, **{option: value}))
    ARCH_CONFIG_REGISTRY["lightconv_cgc"](argparse.Namespace(**TINY, bpe="subword_nmt", dataset_impl=None))


def test_python_code_elsewhere_is_evaluated_as_ever():
    assert eval("len('abc')") == 3


SMALL = np.array([3, 1, 4])
BYTES = SMALL.tobytes()


class Rebuilt:
    """What the pickle of an array says, changed: how it is made, and its state."""

    def __init__(self, made=None, state=None, maker=None):
        maker_of, made_with, state_of = SMALL.__reduce__()
        self.how = maker or maker_of, made or made_with, state or state_of

    def __reduce__(self):
        return self.how


class OfDtype(Rebuilt):
    def __init__(self, code="i8", flags=(False, True), state=None):
        self.how = np.dtype, (code, *flags), state or np.dtype("i8").__reduce__()[2]


def array_state(version=1, shape=(3,), dtype=SMALL.dtype, by_columns=False, values=BYTES):
    return {"state": (version, shape, dtype, by_columns, values)}


class Disguised:
    """A namespace that its state makes of another class, which torch's loader lets through, with a code of its own."""

    def __reduce__(self):
        return argparse.Namespace, (), ({"code": "S8"}, {"__class__": np.dtype})


DISGUISED = Disguised()
HOSTILE_ARRAYS = {
    "objects": np.array([None, {}], dtype=object),
    "objects-of-bytes": Rebuilt(**array_state(dtype=OfDtype("O8"), values=bytes(24))),
    "floats-of-another-size": np.ones(3, dtype=np.float32),
    "fields": np.zeros(2, dtype=[("a", "i8")]),
    "big-endian": np.ones(3, dtype=">i8"),
    "swapped-flags": Rebuilt(**array_state(dtype=OfDtype(flags=(True, True)))),
    "state-of-a-dtype": Rebuilt(**array_state(dtype=OfDtype(state=(3, "<", None, ("a",), {"a": 1}, -1, -1, 0)))),
    "too-many": np.arange(101),
    "huge": Rebuilt(made=(np.ndarray, (10**10,), b"b")),
    "huge-by-its-state": Rebuilt(**array_state(shape=(10**10,))),
    "more-values-than-bytes": Rebuilt(**array_state(shape=(4,))),
    "negative": Rebuilt(**array_state(shape=(-1, -3))),
    "many-axes": Rebuilt(**array_state(shape=(1,) * 60, values=bytes(8))),
    "values-that-are-a-list": Rebuilt(**array_state(values=[1, 2, 3])),
    "version": Rebuilt(**array_state(version=0)),
    "by-columns": np.asfortranarray(np.ones((2, 2))),
    "no-array": Rebuilt(made=(OrderedDict, (0,), b"b")),
    "no-dtype": Rebuilt(**array_state(dtype=OrderedDict())),
    "made-into-a-dtype": Rebuilt(**array_state(dtype=DISGUISED, values=bytes(24))),
    "bytes-that-can-change": Rebuilt(**array_state(values=bytearray(24))),
    "of-a-buffer": Rebuilt(maker=np.ndarray, made=((3,), np.dtype("i8"), bytes(24))),
    "short-state": Rebuilt(state=(1, (3,))),
    "scalar": np.float64(1.5),
}


REFUSED = {"made-into-a-dtype": "is truncated"}  # Python's own words: it cannot be made


@pytest.mark.parametrize("case", HOSTILE_ARRAYS)
def test_no_array_is_made_of_what_a_file_says(state, folder, case):
    """numpy's own classes would make an object of any bytes, or of any size."""
    state["extra_state"]["metrics"] = HOSTILE_ARRAYS[case]
    for load in (load_checkpoint, load_checkpoint_to_cpu):
        with pytest.raises(UserError, match=rf"model.pt {REFUSED.get(case, 'was refused: it holds more than data')}"):
            load(save(state, folder))


def test_an_array_is_filled_once(state, folder):
    """numpy frees the first values, at which a tensor may look."""
    array = checkpoint_arrays.ndarray()
    kind = checkpoint_arrays.dtype("i8", False, True)
    array.__setstate__((1, (3,), kind, False, BYTES))
    assert array.tolist() == [3, 1, 4]
    with pytest.raises(pickle.UnpicklingError):
        array.__setstate__((1, (3,), kind, False, BYTES))
    assert array.tolist() == [3, 1, 4]


def test_the_counts_of_eval_bleu_are_loaded_and_saved_again_as_arrays_of_numpy_s(state, folder):
    metrics = {"counts": SMALL, "sums": np.array([[0.5, -2.0]])}
    state["extra_state"]["metrics"] = metrics
    loaded = load_checkpoint(save(state, folder))
    for again in (loaded, load_checkpoint(save(loaded, folder)), torch.load(folder / "model.pt", weights_only=False)):
        for name, value in again["extra_state"]["metrics"].items():
            assert value.dtype == metrics[name].dtype and np.array_equal(value, metrics[name])
    assert type(value) is np.ndarray and np.array_equal(loaded["extra_state"]["metrics"]["counts"] * 2, [6, 2, 8])


def test_a_torchscript_program_is_refused_before_torch_opens_it(folder):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(folder / "model.pt"))
    with pytest.raises(UnsafeCheckpointError, match="is a TorchScript program"):
        load_checkpoint(folder / "model.pt")


def test_a_torch_that_would_not_be_safe_is_given_no_file_of_the_old_format(state, folder, monkeypatch):
    torch.save(state, folder / "model.pt", _use_new_zipfile_serialization=False)
    if torch.__version__ >= "2.6":
        assert load_checkpoint(folder / "model.pt")["cfg"]["model"].arch == "lightconv_cgc"
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1"))
    with pytest.raises(CheckpointError, match="torch 2.5.1 does not load safely"):
        load_checkpoint(folder / "model.pt")


def changed(**values):
    """A function that replaces entries of a checkpoint; None takes them out."""
    return lambda state: {k: v for k, v in {**state, **values}.items() if v is not None}


def with_parameter(change):
    """A function that changes a parameter of a checkpoint; to None takes it out."""

    def apply(state):
        name = "encoder.layers.0.linear1.weight"
        model = {**state["model"], name: change(state["model"][name])}
        return {**state, "model": {k: v for k, v in model.items() if v is not None}}

    return apply


FOREIGN = {
    "list": (lambda state: [state], "it holds a list"),
    "bare-parameters": (lambda state: state["model"], "it lacks 'model'"),
    "model-is-a-list": (changed(model=[1]), "its 'model' is a list"),
    "no-parameters": (changed(model={}), "has no parameters"),
    "no-options": (changed(cfg=None), "lacks the options"),
    "options-are-a-list": (changed(cfg=[1]), "its 'cfg' is a list"),
    "no-history": (changed(optimizer_history=None), "lacks 'optimizer_history'"),
    "empty-history": (changed(optimizer_history=[]), "does not record its updates"),
    "task-state-is-a-list": (changed(task_state=[1]), "its 'task_state' is a list"),
    "a-parameter-is-text": (with_parameter(lambda value: "x"), "is a str, not a tensor"),
    "sparse": (with_parameter(lambda value: value.to_sparse()), "is torch.sparse_coo"),
    "complex": (with_parameter(lambda value: value.to(torch.complex64)), "of torch.complex64"),
    "without-values": (with_parameter(lambda value: value.to("meta")), "on meta"),
    "nan": (with_parameter(lambda value: value / 0), "holds values that are not finite"),
    "numpy": (with_parameter(lambda value: value.numpy()), "more than data .numpy.ndarray"),
    "shape": (
        with_parameter(lambda value: value[1:]),
        "does not fit the model that its options describe: size mismatch",
    ),
    "missing": (with_parameter(lambda value: None), "does not fit .*: Missing key.*linear1.weight"),
    "no-generation-options": (lambda state: state, "cannot be used for translation"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_checkpoint_is_named_in_one_error(state, folder, case):
    change, words = FOREIGN[case]
    save(change(state), folder)
    with pytest.raises(UserError, match=words) as error:
        LightConvCGCModel.from_pretrained(folder)
    assert str(folder / "model.pt") in str(error.value)
    assert str(error.value).count("\n") <= 1 and "weights_only" not in str(error.value)


def test_a_bias_that_fairseq_neither_sets_nor_uses_is_zero_where_it_is_no_number(state, folder):
    name = "encoder.layers.0.conv.conv_bias"
    state["model"] = tiny_model("lightconv_iwslt_de_en", **LIGHTWEIGHT | {"encoder_conv_type": "dynamic"}).state_dict()
    state["model"][name][:] = float("nan")
    assert load_checkpoint(save(state, folder))["model"][name].eq(0).all()


def test_of_an_ensemble_the_checkpoint_that_is_damaged_is_named(state, folder):
    save(state, folder)
    (folder / "bad.pt").write_text("text")
    with pytest.raises(CheckpointError, match="bad.pt is truncated") as error:
        LightConvCGCModel.from_pretrained(folder, "bad.pt:model.pt")
    assert "model.pt" not in str(error.value)


def test_a_damaged_checkpoint_is_named_in_one_line(state, folder):
    whole = (folder / "model.pt", save(state, folder))[0].read_bytes()
    lengths = [0, 1, 4, 100, 1000, len(whole) // 2, len(whole) - 500, len(whole) - 1]
    for content in (b"text\n", b"PK\3\4" + bytes(500), *(whole[:length] for length in lengths)):
        (folder / "model.pt").write_bytes(content)
        with pytest.raises(CheckpointError) as error:
            load_checkpoint_to_cpu(str(folder / "model.pt"))
        assert str(error.value).startswith(f"{folder / 'model.pt'} is truncated, ")
        assert "get or make it again" in str(error.value) and "\n" not in str(error.value)


def test_a_training_from_another_model_s_checkpoint_is_told_what_does_not_fit(state, folder):
    config = OmegaConf.create(
        {"checkpoint": {"load_checkpoint_on_all_dp_ranks": False}, "model": {"_name": "lightconv_cgc"}}
    )
    config.distributed_training = {"zero_sharding": "none"}
    trainer = argparse.Namespace(data_parallel_world_size=1, data_parallel_rank=0, tpu=False, is_fsdp=False, cfg=config)
    trainer.model = tiny_model("lightconv_cgc", decoder_layers=1, decoder_kernel_size_list=[3])
    with pytest.raises(Exception, match="Cannot load model parameters") as error:
        Trainer.load_checkpoint(trainer, save(state, folder))
    words = str(explained(error.value))
    assert words.startswith(f"{folder}/model.pt does not fit the model that is being trained: Unexpected key(s)")
    assert "\n" not in words


def test_a_missing_checkpoint_is_called_missing(tmp_path):
    path = str(tmp_path / "nope.pt")
    with pytest.raises(OSError) as error:
        load_model_ensemble_and_task([path])
    assert str(explained(error.value)) == f"the checkpoint {path} does not exist"


def test_an_error_that_has_nothing_to_do_with_a_checkpoint_is_not_explained():
    with pytest.raises(ValueError) as error:
        int("x")
    assert explained(error.value) is None


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda text: text + text.splitlines()[0] + "\n", "Duplicate word"),
        (
            lambda text: "\n".join(text.splitlines()[1:]) + "\n",
            "does not fit the model that its options describe: size",
        ),
        (lambda text: text + "word\n", "Incorrect dictionary format"),
    ],
)
def test_a_dictionary_with_an_entry_too_many_or_too_few_is_named_in_one_line(state, folder, damage, words):
    save(state, folder)
    dictionary = folder / "dict.de.txt"
    dictionary.write_text(damage(dictionary.read_text()))
    with pytest.raises(CheckpointError, match=words) as error:
        LightConvCGCModel.from_pretrained(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
