import bz2
import codecs
import errno
import gzip
import io
import lzma
import os
import signal
import sys
import time

import pytest
from conftest import ROOT, run

from fairseq_cgc.errors import CorpusError, UserError
from fairseq_cgc.recipe.files import (
    decode_lines,
    held,
    is_held,
    read_json,
    read_lines,
    run_command,
    whole,
    writable_folder,
    write_json,
    write_lines,
)


@pytest.mark.parametrize("folder", [False, True])
def test_an_output_appears_whole_or_not_at_all(tmp_path, folder):
    path = tmp_path / "deep" / "output"

    def write(fails):
        with whole(path) as partial:
            if folder:
                partial.mkdir()
                (partial / "part").write_text("1")
            else:
                partial.write_text("1")
            assert not path.exists()
            if fails:
                raise ValueError

    with pytest.raises(ValueError):
        write(fails=True)
    assert list(path.parent.iterdir()) == []
    write(fails=False)
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_process_left_is_cleared(tmp_path):
    (tmp_path / "output.partial").mkdir()
    (tmp_path / "output.partial" / "half").write_text("1")
    write_lines(tmp_path / "output", ["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


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
    code = "import subprocess, sys; from fairseq_cgc.recipe.files import run_command; "
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
        (tmp_path / "no.xz", "no.xz is truncated or no .xz file"),
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


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        writable_folder(tmp_path / "file" / "folder")
    with pytest.raises(UserError, match="MiB free and 9223372036854 MiB are needed"):
        writable_folder(tmp_path, free_bytes=9223372036854 * 2**20)


@pytest.mark.parametrize(
    "error, words",
    [
        (UserError("the thing is wrong"), "error: the thing is wrong"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            "error: writing failed at /x: No space left on device",
        ),
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


def test_a_terminated_command_clears_what_is_half_written(tmp_path):
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from fairseq_cgc.recipe.files import run_command, whole
def main():
    with whole({str(tmp_path / "output")!r}) as partial:
        partial.write_text("half")
        print("ready", flush=True)
        time.sleep(60)
run_command(main)
"""
    import subprocess

    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    os.kill(process.pid, signal.SIGTERM)
    words = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "run the same command again to go on" in words
    assert time.monotonic() - started < 30 and list(tmp_path.iterdir()) == []


def test_run_helper_reports_the_exit_status():
    assert run(sys.executable, "-c", "raise SystemExit(3)", check=False).returncode == 3


def test_a_folder_takes_the_place_of_an_earlier_one_only_when_it_is_whole(tmp_path):
    path = tmp_path / "output"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(ValueError), whole(path) as partial:
        partial.mkdir()
        raise ValueError
    assert [file.name for file in path.iterdir()] == ["old"]
    with whole(path) as partial:
        partial.mkdir()
        (partial / "new").write_text("1")
    assert [file.name for file in path.iterdir()] == ["new"]


def test_a_lock_is_held_by_one_process_and_let_go_at_its_end(tmp_path):
    lock = tmp_path / "deep" / ".lock"
    assert not is_held(lock)
    with held(lock, "the thing"):
        assert is_held(lock)
        with pytest.raises(UserError, match=f"the thing is being written by another process .*{lock.name}"):
            with held(lock, "the thing"):
                pass
    assert not is_held(lock)
    code = (
        f"from fairseq_cgc.recipe.files import held; import os\nwith held({str(lock)!r}, 'x'): os.kill(os.getpid(), 9)"
    )
    run(sys.executable, "-c", code, cwd=ROOT, check=False)
    assert not is_held(lock)
