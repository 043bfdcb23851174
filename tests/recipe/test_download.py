import random
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fairseq_cgc.errors import CorpusError, OptionError, UserError
from fairseq_cgc.recipe.download import download

CONTENT = b"\x1f\x8b" + random.Random(1).randbytes(300_000)
OTHER = b"\x1f\x8b" + random.Random(2).randbytes(300_000)
CUT = 200_000


class Site(ThreadingHTTPServer):
    """Serves one file, as well or as badly as its attributes say."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}/de-en.tgz"
        self.content, self.content_type = CONTENT, "application/gzip"
        self.status = 200
        self.headers = {"ETag": '"one"'}
        self.length = True  # says how many bytes there are
        self.ranges = self.if_range = True  # heeds these headers of a request
        self.shift = 0  # by how much the range it sends is another than the one it was asked for
        self.cut = None  # bytes after which an answer ends
        self.stalls = None  # an event for which an answer then waits first
        self.asked = []  # the headers of each request

    def stop(self):
        self.shutdown()  # first: the loop does not bear a closed socket
        self.server_close()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server
        site.asked.append(self.headers)
        start, status = 0, site.status
        asked = site.ranges and self.headers.get("Range")
        if asked and not (site.if_range and self.headers.get("If-Range") not in (None, *site.headers.values())):
            start, status = int(re.fullmatch("bytes=([0-9]+)-", asked)[1]) + site.shift, 206
        if start >= len(site.content):
            return self.send_error(416)
        data = site.content[start:]
        self.send_response(status)
        self.send_header("Content-Type", site.content_type)
        for name, value in site.headers.items():
            self.send_header(name, value)
        if site.length:
            self.send_header("Content-Length", str(len(data)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        self.end_headers()
        self.wfile.write(data[: site.cut])
        if site.stalls:
            site.stalls.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    thread = threading.Thread(target=site.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.stop()
    thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "de-en.tgz"


def cut_off(site, path, **changes):
    """Download the first ``CUT`` bytes; then change the site."""
    site.cut = CUT
    with pytest.raises(CorpusError):
        download(site.url, path)
    assert path.with_name("de-en.tgz.part").read_bytes() == site.content[:CUT]
    site.cut = None
    site.asked.clear()
    for name, value in changes.items():
        setattr(site, name, value)


def names(folder):
    return sorted(path.name for path in folder.glob("[!.]*"))


def test_a_download_leaves_the_file_alone_and_returns_its_path(site, tmp_path):
    path = tmp_path / "new" / "folder" / "de-en.tgz"
    assert download(site.url, str(path)) == path
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["de-en.tgz"]


def test_nothing_is_downloaded_where_the_file_is_there(site, path):
    path.write_bytes(b"mine")
    assert download(site.url, path) == path
    assert path.read_bytes() == b"mine" and site.asked == []


def test_a_part_that_is_somebody_else_s_is_left_alone(site, path):
    part = path.with_name("de-en.tgz.part")
    part.write_bytes(b"of a browser")
    with pytest.raises(CorpusError, match="de-en.tgz.part is there and is no download of ours, .*; move it away"):
        download(site.url, path)
    assert part.read_bytes() == b"of a browser" and site.asked == []


def test_a_full_disk_is_named(site, path):
    path.with_name("de-en.tgz.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match="de-en.tgz could not be written .No space left on device.;"):
        download(site.url, path)


def test_no_progress_is_shown_but_to_a_terminal(site, path, capfd):
    download(site.url, path)
    assert capfd.readouterr() == ("", "")


def test_a_connection_cut_off_says_what_arrived_and_leaves_no_file(site, path):
    site.cut = CUT
    with pytest.raises(CorpusError, match=r"cut off \(.*\): 200,000 of 300,002 bytes arrived; run .* resume") as error:
        download(site.url, path)
    assert site.url in str(error.value) and "\n" not in str(error.value)
    assert not path.exists()
    assert path.with_name("de-en.tgz.part").read_bytes() == CONTENT[:CUT]


def test_a_connection_that_falls_silent_ends_as_one_cut_off(site, path):
    site.cut, site.stalls = CUT, threading.Event()
    with pytest.raises(CorpusError, match=r"cut off \(.*timed out\): .* of 300,002 bytes arrived"):
        download(site.url, path, timeout=2)
    site.stalls.set()
    assert not path.exists() and path.with_name("de-en.tgz.part").exists()


@pytest.mark.parametrize(
    ("headers", "validator"),
    [
        ({"ETag": '"one"'}, '"one"'),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan 2024 00:00:00 GMT"),
        ({"ETag": 'W/"one"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, "Mon, 01 Jan 2024 00:00:00 GMT"),
    ],
)
def test_the_next_call_asks_for_the_rest_of_the_same_version(site, path, headers, validator):
    site.headers = headers
    cut_off(site, path)
    download(site.url, path)
    assert [(asked["Range"], asked["If-Range"]) for asked in site.asked] == [(f"bytes={CUT}-", validator)]
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["de-en.tgz"]


def test_a_download_cut_off_again_and_again_goes_on_from_where_it_was(site, path):
    for arrived in (100_000, 200_000, 300_000):
        site.cut = 100_000
        with pytest.raises(CorpusError, match=f"{arrived:,} of 300,002 bytes"):
            download(site.url, path)
    download(site.url, path)
    assert path.read_bytes() == CONTENT
    assert [asked["Range"] for asked in site.asked] == [None, "bytes=100000-", "bytes=200000-", "bytes=300000-"]


NEW = {"ETag": '"two"'}
DATED = {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
LATER = {"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"}
AFRESH = {
    "ignores ranges": ({}, {"ranges": False}, 1),
    "ignores ranges and has another file": ({}, {"ranges": False, "content": OTHER[:-9], "headers": NEW}, 1),
    "has another ETag": ({}, {"content": OTHER, "headers": NEW}, 1),
    "has another date": ({"headers": DATED}, {"content": OTHER, "headers": LATER}, 1),
    "has another ETag and ignores If-Range": ({}, {"content": OTHER, "headers": NEW, "if_range": False}, 2),
    "has another date and ignores If-Range": (
        {"headers": DATED},
        {"content": OTHER, "headers": LATER, "if_range": False},
        2,
    ),
    "has another size and the same ETag": ({}, {"content": OTHER[:-1]}, 2),
    "has a shorter file than what is there": ({}, {"content": OTHER[: CUT - 1], "headers": NEW, "if_range": False}, 2),
    "has a file as long as what is there": ({}, {"content": OTHER[:CUT], "headers": NEW, "if_range": False}, 2),
    "sends another range": ({}, {"shift": 7}, 2),
    "names no version": ({"headers": {}}, {"content": OTHER}, 1),
    "has but a weak ETag": ({"headers": {"ETag": 'W/"one"'}}, {"content": OTHER}, 1),
}


@pytest.mark.parametrize("server", AFRESH)
def test_a_download_starts_over_where_the_server(site, path, server):
    before, after, requests = AFRESH[server]
    for name, value in before.items():
        setattr(site, name, value)
    cut_off(site, path, **after)
    download(site.url, path)
    assert path.read_bytes() == site.content
    assert len(site.asked) == requests
    assert names(path.parent) == ["de-en.tgz"]


def test_where_no_version_is_named_the_error_does_not_promise_to_go_on(site, path):
    site.headers, site.cut = {}, CUT
    with pytest.raises(CorpusError, match="run the same command again to start over"):
        download(site.url, path)


@pytest.mark.parametrize("note", ["", "[1]", "{}", "null", '{"url": "http://elsewhere/de-en.tgz", "etag": "x"}'])
def test_a_beginning_of_unknown_origin_is_not_gone_on_with(site, path, note):
    path.with_name("de-en.tgz.part").write_bytes(OTHER[:CUT])
    path.with_name("de-en.tgz.part.json").write_text(note)
    download(site.url, path)
    assert path.read_bytes() == CONTENT and "Range" not in site.asked[0]


def test_the_beginning_of_another_address_is_not_gone_on_with(site, path):
    cut_off(site, path, content=OTHER)
    download(site.url + "?other", path)
    assert path.read_bytes() == OTHER


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (503, "Service Unavailable")])
def test_an_http_error_names_address_reason_and_way_out(site, path, status, reason):
    site.status = status
    with pytest.raises(
        CorpusError, match=f"{site.url} answered {status} {reason}: .* get de-en.tgz .* --archive PATH$"
    ):
        download(site.url, path)
    assert names(path.parent) == []


def test_a_success_without_a_file_is_an_error(site, path):
    site.status = 202
    with pytest.raises(CorpusError, match="answered 202 Accepted without a file: .* --archive PATH$"):
        download(site.url, path)
    assert names(path.parent) == []


def test_an_address_of_another_kind_is_refused(path):
    with pytest.raises(OptionError, match="--url is file:///etc/passwd; it must begin with http:// or https://"):
        download("file:///etc/passwd", path)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/ü.tgz", "http://[::1/x", "http://a..b/x", f"http://{'a' * 70}.b/x"]
)
def test_an_address_that_is_none_is_named(path, url):
    with pytest.raises(CorpusError, match=f"{re.escape(url)} could not be reached .* --archive PATH$"):
        download(url, path)


def test_without_a_connection_address_reason_and_way_out_are_named(site, path):
    site.stop()
    with pytest.raises(CorpusError, match=rf"{site.url} could not be reached \(.*refused\): .* --archive PATH$"):
        download(site.url, path)
    assert names(path.parent) == []


def test_an_answer_that_is_not_http_is_an_error(site, path, monkeypatch):
    monkeypatch.setattr(Answer, "do_GET", lambda self: self.wfile.write(b"220 mail\r\n\r\n"))
    with pytest.raises(CorpusError, match=r"could not be reached \(220 mail"):
        download(site.url, path)


@pytest.mark.parametrize("trouble", ["an error", "no connection"])
def test_what_has_arrived_survives_trouble_of_the_server(site, path, trouble):
    cut_off(site, path, status=503, ranges=False)
    if trouble == "no connection":
        site.stop()
    before = names(path.parent)
    with pytest.raises(CorpusError):
        download(site.url, path)
    assert names(path.parent) == before == ["de-en.tgz.part", "de-en.tgz.part.json"]
    assert path.with_name("de-en.tgz.part").read_bytes() == CONTENT[:CUT]


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"<!DOCTYPE html><title>Sign in</title>", "application/gzip"),
        (b"\xef\xbb\xbf\r\n\t <html>", "application/octet-stream"),
        (b"Please sign in", "text/html; charset=utf-8"),
        (CONTENT, "Text/HTML"),
    ],
)
def test_an_html_page_in_the_place_of_the_archive_is_refused_and_left_nowhere(
    site, path, content, content_type, resumed
):
    page = {"content": content, "content_type": content_type}
    if resumed:
        cut_off(site, path, **page, ranges=len(content) > CUT)
    site.content, site.content_type = content, content_type
    with pytest.raises(CorpusError, match=f"{re.escape(site.url)} answered with an HTML page, .* --archive PATH$"):
        download(site.url, path)
    assert names(path.parent) == []


def test_an_answer_of_unknown_length_is_refused(site, path):
    site.length = False
    with pytest.raises(CorpusError, match="does not say how many bytes it has .* --archive PATH$"):
        download(site.url, path)
    assert not path.exists()
