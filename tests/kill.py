"""Kill preparation, training, averaging and generation at random moments, and check the promise after each kill.

    python tests/kill.py [KILLS]        a few dozen each by default; some minutes. No part of the test suite.

The promise: what was there before is whole, or what is new is; nothing that we started lives on, and nothing stays
locked; the same command, run again, goes on and ends with what a run that was never killed ends with.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))  # of which pytest's settings tell the tests

from conftest import ROOT, TINY_OPTIONS  # noqa: E402

from fairseq_cgc.recipe.checkpoints import load_checkpoint  # noqa: E402
from fairseq_cgc.recipe.files import MARK, is_locked, read_json  # noqa: E402
from fairseq_cgc.recipe.preparation import SPLITS, check_files  # noqa: E402

COMMAND = [sys.executable, "-m", "fairseq_cgc"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
UPDATES = 12


def start(*words):
    command = [*COMMAND, *map(str, words)]
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def run(*words):
    process = start(*words)
    words = process.communicate()[1].decode()
    assert process.returncode == 0, words


def descendants(parent):
    """The ids of the processes below one."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    below = {}
    for pid, above in (map(int, line.split()) for line in found.splitlines()):
        below.setdefault(above, []).append(pid)
    queue, all_below = [parent], []
    while queue:
        children = below.get(queue.pop(), [])
        all_below += children
        queue += children
    return all_below


def kill_at(moment, *words):
    """Kill a command after so many seconds; whether it was still running, once all that it started has ended."""
    process = start(*words)
    try:
        process.wait(moment)
        running = False
    except subprocess.TimeoutExpired:
        running = True
    left = descendants(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < deadline, f"{left} live on"
        time.sleep(0.05)
    return running


def whole(folder):
    """That every file that a marked folder lists is there."""
    if folder.exists():
        assert (folder / MARK).exists(), f"{folder} has no mark"
        for name in read_json(folder / MARK)["files"]:
            assert (folder / name).exists(), f"{folder} lacks {name}"


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def attack(name, kills, longest, words, before, check, finish):
    """Kill a command again and again.

    Args:
        longest: seconds to the latest kill
        words: of the command
        before: sets the scene for a kill
        check: the promise, after a kill
        finish: the promise, after the same command has run to its end
    """
    killed = 0
    for number in range(kills):
        if before(number):
            killed += kill_at(random.uniform(0.5, longest), *words)
            check()
    run(*words)
    finish()
    print(f"{name}: {killed} of {kills} kills met a running command; the promise held", flush=True)


def main(kills=24, seed=1):
    random.seed(seed)
    work = Path(tempfile.mkdtemp(prefix="kill-"))
    try:
        for split, count in zip(SPLITS, (2400, 20, 20)):
            lines = [[random.randrange(40) for _ in range(random.randrange(3, 12))] for _ in range(count)]
            for language in ("de", "en"):
                text = "".join(" ".join(f"{language}{word}" for word in line) + "\n" for line in lines)
                (work / f"{split}.{language}").write_text(text)
        prepare(work, kills)
        train(work, kills)
        generate(work, kills)
        average(work, kills)
    finally:
        shutil.rmtree(work)


def took(*words):
    started = time.monotonic()
    run(*words)
    return time.monotonic() - started


def prepare(work, kills):
    def words(out):
        texts = [word for split in SPLITS for word in (f"--{split}", work / split)]
        return ["prepare", "--source-lang", "de", "--target-lang", "en", *texts, "--bpe-size", 60, "--out", out]

    longest, data = took(*words(work / "wanted")), work / "data"

    def before(number):
        if number % 4 == 0:  # three times it goes on from what a kill has left
            shutil.rmtree(data, ignore_errors=True)
        return True

    def check():
        for name in ("raw", "tok", "bpe", "bin"):
            whole(data / name)
        assert not is_locked(data / ".lock")

    def finish():
        check_files(data)
        for name in ("raw", "tok", "bpe", "bin"):
            assert content(data / name) == content(work / "wanted" / name), name

    attack("preparation", kills, longest, words(data), before, check, finish)


def train_words(work, runs):
    options = ["--batch-tokens", 400, "--keep", 3, *TINY_OPTIONS, "--warmup-updates", 10, "--lr", 0.005]
    limits = ["--save-interval-updates", 2, "--keep-interval-updates", 2]
    return ["train", "cgc", "--data", work / "data", "--runs", runs, "--max-update", UPDATES, *options, *limits]


def train(work, kills):
    longest, folder = took(*train_words(work, work / "wanted-runs")), work / "runs" / "cgc-seed1"

    def before(number):
        if number % 4 == 0:
            shutil.rmtree(folder, ignore_errors=True)
        return True

    def check():
        assert not is_locked(folder / ".lock")
        if (folder / "run.json").exists():
            assert read_json(folder / "run.json")["done"] in (0, UPDATES)

    def finish():
        last = [
            load_checkpoint(r / "checkpoints" / "checkpoint_last.pt") for r in (folder, work / "wanted-runs/cgc-seed1")
        ]
        assert last[0]["optimizer_history"][-1]["num_updates"] == UPDATES == read_json(folder / "run.json")["done"]
        assert all(value.equal(last[1]["model"][name]) for name, value in last[0]["model"].items())
        logs = [(r / "log.jsonl").read_text() for r in (folder, work / "wanted-runs/cgc-seed1")]
        events = [{line.partition('"train_wall')[0].split("wps")[0] for line in log.splitlines()} for log in logs]
        assert len(events[0]) >= len(events[1])

    attack("training", kills, longest, train_words(work, work / "runs"), before, check, finish)


def generate(work, kills):
    run_folder = work / "runs" / "cgc-seed1"
    words = ["generate", run_folder, "--by", "update", "--average", 2]
    longest = took(*words)
    (run_folder / "mine.txt").write_text("mine")
    wanted = content(run_folder / "test")

    def check():
        for name in ("model", "test"):
            assert (run_folder / name).exists()
            whole(run_folder / name)
        assert not is_locked(run_folder / ".lock") and (run_folder / "mine.txt").exists()

    def finish():
        check()
        assert content(run_folder / "test")[Path("test.hyp")] == wanted[Path("test.hyp")]
        assert not list(run_folder.glob(".fairseq-cgc-*")), "something half-written is left"

    attack("generation", kills, longest, words, lambda number: True, check, finish)


def average(work, kills):
    output = work / "average.pt"
    words = [
        "average",
        "--inputs",
        work / "runs/cgc-seed1/checkpoints",
        "--num-update-checkpoints",
        2,
        "--output",
        output,
    ]
    longest = took(*words)
    wanted = load_checkpoint(output)["model"]

    def check():
        assert all(value.equal(wanted[name]) for name, value in load_checkpoint(output)["model"].items())

    attack("averaging", kills, longest, words, lambda number: True, check, check)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*map(int, sys.argv[1:]))
