"""Files that appear whole or not at all, and text that says where it is broken."""

import bz2
import codecs
import errno
import fcntl
import gzip
import hashlib
import json
import lzma
import os
import shutil
import signal
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path

from ..errors import CorpusError, UserError


@contextmanager
def whole(path):
    """Yield a name beside ``path`` to write a file or folder under; at the end it becomes ``path``,
    and what was there before is gone.

    After an error, or in a process that dies, ``path`` is as it was; what a dead process left
    under the temporary name is cleared by the next run.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    remove(partial)
    try:
        yield partial
        if partial.is_dir():
            remove(path)
        os.replace(partial, path)
    except BaseException:
        remove(partial)
        raise


def remove(path):
    """Remove a file or a folder with all it holds, if it is there."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def held(path, what):
    """Hold the lock file ``path`` while something is being written; a process that dies lets it go.

    Args:
        what: words for what is being written

    Yields:
        the descriptor of the lock; a child process that is given it holds the lock too

    Raises:
        UserError: another process holds it
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{what} is being written by another process (it holds {path}); wait for it, or stop it"
            ) from None
        yield file.fileno()


def is_held(path):
    """Whether a process holds the lock file ``path``; a missing file means not."""
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def write_json(path, value):
    with whole(path) as partial:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file of ours.

    Raises:
        UserError: it is not valid JSON
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); remove it and make it anew") from None


COMPRESSED = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def read_lines(path):
    """Lines of a UTF-8 text file, plain or ``.gz``, ``.bz2``, ``.xz``, without their ends; see ``decode_lines``.

    Only a line feed ends a line, as for the Unix tools: Python's other line separators (U+2028,
    a form feed) occur inside sentences. A carriage return before it is dropped, and so is a byte-order mark.

    Raises:
        CorpusError: missing file, truncated or broken compression, invalid UTF-8 (naming the line)
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise CorpusError(f"{path} is a folder; a text file was wanted") from None
    if decompress := COMPRESSED.get(path.suffix.lower()):
        try:
            data = decompress(data)
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise CorpusError(f"{path} is truncated or no {path.suffix} file ({error}); get it again") from None
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return list(decode_lines(lines, path))


def decode_lines(lines, name):
    """Lines of a UTF-8 text without their ends, and without a byte-order mark at its head.

    Args:
        lines: iterable of bytes, a line each
        name: of the text, for the error

    Yields:
        strings

    Raises:
        CorpusError: invalid UTF-8, with its line and column
    """
    for number, line in enumerate(lines, 1):
        line = line.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{name}, line {number}: byte 0x{line[error.start]:02x} at column {error.start + 1} is not valid UTF-8; "
                "convert it to UTF-8 first"
            ) from None


def write_lines(path, lines):
    """Write lines to a UTF-8 text file, whole or not at all."""
    with whole(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def sha256_of(path):
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def writable_folder(path, free_bytes=0, option="--work"):
    """Make the folder if need be, and see that it can be written to and has room.

    Args:
        option: the command's option that names another folder, for the error

    Raises:
        UserError: it cannot be made or written to, or its disk has less than ``free_bytes`` left
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write-probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the folder {path} cannot be written to ({error.strerror}); choose another with {option}"
        ) from None
    free = shutil.disk_usage(path).free
    if free < free_bytes:
        raise UserError(
            f"the disk of {path} has {free / 2**20:.0f} MiB free and {free_bytes / 2**20:.0f} MiB are needed; "
            f"make room, or choose another folder with {option}"
        )
    return path


def run_command(main):
    """Run a command's ``main()``; end with one or two lines where the user can mend what is wrong.

    Exit status: 0, 1 after an error, 130 after an interrupt.
    """
    for stream in (sys.stdout, sys.stderr):  # whatever the locale says
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:surrogateescape"}  # for the commands that we start
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end children, clear what is half-written
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        place = f" at {error.filename}" if error.filename else ""
        sys.exit(
            f"error: writing failed{place}: {error.strerror}; make room or permission, then run the same command again"
        )
