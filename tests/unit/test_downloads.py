"""What is published and pinned: fetched once, never used when it is another file or not whole."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from phoenix_fleet import downloads
from phoenix_fleet.domain.errors import BuildFailed, InvalidConfig, Unavailable

CONTENT = os.urandom(3 * 1024 * 1024)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Publishes one file, as told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.status, self.location = CONTENT, 200, ""
        self.cut: int | None = None
        """After how many bytes the connection breaks."""
        self.claimed: int | None = None
        self.slow = threading.Event()
        self.slow.set()
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/releases/noble.img"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        self.send_response(server.status)
        if server.location:
            self.send_header("Location", server.location)
        self.send_header("Content-Length", str(server.claimed or len(server.content)))
        self.end_headers()
        self.wfile.write(server.content[: 1024 * 1024 if server.cut is None else server.cut])
        server.slow.wait(30)
        if server.cut is None:
            self.wfile.write(server.content[1024 * 1024 :])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("PHOENIX_CACHE", str(tmp_path / "cache"))
    found = Server()
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.slow.set()
    found.shutdown()
    thread.join()
    found.server_close()


def quiet(_line: str) -> None:
    pass


def cached(tmp_path: Path) -> set[str]:
    """What is in the cache, without its locks."""
    return {path.name for path in (tmp_path / "cache" / "downloads").iterdir() if path.suffix != ".lock"}


def test_a_file_is_fetched_once_and_kept_under_its_digest(server: Server, tmp_path: Path) -> None:
    lines: list[str] = []
    file = downloads.fetch(server.url, SHA256, lines.append)
    assert file.read_bytes() == CONTENT
    assert downloads.fetch(server.url, SHA256, lines.append) == file
    assert (server.asked, cached(tmp_path)) == (1, {SHA256})
    assert lines[-1] == "download: noble.img is in the cache"


def test_another_file_than_the_one_that_is_pinned_is_never_used(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(BuildFailed, match=f"pins {SHA256}. Nothing was made of it") as failed:
        downloads.fetch(server.url, SHA256, quiet)
    assert hashlib.sha256(server.content).hexdigest() in str(failed.value)
    assert cached(tmp_path) == set()


@pytest.mark.parametrize("sent", [0, 1, 1024 * 1024, 3 * 1024 * 1024 - 1])
def test_one_that_was_interrupted_may_be_tried_again(server: Server, tmp_path: Path, sent: int) -> None:
    server.cut = sent
    with pytest.raises(Unavailable, match="cannot be fetched"):
        downloads.fetch(server.url, SHA256, quiet)
    assert cached(tmp_path) == set()
    server.cut = None
    assert downloads.fetch(server.url, SHA256, quiet).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_refusal_is_not_taken_for_the_file(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(Unavailable, match=str(status)):
        downloads.fetch(server.url, SHA256, quiet)
    assert cached(tmp_path) == set()


def test_a_server_that_is_away_may_come_back(server: Server) -> None:
    with pytest.raises(Unavailable, match="cannot be fetched"):
        downloads.fetch("http://127.0.0.1:9/noble.img", SHA256, quiet)


def test_one_that_says_nothing_more_is_not_waited_for_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_QUIET", downloads.timedelta(seconds=0.2))
    server.slow.clear()
    with pytest.raises(Unavailable, match="cannot be fetched"):
        downloads.fetch(server.url, SHA256, quiet)


def test_one_that_never_ends_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_LARGEST", 1024 * 1024)
    with pytest.raises(Unavailable, match="did not end"):
        downloads.fetch(server.url, SHA256, quiet)
    assert cached(tmp_path) == set()


def test_one_that_has_no_room_is_not_begun(server: Server, tmp_path: Path) -> None:
    server.claimed, server.cut = 1 << 60, 10
    with pytest.raises(InvalidConfig, match="the cache has room for"):
        downloads.fetch(server.url, SHA256, quiet)
    assert cached(tmp_path) == set()


@pytest.mark.parametrize("location", ["http://images.example/noble.img", "http://user:pw@127.0.0.1/x"])
def test_nobody_is_sent_to_where_files_may_not_come_from(server: Server, location: str) -> None:
    server.status, server.location = 302, location
    with pytest.raises(InvalidConfig, match="is not fetched"):
        downloads.fetch(server.url, SHA256, quiet)


def test_what_was_changed_in_the_cache_is_fetched_anew(server: Server) -> None:
    file = downloads.fetch(server.url, SHA256, quiet)
    file.write_bytes(CONTENT[:-1] + b"x")
    assert downloads.fetch(server.url, SHA256, quiet).read_bytes() == CONTENT
    assert server.asked == 2


def test_two_at_once_fetch_it_once(server: Server) -> None:
    server.slow.clear()
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(downloads.fetch(server.url, SHA256, quiet))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    server.slow.set()
    for thread in threads:
        thread.join()
    assert (server.asked, len(set(found)), len(found)) == (1, 1, 3)


FETCHER = """
import sys
from phoenix_fleet import downloads
downloads.fetch(*sys.argv[1:], print)
"""


def test_what_a_killed_one_left_is_removed_and_keeps_nobody_waiting(server: Server, tmp_path: Path) -> None:
    server.slow.clear()
    env = {**os.environ, "PYTHONPATH": str(Path(downloads.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", FETCHER, server.url, SHA256], env=env)
    deadline = time.monotonic() + 20
    while not any(name.endswith(".part") for name in _names(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert [name for name in _names(tmp_path) if name.endswith(".part")]
    server.slow.set()
    assert downloads.fetch(server.url, SHA256, quiet).read_bytes() == CONTENT
    assert cached(tmp_path) == {SHA256}


def _names(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.glob("cache/downloads/*")]


def test_what_nobody_asks_for_any_more_is_forgotten(server: Server, tmp_path: Path) -> None:
    downloads.fetch(server.url, SHA256, quiet)
    folder = tmp_path / "cache" / "downloads"
    long_ago, lately = time.time() - 61 * 86400, time.time() - 59 * 86400
    for name, moment in (("0" * 64, long_ago), ("1" * 64, lately), ("somebodys-own", long_ago)):
        (folder / name).touch()
        os.utime(folder / name, (moment, moment))
    server.content = CONTENT[::-1]
    newer = hashlib.sha256(server.content).hexdigest()
    downloads.fetch(server.url, newer, quiet)
    assert cached(tmp_path) == {SHA256, newer, "1" * 64, "somebodys-own"}
