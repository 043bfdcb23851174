"""Children and workers end with the process that started them."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_files import ended_well, forked

from fairseq_cgc.errors import UserError
from fairseq_cgc.recipe.files import is_locked, locked
from fairseq_cgc.recipe.processes import child, parallel_map

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def gone(pid, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def read_ids(file, count):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ids = file.read_text().split() if file.exists() else []
        if len(ids) == count:
            return [int(pid) for pid in ids]
        time.sleep(0.05)
    raise AssertionError("it did not start")


def test_a_child_ends_with_a_parent_that_is_killed_and_the_lock_is_let_go(tmp_path):
    def work():
        with locked(tmp_path / ".lock", "x") as lock, child(SLEEP, pass_fds=(lock,)) as process:
            (tmp_path / "ids").write_text(f"{process.pid}\n")
            time.sleep(60)

    parent = forked(work)
    [pid] = read_ids(tmp_path / "ids", 1)
    os.kill(parent, signal.SIGKILL)
    assert not ended_well(parent) and gone(pid)
    assert not is_locked(tmp_path / ".lock")


def test_a_child_says_the_figures_that_are_read_whatever_the_environment_asks_of_fairseq(monkeypatch):
    monkeypatch.setenv("LOGLEVEL", "ERROR")
    words = "import fairseq_cli.train, logging; logging.getLogger('fairseq_cli.train').info('figures')"
    with child([sys.executable, "-c", words], stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert "| INFO | fairseq_cli.train | figures" in process.stdout.read()


def test_a_child_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fairseq_cli.py").write_text("raise SystemExit('of a checkout')")
    with child([sys.executable, "-m", "fairseq_cli.train", "--help"], stdout=subprocess.DEVNULL) as process:
        pass
    assert process.returncode == 0


def test_a_child_ends_when_its_parent_fails():
    with pytest.raises(ValueError), child(SLEEP) as process:
        raise ValueError
    assert process.returncode == -signal.SIGTERM


def test_a_child_keeps_freed_memory_unless_the_environment_says_otherwise(monkeypatch):
    tell = [sys.executable, "-c", "import os; print(os.environ.get('MALLOC_MMAP_MAX_'))"]
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    with child(tell, stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == b"0\n"
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    with child(tell, stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == b"65536\n"


def note_and_sleep(path):
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(60)


def test_workers_end_with_a_parent_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    def work():
        with locked(tmp_path / ".lock", "x"):
            list(parallel_map(note_and_sleep, [tmp_path / "ids"] * 3, 2))

    parent = forked(work)
    ids = read_ids(tmp_path / "ids", 2)
    os.kill(parent, signal.SIGKILL)
    assert not ended_well(parent) and all(map(gone, ids))
    assert not is_locked(tmp_path / ".lock")


def die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_is_killed_ends_the_work_with_a_line():
    with pytest.raises(UserError, match="a worker process was killed") as error:
        list(parallel_map(die, [1, 2], 2))
    assert str(error.value).count("\n") == 0


def test_there_are_no_more_workers_than_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert len(set(parallel_map(worker, range(50), 10000))) <= 2


def test_there_are_no_more_workers_than_items(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    mapped = parallel_map(worker, range(2), 10000)
    next(mapped)
    assert len(multiprocessing.active_children()) <= 2
    assert list(parallel_map(worker, [1])) == [os.getpid()]


def worker(_):
    return os.getpid()
