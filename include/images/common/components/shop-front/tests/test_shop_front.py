"""Unit tests of the shop's front, run inside a fresh instance: the image's nginx with what the role has written.

The configuration is tried on other ports, with a stand-in behind it: whether the API is there makes no difference.
"""

# ruff: noqa: PT009, PT027 - the image has no pytest, and shall have none

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
from html.parser import HTMLParser
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[1]


class StandIn(BaseHTTPRequestHandler):
    """Answers with what it was asked, and claims to be somebody."""

    def do_GET(self) -> None:
        """Answer; ``/api/slow`` after a second."""
        if self.path.startswith("/api/slow"):
            time.sleep(1)
        size = int(self.headers.get("Content-Length", 0))
        asked = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "body": self.rfile.read(size).decode(),
        }
        body = json.dumps(asked).encode()
        self.send_response(200)
        self.send_header("X-Instance", "behind")
        self.send_header("X-Release", "behind")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def replaced(text: str, old: str, new: str) -> str:
    """The text with that part replaced, which it must have."""
    assert old in text, old
    return text.replace(old, new)


class Front(unittest.TestCase):
    """nginx as installed, beside the one that may run already."""

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.folder.chmod(0o755)
        self.port = free_port()
        self.behind = ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
        threading.Thread(target=self.behind.serve_forever, kwargs={"poll_interval": 0.02}).start()
        self.addCleanup(self.stop_behind)
        (self.folder / "identity.conf").write_text(
            'add_header X-Instance $hostname always;\nadd_header X-Release "1" always;\n'
        )
        text = (HOME / "nginx.conf").read_text()
        text = replaced(text, "listen 8080", f"listen 127.0.0.1:{self.port}")
        text = replaced(text, "server 127.0.0.1:8000", f"server 127.0.0.1:{self.behind.server_address[1]}")
        text = replaced(text, "/run/shop-front/", f"{self.folder}/")
        (self.folder / "nginx.conf").write_text(text)
        program = ["nginx", "-e", "stderr", "-c", str(self.folder / "nginx.conf")]
        self.nginx = subprocess.Popen(program, stdout=subprocess.DEVNULL)  # its access log
        self.addCleanup(self.nginx.wait)
        self.addCleanup(self.nginx.terminate)
        self.wait_until_it_listens()

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.fail("nginx does not listen")

    def stop_behind(self) -> None:
        self.behind.shutdown()
        self.behind.server_close()

    def begin(self, method: str, path: str, body: bytes | None = None, **headers: str) -> HTTPConnection:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.addCleanup(connection.close)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[HTTPResponse, str]:
        answer = self.begin(method, path, body, **headers).getresponse()
        return answer, answer.read().decode()


class PageTest(Front):
    """The page."""

    def test_the_page_is_whole(self) -> None:
        answer, text = self.ask("GET", "/")
        self.assertEqual((answer.status, answer.headers.get_content_type()), (200, "text/html"))
        self.assertEqual(answer.headers.get_content_charset(), "utf-8")
        page = Page(text)
        self.assertEqual(page.title, "The shop")
        self.assertLessEqual({"products", "instance", "release"}, page.ids)
        self.assertEqual(page.open, [])
        self.assertNotRegex(text, r"\{\{|\{%")

    def test_the_page_says_the_version_that_the_api_is_told(self) -> None:
        _, text = self.ask("GET", "/")
        _, seen = self.ask("GET", "/healthz")
        self.assertEqual(Page(text).version, json.loads(seen)["headers"]["x-front-version"])
        self.assertRegex(Page(text).version, r"^\d+(\.\d+)*$")

    def test_nothing_else_of_its_folder_is_shown(self) -> None:
        for path in (
            "/run",
            "/nginx.conf",
            "/tests/test_shop_front.py",
            "/index.html",
            "/..%2f..%2fetc/passwd",
            "/.git",
        ):
            answer, _ = self.ask("GET", path)
            self.assertIn(answer.status, (400, 404), path)


class Page(HTMLParser):
    """What a page holds."""

    EMPTY = ("meta", "link", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.title = self.version = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note ids and the version."""
        found = dict(attrs)
        self.ids |= {found["id"]} if "id" in found else set()
        if found.get("name") == "shop-front-version":
            self.version = found["content"]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost one."""
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        """Note the title."""
        if self.open[-1:] == ["title"]:
            self.title += data


class PassingOnTest(Front):
    """The way to the API."""

    def test_a_request_arrives_as_it_was_sent(self) -> None:
        _, text = self.ask("POST", "/api/orders?a=1&b=%20", b'{"x": 1}')
        seen = json.loads(text)
        self.assertEqual((seen["method"], seen["path"], seen["body"]), ("POST", "/api/orders?a=1&b=%20", '{"x": 1}'))

    def test_a_client_cannot_pretend_to_be_the_front(self) -> None:
        _, text = self.ask("GET", "/healthz", X_Front_Version="6.6.6")
        self.assertNotEqual(json.loads(text)["headers"]["x-front-version"], "6.6.6")

    def test_every_answer_says_once_who_gave_it(self) -> None:
        for path in ("/", "/nowhere", "/healthz", "/api/products"):
            answer, _ = self.ask("GET", path)
            self.assertEqual(answer.headers.get_all("X-Instance"), [socket.gethostname()], path)
            self.assertEqual(answer.headers.get_all("X-Release"), ["1"], path)

    def test_an_order_that_is_too_large_stops_here(self) -> None:
        answer, _ = self.ask("POST", "/api/orders", b"x" * 70_000)
        self.assertEqual(answer.status, 413)

    def test_without_the_api_it_says_so_and_who_it_is(self) -> None:
        self.stop_behind()
        answer, text = self.ask("GET", "/healthz")
        self.assertEqual(answer.status, 503)
        self.assertIn("error", json.loads(text))
        self.assertEqual(answer.headers["X-Instance"], socket.gethostname())
        page, _ = self.ask("GET", "/")
        self.assertEqual(page.status, 200)


class StoppingTest(Front):
    """What runit's TERM becomes."""

    def test_quit_finishes_what_is_under_way_and_takes_no_more(self) -> None:
        slow = self.begin("GET", "/api/slow")
        time.sleep(0.3)
        self.nginx.send_signal(signal.SIGQUIT)
        time.sleep(0.3)
        with self.assertRaises(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            pass
        answer = slow.getresponse()
        self.assertEqual((answer.status, bool(answer.read())), (200, True))
        self.assertEqual(self.nginx.wait(timeout=10), 0)


class InstalledTest(unittest.TestCase):
    """What the role has put on this instance."""

    def test_the_page_announces_the_environments_banner_once(self) -> None:
        text = (HOME / "index.html").read_text()
        self.assertLessEqual(len(re.findall('class="banner"', text)), 1)
        self.assertRegex(text, r'<body data-environment="[a-z]+">')

    def test_its_start_script_asks_for_a_graceful_end(self) -> None:
        script = HOME / "run"
        self.assertTrue(os.access(script, os.X_OK))
        self.assertIn("kill -s QUIT", script.read_text())


if __name__ == "__main__":
    unittest.main()
