"""Files and folders that appear whole or not at all, locks, and records that are checked when they are read.

What a user names is the user's: a file is replaced because it was named as the output, a folder only if it is ours.
"""

import bz2
import codecs
import ctypes
import errno
import fcntl
import gzip
import hashlib
import io
import json
import locale
import lzma
import os
import platform
import re
import secrets
import shutil
import signal
import stat
import sys
import tempfile
import time
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import NamedTuple

from ..compat import MEANS_MORE_IN_A_PATH
from ..errors import CorpusError, UserError

MARK = ".fairseq-cgc"  # in a folder of ours: what it is, and the files that we put there
OURS = "fairseq-cgc"
MARKS = tuple(  # in a file of ours: Markdown, JSON, PNG, HTML
    form.format(OURS).encode()
    for form in ("<!-- written by {} -->", '"written_by": "{}"', "Software\0{}", '<meta name="generator" content="{}">')
)
LOCK = ".lock"  # in a folder that is being written
STREAMS = ("/dev/std", "/dev/fd/", "/proc/")  # names of open files, which may be regular ones
# Folders that grow, and have no mark: the record in each, its keys, and all files there but those of marked folders.
GROWING = {
    "preparation": ("prepare.json", "settings raw", "prepare.json bpe.codes spm.model .lock"),
    "run": (
        "run.json",
        "row data",
        "run.json train.log log.jsonl report*.html .lock checkpoints/checkpoint*.pt* checkpoints/dummy checkpoints/crash.pt "
        "tensorboard/events* tensorboard/*/events*",
    ),
}
LEFT = ".fairseq-cgc-*.partial", ".*.fairseq-cgc-old"  # what a kill leaves
ADDED = ("loss.json", "validate.log")  # to translations, when they were there
FULL = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
HOST = re.sub(r"\W", "", platform.node())[:20]
LONG_AGO = 7 * 24 * 3600  # seconds
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def partial_in(parent, folder=False):
    """Yield a new file or folder in ``parent``; what of it is still there at the end is removed.

    It is locked while this process lives: what dead processes have left is told by that, and cleared. A network file system
    locks a folder for one machine alone: what another has left is cleared when it is old.
    """
    parent, name = Path(parent), f".fairseq-cgc-{HOST}-"
    for left in parent.glob(".fairseq-cgc-*.partial"):
        with suppress(OSError):
            if left.name.startswith(name) or left.stat().st_mtime < time.time() - LONG_AGO:
                with _flocked(left, _open(left), fcntl.LOCK_EX | fcntl.LOCK_NB):
                    remove(left)
    while True:
        path = parent / f"{name}{secrets.token_hex(4)}.partial"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            path.mkdir() if folder else path.touch(exist_ok=False)
        except OSError as error:
            if _passes(parent):
                raise
            advice = "free space, fix the permissions or choose another one, then run the same command again"
            raise _not_writable(parent, error, advice) from None
        try:
            descriptor = _open(path)
        except FileNotFoundError:  # taken for a dead process's before it was locked
            continue
        try:
            with _flocked(path, descriptor, fcntl.LOCK_EX):
                if not path.exists():  # likewise
                    continue
                yield path
        finally:
            remove(path)
        return


def _open(path):
    """A descriptor to lock a file or a folder by. NFS locks a file exclusively only for who may write; a folder is never opened so."""
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)


@contextmanager
def _flocked(path, descriptor, operation):
    try:
        _flock(path, descriptor, operation)
        yield descriptor
    finally:
        os.close(descriptor)


def _flock(path, descriptor, operation):
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
            raise
        raise UserError(
            f"the file system of {path} has no locks (flock: {error.strerror}), by which we see who writes there; choose a "
            "folder on another one, or have it mounted with them"
        ) from None


def check_output(path, option, inputs=(), part=None):
    """Raises UserError, before any work, if the file that an option names cannot be written, or is somebody's.

    That is if it is a folder or one of ``inputs``, the files that the work reads, if its folder cannot be written to, or if it
    is there and not JSON with ``part`` in it, a name, as what we would write has.
    """
    _refuse_folder(path, f"{option} {path}")
    if not path.exists():
        writable_folder(path.parent, option=option)
    elif path.is_file() and not str(path).startswith(STREAMS):
        check_writable(Path(os.path.realpath(path)).parent, option)
    for file in map(Path, inputs):
        if path.is_file() and file.is_file() and path.samefile(file):
            raise UserError(f"{option} {path} is an input, and would be replaced; choose another name")
    if part and path.is_file():
        try:
            read_json(path, {part: object})
        except UserError:
            raise UserError(f"{option} {path} is there and holds no {part}; choose another name") from None


def _refuse_folder(path, name=None):
    if path.is_dir():
        raise UserError(f"{name or path} is a folder, and a file is to be written there; choose another name")


def check_own_files(folder, names):
    """Raises UserError, before any work, if of the files to be made in a folder one is there that is not ours.

    Ours have one of ``MARKS``.
    """
    for path in (Path(folder) / name for name in names):
        if path.is_dir() or path.is_file() and not _is_ours(path):
            raise UserError(f"{path} is there and is not one of ours; move it away, or choose another folder")


def _is_ours(file):
    content = file.read_bytes()
    return any(mark in content for mark in MARKS)


@contextmanager
def atomic_write(path):
    """Yield a name to write a file under; at the end it becomes ``path``, or ``path`` is as it was.

    A link stays one, and its target is replaced; a device or a pipe is written into. Raises UserError if there is a
    folder, or no room.
    """
    path = Path(path)
    _refuse_folder(path)
    kind = os.stat(path).st_mode if path.exists() else None
    if kind and not stat.S_ISREG(kind) or str(path).startswith(STREAMS):
        with tempfile.TemporaryDirectory() as folder:
            yield (file := Path(folder) / "output")
            try:
                _copy_into(path, file)
            except BrokenPipeError:
                raise
            except OSError as error:
                raise UserError(f"{path} could not be written ({error.strerror}); name another output") from None
        return
    target = Path(os.path.realpath(path))
    with partial_in(target.parent) as file, room(path):
        yield file
        _flush(file)
        if kind:
            os.chmod(file, stat.S_IMODE(kind))
        os.replace(file, target)


def _copy_into(device, file):
    with suppress(AttributeError, OSError):
        if os.path.samestat(os.stat(device), os.fstat(sys.stdout.fileno())):  # in order with what is printed
            sys.stdout.buffer.flush()
            sys.stdout.flush()
            with open(file, "rb") as source:
                shutil.copyfileobj(source, sys.stdout.buffer)
            return
    with open(file, "rb") as source, open(device, "ab") as sink:
        shutil.copyfileobj(source, sink)


@contextmanager
def room(path):
    """Raises UserError where a disk is full: of the output ``path``, not of a name that only passes."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL or _passes(path):
            raise
        raise UserError(
            f"{path} could not be written ({error.strerror}); the previous content is unchanged: free space, then run "
            "the same command again"
        ) from None


def _passes(path):
    """Whether a path lies in a folder that is being filled under a name of its own."""
    return any(_matches(part, LEFT) for part in Path(path).parts)


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(path, what, **facts):
    """Yield a new folder to fill; at the end it becomes ``path``, and is marked as ours, with ``facts`` in the mark.

    A process may be killed at any moment: the old folder or the new one is there, whole. Only an empty folder is
    replaced, or one of ours of this kind (``what``). Raises UserError if something else is there, which is left alone,
    or no room.
    """
    target = replaceable_folder(path, what)
    with partial_in(target.parent, folder=True) as folder, room(path):
        yield folder
        mark_folder(folder, what, **facts)
        for file in [*folder.rglob("*"), folder]:
            _flush(file)
        replace_folder(path, folder, what)


def replace_folder(path, folder, what):
    """Put one of our folders where ``path`` leads to, as ``atomic_folder`` does; what was there is left at ``folder``."""
    _exchange(folder, replaceable_folder(path, what))  # looked at once more: hours may have passed


def _exchange(folder, target):
    """Put ``folder`` where ``target`` is, which is then at ``folder``, if there was one."""
    if not target.exists():
        os.rename(folder, target)
    elif not hasattr(_libc, "renameat2"):  # glibc before 2.28
        _exchange_in_steps(folder, target)
    elif _libc.renameat2(-100, os.fsencode(folder), -100, os.fsencode(target), 2):  # AT_FDCWD, RENAME_EXCHANGE
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(code, os.strerror(code), str(target))
        _exchange_in_steps(folder, target)


def _exchange_in_steps(folder, target):
    """Where the file system cannot do it at once; ``replaceable_folder`` mends what a kill leaves."""
    old = target.with_name(f".{target.name}.fairseq-cgc-old")
    os.rename(target, old)
    os.rename(folder, target)
    remove(old)


def replaceable_folder(path, what):
    """The folder that ``path`` leads to. Raises UserError unless it is none yet, an empty one, or ours."""
    target = Path(os.path.realpath(path))
    old = target.with_name(f".{target.name}.fairseq-cgc-old")
    if old.is_dir():
        remove(old) if target.exists() else os.rename(old, target)
    if not target.exists() and not target.is_symlink():
        return target
    if not target.is_dir():
        raise UserError(f"{path} is no folder, and a folder ({what}) is to be written there; choose another name")
    if Path.cwd().is_relative_to(target):
        raise UserError(f"{path} is the current folder or one above it, and would be replaced; name one in it")
    foreign = foreign_files(target, what)
    if foreign:
        raise UserError(
            f"{path} holds {', '.join(foreign[:3])}{' ...' if foreign[3:] else ''}, which is not part of our {what}; nothing "
            "was changed: choose another folder, or move it away"
        )
    return target


def foreign_files(folder, what):
    """Names in a folder that are not there as part of our ``what``."""
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir())
    if not names or names == [LOCK] and not (folder / LOCK).stat().st_size:  # locked before there was anything in it
        return []
    if mark := mark_of(folder):
        ours = {*mark["files"], *ADDED} if mark["what"] == what else ()
        return sorted(name for name in _files_in(folder) if name not in ours)
    proof, keys, patterns = GROWING.get(what, ("", "", ""))
    try:
        read_json(folder / proof, dict.fromkeys(keys.split(), object))
    except (UserError, OSError):
        return names
    foreign = []
    for path in sorted(path for path in folder.iterdir() if not _matches(path.name, LEFT)):
        if path.is_dir() and (mark := mark_of(path)):
            foreign += [f"{path.name}/{name}" for name in foreign_files(path, mark["what"])]
            continue
        found = [f"{path.name}/{name}" for name in _files_in(path)] if path.is_dir() else [path.name]
        somebody_s = path.suffix == ".html" and path.is_file() and not _is_ours(path)
        foreign += [name for name in found if somebody_s or not _matches(name, patterns.split())]
    return foreign


def _matches(name, patterns):
    """Whether a relative path is like one of these, part by part."""
    return any(name.count("/") == pattern.count("/") and PurePath(name).match(pattern) for pattern in patterns)


def _files_in(folder):
    paths = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = (path.relative_to(folder) for path in paths)
    return [str(name) for name in names if str(name) != MARK and not _matches(name.parts[0], LEFT)]


def mark_folder(folder, what, **facts):
    """Mark a folder, with all that is in it, as ours."""
    mark = {"written_by": OURS, "what": what, **facts, "files": sorted(_files_in(Path(folder)))}
    write_json(Path(folder) / MARK, mark)


def mark_of(folder):
    """The mark of a folder of ours; an empty dict where it has none."""
    path = Path(folder) / MARK
    shape = {"what": str, "files": [str], "checkpoints?": [str], "sha256?": {str: str}}
    shape |= {"updates?": (int, None), "last?": (int, None)}
    return read_json(path, shape) if path.exists() else {}


def discard_folder(path, what):
    """Remove a folder of ours at once, if it is there. Raises UserError if it is not ours."""
    target = replaceable_folder(path, what)
    if target.exists():
        with partial_in(target.parent, folder=True) as folder:
            os.rename(target, folder / target.name)


def remove(path):
    """Remove a file or a folder with all it holds, if it is there."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path, what, shared=False):
    """Lock the file ``path`` while something (``what``, in words) is being written or read; a process that dies lets it go.

    With ``shared`` others may hold it in this way too, and it may lie where nothing can be written: then nobody else writes
    there either, if it is not there. Yields the descriptor of the lock, which children do not inherit; one that is given it
    holds the lock too. Raises UserError if another process has locked it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if not shared or error.errno not in (errno.EROFS, errno.EACCES):
            raise
        if not path.exists():
            yield None
            return
        descriptor = os.open(path, os.O_RDONLY)
    try:
        operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        for last in (*[False] * 30, True):  # ``is_locked`` of another process holds it for a moment
            try:
                _flock(path, descriptor, operation)
                break
            except BlockingIOError:
                if last:
                    raise UserError(
                        f"{what} is in use by another process (it holds {path}); wait for it, or stop it"
                    ) from None
                time.sleep(0.01)
        yield descriptor
    finally:
        os.close(descriptor)


def is_locked(path):
    """Whether a process has locked the file ``path``; a missing file means not."""
    try:
        with _flocked(path, os.open(path, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB):
            return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


def write_json(path, value):
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8", errors="backslashreplace")


class Between(NamedTuple):
    """In the shape of a record: a number within limits."""

    low: float = float("-inf")
    high: float = float("inf")
    kind: type = float


def read_json(path, shape=object):
    """Read a JSON file of ours. Raises UserError if it is no JSON, or not of this shape: see ``check_record``."""
    try:
        value = json.loads(Path(path).read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); remove it and create it again") from None
    return check_record(value, shape, path)


KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list"}


def check_record(value, shape, path, field=""):
    """See that a value read from a file is what we wrote there, and return it.

    Args:
        shape: ``int``, ``float`` (finite), ``str``, ``object`` (anything), ``Between``; (shape, None) for that or None; a
            list of the shape of all items; a dict of names to shapes, where ``?`` ends the name of what may be missing,
            and ``{str: shape}`` has any names
        path: of the file; and ``field``, the value's place in it: for the error

    Raises:
        UserError: it is not; names file and field
    """
    if shape is object:
        return value
    if type(shape) is tuple:  # this, or None
        return value if value is None else check_record(value, shape[0], path, field)
    kind = shape if isinstance(shape, type) else type(shape)
    low, high, kind = shape if kind is Between else Between(kind=kind)
    fits, wanted = isinstance(value, kind), KINDS.get(kind, "an object")
    if kind in (int, float):
        fits = type(value) in (int, kind) and abs(value) <= sys.float_info.max and low <= value <= high
        limits = f" from {low:g} to {high:g}" if high < float("inf") else f" of at least {low:g}"
        wanted += limits if low > float("-inf") else " that is finite" * (kind is float)
    advice = "The file is damaged or not ours: restore a copy, or make it again"
    if not fits:
        shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:60] + "..."
        raise UserError(f"{path}: {field or 'the content'} is {shown}; expected {wanted}. {advice}")
    if isinstance(shape, list):
        for number, item in enumerate(value):
            check_record(item, shape[0], path, f"{field}[{number}]")
    if isinstance(shape, dict):
        for key, part in (dict.fromkeys(value, shape[str]) if str in shape else shape).items():
            name, place = key.removesuffix("?"), f"{field}.{key}".strip(".?")
            if name in value:
                check_record(value[name], part, path, place)
            elif name == key:
                raise UserError(f"{path} lacks {place}. {advice}")
    return value


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
        raise CorpusError(f"{path} is a folder; expected a text file") from None
    if decompress := COMPRESSED.get(path.suffix.lower()):
        try:
            data = decompress(data)
        except (EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
            raise CorpusError(f"{path} is truncated or not a {path.suffix} file ({error}); get it again") from None
    return list(decode_lines(io.BytesIO(data), path))


def decode_lines(lines, name):
    """Yield the lines of a UTF-8 text without their ends, and without a byte-order mark at its head.

    Takes an iterable of bytes, a line each. Raises CorpusError for invalid UTF-8, with the text's ``name``, line and
    column.
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


def from_command_line(text):
    """A text of the command line, which the locale may not have let Python read. Raises CorpusError for invalid UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        [text] = decode_lines([os.fsencode(text)], "the command line")
    return text


def write_lines(path, lines):
    """Write lines to a UTF-8 text file, whole or not at all."""
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def sha256_of(path):
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def usable_path(path, option):
    """The absolute form of a path. Raises UserError for one that fairseq would take for another, or for several."""
    path = Path(os.path.realpath(path) if ".." in Path(path).parts else os.path.abspath(path))  # "link/.." is elsewhere
    for text, meaning in MEANS_MORE_IN_A_PATH.items():
        if text in str(path):
            raise UserError(f"{option} {path} has a '{text}', which {meaning} in fairseq; choose another name")
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        encoded = os.fsencode(path)
        with suppress(UnicodeDecodeError):
            raise UserError(
                f"{option} {encoded.decode('utf-8')} is not in this locale's encoding ({sys.getfilesystemencoding()}); set "
                "LC_ALL=C.UTF-8, or PYTHONUTF8=1"
            ) from None
        raise UserError(f"{option} {encoded} is not valid UTF-8; choose another name") from None
    return path


def writable_folder(path, free_bytes=0, option="--work"):
    """Make the folder if need be, and return its absolute path.

    Raises UserError, with the option that names another, if it cannot be made or written to, or if its disk has less
    than ``free_bytes`` left.
    """
    path = usable_path(path, option)
    check_writable(path, option)
    free = shutil.disk_usage(path).free
    if free < free_bytes:
        raise UserError(
            f"the disk of {path} has {free / 2**20:.0f} MiB free and {free_bytes / 2**20:.0f} MiB are needed; "
            f"free space, or choose another folder with {option}"
        )
    return path


def check_writable(folder, option):
    """Make the folder if need be. Raises UserError, with the option that names another, if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _not_writable(folder, error, f"choose another with {option}") from None


def _not_writable(folder, error, advice):
    files = isinstance(error, (FileExistsError, NotADirectoryError))
    reason = "it, or a folder of its path, is a file" if files else error.strerror
    return UserError(f"the folder {folder} cannot be written to ({reason}); {advice}")


def what_to_do(error):
    """An error of the system in words that say what to do."""
    place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    return f"{place}{error.strerror}; free space, fix the permissions or choose another path, then run the same command again"


def _stop(*_):
    """An interrupt that no SIGTERM cuts short: a terminal interrupts a child too, to which its parent then sends one."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def run_command(main):
    """Run a command's ``main()``; end with one or two lines where the user can mend what is wrong.

    Exit status: 0, 1 after an error, 130 after an interrupt, 141 when nobody reads on.
    """
    try:
        os.getcwd()
    except FileNotFoundError:  # torch's own libraries end without a word of it
        sys.exit("error: the current folder does not exist any more; change to another one")
    for descriptor in range(3):  # a closed one would become that of the next file we open
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin, sys.stdout, sys.stderr = (
        stream or open(n, "rw"[n > 0], encoding="utf-8", closefd=False)
        for n, stream in enumerate((sys.stdin, sys.stdout, sys.stderr))
    )
    for stream in (sys.stdout, sys.stderr):  # whatever the locale says
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    with suppress(locale.Error):  # subword-nmt's codes are opened in the locale's encoding
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:surrogateescape"}  # for the commands that we start
    for number in (signal.SIGINT, signal.SIGTERM):  # end children, clear what is half-written
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.filename is None and error.errno not in (*FULL, errno.EROFS, errno.ENOENT):
            raise
        sys.exit(f"error: {what_to_do(error)}")
