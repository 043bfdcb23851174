"""End to end through fairseq's own commands, each in a process of its own."""

import argparse
import copy
import json
import pickle
import random
import re
import subprocess

import pytest
import torch
from conftest import TINY_OPTIONS, USER_DIR, fairseq
from fairseq.token_generation_constraints import pack_constraints
from forks import Fork

from fairseq_cgc import LightConvCGCModel
from fairseq_cgc.compat import EVERY_SENTENCE, NO_WORKERS, SAME_BATCHES_WHEN_RESUMED
from fairseq_cgc.errors import CheckpointError
from fairseq_cgc.recipe.checkpoints import load_checkpoint
from fairseq_cgc.recipe.preparation import SPLITS, Settings, prepare

TRAIN = """
    --optimizer adam --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 10 --warmup-init-lr 1e-7
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 400 --seed 3
    --log-format json --log-interval 1 --no-progress-bar
""".split()


# Without a GPU fairseq takes --bf16 for a TPU's, and --fp16 flattens gradients on the GPU alone.
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="fairseq allows it on a GPU only")


def sentences(count, seed):
    """German-English pairs of a toy grammar: short, but every word has one translation."""
    words = {"Haus": "house", "Hund": "dog", "Baum": "tree", "Auto": "car", "Buch": "book", "Tisch": "table"}
    verbs = {"sieht": "sees", "kennt": "knows", "liebt": "loves", "hat": "has"}
    shuffle = random.Random(seed)
    pairs = []
    for _ in range(count):
        one, two = shuffle.sample(sorted(words), 2)
        verb = shuffle.choice(sorted(verbs))
        tail = shuffle.choice([("", ""), (" heute", " today"), (", und alles ist gut", ", and all is well")])
        pairs.append(
            (f"Ein {one} {verb} ein {two}{tail[0]}.", f"A {words[one]} {verbs[verb]} a {words[two]}{tail[1]}.")
        )
    return pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared corpus of 150 training pairs, and among its test sentences the awkward ones."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, count in zip(SPLITS, (150, 20, 20)):
        pairs = sentences(count, split)
        if split == "test":
            pairs += [("", ""), ("Völlig unbekannte Wörter", "words nobody knows"), ("Baum " * 300, "tree " * 300)]
        for side, language in enumerate(("de", "en")):
            (folder / f"{split}.{language}").write_text("".join(pair[side] + "\n" for pair in pairs), encoding="utf-8")
    prepare({s: folder / s for s in SPLITS}, folder / "data", Settings(bpe_size=100), workers=1)
    return folder / "data"


def train(data, save_dir, *more, arch="lightconv_cgc", **keywords):
    options = ["--arch", arch, "--user-dir", USER_DIR, *TINY_OPTIONS, *TRAIN, *EVERY_SENTENCE]
    options = [*options, *SAME_BATCHES_WHEN_RESUMED, *NO_WORKERS, "--save-dir", save_dir, *more]
    return fairseq("train", data / "bin", *options, **keywords)


def losses(done):
    """Update number to training loss, from fairseq-train's JSON log."""
    found = re.findall(r"train_inner \| (\{.*\})", done.stdout + done.stderr)
    return {int(line["num_updates"]): line["loss"] for line in map(json.loads, found)}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run of 24 updates that was stopped after 14 and resumed; and the losses of one never stopped."""
    stopped, whole = tmp_path_factory.mktemp("stopped"), tmp_path_factory.mktemp("whole")
    options = ["--cgc-gate-activation", "one-plus-tanh", "--cgc-norm", "heads-latent", "--cgc-latent-dim", "5"]
    options += ["--cgc-pool-factor", "2", "--cgc-gate-on", "logits", "--cgc-zero-init", "--encoder-gct"]
    options += ["--cgc-decoder", "source", "--cgc-layers", "[1,2]", "--cgc-pool", "max"]
    unbroken = losses(train(data, whole, *options, "--max-update", 24))
    first = losses(train(data, stopped, *options, "--max-update", 14))
    second = losses(train(data, stopped, *options, "--max-update", 24))
    return stopped / "checkpoint_last.pt", unbroken, first, second


def test_a_resumed_training_has_the_losses_of_an_unbroken_one(trained):
    _, unbroken, first, second = trained
    assert list(unbroken) == list(range(1, 25))
    assert list(first) == list(range(1, 15)) and list(second) == list(range(15, 25))
    assert {**first, **second} == unbroken
    assert float(unbroken[24]) < float(unbroken[1])


def test_options_are_kept_in_the_checkpoint(trained):
    options = load_checkpoint(trained[0])["cfg"]["model"]
    kept = {name: value for name, value in vars(options).items() if name.startswith("cgc_") or name.endswith("_gct")}
    assert kept == {
        "cgc_checked": True,
        "cgc_gate": "context",
        "cgc_gate_on": "logits",
        "cgc_norm": "heads-latent",
        "cgc_gate_activation": "one-plus-tanh",
        "cgc_zero_init": True,
        "cgc_latent_dim": 5,
        "cgc_pool_factor": 2,
        "encoder_gct": True,
        "cgc_decoder": "source",
        "cgc_layers": "[1,2]",
        "cgc_shuffle_context": False,
        "cgc_lr_scale": 1.0,
        "cgc_pool": "max",
    }


QUICKLY = ["--max-len-b", 30, *NO_WORKERS]  # a model that has hardly been trained ends none of its translations


def test_generate_validate_and_interactive_need_none_of_the_options_again(data, trained, tmp_path):
    options = ["--path", trained[0], "--user-dir", USER_DIR]
    words = ["--beam", 6, "--remove-bpe", "--max-tokens", 2000, *QUICKLY, *EVERY_SENTENCE]
    done = fairseq("generate", data / "bin", *options, *words, start=subprocess.Popen)
    assert "with beam=6: BLEU4 = " in done.stdout
    assert sorted(map(int, re.findall(r"^H-(\d+)\t", done.stdout, re.M))) == list(range(23))
    # fairseq-validate, alone of the commands, has no default task.
    done = fairseq("validate", data / "bin", *options, "--task", "translation", "--max-tokens", 2000, *NO_WORKERS)
    assert re.search(r"loss \d", done.stdout + done.stderr)
    lines = "Ein Hund sieht ein Haus.\n\nxyz qwv\n"
    options += ["--tokenizer", "moses_lowercase", "--bpe", "subword_nmt", "--bpe-codes", data / "bin" / "bpecodes"]
    options += QUICKLY
    done = fairseq("interactive", data / "bin", *options, "--beam", 6, stdin=lines, check=False)
    assert done.returncode == 1 and "error: --tokenizer moses_lowercase is given with" in done.stderr
    options += ["--source-lang", "de", "--target-lang", "en"]
    done = fairseq("interactive", data / "bin", *options, "--beam", 6, stdin=lines)
    assert len(re.findall(r"^D-\d+\t", done.stdout, re.M)) == 3


def test_a_trained_model_is_given_shuffled_context_by_an_override(data, trained):
    options = ["--path", trained[0], "--user-dir", USER_DIR, "--beam", 2, "--batch-size", 23, *QUICKLY, *EVERY_SENTENCE]
    scores = []
    for overrides in ({}, {"cgc_shuffle_context": True}):
        done = fairseq("generate", data / "bin", *options, "--model-overrides", overrides)
        scores.append(re.findall(r"^H-\d+\t(\S+)", done.stdout, re.M))
    assert len(scores[0]) == len(scores[1]) == 23 and scores[0] != scores[1]


@pytest.mark.slow
def test_lightconv_gct_trains_and_translates(data, tmp_path):
    assert len(losses(train(data, tmp_path, "--max-update", 4, arch="lightconv_gct"))) == 4
    path = tmp_path / "checkpoint_last.pt"
    moved = [
        name for name, value in load_checkpoint(path)["model"].items() if name.endswith("gct.gamma") and value.any()
    ]
    assert moved == ["encoder.layers.0.conv.gct.gamma", "encoder.layers.1.conv.gct.gamma"]
    options = ["--path", path, "--user-dir", USER_DIR, "--beam", 2, "--max-tokens", 2000, *QUICKLY, *EVERY_SENTENCE]
    done = fairseq("generate", data / "bin", *options)
    assert len(re.findall(r"^H-", done.stdout, re.M)) == 23


def test_a_sentence_longer_than_the_position_limit_is_skipped_aloud(data, trained):
    options = ["--path", trained[0], "--user-dir", USER_DIR, "--max-source-positions", 50, "--max-tokens", 2000]
    options += ["--model-overrides", "{'max_source_positions': 50}", *QUICKLY]
    done = fairseq("generate", data / "bin", *options, "--skip-invalid-size-inputs-valid-test", *EVERY_SENTENCE)
    assert len(re.findall(r"^H-", done.stdout, re.M)) == 22
    assert "1 samples have invalid sizes and will be skipped" in done.stdout + done.stderr


@pytest.mark.slow
def test_training_goes_on_past_sentences_that_are_empty_or_too_long(data, tmp_path):
    done = train(data, tmp_path, "--train-subset", "test", "--max-source-positions", 50, "--max-update", 3, "--no-save")
    assert len(losses(done)) == 3
    assert "1 samples have invalid sizes and will be skipped" in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--update-freq", "2"],
        ["--fp16", "--fp16-no-flatten-grads"],
        ["--memory-efficient-fp16"],
        ["--amp"],
        pytest.param(["--bf16"], marks=NEEDS_CUDA),
        pytest.param(["--memory-efficient-bf16"], marks=NEEDS_CUDA),
        pytest.param(["--fp16"], marks=NEEDS_CUDA),
        ["--left-pad-source"],  # a switch: turns fairseq's padding on the left off
        ["--criterion", "label_smoothed_cross_entropy_with_rdrop", "--rdrop-alpha", "1.0"],
        ["--criterion", "label_smoothed_cross_entropy_with_simcut"],
    ],
    ids=lambda options: "".join(options),
)
def test_fairseq_s_training_options_work(data, tmp_path, options):
    done = losses(train(data, tmp_path, *options, "--max-update", 3, "--no-save"))
    assert len(done) >= 1 and all(float(loss) > 0 for loss in done.values())


@pytest.mark.slow
def test_a_training_that_keeps_the_best_by_bleu_is_resumed_and_translates(data, tmp_path):
    """fairseq's recipe for this benchmark; the counts of n-grams in its checkpoints are arrays of numpy's."""
    options = ["--eval-bleu", "--eval-bleu-args", '{"beam": 2, "max_len_b": 20}', "--eval-bleu-detok", "moses"]
    options += ["--eval-bleu-remove-bpe", "--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"]
    options += ["--validate-interval-updates", 5, "--save-interval-updates", 5]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    unbroken = losses(train(data, whole, *options, "--max-update", 10))
    first = losses(train(data, stopped, *options, "--max-update", 5))
    assert {**first, **losses(train(data, stopped, *options, "--max-update", 10))} == unbroken
    one, other = (load_checkpoint(folder / "checkpoint_last.pt")["extra_state"] for folder in (whole, stopped))
    assert type(one["best"]) is float and one["best"] == other["best"] and one["val_loss"] == other["val_loss"]
    words = ["--path", stopped / "checkpoint_best.pt", "--user-dir", USER_DIR, "--max-tokens", 2000, *QUICKLY]
    assert "BLEU4 = " in fairseq("generate", data / "bin", *words, *EVERY_SENTENCE).stdout


@pytest.mark.slow
def test_the_user_dir_is_found_from_another_folder_by_a_relative_path(data, tmp_path):
    user_dir = "../" * len(tmp_path.parts[1:]) + USER_DIR.lstrip("/")
    options = ["--max-update", 1, "--no-save", "--user-dir", user_dir]
    assert len(losses(train(data, tmp_path / "run", *options, cwd=tmp_path, start=subprocess.Popen))) == 1


def test_from_pretrained_translates_raw_sentences(data, trained):
    hub = LightConvCGCModel.from_pretrained(trained[0].parent, "checkpoint_last.pt", str(data / "bin"))
    assert hub.tokenize("Ein HUND-Baum, ja.") == "ein hund-baum , ja ."
    assert "@@" in hub.apply_bpe("unbekannt")
    assert isinstance(hub.translate("Ein Hund sieht ein Haus.", beam=6), str)
    assert hub.models[0].encoder.layers[0].conv.gate_on == "logits"


def test_a_hub_can_be_copied_pickled_and_quantized_at_any_time(data, trained):
    hub = LightConvCGCModel.from_pretrained(trained[0].parent, "checkpoint_last.pt", str(data / "bin"))
    sentences = ["Ein Hund sieht ein Haus.", "", "Ein Baum."]
    expected = hub.translate(sentences, beam=2)
    for other in (copy.deepcopy(hub), pickle.loads(pickle.dumps(hub))):
        assert other.translate(sentences, beam=2) == expected and other.models[0] is not hub.models[0]
        with pytest.raises(RuntimeError, match="cannot be trained"):
            other.train()
    quantized = torch.ao.quantization.quantize_dynamic(hub, {torch.nn.Linear})
    assert len(quantized.translate(sentences, beam=2)) == 3
    assert any("quantized" in type(module).__module__ for module in quantized.modules())
    assert hub.translate(sentences, beam=2) == expected


def test_an_option_of_the_wrong_type_is_an_error_before_the_first_sentence(data, trained, tmp_path):
    """It keeps no model from being built, but each from its use."""
    state = load_checkpoint(trained[0])
    state["cfg"]["model"].dropout = "x"
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="model.pt cannot be used for translation: TypeError") as error:
        LightConvCGCModel.from_pretrained(tmp_path, "model.pt", str(data / "bin"))
    assert "\n" not in str(error.value)


def test_a_model_with_shuffled_contexts_can_be_loaded_and_used(data, trained):
    """Which a batch of one sentence cannot be."""
    of = trained[0].parent, "checkpoint_last.pt", str(data / "bin")
    hub = LightConvCGCModel.from_pretrained(*of, cgc_shuffle_context=True)
    assert len(hub.translate(["Ein Hund sieht ein Haus.", "Ein Baum."], beam=2)) == 2


def test_a_raw_sentence_beyond_the_position_limit_is_cut_aloud(data, trained, caplog):
    hub = LightConvCGCModel.from_pretrained(
        trained[0].parent, "checkpoint_last.pt", str(data / "bin"), max_source_positions=30
    )
    assert len(hub.translate(["Baum " * 100, "Baum"], beam=2)) == 2
    assert "is cut to the model's limit of 30" in caplog.text


def test_blank_lines_stay_blank_and_do_not_disturb_the_others(data, trained):
    hub = LightConvCGCModel.from_pretrained(trained[0].parent, "checkpoint_last.pt", str(data / "bin"))
    lines = ["Ein Hund.", "", " \t", "\u00a0\u3000", "\u200b\ufeff", "Ein Baum."]
    wanted = [hub.translate(lines[0], beam=2), "", "", "", "", hub.translate(lines[-1], beam=2)]
    assert hub.translate(lines, beam=2) == wanted
    assert hub.translate("\u3000") == "" and all((wanted[0], wanted[-1]))


def test_prefixes_go_with_their_sentences_past_blank_ones(data, trained):
    hub = LightConvCGCModel.from_pretrained(trained[0].parent, "checkpoint_last.pt", str(data / "bin"))
    words = torch.tensor([[hub.tgt_dict.nspecial + row] for row in range(3)])
    found = hub.sample(["Ein Hund.", "", "Ein Hund."], beam=2, inference_step_args={"prefix_tokens": words})
    wanted = hub.sample(["Ein Hund."] * 2, beam=2, inference_step_args={"prefix_tokens": words[[0, 2]]})
    assert found == [wanted[0], "", wanted[1]] and wanted[0] != wanted[1]
    sentences = ["Ein Hund.", "", "Ein Hund sieht ein Haus, und alles ist gut."]  # which fairseq sorts by length
    for name, rows in (("prefix_tokens", words), ("constraints", pack_constraints([[word] for word in words]))):
        search = {"beam": 4, **({"constraints": "ordered"} if name == "constraints" else {})}
        found = hub.sample(sentences, **search, inference_step_args={name: rows})
        for row in (0, 2):
            [alone] = hub.sample([sentences[row]], **search, inference_step_args={name: rows[[row]]})
            assert found[row] == alone and hub.tgt_dict[words[row, 0]].removesuffix("@@") in alone


def test_a_sentence_longer_than_the_batches_of_the_training_is_translated(data, trained, caplog):
    hub = LightConvCGCModel.from_pretrained(trained[0].parent, "checkpoint_last.pt", str(data / "bin"), max_tokens=20)
    assert hub.translate("Baum " * 50, beam=2) and "is cut" not in caplog.text


def test_a_wrong_option_ends_fairseq_train_with_two_lines_and_no_traceback(data, tmp_path):
    done = train(data, tmp_path / "run", "--cgc-pool-factor", 0, check=False, start=subprocess.Popen)
    assert done.returncode == 1
    words = done.stderr.splitlines()
    assert words[-1] == "error: --cgc-pool-factor is 0; it must be at least 1"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "command, folder, options, words",
    [
        ("train", "{tmp}/no", ["--arch", "lightconv_cgc"], "No such file or directory: '{tmp}/no'"),
        ("train", "{tmp}", ["--arch", "lightconv_cgc"], "Could not infer language pair, please provide it explicitly"),
        ("train", "{tmp}", ["--arch", "lightconv_cgc", "-s", "de", "-t", "en"], "dict.de.txt'"),
        ("generate", "{data}", ["--path", "{model}", "--gen-subset", "dev"], "Dataset not found: dev ({data})"),
        ("validate", "{data}", ["--path", "{model}", "--valid-subset", "dev"], "Dataset not found: dev ({data})"),
    ],
)
def test_what_is_not_there_ends_fairseq_s_commands_with_a_line(
    data, trained, tmp_path, command, folder, options, words
):
    places = {"tmp": tmp_path, "data": data / "bin", "model": trained[0]}
    folder, words, *options = (word.format(**places) for word in (folder, words, *options))
    options += ["--task", "translation", "--max-tokens", 100, "--user-dir", USER_DIR, "--save-dir", tmp_path / "run"]
    done = fairseq(command, folder, *options[: None if command == "train" else -2], check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and words in done.stderr.splitlines()[-1]


def test_a_wrong_choice_is_answered_with_the_choices(data, tmp_path):
    done = train(data, tmp_path, "--cgc-norm", "batch", check=False)
    assert done.returncode == 2 and "choose from" in done.stderr


def test_help_names_the_gate_s_options_and_the_paper_s_sections():
    """fairseq-train's own --help knows no architecture's options; its usage does, after a wrong one."""
    parser = argparse.ArgumentParser()
    LightConvCGCModel.add_args(parser)
    words = " ".join(parser.format_help().split())
    for option in ("gate-on", "norm", "gate-activation", "zero-init", "latent-dim", "pool-factor"):
        assert f"--cgc-{option}" in words
    assert words.count("section") >= 3 and "supplement A.2" in words and "Eq. 2" in words


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    "how, start", [("as code beside the weights", subprocess.Popen), ("as an option that fairseq evaluates", Fork)]
)
def test_fairseq_generate_refuses_a_hostile_checkpoint_and_runs_nothing_of_it(data, trained, tmp_path, how, start):
    state, trace = load_checkpoint(trained[0]), tmp_path / "code-ran"
    if how == "as code beside the weights":
        state["cfg"]["model"].dropout, words = Hostile(trace), r"more than data \(io.open\), and nothing of it was run"
    else:
        state["cfg"]["model"].arch = state["cfg"]["model"]._name = "fconv"
        state["cfg"]["model"].encoder_layers = f"[(32, 3)] * (1 + 0 * len([open({str(trace)!r}, 'w')]))"
        words = "'fconv', which is not among those known to be harmless"
    torch.save(state, tmp_path / "model.pt")
    options = ["--path", tmp_path / "model.pt", "--user-dir", USER_DIR]
    unsafe = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    done = fairseq("generate", data / "bin", *options, check=False, env=unsafe, start=start)
    assert done.returncode == 1 and not trace.exists()
    error = done.stderr.split("error: ")[1]
    assert re.search(words, error) and "weights_only" not in error and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_small_model_overfits_twenty_pairs(tmp_path):
    pairs = sorted(set(sentences(40, "overfit")))[:20]
    for split in SPLITS:
        for side, language in enumerate(("de", "en")):
            (tmp_path / f"{split}.{language}").write_text("".join(p[side] + "\n" for p in pairs), encoding="utf-8")
    prepare({s: tmp_path / s for s in SPLITS}, tmp_path / "data", Settings(bpe_size=100), workers=1)
    options = ["--dropout", 0, "--attention-dropout", 0, "--weight-dropout", 0, "--max-update", 150]
    train(tmp_path / "data", tmp_path, *options, "--save-interval", 999, "--disable-validation", "--label-smoothing", 0)
    done = fairseq(
        "generate", tmp_path / "data" / "bin", "--path", tmp_path / "checkpoint_last.pt", "--user-dir", USER_DIR,
        "--beam", 6, "--remove-bpe", *EVERY_SENTENCE, *NO_WORKERS,
    )  # fmt: skip
    assert len(re.findall(r"^H-", done.stdout, re.M)) == 20
    assert float(re.search(r"BLEU4 = ([\d.]+)", done.stdout)[1]) > 90
