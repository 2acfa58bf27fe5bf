"""The lab's client of Kubernetes' API, against a server that has both their certificates from the lab's authority."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lab.certificates import Authority
from lab.kubeapi import Api, Conflict, Identity, write_kubeconfig
from phoenix_fleet.domain.errors import NotFound, PhoenixError, Refused, Unavailable


class Server(ThreadingHTTPServer):
    """Answers with what is next in its list, and remembers what it was asked and by whom."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[str] = []
        self.callers: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        (((_, name),),) = self.connection.getpeercert()["subject"][-1:]  # type: ignore[attr-defined]
        self.server.callers.add(name)
        self.server.asked.append(self.path)
        status, body = self.server.answers.pop(0)
        lines = body if isinstance(body, list) else [body]
        content = "".join(f"{json.dumps(each)}\n" for each in lines).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(authority.issue("server", "server", addresses=["127.0.0.1"]))
    context.verify_mode = ssl.CERT_REQUIRED
    server = Server(context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def identity(server: Server, folder: Path, authority: Authority) -> Identity:
    own = authority.issue("client", "system:node:a")
    return Identity(f"https://127.0.0.1:{server.server_address[1]}", str(folder / "ca.pem"), str(own))


@pytest.fixture
def api(server: Server, tmp_path: Path) -> Iterator[Api]:
    api = Api(identity(server, tmp_path, Authority(tmp_path)), timeout=5)
    yield api
    api.close()


def pod(name: str, version: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}}


def test_what_is_listed_and_watched_is_listed_anew_when_it_is_too_old(api: Api, server: Server) -> None:
    listing = {"metadata": {"resourceVersion": "5"}, "items": []}
    server.answers = [
        (200, listing),
        (200, [{"type": "ADDED", "object": pod("a", "6")}, {"type": "DELETED", "object": pod("a", "7")}]),
        (200, [{"type": "MODIFIED", "object": pod("b", "8")}, {"type": "ERROR", "object": {"code": 410}}]),
        (503, {"message": "not now"}),
        (200, listing),
    ]
    over = threading.Event()
    seen = []
    for kind, found in api.follow("/pods", over, fieldSelector="x=y"):
        seen.append((kind, found.get("metadata", {}).get("name")))
        if not server.answers:
            over.set()
    assert seen == [("LISTED", None), ("ADDED", "a"), ("DELETED", "a"), ("MODIFIED", "b"), ("LISTED", None)]
    assert [("resourceVersion=5" in each, "resourceVersion=7" in each) for each in server.asked] == [
        (False, False),
        (True, False),
        (False, True),
        (False, False),
        (False, False),
    ]
    assert all("fieldSelector=x%3Dy" in each for each in server.asked)
    assert server.callers == {"system:node:a"}


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFound), (409, Conflict), (403, Refused), (401, Refused), (429, Unavailable), (503, Unavailable)],
)
def test_a_refusal_says_what_and_why(api: Api, server: Server, status: int, error: type[PhoenixError]) -> None:
    server.answers = [(status, {"message": "because"})]
    with pytest.raises(error, match=f"GET /x: {status} because"):
        api.get("/x")


def test_a_server_of_another_authority_is_not_believed(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    api = Api(identity(server, other, Authority(other)), timeout=5)
    with pytest.raises(Unavailable, match="does not answer"):
        api.get("/x")
    assert not api.answers()
    api.close()
    assert server.asked == []


def test_keys_are_for_root_alone_and_stay(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue("node", "system:node:a", group="system:nodes")
    before = own.read_bytes()
    assert Authority(tmp_path).issue("node", "system:node:a", group="system:nodes").read_bytes() == before
    config = write_kubeconfig(tmp_path / "k", Identity("https://x", str(tmp_path / "ca.pem"), str(own)), "lab")
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_mode & 0o077] == ["ca.pem"]
    assert json.loads(config.read_text())["clusters"][0]["cluster"]["server"] == "https://x"
