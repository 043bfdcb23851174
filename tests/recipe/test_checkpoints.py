import argparse

import pytest
import torch
from conftest import command, refused

from fairseq_cgc.errors import CheckpointError
from fairseq_cgc.recipe.checkpoints import (
    average_checkpoints,
    check_dictionaries,
    find_checkpoints,
    load_checkpoint,
    write_model,
)
from fairseq_cgc.recipe.files import sha256_of


def save(path, dtype=torch.float32, **tensors):
    model = {name: torch.as_tensor(value) for name, value in tensors.items()}
    model = {n: v.to(dtype) if v.is_floating_point() else v for n, v in model.items()}
    cfg = {"model": argparse.Namespace(arch="lightconv_cgc"), "task": {"_name": "translation"}}
    history = [{"num_updates": 1, "lr_scheduler_state": {}}]
    state = {"model": model, "cfg": cfg, "args": None, "optimizer_history": history, "extra_state": {}}
    torch.save({**state, "last_optimizer_state": {"a": 1}}, path)
    return path


def test_the_average_is_the_mean_and_carries_no_optimizer_state(tmp_path):
    values = torch.randn(3, 5)
    paths = [save(tmp_path / f"checkpoint{e}.pt", weight=v, step=e) for e, v in enumerate(values)]
    state = average_checkpoints(paths)
    torch.testing.assert_close(state["model"]["weight"], values.double().mean(0).float(), rtol=0, atol=0)
    assert state["model"]["step"] == 2
    assert "last_optimizer_state" not in state and state["cfg"]["model"].arch == "lightconv_cgc"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_and_kept_in_float32(tmp_path, dtype):
    paths = [save(tmp_path / f"checkpoint{v}.pt", dtype, weight=[1.0 + v / 64]) for v in range(4)]
    weight = average_checkpoints(paths)["model"]["weight"]
    assert weight.dtype == torch.float32 and weight.item() == 1.0 + 1.5 / 64


def test_checkpoints_of_different_models_are_refused_with_the_parameter_s_name(tmp_path):
    one = save(tmp_path / "one.pt", weight=[1.0, 2.0], bias=[1.0])
    for other in ({"weight": [1.0], "bias": [1.0]}, {"weight": [1.0, 2.0]}):
        with pytest.raises(CheckpointError, match="of different models: (weight|bias) is"):
            average_checkpoints([one, save(tmp_path / "other.pt", **other)])


def test_the_last_epochs_are_found_by_number(tmp_path):
    for name in ("1", "2", "9", "10", "11", "_last", "_best", "_3_400"):
        save(tmp_path / f"checkpoint{name}.pt", weight=[1.0])
    names = [path.name for path in find_checkpoints(tmp_path, count=3)]
    assert names == ["checkpoint9.pt", "checkpoint10.pt", "checkpoint11.pt"]
    assert len(find_checkpoints(tmp_path)) == 5
    with pytest.raises(CheckpointError, match="has 5 epoch checkpoints and 6 are needed"):
        find_checkpoints(tmp_path, count=6)
    for name in ("best_bleu_27.310", "best_loss_3.217"):  # of two metrics, and damaged: they are counted, not read
        (tmp_path / f"checkpoint.{name}.pt").write_text("damaged")
    with pytest.raises(CheckpointError, match=r"and 6 are needed \(and 1 by update, 2 by best\): give --average 5"):
        find_checkpoints(tmp_path, count=6)


@pytest.mark.parametrize("maximise, wanted", [(True, ["9.999", "27.310"]), (False, ["27.310", "9.999"])])
def test_the_best_by_another_metric_are_the_highest_or_lowest_as_the_training_had_it(tmp_path, maximise, wanted):
    for number in ("9.999", "27.310"):
        path = save(tmp_path / f"checkpoint.best_bleu_{number}.pt", weight=[1.0])
        state = torch.load(path)
        state["cfg"]["checkpoint"] = {"maximize_best_checkpoint_metric": maximise}
        torch.save(state, path)
    assert [path.name[len("checkpoint.best_bleu_") : -3] for path in find_checkpoints(tmp_path, "best")] == wanted
    (tmp_path / "checkpoint.best_loss_3.000.pt").touch()
    with pytest.raises(CheckpointError, match="by bleu and by loss"):
        find_checkpoints(tmp_path, "best")


def test_where_one_best_checkpoint_was_kept_it_is_the_best(tmp_path):
    (tmp_path / "checkpoint_best.pt").touch()
    assert find_checkpoints(tmp_path, "best", 1) == [tmp_path / "checkpoint_best.pt"]
    (tmp_path / "checkpoint.best_loss_3.000.pt").touch()
    assert find_checkpoints(tmp_path, "best", 1) == [tmp_path / "checkpoint.best_loss_3.000.pt"]


def test_the_last_updates_and_the_best_are_found_by_number(tmp_path):
    for name in ("_1_500", "_2_1000", "_2_1500", ".best_loss_4.1005", ".best_loss_3.9990", ".best_loss_12.0001", "3"):
        save(tmp_path / f"checkpoint{name}.pt", weight=[1.0])
    names = [path.name for path in find_checkpoints(tmp_path, "update", 2)]
    assert names == ["checkpoint_2_1000.pt", "checkpoint_2_1500.pt"]
    names = [path.name for path in find_checkpoints(tmp_path, "update", None, 1000)]
    assert names == ["checkpoint_1_500.pt", "checkpoint_2_1000.pt"]
    names = [path.name for path in find_checkpoints(tmp_path, "best", 2)]
    assert names == ["checkpoint.best_loss_4.1005.pt", "checkpoint.best_loss_3.9990.pt"]


def test_checkpoints_of_the_same_shapes_but_other_options_are_refused(tmp_path):
    paths = [save(tmp_path / f"{n}.pt", weight=[1.0]) for n in (1, 2)]
    state = load_checkpoint(paths[1])
    state["cfg"]["model"].cgc_gate_activation = "one-plus-tanh"
    torch.save(state, paths[1])
    with pytest.raises(CheckpointError, match="of different models: cgc_gate_activation is one-plus-tanh in the one"):
        average_checkpoints(paths)


def test_nothing_has_no_average():
    with pytest.raises(CheckpointError, match="no checkpoints"):
        average_checkpoints([])


def test_a_missing_truncated_or_foreign_file_is_named(tmp_path):
    whole = save(tmp_path / "whole.pt", weight=torch.randn(1000))
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(whole.read_bytes()[:2000])
    text = tmp_path / "text.pt"
    text.write_text("hello")
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": torch.ones(1)}, foreign)
    for path, words in (
        (tmp_path / "missing.pt", "does not exist"),
        (truncated, "truncated, damaged or not a checkpoint"),
        (foreign, "not a fairseq checkpoint"),
        (text, "text.pt"),
    ):
        with pytest.raises(CheckpointError, match=words) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value) and str(error.value).count("\n") <= 1


def test_an_average_says_what_it_was_made_of(tmp_path):
    paths = [save(tmp_path / f"checkpoint{number}.pt", weight=[1.0 * number]) for number in (1, 2)]
    command("average", "--inputs", *paths, "--output", tmp_path / "out" / "average.pt")
    state = load_checkpoint(tmp_path / "out" / "average.pt")
    assert state["extra_state"]["average_of"] == {path.name: sha256_of(path) for path in paths}
    assert state["model"]["weight"].tolist() == [1.5]
    (tmp_path / "other").mkdir()
    other = save(tmp_path / "other" / "checkpoint1.pt", weight=[4.0])
    done = command("average", "--inputs", paths[0], other, "--output", tmp_path / "two.pt")
    assert f"average of {paths[0]} {other}" in done.stdout
    made_of = load_checkpoint(tmp_path / "two.pt")["extra_state"]["average_of"]
    assert made_of == {str(path): sha256_of(path) for path in (paths[0], other)}


def test_a_bound_for_the_best_checkpoints_is_refused(tmp_path):
    words = ["--inputs", tmp_path, "--num-best-checkpoints", 1, "--output", tmp_path / "x.pt"]
    assert "--checkpoint-upper-bound is for epochs or updates" in refused(
        "average", *words, "--checkpoint-upper-bound", 0
    )


def test_a_bound_for_named_checkpoints_is_refused(tmp_path):
    paths = [save(tmp_path / f"checkpoint{number}.pt", weight=[1.0 * number]) for number in (1, 2)]
    words = ["--inputs", *paths, "--output", tmp_path / "x.pt"]
    assert "--checkpoint-upper-bound is for --num-epoch" in refused("average", *words, "--checkpoint-upper-bound", 1)


def test_a_run_folder_stands_for_its_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for number in (1, 2):
        save(tmp_path / "checkpoints" / f"checkpoint{number}.pt", weight=[1.0 * number])
    command("average", "--inputs", tmp_path, "--num-epoch-checkpoints", 2, "--output", tmp_path / "x.pt")
    assert load_checkpoint(tmp_path / "x.pt")["model"]["weight"].tolist() == [1.5]


def test_a_run_of_less_than_an_epoch_is_told_of_its_best_checkpoint(tmp_path):
    save(tmp_path / "checkpoint_best.pt", weight=[1.0])
    with pytest.raises(
        CheckpointError, match=r"has 0 epoch .* \(and 1 by best\): choose another kind, or train longer"
    ):
        find_checkpoints(tmp_path, "epoch", 1)
    (tmp_path / "checkpoint_best.pt").unlink()
    with pytest.raises(CheckpointError, match="has 0 epoch checkpoints and 1 are needed: train longer"):
        find_checkpoints(tmp_path, "epoch", 1)


@pytest.mark.parametrize("parameters", [{"weight": [1.0]}, {"encoder.embed_tokens.weight": 1.0}])
def test_a_model_without_embeddings_fits_no_dictionaries(tmp_path, parameters):
    (tmp_path / "dict.de.txt").write_text("a 1\n")
    with pytest.raises(CheckpointError, match="has no embeddings of words in its encoder"):
        check_dictionaries(load_checkpoint(save(tmp_path / "checkpoint1.pt", **parameters)), tmp_path, "de", "en")


def test_a_model_folder_is_complete_in_itself(tmp_path):
    data = tmp_path / "bin"
    data.mkdir()
    for name in ("dict.de.txt", "dict.en.txt", "bpecodes", "prepare.json", "train.de-en.de.bin", "train.de-en.de.idx"):
        (data / name).write_text("x")
    (data / ".ipynb_checkpoints").mkdir()  # as file browsers leave them
    write_model(load_checkpoint(save(tmp_path / "checkpoint1.pt", weight=[1.0])), data, tmp_path / "model")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == [".fairseq-cgc", "bpecodes", "dict.de.txt", "dict.en.txt", "model.pt", "prepare.json"]
