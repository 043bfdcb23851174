import bz2
import codecs
import ctypes
import errno
import fcntl
import gzip
import io
import itertools
import lzma
import os
import resource
import signal
import stat
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import LIGHTLY, ROOT, run, write_record

from fairseq_cgc.errors import CorpusError, UserError
from fairseq_cgc.recipe import files
from fairseq_cgc.recipe.checkpoints import save_checkpoint
from fairseq_cgc.recipe.files import (
    LOCK,
    MARK,
    OURS,
    Between,
    atomic_folder,
    atomic_write,
    check_output,
    check_record,
    decode_lines,
    discard_folder,
    foreign_files,
    is_locked,
    locked,
    partial_in,
    read_json,
    read_lines,
    run_command,
    writable_folder,
    write_json,
    write_lines,
)


def fill(folder, what="model", name="part", text="1"):
    with atomic_folder(folder, what) as new:
        (new / name).write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("make", [atomic_write, lambda path: atomic_folder(path, "model")])
def test_an_output_appears_whole_or_not_at_all(tmp_path, make):
    path = tmp_path / "deep" / "output"

    def write(fails):
        with make(path) as new:
            (new / "part" if new.is_dir() else new).write_text("1")
            assert not path.exists()
            if fails:
                raise ValueError

    with pytest.raises(ValueError):
        write(fails=True)
    assert names(path.parent) == []
    write(fails=False)
    assert names(path.parent) == ["output"]


def test_what_a_killed_process_left_is_cleared_and_what_a_live_one_writes_is_not(tmp_path):
    left = tmp_path / f".fairseq-cgc-{files.HOST}-01234567.partial"
    left.mkdir()
    (left / "half").write_text("1")
    with partial_in(tmp_path) as live:
        write_lines(tmp_path / "output", ["a"])
        assert names(tmp_path) == sorted([live.name, "output"])
    assert names(tmp_path) == ["output"]


def test_a_file_that_is_replaced_keeps_its_mode_and_a_link_stays_one(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to("file")
    write_lines(link, ["new"])
    assert link.is_symlink() and file.read_text() == "new\n" and file.stat().st_mode & 0o777 == 0o640


def test_a_device_or_a_pipe_is_written_into(tmp_path):
    write_json("/dev/null", {})
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_lines(pipe, ["a"])
    assert os.read(reader, 10) == b"a\n" and pipe.is_fifo()


def test_a_device_that_takes_nothing_is_named():
    with pytest.raises(UserError, match="^/dev/full could not be written .No space left on device.; name another"):
        write_json("/dev/full", {})


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no memory file system")
def test_a_file_in_memory_is_replaced_as_any_other():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for value in (1, 2):
            write_json(f"{folder}/x.json", value)
        assert read_json(f"{folder}/x.json") == 2 and os.listdir(folder) == ["x.json"]


def test_a_folder_that_has_been_locked_and_not_yet_filled_counts_as_empty(tmp_path):
    with locked(tmp_path / "run" / LOCK, "x"):
        assert foreign_files(tmp_path / "run", "run") == []
        discard_folder(tmp_path / "run", "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / LOCK).write_text("somebody's")
    assert foreign_files(tmp_path / "other", "run") == [LOCK]


@pytest.mark.parametrize(
    "name",
    [
        "test-notes/mine.txt",
        "report-meeting.html",
        "raw/mine.txt",
        "checkpoints/mine.txt",
        "checkpoints/checkpoint_of/my.pt",
        "model/mine.txt",
        "model.md",
    ],
)
def test_a_growing_folder_with_a_file_of_somebody_s_anywhere_is_not_ours(tmp_path, name):
    run = tmp_path / "run"
    write_record(run)
    for folder, what in (("model", "model"), ("test", "translations"), ("valid", "translations")):
        with atomic_folder(run / folder, what) as partial:
            (partial / "x").write_text("x")
    for file in (
        "checkpoints/checkpoint1.pt",
        "checkpoints/dummy",
        "checkpoints/crash.pt",
        "tensorboard/train/events.out.1",
        "log.jsonl",
        "checkpoints/a.html",
    ):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_text(f'<meta name="generator" content="{OURS}">')
    (run / "checkpoints" / "a.html").rename(run / "report.html")
    for left in (run, run / "test"):  # by a kill
        (left / ".fairseq-cgc-12345678.partial").mkdir()
        (left / ".fairseq-cgc-12345678.partial" / "half").touch()
    assert foreign_files(run, "run") == []
    (run / "notes.html").mkdir()  # empty
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("mine")
    with pytest.raises(UserError, match=f"holds {name}, which is not part of our run; nothing was changed"):
        discard_folder(run, "run")
    assert (run / name).read_text() == "mine"


def forked(work):
    """Do some work in a child process; its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def ended_well(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("piped", [False, True])
def test_standard_output_gets_a_file_after_what_was_printed(tmp_path, piped):
    ends = (
        os.pipe() if piped else [os.open(tmp_path / "text", flags) for flags in (os.O_RDWR | os.O_CREAT, os.O_WRONLY)]
    )

    def work():
        os.dup2(ends[1], 1)
        sys.stdout = open(1, "w", closefd=False)
        print(1)
        write_json("/dev/stdout", 2)
        print(3, flush=True)

    assert ended_well(forked(work))
    assert os.read(ends[0], 100) == b"1\n2\n3\n"


def test_a_folder_where_a_file_is_wanted_and_the_other_way_round_are_refused(tmp_path):
    with pytest.raises(UserError, match="is a folder, and a file is to be written there"):
        write_lines(tmp_path, ["a"])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is no folder, and a folder .* is to be written there"):
        fill(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_lines(path, ["x" * 10**6]),
        lambda path: save_checkpoint({"a": torch.ones(10**6)}, path),
        lambda path: write_json(path, ["x" * 10**6]),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, write):
    path = tmp_path / "output"
    path.write_text("old")

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        with pytest.raises(UserError, match=r"could not be written \(File too large\); the previous content is unch"):
            write(path)

    assert ended_well(forked(work))
    assert path.read_text() == "old" and names(tmp_path) == ["output"]


def test_a_disk_that_is_full_while_a_folder_is_filled_is_told_of_the_folder(tmp_path):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        with pytest.raises(UserError, match=f"^{tmp_path}/model could not be written"):
            with atomic_folder(tmp_path / "model", "model") as new:
                write_lines(new / "part", ["x" * 10**6])
        with pytest.raises(UserError, match=f"^{tmp_path}/model could not be written"):
            with atomic_folder(tmp_path / "model", "model") as new:
                Path.touch = no_room
                write_lines(new / "part", ["x"])

    def no_room(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    assert ended_well(forked(work)) and names(tmp_path) == []


@pytest.mark.parametrize("suffix", ["", ".gz", ".GZ", ".bz2", ".xz"])
def test_lines_end_at_line_feeds_alone(tmp_path, suffix):
    data = "ein\u2028Satz\nzwei\x0c\r\n\nletzter".encode()
    path = tmp_path / f"text{suffix}"
    compress = {"": bytes, ".bz2": bz2.compress, ".xz": lzma.compress}.get(suffix, gzip.compress)
    path.write_bytes(compress(data))
    assert read_lines(path) == ["ein\u2028Satz", "zwei\x0c", "", "letzter"]


def test_a_byte_order_mark_at_the_head_is_no_part_of_the_text(tmp_path):
    (tmp_path / "text").write_bytes(codecs.BOM_UTF8 + "eins\n\ufeffzwei\n".encode())
    assert read_lines(tmp_path / "text") == ["eins", "\ufeffzwei"]
    assert list(decode_lines(io.BytesIO(codecs.BOM_UTF8 + b"a\r\nb"), "standard input")) == ["a", "b"]


def test_what_is_no_utf_8_is_named_with_line_and_column_before_later_lines_are_read():
    lines = decode_lines(io.BytesIO(b"gut\nsch\xf6n\n"), "standard input")
    assert next(lines) == "gut"
    with pytest.raises(CorpusError, match="standard input, line 2: byte 0xf6 at column 4 is not valid UTF-8"):
        next(lines)


def test_a_command_and_what_it_starts_write_utf_8_whatever_the_locale():
    code = LIGHTLY + "import subprocess; from fairseq_cgc.recipe.files import run_command; "
    code += "run_command(lambda: (print('→', flush=True), subprocess.run([sys.executable, '-c', 'print(chr(8594))'])))"
    done = run(sys.executable, "-c", code, cwd=ROOT, env={"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1"})
    assert done.stdout == "→\n→\n"


def test_written_lines_are_read_back(tmp_path):
    lines = ["ü", "", "a\u2028b", " c "]
    write_lines(tmp_path / "text", lines)
    assert read_lines(tmp_path / "text") == lines


def test_text_that_cannot_be_read_is_named(tmp_path):
    bad = tmp_path / "bad"
    bad.write_bytes(b"gut\nsch\xf6n\n")
    truncated = tmp_path / "truncated.gz"
    truncated.write_bytes(gzip.compress(b"a\n" * 10000)[:30])
    (tmp_path / "no.xz").write_bytes(b"a\n")
    for path, words in (
        (tmp_path / "no.xz", "no.xz is truncated or not a .xz file"),
        (bad, "bad, line 2: byte 0xf6 at column 4 is not valid UTF-8"),
        (truncated, "truncated"),
        (tmp_path / "missing", "does not exist"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(CorpusError, match=words):
            read_lines(path)


def test_json_round_trip_and_damage(tmp_path):
    write_json(tmp_path / "a.json", {"ä": [1, None]})
    assert read_json(tmp_path / "a.json") == {"ä": [1, None]}
    (tmp_path / "a.json").write_text('{"a"')
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(tmp_path / "a.json")


SHAPE = {
    "done": Between(0, kind=int),
    "data": {"path": str},
    "scores": {str: Between(0, 100)},
    "names?": [str],
    "loss": (float, None),
}
RECORD = {"done": 3, "data": {"path": "x"}, "scores": {"BLEU": 20}, "names": ["a"], "loss": None, "more": []}


def test_a_record_of_the_right_shape_is_returned():
    assert check_record(RECORD, SHAPE, "run.json") is RECORD


@pytest.mark.parametrize(
    "change, words",
    [
        ([1], r"run.json: the content is \[1\]; expected an object"),
        ({"done": "x"}, "run.json: done is 'x'; expected a whole number"),
        ({"done": True}, "done is True; expected a whole number"),
        ({"loss": 10**400}, "loss is 1000.*; expected a number that is finite"),
        ({"done": -1}, "done is -1; expected a whole number of at least 0"),
        ({"done": 2.5}, "done is 2.5; expected a whole number"),
        ({"done": float("nan")}, "done is nan; expected a whole number"),
        ({"loss": float("inf")}, "loss is inf; expected a number that is finite"),
        ({"data": None}, "data is None; expected an object"),
        ({"data": {}}, "run.json lacks data.path"),
        ({"scores": {"BLEU": 9999}}, "scores.BLEU is 9999; expected a number from 0 to 100"),
        ({"scores": {"BLEU": float("nan")}}, "scores.BLEU is nan"),
        ({"names": "a"}, "names is 'a'; expected a list"),
        ({"names": ["a", 1]}, r"names\[1\] is 1; expected text"),
    ],
)
def test_a_record_of_another_shape_is_an_error_that_names_file_and_field(change, words):
    with pytest.raises(UserError, match=words) as error:
        check_record({**RECORD, **change} if isinstance(change, dict) else change, SHAPE, "run.json")
    assert str(error.value).count("\n") == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        writable_folder(tmp_path / "file" / "folder")
    with pytest.raises(UserError, match="MiB free and 9223372036854 MiB are needed"):
        writable_folder(tmp_path, free_bytes=9223372036854 * 2**20)


def test_a_folder_that_cannot_be_written_is_named_by_whoever_writes_there(tmp_path):
    (tmp_path / "file").write_text("")
    for make in (atomic_write, lambda path: atomic_folder(path, "model")):
        with (
            pytest.raises(UserError, match=f"the folder {tmp_path}/file cannot be written to"),
            make(tmp_path / "file/x"),
        ):
            pass


def test_an_output_whose_folder_takes_no_new_files_is_refused_before_the_work(tmp_path, monkeypatch):
    def refuse(**_):
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / "output").write_text("old")
    (tmp_path / "link").symlink_to("output")
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    for name in ("output", "link", "new"):
        with pytest.raises(
            UserError, match=rf"{tmp_path} cannot be written to \(Read-only.* choose another with --out"
        ):
            check_output(tmp_path / name, "--out")
    check_output(Path("/dev/null"), "--out")


def test_a_current_folder_that_was_removed_is_told(tmp_path):
    def work():
        (tmp_path / "here").mkdir()
        os.chdir(tmp_path / "here")
        (tmp_path / "here").rmdir()
        with pytest.raises(SystemExit, match="error: the current folder does not exist any more"):
            run_command(lambda: pytest.fail("it worked"))

    assert ended_well(forked(work))


@pytest.mark.parametrize(
    "error, words",
    [
        (UserError("the thing is wrong"), "error: the thing is wrong"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            "error: /x: No space left on device",
        ),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), "error: No usable temporary directory"),
    ],
)
def test_a_command_ends_with_a_line_and_status_1(error, words):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(main)
    assert str(stop.value.code).startswith(words)


def test_our_own_mistakes_keep_their_traceback():
    def main():
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run_command(main)


def test_a_terminated_command_clears_what_is_half_written(tmp_path, capfd):
    def main():
        with atomic_write(tmp_path / "output") as new:
            new.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

    child = forked(lambda: run_command(main))
    assert not ended_well(child) and names(tmp_path) == []
    assert "run the same command again to resume" in capfd.readouterr().err


def test_an_interrupt_s_clearing_is_not_cut_short_by_the_parent_s_signal(tmp_path):
    def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            (tmp_path / "cleared").touch()

    def work():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        run_command(main)

    assert not ended_well(forked(work)) and names(tmp_path) == ["cleared"]


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    def work():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        run_command(lambda: os.kill(os.getpid(), signal.SIGINT) or (tmp_path / "went on").touch())

    assert ended_well(forked(work)) and names(tmp_path) == ["went on"]


def test_a_reader_that_goes_away_ends_a_command_quietly(capfd):
    ends = os.pipe()
    os.close(ends[0])

    def main():
        sys.stdout = open(ends[1], "w")
        print("x" * 100000)

    def work():
        with pytest.raises(SystemExit, match="141"):
            run_command(main)

    assert ended_well(forked(work)) and capfd.readouterr() == ("", "")


def test_closed_standard_streams_are_as_good_as_empty_ones(tmp_path):
    """A closed one's number would be that of the next file that is opened, and its output would go there."""
    code = LIGHTLY + "from fairseq_cgc.recipe.files import run_command\n"
    code += (
        "def main():\n    file = open('file', 'w')\n    print('lost')\n    file.write(sys.stdin.read() or 'nothing')\n"
    )
    words = f'{sys.executable} -c "{code}run_command(main)" <&- >&- 2>&-'
    assert run("bash", "-c", words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, check=False).returncode == 0
    assert (tmp_path / "file").read_text() == "nothing"


def test_run_helper_reports_the_exit_status():
    assert run(sys.executable, "-c", "raise SystemExit(3)", check=False).returncode == 3


def test_a_folder_takes_the_place_of_an_earlier_one_only_when_it_is_whole(tmp_path):
    path = tmp_path / "output"
    fill(path, name="old")
    with pytest.raises(ValueError), atomic_folder(path, "model"):
        raise ValueError
    assert names(path) == [MARK, "old"]
    fill(path, name="new")
    assert names(path) == [MARK, "new"] and names(tmp_path) == ["output"]


def test_a_link_to_a_folder_stays_one(tmp_path):
    fill(tmp_path / "output", name="old")
    (tmp_path / "link").symlink_to("output")
    fill(tmp_path / "link", name="new")
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "output") == [MARK, "new"]


def someone_s(folder):
    (folder / "letters").mkdir(parents=True)
    (folder / "letters" / "letter.txt").write_text("dear")


def ours_and_someone_s(folder):
    fill(folder)
    (folder / "notes.txt").write_text("mine")


def ours_of_another_kind(folder):
    fill(folder, "translations")


def named_like_ours(folder):
    folder.mkdir()
    (folder / "model.pt").write_text("mine")


@pytest.mark.parametrize(
    "make, words",
    [
        (someone_s, "holds letters, which"),
        (ours_and_someone_s, "holds notes.txt, which"),
        (ours_of_another_kind, "holds part, which"),
        (named_like_ours, "holds model.pt, which"),
    ],
)
def test_a_folder_that_is_not_ours_is_refused_before_any_work_and_left_alone(tmp_path, make, words):
    make(tmp_path / "output")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"{words} is not part of our model; nothing was changed"):
        with atomic_folder(tmp_path / "output", "model"):
            raise AssertionError("work")
    with pytest.raises(UserError, match=words):
        discard_folder(tmp_path / "output", "model")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_current_folder_and_those_above_it_are_refused(tmp_path, monkeypatch):
    fill(tmp_path / "output")
    monkeypatch.chdir(tmp_path / "output")
    for path in (".", "../output"):
        with pytest.raises(UserError, match="the current folder or one above it"):
            fill(path)


@pytest.mark.parametrize("at_once", [True, False, None], ids=["at once", "not here", "old glibc"])
def test_a_folder_is_replaced_at_once_or_what_a_kill_leaves_is_mended(tmp_path, monkeypatch, at_once):
    """Where the file system has no exchange, the folder may be away for a moment: its name is then put back."""
    path, steps, rename = tmp_path / "output", [], os.rename
    fill(path, text="old")

    def killed(*names):
        steps.append(names)
        if len(steps) == 2:
            raise KeyboardInterrupt
        rename(*names)

    if not at_once:
        refuse = {"renameat2": lambda *_: ctypes.set_errno(errno.EINVAL) or -1}
        monkeypatch.setattr(files, "_libc", SimpleNamespace(**(refuse if at_once is False else {})))
    monkeypatch.setattr(os, "rename", killed)
    if at_once:
        fill(path, text="new")
        assert steps == [] and (path / "part").read_text() == "new"
        return
    with pytest.raises(KeyboardInterrupt):
        fill(path, text="new")
    assert not path.exists()
    monkeypatch.setattr(os, "rename", rename)
    assert files.replaceable_folder(path, "model") == path and (path / "part").read_text() == "old"
    fill(path, text="new")
    assert (path / "part").read_text() == "new" and names(tmp_path) == ["output"]


def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_one(tmp_path):
    """A writer that is killed again and again, at moments spread over what it does."""

    def work():
        for number in itertools.count():
            with atomic_folder(tmp_path / "output", "model") as new:
                for part in range(5):
                    (new / str(part)).write_text(str(number))

    with atomic_folder(tmp_path / "output", "model") as new:
        for part in range(5):
            (new / str(part)).write_text("")
    for moment in range(60):
        child = forked(work)
        time.sleep(0.02 + moment / 3000)
        os.kill(child, signal.SIGKILL)
        assert not ended_well(child)
        assert names(tmp_path / "output") == [MARK, *"01234"]
        assert len({(tmp_path / "output" / part).read_text() for part in "01234"}) == 1
    with atomic_folder(tmp_path / "output", "model"):
        pass
    assert names(tmp_path) == ["output"]


def test_a_look_at_a_lock_keeps_nobody_from_it(tmp_path):
    """``is_locked``, which holds it for a moment, called by another process all the time."""
    lock = tmp_path / ".lock"
    with locked(lock, "x"):
        pass

    def look():
        while True:
            is_locked(lock)

    pid = forked(look)
    try:
        for _ in range(200):
            with locked(lock, "x"):
                pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_what_is_only_read_is_locked_as_far_as_it_can_be(tmp_path, monkeypatch):
    """On a file system that is read-only, or in another's folder."""
    lock, real_open = tmp_path / ".lock", os.open

    def refuse(path, flags, *mode):
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real_open(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with locked(lock, "x", shared=True):
            pass
        with pytest.raises(OSError, match="Read-only"), locked(lock, "x"):
            pass
    with locked(lock, "x"):  # its owner, who can write
        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(UserError, match="is in use"), locked(lock, "x", shared=True):
            pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    (tmp_path / ".lock").touch()
    monkeypatch.setattr(fcntl, "flock", refuse)
    for use in (atomic_write, lambda path: locked(path, "x"), lambda path: nullcontext(is_locked(path))):
        with pytest.raises(UserError, match=f"the file system of {tmp_path}/.* has no locks"), use(tmp_path / ".lock"):
            pass
    assert names(tmp_path) == [".lock"]


def test_on_nfs_files_are_locked_by_who_may_write(tmp_path, monkeypatch):
    real_flock = fcntl.flock

    def flock(descriptor, operation):
        readers = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        if operation & fcntl.LOCK_EX and readers and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "Bad file descriptor")
        real_flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    write_json(tmp_path / "file", {})
    fill(tmp_path / "model")
    with locked(tmp_path / LOCK, "x"):
        pass
    assert names(tmp_path) == [LOCK, "file", "model"] and not is_locked(tmp_path / LOCK)


def test_what_another_machine_writes_is_not_cleared_though_it_looks_unlocked(tmp_path):
    theirs, dead = (tmp_path / f".fairseq-cgc-there{number}-1a2b.partial" for number in range(2))
    for folder in (theirs, dead):
        folder.mkdir()
    os.utime(dead, (1, 1))
    write_json(tmp_path / "file", {})
    assert names(tmp_path) == [theirs.name, "file"]


def test_a_lock_is_held_by_one_process_and_let_go_at_its_end(tmp_path):
    lock = tmp_path / "deep" / ".lock"
    assert not is_locked(lock)
    with locked(lock, "the thing"):
        assert is_locked(lock)
        with pytest.raises(UserError, match=f"the thing is in use by another process .*{lock.name}"):
            with locked(lock, "the thing"):
                pass
    assert not is_locked(lock)
    with locked(lock, "the thing", shared=True), locked(lock, "the thing", shared=True):
        with pytest.raises(UserError, match="is in use"), locked(lock, "the thing"):
            pass

    def work():
        with locked(lock, "x"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert not ended_well(forked(work))
    assert not is_locked(lock)
