"""Training by the protocol, and what stands around it: layouts, records, resuming, several processes."""

import argparse
import json
import logging
import os
import re
import shutil
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_OPTIONS, Task, command, refused, run, write_record
from fairseq import options as fairseq_options
from fairseq.dataclass.configs import DistributedTrainingConfig
from fairseq.models import ARCH_MODEL_REGISTRY
from test_files import ended_well, forked
from test_processes import gone, read_ids
from tqdm import tqdm

from fairseq_cgc.compat import WORLD_SIZE
from fairseq_cgc.errors import CheckpointError, CorpusError, OptionError, UserError
from fairseq_cgc.recipe import training
from fairseq_cgc.recipe.checkpoints import count_parameters, load_checkpoint
from fairseq_cgc.recipe.command_line import parse
from fairseq_cgc.recipe.distributed import distributed_options
from fairseq_cgc.recipe.fairseq_options import batch_options, check_numbers, precision_options, without_limits
from fairseq_cgc.recipe.files import is_locked, locked, read_json, read_lines, sha256_of
from fairseq_cgc.recipe.rows import ROWS, SYSTEMS, TRAINED, row_options
from fairseq_cgc.recipe.training import join_training, keep_place_in_epoch, launcher, parse_figures, plan

NO_DROPOUT = ["--dropout", "0", "--attention-dropout", "0", "--weight-dropout", "0"]
TINY_RUN = [*TINY_OPTIONS, "--warmup-updates", "10", "--lr", "0.005"]


def train_row(row, prepared, runs, *options, check=True):
    options = ["--data", prepared, "--runs", runs, "--batch-tokens", 400, *TINY_RUN, *options]
    return command("train", row, *options, check=check)


def losses(run_folder):
    """Update to training loss, as logged at the end of each epoch."""
    lines = [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]
    return {line["train_num_updates"]: line["train_loss"] for line in lines if line["event"] == "train"}


def test_what_decides_how_long_a_run_trains_or_what_it_keeps_is_none_of_its_options():
    options = ["--lr", "1", "--max-epoch", "3", "--patience=2", "--fp16", "--stop-time-hours", "1", "--dropout", "0.1"]
    options += ["--keep-best-checkpoints", "5", "--save-interval=2", "--no-epoch-checkpoints", "--reset-dataloader"]
    assert without_limits(options) == ["--lr", "1", "--fp16", "--dropout", "0.1"]
    options = ["--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric", "--lr-scheduler"]
    assert without_limits([*options, "cosine"]) == ["--lr-scheduler", "cosine"]
    asked = [*options, "reduce_lr_on_plateau"]
    assert without_limits(asked) == asked


@pytest.mark.parametrize(
    "row, arch, parameters",
    [
        ("transformer", "transformer_iwslt_de_en", 39_469_056),
        ("lightconv", "lightconv_iwslt_de_en", 38_139_436),
        ("dynamic", "lightconv_iwslt_de_en", 38_447_576),
        ("cgc", "lightconv_cgc", 38_148_144),
        ("cgc-constant", "lightconv_cgc", 38_139_436),
        ("gct", "lightconv_gct", 38_150_188),
        ("cgc-gct", "lightconv_cgc", 38_158_896),
        ("cgc-dynamic", "lightconv_cgc", 38_456_284),
        ("cgc-source", "lightconv_cgc", 38_154_836),
        ("cgc-rdrop", "lightconv_cgc", 38_148_144),
        ("cgc-simcut", "lightconv_cgc", 38_148_144),
        ("cgc-none", "lightconv_cgc", 38_139_436),
    ],
)
def test_a_row_s_command_builds_the_row_s_model(row, arch, parameters):
    parser = fairseq_options.get_training_parser()
    args = fairseq_options.parse_args_and_arch(parser, ["data", *row_options(row), "--max-tokens", "4000"])
    args.max_source_positions = args.max_target_positions = 1024
    assert args.arch == arch
    model = ARCH_MODEL_REGISTRY[arch].build_model(args, Task(8848, 6632))
    assert sum(p.numel() for p in model.parameters()) == parameters
    options = {name: vars(args)[name] for name in ("dropout", "attention_dropout", "label_smoothing", "warmup_updates")}
    assert options == {"dropout": 0.3, "attention_dropout": 0.1, "label_smoothing": 0.1, "warmup_updates": 4000}
    assert args.weight_decay == 0.0001 and args.lr == [5e-4] and args.clip_norm == 0 and args.warmup_init_lr == 1e-7
    own = {
        "cgc-rdrop": "label_smoothed_cross_entropy_with_rdrop",
        "cgc-simcut": "label_smoothed_cross_entropy_with_simcut",
    }
    assert args.criterion == own.get(row, "label_smoothed_cross_entropy")
    if row != "transformer":
        assert args.weight_dropout == 0.1 and not args.encoder_glu and not args.decoder_glu
        assert args.decoder_conv_type == "lightweight"


@pytest.mark.parametrize("row, options", [(row, ROWS[row].options.split()) for row in TRAINED if ROWS[row].of])
def test_a_variant_is_cgc_with_what_it_changes(row, options):
    made, plain = (
        vars(
            fairseq_options.parse_args_and_arch(
                fairseq_options.get_training_parser(), ["data", *row_options(name), "--max-tokens", "400"]
            )
        )
        for name in (row, "cgc")
    )
    changed = {name for name, value in made.items() if plain[name] != value}
    assert changed == {option[2:].replace("-", "_") for option in options if option.startswith("--")}


def test_no_row_sets_an_option_that_its_gate_does_not_heed_and_who_does_is_told(caplog):
    def parse(words):
        fairseq_options.parse_args_and_arch(
            fairseq_options.get_training_parser(), ["data", *words, "--max-tokens", "400"]
        )
        return caplog.text

    assert not any("of no effect" in parse(row_options(row)) for row in TRAINED if "--cgc-gate" in row_options(row))
    words = "--cgc-pool max --cgc-shuffle-context --cgc-gate-activation one-plus-tanh".split()
    told = parse(["--arch", "lightconv_cgc", "--cgc-gate", "summary", *words])
    assert "--cgc-pool: of no effect with --cgc-gate summary" in told
    words = "--cgc-layers [1] --cgc-gate-on logits --cgc-decoder source --encoder-gct".split()
    told = parse(["--arch", "lightconv_cgc", "--cgc-gate", "none", *words])
    assert "--cgc-layers, --cgc-gate-on, --cgc-decoder: of no effect with --cgc-gate none" in told


@pytest.mark.slow
def test_a_resumed_run_keeps_the_gate_s_rate(prepared, tmp_path):
    """Stopped and resumed within an epoch: the parameters of a run that was never stopped."""
    for name, updates in (("whole", 8), ("halves", 4), ("halves", 8)):
        train_row("cgc-slow", prepared, tmp_path / name, "--max-update", updates)
    unbroken, halves = (
        load_checkpoint(tmp_path / name / "cgc-slow-seed1" / "checkpoints" / "checkpoint_last.pt")
        for name in ("whole", "halves")
    )
    assert all(torch.equal(value, halves["model"][name]) for name, value in unbroken["model"].items())
    rates = [group["lr"] for group in halves["last_optimizer_state"]["param_groups"]]
    assert rates[1] == pytest.approx(0.1 * rates[0])


TABLE_6 = {"transformer", "lightconv", "dynamic", "cgc"}


def test_there_is_no_other_row():
    with pytest.raises(OptionError, match="no row 'lstm'; choose from transformer, lightconv"):
        row_options("lstm")
    assert set(SYSTEMS) == {*TABLE_6, "cgc-constant", "gct", "cgc-gct", "cgc-dynamic", "cgc-source", "cgc-rdrop"} | {
        "cgc-simcut"
    }


@pytest.mark.parametrize(
    "devices, max_tokens, options",
    [(1, None, (4000, 1)), (4, None, (1000, 1)), (1, 1000, (1000, 4)), (2, 500, (500, 4)), (8, 125, (125, 4))],
)
def test_an_update_has_the_same_tokens_on_any_hardware(devices, max_tokens, options):
    made = batch_options(devices, max_tokens)
    assert made == ["--max-tokens", str(options[0]), "--update-freq", str(options[1])]
    assert devices * options[0] * options[1] == 4000


@pytest.mark.parametrize(
    "devices, max_tokens, words",
    [
        (3, None, "4000 tokens per update cannot be divided among 3 devices"),
        (0, None, "number of devices is 0"),
        (2, 1500, "--max-tokens 1500 does not divide the 2000 tokens"),
        (1, 8000, "--max-tokens 8000 does not divide"),
        (1, 0, "--max-tokens 0 does not divide"),
        (5000, None, "cannot be divided"),
    ],
)
def test_what_cannot_be_divided_is_an_error(devices, max_tokens, words):
    with pytest.raises(OptionError, match=words):
        batch_options(devices, max_tokens)


def test_one_device_needs_no_torchrun_and_several_machines_need_a_master():
    assert launcher(1)[1:3] == ["-m", "fairseq_cli.train"] and launcher(1)[-2:] == ["--device-id", "0"]
    assert launcher(2)[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = launcher(4, nodes=2, node_rank=1, master="here:29500") if not torch.cuda.is_available() else []
    for words in (["--nnodes", "2"], ["--node-rank", "1"], ["--master-addr", "here"], ["--master-port", "29500"]):
        assert not command or command[command.index(words[0]) + 1] == words[1]
    with pytest.raises(OptionError, match="needs --master HOST:PORT"):
        launcher(1, nodes=2)
    with pytest.raises(OptionError, match="--node-rank is 2"):
        launcher(1, nodes=2, node_rank=2, master="here:1")


@pytest.mark.parametrize("gpus", [1, 2])
def test_no_more_gpus_are_taken_than_were_asked_for(prepared, tmp_path, monkeypatch, gpus):
    """fairseq's default is all that it sees, each with a batch of its own."""
    monkeypatch.setattr(DistributedTrainingConfig.__dataclass_fields__["distributed_world_size"], "default", 4)
    words = ["train", "cgc", "--data", prepared, "--runs", tmp_path, "--gpus", gpus, "--max-tokens", 1000]
    command = plan(parse(list(map(str, words))))[-1]
    fairseqs = command[command.index(WORLD_SIZE) :]
    args = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), fairseqs)
    assert args.distributed_world_size == gpus
    with pytest.raises(
        OptionError, match=f"--distributed-world-size is decided by this command: {gpus}, and not 4; give"
    ):
        plan(parse([*map(str, words), WORLD_SIZE, "4"]))


def test_half_precision_needs_a_gpu():
    assert precision_options("fp32", cuda=False) == [] and precision_options("bf16", cuda=True) == ["--bf16"]
    with pytest.raises(OptionError, match="--precision bf16 needs a GPU"):
        precision_options("bf16", cuda=False)


def test_a_process_of_several_is_told_its_place_and_gloo_without_a_gpu():
    environment = {"RANK": "3", "LOCAL_RANK": "1"}
    options = distributed_options(environment, cuda=True)
    assert options[options.index("--distributed-rank") + 1] == "3"
    assert options[options.index("--device-id") + 1] == "1" and "--cpu" not in options
    options = distributed_options(environment, cuda=False)
    assert options[options.index("--distributed-backend") + 1] == "gloo" and "--cpu" in options


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory):
    """A run of one process, which accumulates what several would take."""
    runs = tmp_path_factory.mktemp("alone")
    train_row("cgc", prepared, runs, *TOGETHER, "--max-tokens", 200)
    return runs / "cgc-seed1"


TOGETHER = [*NO_DROPOUT, "--max-update", 8, "--keep", 1]


def assert_the_same_training(one, two):
    assert max(losses(one)) == max(losses(two)) == 8
    states = [torch.load(run / "checkpoints" / "checkpoint_last.pt")["model"] for run in (one, two)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-4)


def test_a_run_that_goes_on_with_more_or_fewer_processes_is_the_run_of_one(alone, prepared, tmp_path):
    for updates, processes in ((3, 1), (5, 2), (7, 2), (8, 1)):  # stopped within epochs, too
        layout = ["--gpus", processes, "--max-tokens", 200]
        done = train_row("cgc", prepared, tmp_path, *NO_DROPOUT, "--keep", 1, "--max-update", updates, *layout)
        assert ("torch.distributed.run" in done.stdout) == (processes == 2)
    assert_the_same_training(alone, tmp_path / "cgc-seed1")


def test_a_second_machine_s_training_ends_with_a_command_that_is_killed(tmp_path):
    note = f"import os, time; open({str(tmp_path / 'ids')!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = forked(lambda: join_training([sys.executable, "-c", note]))
    [pid] = read_ids(tmp_path / "ids", 1)
    os.kill(parent, signal.SIGKILL)
    assert not ended_well(parent) and gone(pid)


@pytest.mark.parametrize("damage", [{"extra_state": {}}, {"cfg": None}, {"cfg": {"model": {}}}])
def test_a_last_checkpoint_that_has_lost_its_place_is_named(tmp_path, monkeypatch, damage):
    (tmp_path / "checkpoint_last.pt").touch()
    whole = {
        "extra_state": {"train_iterator": {"iterations_in_epoch": 2}},
        "cfg": {"optimization": {"update_freq": [1]}},
    }
    monkeypatch.setattr(training, "load_checkpoint", lambda path: {**whole, **damage})
    with pytest.raises(CheckpointError, match="checkpoint_last.pt does not record where in its epoch it stopped"):
        keep_place_in_epoch(tmp_path, "1")


def test_two_machines_have_the_losses_of_one(alone, prepared, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options = [*TOGETHER, "--nodes", 2, "--master", f"127.0.0.1:{free.getsockname()[1]}"]
    with ThreadPoolExecutor(2) as pool:
        machines = [pool.submit(train_row, "cgc", prepared, tmp_path, *options, "--node-rank", rank) for rank in (0, 1)]
        assert all("--nnodes 2" in machine.result().stdout for machine in machines)
    assert_the_same_training(alone, tmp_path / "cgc-seed1")


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return runs, train_row("cgc-constant", prepared, runs, "--max-update", 12, "--keep", 2)


def test_a_run_says_its_command_and_keeps_its_record(finished, prepared):
    runs, done = finished
    record = read_json(runs / "cgc-constant-seed1" / "run.json")
    assert (record["row"], record["seed"], record["updates"], record["done"]) == ("cgc-constant", 1, 12, 12)
    assert record["data"]["target_lang"] == "en" and record["batch_tokens"] == 400
    assert record["data"]["sha256"] == read_json(prepared / "bin" / "prepare.json")["sha256"]
    assert "--cgc-gate constant" in done.stdout and "--max-update 12" in done.stdout
    names = {path.name for path in (runs / "cgc-constant-seed1" / "checkpoints").iterdir()}
    assert {"checkpoint_last.pt", "checkpoint_best.pt"} < names
    state = torch.load(runs / "cgc-constant-seed1" / "checkpoints" / "checkpoint_last.pt")
    assert not any(".gate." in name for name in state["model"]) and count_parameters(state) > 0


def test_a_finished_run_is_left_alone_and_more_updates_train_on(finished, prepared, tmp_path):
    runs = tmp_path / "runs"
    run("cp", "-r", finished[0], runs)
    assert "already done" in train_row("cgc-constant", prepared, runs, "--max-update", 12, "--keep", 2).stdout
    train_row("cgc-constant", prepared, runs, "--max-update", 16, "--keep", 2, "--max-tokens", 200)  # another layout
    assert max(losses(runs / "cgc-constant-seed1")) == 16
    assert "Loaded checkpoint" in (runs / "cgc-constant-seed1" / "train.log").read_text()
    record = runs / "cgc-constant-seed1" / "run.json"
    for done in (16, 0):  # as it is, and as if the run had been stopped there
        record.write_text(json.dumps({**read_json(record), "done": done}))
        fewer = train_row("cgc-constant", prepared, runs, "--max-update", 5, check=False)
        assert fewer.returncode == 1 and "was trained for 16 updates and 5 are requested" in fewer.stderr


def test_a_training_that_fairseq_ended_early_is_recorded_as_far_as_it_came_and_goes_on(finished, prepared, tmp_path):
    run("cp", "-r", finished[0], tmp_path / "runs")
    folder, options = tmp_path / "runs" / "cgc-constant-seed1", ["--keep", 2, "--max-update", 16]
    epochs = max(losses(folder)) // min(losses(folder))
    done = train_row("cgc-constant", prepared, tmp_path / "runs", *options, "--max-epoch", epochs)
    record = read_json(folder / "run.json")
    assert "--max-epoch" in done.stdout and "--max-epoch" not in record["options"]
    assert f"ended after {record['done']} of 16 updates" in done.stdout
    assert record["updates"] == record["done"] == max(losses(folder)) < 16
    again = train_row("cgc-constant", prepared, tmp_path / "runs", *options, "--max-epoch", epochs)
    assert "already done" in again.stdout and read_json(folder / "run.json") == record
    train_row("cgc-constant", prepared, tmp_path / "runs", *options)
    assert read_json(folder / "run.json")["done"] == max(losses(folder)) == 16


def test_a_training_that_time_has_ended_goes_on_by_the_same_command(prepared, tmp_path, monkeypatch):
    commands, options = [], ["--lr-scheduler", "cosine", "--stop-time-hours", "1"]
    monkeypatch.setattr(training, "follow_training", lambda command, *_: commands.append(command))
    monkeypatch.setattr(training, "mend_last_checkpoint", lambda _: 4)
    monkeypatch.setattr(training, "keep_place_in_epoch", lambda *_: None)
    for _ in range(2):
        training.train(tmp_path / "run", "cgc", 1, options, prepared, 9)
    assert len(commands) == 2 and read_json(tmp_path / "run" / "run.json")["done"] == 4


def test_a_run_of_an_earlier_version_resumes_whatever_it_recorded_that_had_no_effect(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "follow_training", lambda *_: None)
    monkeypatch.setattr(training, "mend_last_checkpoint", lambda _: 4)
    monkeypatch.setattr(training, "keep_place_in_epoch", lambda *_: None)
    options = ["--dropout", "0.2", "--num-workers", "2", "--keep-last-epochs", "3", "--update-freq", "2"]
    write_record(tmp_path, options=options, data=training.data_record(prepared), done=2)
    training.train(tmp_path, "cgc", 1, options[:2], prepared, 4)
    assert read_json(tmp_path / "run.json")["done"] == 4


def test_another_machine_has_nothing_to_join_where_the_run_is_done(prepared, tmp_path, monkeypatch, capsys):
    joined, options = (
        [],
        ["--data", prepared, "--runs", tmp_path, "--batch-tokens", 400, "--nodes", 2, "--node-rank", 1],
    )
    options += ["--master", "localhost:29500", "--max-update", 9]
    monkeypatch.setattr(training, "join_training", joined.append)
    training.main(parse(["train", "cgc", *map(str, options)]))
    write_record(tmp_path / "cgc-seed1", updates=9, done=9)
    training.main(parse(["train", "cgc", *map(str, options)]))
    assert len(joined) == 1 and "already done" in capsys.readouterr().out


def test_other_options_other_data_and_a_run_being_written_are_refused(finished, prepared, tmp_path):
    runs = finished[0]
    other = train_row("cgc-constant", prepared, runs, "--max-update", 20, "--label-smoothing", "0.2", check=False)
    assert other.returncode == 1 and "holds another run: --label-smoothing: 0.1 there, 0.2 requested." in other.stderr
    record = read_json(runs / "cgc-constant-seed1" / "run.json")
    arguments = (runs / "cgc-constant-seed1", "cgc-constant", 1, record["options"], prepared, 12)
    run("cp", "-r", prepared, tmp_path / "data")
    changed = tmp_path / "data" / "bin" / "prepare.json"
    changed.write_text(changed.read_text().replace('"dict.de.txt": "', '"dict.de.txt": "0'))
    with pytest.raises(UserError, match=r"holds another run: data dict.de.txt: \w+ there, 0\w+ requested"):
        training.train(*arguments[:4], tmp_path / "data", 12, batch_tokens=400)
    with locked(runs / "cgc-constant-seed1" / ".lock", "x"), pytest.raises(UserError, match="in use by another"):
        training.train(*arguments, batch_tokens=400)


def test_half_a_last_checkpoint_is_replaced_by_the_last_whole_epoch(finished, prepared, tmp_path):
    runs = tmp_path / "runs"
    run("cp", "-r", finished[0], runs)
    last = runs / "cgc-constant-seed1" / "checkpoints" / "checkpoint_last.pt"
    last.write_bytes(last.read_bytes()[:20000])
    done = train_row("cgc-constant", prepared, runs, "--max-update", 14, "--keep", 2)
    assert "checkpoint_last.pt is truncated" in done.stdout and "resuming from checkpoint" in done.stdout
    assert max(losses(runs / "cgc-constant-seed1")) == 14


@pytest.mark.slow
def test_fairseq_train_ends_with_the_command_that_started_it_and_leaves_the_run_free(tmp_path):
    """As after a kill of train.sh alone."""
    code = f"""
import os, sys
from pathlib import Path
from fairseq_cgc.recipe.files import locked
from fairseq_cgc.recipe.training import follow_training
log = Path({str(tmp_path)!r}, "train.log")
with locked({str(tmp_path / ".lock")!r}, "x") as lock:
    command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    os.spawnl(os.P_NOWAIT, "/bin/sh", "sh", "-c", f"while [ ! -s '{{log}}' ]; do sleep 0.2; done; kill -9 {{os.getpid()}}")
    follow_training(command, log.parent, 1, lock)
"""
    assert run(sys.executable, "-c", code, cwd=ROOT, check=False).returncode == -9
    child = Path("/proc", (tmp_path / "train.log").read_text().strip(), "stat")

    def lives():
        return child.exists() and child.read_text().split()[2] != "Z"

    deadline = time.monotonic() + 20
    while (lives() or is_locked(tmp_path / ".lock")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not lives() and not is_locked(tmp_path / ".lock")


@pytest.mark.parametrize("cut", [0, 7])
def test_figures_that_a_killed_parent_did_not_write_down_are_taken_from_the_trainings_own_log(tmp_path, cut):
    """fairseq-train ends with it, but may have said more before; a line of either file may be cut off."""
    lines = [json.dumps({"epoch": 1, "loss": "9.2", "num_updates": str(update)}) for update in (20, 40, 60)]
    words = "starting\n" + "".join(f"2026 | INFO | train_inner | {line}\n" for line in lines)
    (tmp_path / "train.log").write_text(words[: len(words) - cut])
    wanted = [{"event": "train_inner", "epoch": 1, "loss": 9.2, "num_updates": update} for update in (20, 40, 60)]
    (tmp_path / "log.jsonl").write_text(json.dumps(wanted[0]) + "\n" + json.dumps(wanted[1])[:10])
    command = [sys.executable, "-c", 'print(\'x | INFO | valid | {"valid_loss": "4"}\')']
    training.complete_figures(tmp_path)
    with locked(tmp_path / ".lock", "x") as lock:
        training.follow_training(command, tmp_path, 1, lock)
    whole, broken = [], []
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        try:
            whole.append(json.loads(line))
        except ValueError:
            broken.append(line)
    assert whole == [*(wanted[:2] if cut else wanted), {"event": "valid", "valid_loss": 4}]
    assert broken == [json.dumps(wanted[1])[:10]]


def test_a_log_without_a_bar_hears_of_a_slow_training_now_and_then(tmp_path, monkeypatch, capsys):
    """Every tenth of the updates, and by time where these take long."""
    lines = [f"x | INFO | train_inner | {json.dumps({'loss': '9', 'num_updates': n})}" for n in (1, 2, 3)]
    command = [sys.executable, "-c", f"print(*{lines!r}, sep=chr(10))"]
    for every, told in ((600, []), (0, ["1/1000", "2/1000", "3/1000"])):
        monkeypatch.setattr(training, "TELL_EVERY", every)
        with locked(tmp_path / ".lock", "x") as lock:
            training.follow_training(command, tmp_path, 1000, lock)
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == told


def test_a_bar_starts_with_a_word_and_ends_at_100_percent(tmp_path, monkeypatch, capfd):
    class Bar(tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": False, "mininterval": 0})

    monkeypatch.setattr(training, "tqdm", Bar)
    log = 'import time; time.sleep(0.5); print(\'x | INFO | train | {"train_num_updates": "30"}\')'
    with locked(tmp_path / ".lock", "x") as lock:
        training.follow_training([sys.executable, "-c", log], tmp_path, 30, lock)
    shown = capfd.readouterr().err.split("\r")
    assert "0/30" in shown[1] and any("starting" in words for words in shown[:3]) and "30/30" in shown[-1]
    assert len(shown) > 4  # the clock moves while there is nothing to tell


def test_the_validation_skips_sentences_beyond_the_model_and_takes_all_others_whatever_the_batch(prepared):
    options = training.validation_options(prepared, ["--max-tokens", "4"])
    longest = max(
        len(line.split()) + 1 for side in ("de", "en") for line in read_lines(prepared / "bpe" / f"valid.{side}")
    )
    assert "--skip-invalid-size-inputs-valid-test" in options
    assert options[options.index("--max-tokens-valid") + 1] == str(longest)
    assert "--max-tokens-valid" not in training.validation_options(prepared, ["--max-tokens", "4000"])
    positions = ["--max-source-positions", "9", "--max-target-positions", "9"]
    options = training.validation_options(prepared, ["--max-tokens", "4", *positions])
    assert int(options[options.index("--max-tokens-valid") + 1]) <= 9 < longest


def test_a_batch_that_cannot_hold_a_training_sentence_is_refused_before_any_work(prepared, tmp_path):
    longest = max(len(line.split()) + 1 for n in ("de", "en") for line in read_lines(prepared / "bpe" / f"train.{n}"))
    training.check_batch(prepared, ["--max-tokens", str(longest)])
    words = refused("train", "cgc", "--data", prepared, "--runs", tmp_path, "--batch-tokens", 10)
    assert words.startswith(
        f"a batch has 10 tokens on each device and the longest training sentence has {longest}; raise"
    )
    assert not (tmp_path / "cgc-seed1" / "run.json").exists()


def test_a_training_that_fails_on_a_full_disk_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(training.shutil, "disk_usage", lambda _: argparse.Namespace(free=300_000))
    fails = [sys.executable, "-c", "import sys; sys.exit('enforce fail at inline_container.cc')"]
    with locked(tmp_path / ".lock", "x") as lock, pytest.raises(UserError, match="the disk has 0 MiB left: free space"):
        training.follow_training(fails, tmp_path, 2, lock)
    (tmp_path / "log.jsonl").unlink(missing_ok=True)
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    says = [sys.executable, "-c", """print('| train_inner | {"num_updates": "1", "loss": "1"}')"""]
    with locked(tmp_path / ".lock", "x") as lock, pytest.raises(UserError, match="log.jsonl could not be written"):
        training.follow_training(says, tmp_path, 2, lock)


def test_a_training_starts_from_the_model_that_it_is_to_refine(finished, prepared, tmp_path):
    """With a rate of almost 0 it stays what it was."""
    runs, _ = finished
    options = ["--max-update", 1, "--lr", 1e-9, "--weight-decay", 0]
    train_row("cgc-constant", prepared, tmp_path, *options, "--finetune-from", runs / "cgc-constant-seed1")
    first, refined = (
        load_checkpoint(folder / "cgc-constant-seed1" / "checkpoints" / "checkpoint_last.pt")["model"]
        for folder in (runs, tmp_path)
    )
    assert first.keys() == refined.keys()
    assert all(torch.allclose(value, refined[name], atol=1e-6) for name, value in first.items())


def test_a_model_to_refine_whose_name_fairseq_cannot_read_or_that_is_none_is_refused(finished, prepared, tmp_path):
    options = ["train", "cgc-constant", "--data", prepared, "--runs", tmp_path / "runs", "--batch-tokens", 400]
    odd = shutil.copytree(finished[0] / "cgc-constant-seed1", tmp_path / "a:b")
    assert "--finetune-from" in (words := refused(*options, "--finetune-from", odd)) and "separates paths" in words
    assert "does not exist" in refused(*options, "--finetune-from", tmp_path / "nowhere")


def test_a_model_to_refine_keeps_what_its_gates_make_of_their_weights(finished, prepared, tmp_path):
    base = finished[0] / "cgc-constant-seed1"
    options = ["--data", prepared, "--runs", tmp_path, "--batch-tokens", 400, "--finetune-from", base, *TINY_RUN]
    words = refused("train", "cgc-constant", *options, "--cgc-gate-activation", "one-plus-tanh")
    assert (
        "were trained with --cgc-gate-activation sigmoid, and with one-plus-tanh the same weights are other gates"
        in words
    )
    assert "give --cgc-gate-activation sigmoid" in words
    assert "with none the same weights are other gates" in refused("train", "cgc-none", *options)
    for row, extra in (
        ("cgc-constant", []),
        ("cgc-constant", ["--cgc-pool", "max"]),  # which it does not heed
        ("cgc", ["--cgc-gate-activation", "one-plus-tanh"]),
    ):
        training.plan(parse(["train", row, *map(str, [*options, *extra])]))  # the last one's gates are new


def test_languages_are_named_to_fairseq_which_would_guess_them_from_file_names(prepared, tmp_path):
    words = " ".join(training.train_command(tmp_path, 1, [], prepared, 1))
    assert "--source-lang de --target-lang en" in words


def test_sentences_that_a_training_drops_are_told_once(tmp_path, capsys):
    line = "2026 | WARNING | fairseq.tasks.fairseq_task | 1,200 samples have invalid sizes and will be skipped, max=9"
    with locked(tmp_path / ".lock", "x") as lock:
        command = [sys.executable, "-c", f"print({line!r}); print({line!r})"]
        training.follow_training(command, tmp_path, 1, lock)
    words = capsys.readouterr().out
    assert words.count("WARNING: 1,200 samples have invalid sizes and will be skipped, max=9") == 1


def test_a_training_that_fails_ends_with_its_last_words(prepared, tmp_path):
    done = train_row(
        "cgc", prepared, tmp_path, "--max-update", 2, "--finetune-from-model", tmp_path / "x.pt", check=False
    )
    assert done.returncode == 1 and "fairseq-train failed with exit status" in done.stderr
    assert f"--finetune-from-model {tmp_path}/x.pt does not exist" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "options, words",
    [
        (["--foo-bar", "3"], "fairseq-train would refuse this: unrecognized arguments: --foo-bar 3"),
        (["--fp16", "--bf16"], "would refuse this: Cannot combine --fp16 and --"),
        (["--encoder-kernel-size-list", "[3,"], "would refuse this: .*never closed"),
        (["--max-epoch", "x"], "argument --max-epoch: invalid int value: 'x'"),
        (["--arch", "transformer_x"], r"argument --arch/-a: invalid choice: 'transformer_x' .* \.\.\.$"),
        (["--cgc-pool-factor", "0"], "^--cgc-pool-factor is 0; it must be at least 1"),
    ],
)
def test_what_fairseq_train_would_refuse_is_refused_before_it_starts(prepared, tmp_path, monkeypatch, options, words):
    monkeypatch.setattr(logging.root.manager, "disable", logging.INFO)  # as commands have it
    found = refused("train", "cgc", "--data", prepared, "--runs", tmp_path / "runs", "--batch-tokens", 400, *options)
    assert re.search(words, found) and not (tmp_path / "runs").exists()
    assert logging.root.manager.disable == logging.INFO


def test_a_run_that_never_trained_gives_way_to_the_corrected_command(prepared, tmp_path, monkeypatch):
    """As after a mistyped option; with a checkpoint, the same folder is another run's."""
    commands = []
    monkeypatch.setattr(training, "follow_training", lambda command, *_: commands.append(command))
    arguments = (prepared, 4, ["fairseq-train"])
    run_folder = tmp_path / "cgc-seed1"
    (run_folder / "checkpoints").mkdir(parents=True)
    write_record(run_folder, options=["--dropuot", "0.1"], data=training.data_record(prepared), done=0)
    (run_folder / "log.jsonl").write_text("{}")
    (run_folder / "checkpoints" / "checkpoint1.pt").write_text("")
    with pytest.raises(UserError) as error:
        training.train(run_folder, "cgc", 1, ["--dropout", "0.1"], *arguments)
    assert "--dropuot: 0.1 there, not given requested; --dropout: not given there, 0.1 requested" in str(error.value)
    (run_folder / "checkpoints" / "checkpoint1.pt").unlink()
    with pytest.raises(UserError, match="left no checkpoint"):  # nothing was trained here
        training.train(run_folder, "cgc", 1, ["--dropout", "0.1"], *arguments)
    assert "--dropout" in commands[0] and read_json(run_folder / "run.json")["options"] == ["--dropout", "0.1"]
    assert not (run_folder / "log.jsonl").exists()


def test_the_command_has_each_option_once_with_the_value_that_counts(prepared, tmp_path):
    options = [
        "--lr",
        "5e-4",
        "--adam-betas",
        "(0.9,0.98)",
        "--fp16",
        "--lr=1e-3",
        "-s",
        "de",
        "--lr",
        "0.01",
        "--clip-norm",
        "-1",
    ]
    command = training.train_command(tmp_path, 3, options, prepared, 10)
    names = [word for word in command if word.startswith("--")]
    assert len(names) == len(set(names))
    text = " ".join(command)
    assert "--adam-betas (0.9,0.98) --fp16 --lr 0.01 --clip-norm -1 " in text and "--seed 3" in text
    assert "-s" not in command and "--source-lang de" in text


@pytest.mark.parametrize(
    "scheduler, refused",
    [
        (["cosine"], True),
        (["cosine", "--lr-period-updates", "9"], False),
        (["tri_stage", "--phase-ratio", "(0.1,0.4,0.5)"], True),
        (["inverse_sqrt", "--warmup-updates", "4"], False),
    ],
)
def test_a_rate_that_falls_towards_the_last_update_has_no_other_one(
    prepared, tmp_path, monkeypatch, scheduler, refused
):
    monkeypatch.setattr(training, "follow_training", lambda *_: None)
    options = ["--lr-scheduler", *scheduler]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint_last.pt").touch()
    monkeypatch.setattr(training, "mend_last_checkpoint", lambda _: 4)
    monkeypatch.setattr(training, "keep_place_in_epoch", lambda *_: None)
    planned = {"command": ["fairseq-train", "--max-update", "9"]}
    for there in ({"updates": 9, "done": 4, **planned}, {"updates": 4, "done": 4, **planned}):
        write_record(tmp_path, options=options, data=training.data_record(prepared), **there)
        if refused:
            with pytest.raises(UserError, match="was begun with --max-update 9, and 20 is requested"):
                training.train(tmp_path, "cgc", 1, options, prepared, 20)
        training.train(tmp_path, "cgc", 1, options, prepared, 9 if refused else 20)


def test_a_run_goes_on_from_what_it_started_from_whatever_has_become_of_that(prepared, tmp_path):
    source, folder = tmp_path / "source", tmp_path / "run"
    (source / "checkpoints").mkdir(parents=True)
    last = source / "checkpoints" / "checkpoint_last.pt"
    last.touch()
    assert training.model_to_finetune(source, prepared, folder) == last
    write_record(folder, options=["--finetune-from-model", str(last)])
    (source / "model").mkdir()
    (source / "model" / "model.pt").touch()
    assert training.model_to_finetune(source, prepared, folder) == source / "model" / "model.pt", (
        "nothing is trained yet"
    )
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "checkpoint_last.pt").touch()
    assert training.model_to_finetune(source, prepared, folder) == str(last)
    (source / "model" / "model.pt").unlink()
    write_record(folder, options=["--finetune-from-model", str(last)], base=sha256_of(last))
    moved = source.rename(tmp_path / "moved")
    assert training.model_to_finetune(moved, prepared, folder) == str(last)
    (moved / "checkpoints" / "checkpoint_last.pt").write_text("another")
    assert training.model_to_finetune(moved, prepared, folder) == moved / "checkpoints" / "checkpoint_last.pt"


def test_a_run_records_the_hash_of_what_it_started_from(prepared, tmp_path, monkeypatch):
    (base := tmp_path / "base.pt").write_text("a model")
    monkeypatch.setattr(training, "follow_training", lambda *_: None)
    options = ["--finetune-from-model", str(base)]
    with pytest.raises(UserError, match="left no checkpoint"):
        training.train(tmp_path / "run", "cgc", 1, options, prepared, 9)
    assert read_json(tmp_path / "run" / "run.json")["base"] == sha256_of(base)


def test_the_end_of_a_training_that_had_been_told_of_in_its_log_alone_is_written_down(prepared, tmp_path, monkeypatch):
    """Where a kill came between the end of fairseq-train and that of its parent."""
    monkeypatch.setattr(training, "mend_last_checkpoint", lambda _: 16)
    monkeypatch.setattr(training, "keep_place_in_epoch", lambda *_: None)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint_last.pt").touch()
    write_record(tmp_path, data=training.data_record(prepared), updates=16, done=0)
    (tmp_path / "train.log").write_text(
        'x | INFO | train | {"epoch": 2, "train_num_updates": "16", "train_wpb": "9"}\n'
    )
    training.train(tmp_path, "cgc", 1, [], prepared, 16)
    assert json.loads((tmp_path / "log.jsonl").read_text())["train_num_updates"] == 16


@pytest.mark.parametrize(
    "options, words",
    [
        (["--update-freq", "3"], "--update-freq is decided by this command: 1, and not 3; give --batch-tokens"),
        (["--keep-last-epochs", "1"], "--keep-last-epochs is decided by this command: 10, and not 1; give --keep"),
        (["--source-lang", "en"], "--source-lang is decided by this command: de, and not en; leave it out"),
        (["-s", "en"], "--source-lang is decided by this command: de, and not en"),
        (["-tfr"], "--target-lang is decided by this command: en, and not fr"),
        (["--target=fr"], "fairseq-train would refuse this: unrecognized arguments: --target=fr"),
        (["--max-source-positions", "1e3"], "--max-source-positions: invalid int value: '1e3'"),
        (["--max-update", "0"], "--max-update is 0"),
        (["--gpus", "3"], "cannot be divided among 3 devices"),
        (["--gpus", "-1", "--nodes", "-1"], "--gpus is -1; it must be at least 1"),
        (["--precision", "bf16"], "--precision bf16 needs a GPU"),
        (["--data", "/nowhere"], "/nowhere holds no finished preparation"),
    ],
)
def test_a_wrong_option_of_train_is_refused(prepared, tmp_path, options, words):
    if "bf16" in options and torch.cuda.is_available():
        pytest.skip("a GPU allows it")
    assert words in refused("train", "cgc", "--data", prepared, "--runs", tmp_path / "runs", *options)


def test_a_folder_that_is_no_preparation_is_named(tmp_path):
    with pytest.raises(CorpusError, match="holds no finished preparation"):
        training.prepared_folder(tmp_path)


def test_figures_are_read_from_fairseq_s_log():
    line = '2026-01-01 00:00:00 | INFO | train_inner | {"epoch": 1, "loss": "9.2", "num_updates": "20", "lr": "1e-05"}'
    assert parse_figures(line) == ("train_inner", {"epoch": 1, "loss": 9.2, "num_updates": 20, "lr": 1e-05})
    assert parse_figures("2026-01-01 | INFO | fairseq.trainer | {not figures}") == (None, None)
    assert parse_figures("x | INFO | valid | epoch 001") == (None, None)


def test_help_names_the_rows():
    done = run("bash", ROOT / "examples" / "iwslt14" / "train.sh", "--help")
    assert all(row in done.stdout for row in TRAINED) and "--gpus" in done.stdout


@pytest.mark.parametrize(
    "option, value",
    [
        ("--lr", "-1"),
        ("--lr", "nan"),
        ("--dropout", "nan"),
        ("--dropout", "1.5"),
        ("--label-smoothing", "-0.1"),
        ("--cgc-lr-scale", "inf"),
        ("--cgc-pool-factor", "1000000000"),
        ("--simcut-p", "1.5"),
        ("--simcut-alpha", "-1"),
        ("--warmup-updates", "many"),
        ("--max-source-positions", "x"),
        ("--max-source-positions", "-1"),
        ("--update-freq", "0"),
        ("--warmup-updates", "0"),
    ],
)
def test_a_number_that_no_training_can_have_is_refused_before_any_work(tmp_path, option, value):
    with pytest.raises(OptionError, match=f"{option} is {value}; "):
        training.train(tmp_path / "run", "cgc", 1, [*row_options("cgc"), option, value], "/nowhere", 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("master", ["nocolon", ":29500", "here:", "here:x", "here:99999"])
def test_a_master_without_host_or_port_is_refused(master):
    with pytest.raises(OptionError, match=f"--master is {master}; expected HOST:PORT"):
        launcher(1, nodes=2, master=master)


def test_every_row_s_own_numbers_are_within_the_limits():
    for row in TRAINED:
        check_numbers(row_options(row))
