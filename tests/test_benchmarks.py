import csv
import json
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import TINY

from benchmarks import contenders, measure
from benchmarks.__main__ import main
from benchmarks.contenders import LENGTHS, batches
from benchmarks.measure import compare, peak_memory

SMALL = {
    "operators": ["--tokens", "60", "--lengths", "5", "30", "--kernels", "3", "31"],
    "paths": ["--tokens", "60", "--lengths", "30", "--kernels", "3", "--busy"],
    "bandwidth": ["--tokens", "60", "--lengths", "30", "--kernels", "3"],
    "growth": ["--lengths", "40", "80", "--sentences", "1"],
    "training": ["--max-tokens", "60", "--batches", "1"],
    "generation": ["--max-tokens", "60", "--batches", "1", "--beam", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL)
def test_every_command_prints_a_table_and_writes_what_it_measured(command, tmp_path, capsys, monkeypatch):
    build_model = contenders.build_model
    monkeypatch.setattr(contenders, "build_model", lambda *args, **options: build_model(*args, **{**options, **TINY}))
    out = tmp_path / "result.json"
    options = ["--repeats", "1", "--threads", "1", "--out", str(out)]
    if command == "growth":
        options += ["--plot", str(tmp_path / "growth.png")]
    main([command, *SMALL[command], *options])
    printed = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["title"] in printed and record["command"].startswith(f"python -m benchmarks {command} ")
    assert record["threads"] == 1 and record["device"] and record["versions"]["torch"] == torch.__version__
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(record["rows"]) and len({line.count("|") for line in lines}) == 1
    assert all(row["measured"] for row in record["rows"])
    main(["report", str(tmp_path)])
    page = capsys.readouterr().out
    assert record["title"] in page and record["command"] in page and all(line in page for line in lines)
    if command == "growth":
        assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    if command == "generation":
        assert "; 0 sentences came out different" in record["title"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["operators", "--repeats", "0"], "error: --repeats is 0; it must be at least 1"),
        (["operators", "--kernels", "3", "0"], "error: --kernels is 0"),
        (["operators", "--kernels", "3", "4"], "error: --kernels is 4; it must be odd"),
        (["growth", "--kernel", "8"], "error: --kernel is 8; it must be odd"),
        (["growth", "--lengths", "-1"], "error: --lengths is -1"),
        (["training", "--device", "cuda"], "error: --device cuda: torch finds no GPU"),
        (["operators", "--out", "."], "error: --out . is a folder"),
        (["operators", "--out", "notes"], "error: --out notes is there and holds no rows; choose another name"),
        (["growth", "--plot", "notes"], "error: --plot notes is there and is no plot; choose another name"),
        (["growth", "--plot", "x.png"], "error: no x.png without matplotlib; pip install"),
    ],
)
def test_wrong_options_are_named_before_anything_is_measured(options, words, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("benchmarks.__main__.has_matplotlib", lambda: False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(SystemExit, match=words):
        main(options)


@pytest.mark.parametrize(
    "content, words", [(None, "there are no measurements"), ("{}", "r.json is not as .* writes it")]
)
def test_a_folder_that_cannot_be_reported_is_named(content, words, tmp_path):
    if content:
        (tmp_path / "r.json").write_text(content)
    with pytest.raises(SystemExit, match=words):
        main(["report", str(tmp_path)])


def test_contenders_are_timed_and_compared(monkeypatch):
    """By a clock of their own: under load a sleep is longer than it was asked to be."""
    now = [0.0]

    def lasts(seconds):
        def contender():
            now[0] += seconds

        return contender

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    results = compare({"slow": lasts(0.02), "fast": lasts(0.01)}, repeats=3)
    assert results["slow"]["ratio"] == 1 and results["fast"]["ratio"] == pytest.approx(0.5)
    assert results["fast"]["ms"] == pytest.approx([10] * 3) and results["fast"]["median"] == pytest.approx(10)
    left = compare({"slow": lasts(0.02), "fast": lasts(0.001)}, repeats=1, limit=0.01)
    assert list(left) == ["fast"] and "ratio" not in left["fast"]


def test_contenders_take_turns_in_changing_order():
    calls = []
    contenders = {name: lambda name=name: calls.append(name) or time.sleep(0.005) for name in "abc"}
    compare(contenders, repeats=6)
    turns = [calls[start : start + 6] for start in range(6, len(calls), 6)]  # after a warm-up of two calls each
    assert all(turn[::2] == turn[1::2] and sorted(turn) == list("aabbcc") for turn in turns)
    assert len(turns) == 6 and len({turn[0] for turn in turns}) > 1


def test_peak_memory_is_what_is_held_at_once():
    def function():
        for _ in range(3):
            torch.empty(1000, 1000)

    assert 4_000_000 <= peak_memory(function) < 4_100_000


def test_lengths_are_those_of_the_160239_pairs():
    with LENGTHS.open() as file:
        rows = [tuple(map(int, row)) for row in list(csv.reader(file))[1:]]
    assert sum(count for _, _, count in rows) == 160_239
    lengths = [(source, count) for source, _, count in rows]
    shorter = {n: sum(count for source, count in lengths if source <= n) / 160_239 for n in (9, 21, 45, 93)}
    assert {n: round(100 * share) for n, share in shorter.items()} == {9: 11, 21: 53, 45: 89, 93: 99}


def test_batches_hold_sentences_of_like_length_up_to_the_number_of_tokens():
    samples = batches(1000, 20, seed=3)
    again = batches(1000, 20, seed=3)
    for sample, other in zip(samples, again):
        source, target = sample["net_input"]["src_tokens"], sample["target"]
        assert max(source.numel(), target.numel()) <= 1000
        assert source.equal(other["net_input"]["src_tokens"])
        assert (source[:, -1] == 2).all() and source.ne(1).sum() == sample["source_tokens"]
        assert target.ne(1).sum() == sample["ntokens"]
        assert sample["net_input"]["prev_output_tokens"][:, 0].eq(2).all()
        lengths = sample["net_input"]["src_lengths"]
        assert source.ne(1).sum(1).equal(lengths) and lengths.max() - lengths.min() <= 3
