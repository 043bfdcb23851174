"""A download that goes on where it was cut off, and appears only when all of it has arrived."""

import re
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from ..errors import CorpusError, OptionError, UserError
from .files import read_json, remove, room, write_json

CHUNK = 2**16
VERSION = {"url": str, "etag": (str, None), "modified": (str, None), "bytes": int}  # in the note beside a download


def download(url, path, timeout=60):
    """Download a file over HTTP, unless ``path`` is there already.

    The caller keeps others from the same path. Until all has arrived, the data is in ``path`` + ``.part``, beside a
    ``.part.json`` that says which version of the file it is the beginning of. After an interruption, the next call asks
    for the rest of that version; it starts over if there is another now, or if the server cannot tell or has no ranges.

    Args:
        url: address of an archive: an HTML page in its place is an error
        path: where it is to be
        timeout: seconds without an answer before giving up

    Returns:
        ``path``

    Raises:
        OptionError: an address of another kind
        CorpusError: no connection, an HTTP error, an HTML page, a connection cut off, or a ``.part`` of somebody else's
    """
    if not url.startswith(("http://", "https://")):
        raise OptionError(
            f"--url is {url}; it must begin with http:// or https://. Give a copy that is here with --archive PATH"
        )
    path = Path(path)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with room(path):
        return _download(url, path, timeout)


def _download(url, path, timeout):
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    if part.exists() and part.stat().st_size and not note.exists():
        raise CorpusError(
            f"{part} is there and is no download of ours, which has a {note.name} beside it; move it away"
        )
    start, version = _begun(url, part, note)
    response = _asked(url, path, timeout, start, version) if start else None
    with response or _asked(url, path, timeout) as response:
        start = start if response.status == 206 else 0
        first = _read(response)
        if response.headers.get_content_type() == "text/html" or start == 0 and looks_like_html(first[0]):
            remove(part)
            remove(note)
            raise CorpusError(f"{url} answered with an HTML page, not with an archive: {_elsewhere(path)}")
        if start == 0:
            version = _version(url, response)
            if version["bytes"] is None:
                raise CorpusError(f"{url} does not say how many bytes it has (no Content-Length): {_elsewhere(path)}")
        total = version["bytes"]
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(
                total=total, initial=start, desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=None
            ) as bar,
        ):
            if start == 0:
                write_json(note, version)  # after emptying the file, which held another version
            chunk, failure = first
            while chunk:
                file.write(chunk)
                bar.update(len(chunk))
                chunk, failure = _read(response)
            arrived = file.tell()
    if arrived != total:
        resumes = "resume" if _validator(version) else "start over"
        raise CorpusError(
            f"{url} was cut off ({failure or 'the connection was closed'}): {arrived:,} of {total:,} bytes arrived; run "
            f"the same command again to {resumes}"
        )
    part.replace(path)
    remove(note)
    return path


def looks_like_html(data):
    """Whether these first bytes of a file are those of an HTML or XML page."""
    return data.lstrip(b"\xef\xbb\xbf \t\r\n\f\v").startswith(b"<")


def _begun(url, part, note):
    """How many bytes are there of which version; 0 and None if that cannot be gone on with."""
    with suppress(FileNotFoundError, UserError):
        version = read_json(note, VERSION)
        if version["url"] == url and _validator(version) and part.stat().st_size:
            return part.stat().st_size, version
    return 0, None


def _version(url, response):
    """What tells this version of the file from others; None for what the server does not say."""
    size = response.headers.get("Content-Length")
    if response.status == 206:
        size = re.sub(".*/", "", response.headers.get("Content-Range", ""))
    return {
        "url": url,
        "etag": response.headers.get("ETag"),
        "modified": response.headers.get("Last-Modified"),
        "bytes": int(size) if re.fullmatch("[0-9]+", size or "") else None,
    }


def _validator(version):
    """What If-Range takes: a strong ETag, or the date of the last change."""
    etag = version["etag"]
    return etag if etag and not etag.startswith("W/") else version["modified"]


def _continues(response, start, version):
    """Whether an answer with status 206 is the rest of this version; some servers do not heed If-Range."""
    if not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
        return False
    return all(value in (None, version[key]) for key, value in _version(version["url"], response).items())


def _asked(url, path, timeout, start=0, version=None):
    """The answer: status 206 for the rest from ``start`` on, 200 for the whole file, None for no such rest."""
    headers = {"User-Agent": "fairseq-cgc", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": _validator(version)}
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        error.close()
        if start and error.code == 416:
            return None
        raise CorpusError(f"{url} answered {error.code} {error.reason}: {_elsewhere(path)}") from None
    except (OSError, HTTPException, ValueError) as error:  # the last of an address that is none, or a proxy's
        reason = _words(getattr(error, "reason", error))
        raise CorpusError(f"{url} could not be reached ({reason}): {_elsewhere(path)}") from None
    if response.status == 200 or start and response.status == 206 and _continues(response, start, version):
        return response
    response.close()
    if start:
        return None
    raise CorpusError(f"{url} answered {response.status} {response.reason} without a file: {_elsewhere(path)}")


def _read(response):
    """The next bytes, and what went wrong, if anything; no bytes at the end."""
    try:
        return response.read(CHUNK), None
    except (OSError, HTTPException) as error:
        return b"", _words(error)


def _words(error):
    return str(error) or type(error).__name__


def _elsewhere(path):
    return f"try again later, or get {path.name} elsewhere and give it with --archive PATH"
