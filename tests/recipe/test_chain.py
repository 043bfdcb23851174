"""The whole of Table 6's chain on a stand-in archive: prepare, train, generate, table; and its bad input."""

import json
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from archive14 import write_archive
from conftest import ROOT, TINY_OPTIONS, command, fairseq, refused, run
from forks import Fork

from fairseq_cgc import LightConvCGCModel
from fairseq_cgc.recipe.checkpoints import load_checkpoint, updates_of
from fairseq_cgc.recipe.files import locked, read_json, read_lines, sha256_of
from fairseq_cgc.text import MosesText

BPE = {"subword_nmt": 120, "sentencepiece": 150}


@pytest.fixture(scope="module", params=list(BPE))
def chain(request, tmp_path_factory):
    """Folders of a preparation and a run, and what the commands said."""
    folder, bpe = tmp_path_factory.mktemp("chain"), request.param
    archive = write_archive(folder / "de-en.tgz")
    data, runs = folder / "data", folder / "runs"
    prepared = command(
        "prepare-iwslt14", "--archive", archive, "--out", data, "--bpe", bpe, "--bpe-size", BPE[bpe], "--workers", 1
    )
    options = ["--data", data, "--runs", runs, "--batch-tokens", 400, "--max-update", 40, "--lr", 0.005]
    command("train", "cgc", *options, "--warmup-updates", 10, *TINY_OPTIONS)
    scored = command("generate", runs / "cgc-seed1", "--average", 2)
    return {"folder": folder, "archive": archive, "data": data, "runs": runs, "prepared": prepared, "scored": scored}


def test_the_preparation_follows_the_recipe_and_warns_of_other_numbers(chain):
    counts = read_json(chain["data"] / "prepare.json")["counts"]
    kept = counts["train"]["pairs"] + counts["valid"]["pairs"]
    assert counts["train"]["raw_pairs"] == 196 and kept == 194 and counts["valid"]["pairs"] == 194 // 23
    assert counts["test"]["pairs"] == 5 * 12
    assert "train 186 instead of 160,239" in chain["prepared"].stdout and "WARNING" in chain["prepared"].stdout
    names = {path.name for path in chain["data"].iterdir()}
    assert {"orig", "raw", "tok", "bpe", "bin", "prepare.json"} <= names
    again = command(
        "prepare-iwslt14", "--archive", chain["archive"], "--out", chain["data"], *preparation_options(chain)
    )
    assert "tokenise" not in again.stdout + again.stderr


def test_awkward_lines_have_the_recipe_s_tokens(chain):
    """Worked out by hand from the recipe's sed lines and Moses' rules."""
    tok = {name: read_lines(chain["data"] / "tok" / name) for name in ("test.de", "test.en", "train.en", "valid.en")}
    assert tok["test.de"][6:9] == ["tom &apos; s rad &amp; amp ; korb", "geschützt .", ""]
    assert tok["test.en"][6:9] == ["tom &apos;s wheel &amp; amp ; basket", "protected .", ""]
    english = tok["train.en"] + tok["valid.en"]
    assert "that is grandma ’ s wheel &amp; amp ; basket ." in english  # the apostrophe is mended in the XML alone
    assert "a sentence with a separator ." in english
    assert "talk 3 : of the basket" in english and "talk 3 is about that ." in english
    assert not any("http" in line or "garden , wheel" in line for line in english)


def preparation_options(chain):
    settings = read_json(chain["data"] / "prepare.json")["settings"]
    return ["--bpe", settings["bpe"], "--bpe-size", settings["bpe_size"]]


def test_translations_are_aligned_with_their_sources_and_references(chain):
    folder = chain["runs"] / "cgc-seed1" / "test"
    sides = {name: read_lines(folder / f"test.{name}") for name in ("de", "en", "hyp", "tok.en", "tok.hyp")}
    assert {len(lines) for lines in sides.values()} == {60}
    assert sides["en"] == read_lines(chain["data"] / "orig" / "test.en")
    assert sides["tok.en"] == read_lines(chain["data"] / "tok" / "test.en")
    assert sides["de"][8] == sides["hyp"][8] == sides["tok.hyp"][8] == ""
    assert not any("@@" in line or "\u2581" in line for line in sides["tok.hyp"])


def test_the_figures_are_fairseq_score_s_and_have_their_signatures(chain):
    folder = chain["runs"] / "cgc-seed1" / "test"
    result = read_json(folder / "scores.json")
    done = fairseq("score", "--sys", folder / "test.tok.hyp", "--ref", folder / "test.tok.en")
    assert float(re.search(r"BLEU4 = ([\d.]+)", done.stdout)[1]) == pytest.approx(
        result["scores"]["tokenised BLEU-4"]["score"], abs=0.005
    )
    assert "case:lc" in result["scores"]["BLEU"]["signature"]
    assert result["generation"]["beam"] == 6 and len(result["generation"]["checkpoints"]) == 2
    assert result["generation"]["sentences_per_second"] > 0
    for score in result["scores"].values():
        assert score["signature"] in chain["scored"].stdout


def test_a_held_out_split_and_further_options_are_told_by_the_signatures(chain, tmp_path):
    said = command(
        "generate", chain["runs"] / "cgc-seed1" / "model", "--split", "valid", "--data", chain["data"], "--out", tmp_path / "v",
        "--beam", 1, "--", "--lenpen", 0.6, "--max-len-b", 3,
    )  # fmt: skip
    result = read_json(tmp_path / "v" / "scores.json")
    signatures = {name: score["signature"] for name, score in result["scores"].items()}
    assert result["generation"]["options"] == ["--lenpen", "0.6", "--max-len-b", "3"]
    assert signatures["tokenised BLEU-4"].endswith(", beam 1 --lenpen 0.6 --max-len-b 3")
    longest = sum(
        len(line.split()) == 5 for line in (tmp_path / "v" / "generate.txt").read_text().splitlines() if line[0] == "P"
    )
    assert longest and f"translations that ended at the limit of 3 tokens: {longest};" in said.stdout
    assert all(signatures[name].endswith(", references detokenised") for name in ("BLEU", "chrF"))
    tokens = read_lines(chain["data"] / "tok" / "valid.en")
    assert read_lines(tmp_path / "v" / "valid.en") == list(map(MosesText("en").detokenise, tokens)) != tokens


def test_the_model_folder_translates_raw_text_from_python_and_from_the_shell(chain):
    model = chain["runs"] / "cgc-seed1" / "model"
    hub = LightConvCGCModel.from_pretrained(str(model))
    sentences = read_lines(chain["data"] / "orig" / "test.de")[:8]
    expected = read_lines(chain["runs"] / "cgc-seed1" / "test" / "test.hyp")[:8]
    assert [hub.translate(sentence, beam=6) for sentence in sentences] == expected
    lines = "".join(s + "\n" for s in sentences)
    assert command("translate", model, stdin=lines, cwd=ROOT).stdout.splitlines() == expected
    assert not lines.isascii()
    ascii_alone = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command("translate", model, stdin=lines, cwd=ROOT, env=ascii_alone, start=subprocess.Popen)
    assert done.stdout.splitlines() == expected, "the subwords are read in UTF-8, whatever the locale says"
    done = command("translate", model, *sentences[:2], cwd=ROOT, env=ascii_alone, start=subprocess.Popen)
    assert done.stdout.splitlines() == expected[:2], "and so is the command line"
    assert "the command line, line 1: byte 0xff at column 2" in refused("translate", model, "a\udcff")


def test_a_sentence_can_be_given_the_context_of_one_of_any_length(chain):
    script = ROOT / "examples" / "study" / "any_length.py"
    gate = torch.arange(64.0).view(64, 1, 1).expand(64, 2, 3)
    other = runpy.run_path(str(script))["another"](gate)
    assert set(other[:, 0, 0].tolist()) == set(range(64)) and not (other == gate).any()
    folder = chain["runs"] / "cgc-seed1"
    expected = read_lines(folder / "test" / "test.hyp")
    alone, together = (run(sys.executable, script, folder, "--batch", size, start=Fork) for size in (1, 64))
    assert alone.stdout.splitlines() == expected, "one that is alone has its own context"
    found = together.stdout.splitlines()
    assert len(found) == len(expected) and found != expected


def test_table_6_is_made_from_the_run_folders(chain):
    done = command("table", chain["runs"], "--corpus", "stand-in")
    assert "no run" in done.stdout
    score = read_json(chain["runs"] / "cgc-seed1" / "test" / "scores.json")["scores"]["tokenised BLEU-4"]["score"]
    assert f"{score:.2f}" in done.stdout
    assert (chain["runs"] / "table.md").exists() and (chain["runs"] / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_a_record_tells_of_the_layers_what_inspect_and_the_encoder_tell_of_the_test_set(chain, tmp_path):
    script = ROOT / "examples" / "study" / "record.py"
    done = run(sys.executable, script, chain["runs"], tmp_path / "record", start=Fork)
    test_set = chain["data"] / "raw" / "test.de"
    command("inspect", chain["runs"] / "cgc-seed1", "--input", test_set, "--out", tmp_path / "gates")
    told = read_json(tmp_path / "gates" / "gates.json")["layers"]
    kept = read_json(tmp_path / "record" / "cgc-seed1" / "layers.json")
    assert len(kept) == len(told) > 1
    for layer, expected in zip(kept, told):
        taps = np.array(expected["kernel_mean"])
        assert layer["kernel_size"] == taps.shape[1] and layer["gate_mean"] == expected["gate"]["mean"]
        assert layer["kernel_sum"] == pytest.approx(taps.sum(1).mean()) and 0 < layer["kernel_sum"] < 1
        assert layer["between_share"] == expected["gate"]["between_share"]
    figures = f"| {kept[0]['kernel_size']} | {kept[0]['branch']:.2f} | {kept[0]['kernel_sum']:.3f} |"
    assert f"| `cgc` | 1 | 1 {figures}" in " ".join(done.stdout.split())
    hub = LightConvCGCModel.from_pretrained(chain["runs"] / "cgc-seed1" / "model")
    last, added, parts = hub.models[0].encoder.layers[-1], [], []
    last.linear2.register_forward_hook(lambda _, inputs, y: added.append(y.detach().flatten()))
    last.register_forward_pre_hook(lambda _, inputs: parts.append(inputs[0].detach().flatten()))
    for tokens in map(hub.encode, read_lines(test_set)):
        hub.models[0].encoder(tokens.unsqueeze(0), torch.tensor([len(tokens)]))
    assert kept[-1]["branch"] == pytest.approx(float(torch.cat(added).norm() / torch.cat(parts).norm()), rel=1e-4)


def test_averaging_by_script_gives_the_model_that_was_scored(chain, tmp_path):
    checkpoints = chain["runs"] / "cgc-seed1" / "checkpoints"
    command(
        "average",
        "--inputs",
        checkpoints,
        "--num-epoch-checkpoints",
        2,
        "--output",
        tmp_path / "average.pt",
    )
    states = [
        torch.load(path)["model"] for path in (tmp_path / "average.pt", chain["runs"] / "cgc-seed1/model/model.pt")
    ]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_a_new_test_set_is_translated_with_the_old_vocabulary(chain, tmp_path):
    for language in ("de", "en"):
        shutil.copy(chain["data"] / "orig" / f"test.{language}", tmp_path / f"new.{language}")
    command(
        "prepare",
        "--vocabulary-of",
        chain["data"],
        "--test",
        tmp_path / "new",
        "--out",
        tmp_path / "new-data",
    )
    run_folder = chain["runs"] / "cgc-seed1"
    out, model = tmp_path / "new-test", (run_folder / "model" / "model.pt").read_bytes()
    generate = ["generate", run_folder, "--average", 2, "--data", tmp_path / "new-data"]
    command(*generate, "--out", out)
    assert read_lines(out / "test.hyp") == read_lines(run_folder / "test" / "test.hyp")
    # Another text goes elsewhere, and another model does not take the place of the run's.
    for language in ("de", "en"):
        lines = read_lines(tmp_path / f"new.{language}")
        (tmp_path / f"new.{language}").write_text("".join(line + "\n" for line in lines[:3]), encoding="utf-8")
    other = ["prepare", "--vocabulary-of", chain["data"], "--test", tmp_path / "new", "--out", tmp_path / "three"]
    command(*other)
    before = (run_folder / "test" / "scores.json").read_bytes()
    generate = ["generate", run_folder / "checkpoints" / "checkpoint1.pt", "--data", tmp_path / "three"]
    fails(command(*generate, check=False), f"{run_folder / 'test'} is for the test split of the run's own data")
    command(*generate, "--out", tmp_path / "of-one")
    made = read_json(tmp_path / "of-one" / "scores.json")["generation"]
    one = load_checkpoint(run_folder / "checkpoints" / "checkpoint1.pt")
    assert made["checkpoints"] == ["checkpoint1.pt"] and made["last"] == updates_of(one, "") < made["updates"]
    assert (run_folder / "test" / "scores.json").read_bytes() == before
    assert (run_folder / "model" / "model.pt").read_bytes() == model
    assert not list(tmp_path.glob(".fairseq-cgc*"))


# What goes wrong. One chain is enough for these.
@pytest.fixture
def run_folder(chain, tmp_path):
    if read_json(chain["data"] / "prepare.json")["settings"]["bpe"] != "subword_nmt":
        pytest.skip("seen with subword_nmt")
    return shutil.copytree(chain["runs"] / "cgc-seed1", tmp_path / "cgc-seed1")


def fails(done, words):
    assert done.returncode == 1 and done.stderr.startswith("error: "), done.stderr
    assert words in done.stderr and done.stderr.count("\n") <= 2, done.stderr


def test_fewer_epochs_than_asked_for(run_folder):
    fails(
        command("generate", run_folder, "--average", 50, check=False),
        "epoch checkpoints and 50 are needed: give --average ",
    )


def test_a_run_that_is_being_written(run_folder):
    with locked(run_folder / ".lock", "x"):
        fails(command("generate", run_folder, "--average", 2, check=False), "is in use by another process")


@pytest.mark.parametrize("name", ["dict.de.txt", "bpe.codes"])
def test_a_data_folder_with_another_vocabulary_of_the_same_size_leaves_all_as_it_is(run_folder, chain, tmp_path, name):
    data = shutil.copytree(chain["data"], tmp_path / "other")
    record = data / "bin" / "prepare.json"
    made = read_json(record)
    file = data / "bin" / ("bpecodes" if name == "bpe.codes" else name)
    *others, one, other = read_lines(file)
    file.write_text("\n".join([*others, other, one]) + "\n")
    made["sha256"][name] = sha256_of(file)
    record.write_text(json.dumps(made), encoding="utf-8")
    before = {path: path.read_bytes() for name in ("test", "model") for path in (run_folder / name).iterdir()}
    done = command("generate", run_folder, "--average", 2, "--data", data, check=False)
    fails(done, f"and the data that {run_folder} was trained on differ in {name}")
    assert before == {path: path.read_bytes() for name in ("test", "model") for path in (run_folder / name).iterdir()}


def test_checkpoints_alone_need_dictionaries_of_their_size(run_folder, chain, tmp_path):
    (run_folder / "run.json").unlink()
    data = shutil.copytree(chain["data"], tmp_path / "other")
    file = data / "bin" / "dict.de.txt"
    file.write_text(file.read_text() + "zusätzlich 1\n", encoding="utf-8")
    fails(command("generate", run_folder, "--average", 2, "--data", data, check=False), "is damaged or was replaced")
    record = data / "bin" / "prepare.json"
    made = read_json(record)
    made["sha256"]["dict.de.txt"] = sha256_of(file)
    record.write_text(json.dumps(made), encoding="utf-8")
    done = command("generate", run_folder, "--average", 2, "--data", data, check=False)
    fails(done, "this is not the model's data folder")


def test_a_split_or_folder_that_is_not_there(run_folder, tmp_path):
    fails(command("generate", run_folder, "--average", 2, "--split", "test2", check=False), "no split 'test2'")
    fails(command("generate", tmp_path / "none", check=False), "none does not exist; give a run folder")
    (run_folder / "run.json").unlink()
    fails(command("generate", run_folder, "--average", 2, check=False), "--data")


def test_a_failing_fairseq_generate_leaves_the_earlier_translations(run_folder):
    before = (run_folder / "test" / "scores.json").read_text()
    done = command("generate", run_folder, "--average", 2, "--sampling", check=False)  # without --nbest
    assert done.returncode == 1 and "fairseq-generate failed" in done.stderr and "Traceback" not in done.stderr
    assert (run_folder / "test" / "scores.json").read_text() == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--archive", "/nowhere/de-en.tgz"], "/nowhere/de-en.tgz does not exist"),
        (["--bpe-size", "0"], "--bpe-size is 0"),
        (["--url", "http://127.0.0.1:9/de-en.tgz"], "--archive"),
        (["--out", "/proc/none"], "cannot be written to"),
    ],
)
def test_a_wrong_option_of_prepare_sh(tmp_path, options, words):
    assert words in refused("prepare-iwslt14", "--out", tmp_path / "data", *options)


@pytest.mark.parametrize(
    "options, words",
    [
        (["--train", "x"], "--source-lang is missing"),
        (
            ["--train", "x", "--source-lang", "de", "--target-lang", "en"],
            "neither x.de nor x.de with .gz, .bz2, .xz exists",
        ),
        (["--train", "x", "--source-lang", "de", "--target-lang", "en", "--workers", "-1"], "--workers is -1"),
        (["--vocabulary-of", "/nowhere"], "/nowhere holds no finished preparation"),
        (
            ["--vocabulary-of", "/nowhere", "--source-lang", "de"],
            "--source-lang cannot be combined with --vocabulary-of",
        ),
    ],
)
def test_a_wrong_option_of_prepare_corpus(tmp_path, options, words):
    assert words in refused("prepare", "--test", "x", "--out", tmp_path / "data", *options)


@pytest.mark.parametrize(
    "options, words",
    [
        ([], "is a folder; choose among"),
        (["--num-epoch-checkpoints", "0"], "--num-epoch-checkpoints is 0"),
        (["--num-update-checkpoints", "1"], "has 0 update checkpoints and 1 are needed"),
    ],
)
def test_a_wrong_option_of_average_checkpoints(tmp_path, options, words):
    assert words in refused("average", "--inputs", tmp_path, "--output", tmp_path / "out.pt", *options)


def test_an_archive_of_another_kind_than_before(tmp_path):
    archive = write_archive(tmp_path / "de-en.tgz")
    options = ["--out", tmp_path / "data", "--bpe-size", 100, "--workers", 1]
    command("prepare-iwslt14", "--archive", archive, *options)
    (tmp_path / "other.tgz").write_bytes(archive.read_bytes() + b"\0")
    fails(
        command("prepare-iwslt14", "--archive", tmp_path / "other.tgz", *options, check=False),
        "from an archive other than",
    )
    other = command("prepare-iwslt14", "--source-lang", "fr", "--archive", archive, *options, check=False)
    fails(other, "is of de and en, and fr and en are requested; choose another --out")
    fails(command("prepare-iwslt14", *options, "--keep-case", check=False), "other settings: lowercase True there")
