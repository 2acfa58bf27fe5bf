"""A small HTTP service that tests of gates ask, with the headers of a real instance."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from phoenix_fleet.domain.models import Instance, InstanceState

Answer = Callable[[BaseHTTPRequestHandler, int], None]


@dataclass
class Service:
    """One running service."""

    port: int
    instance: Instance
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def well(handler: BaseHTTPRequestHandler, number: int, body: bytes = b'{"status": "ok"}', status: int = 200) -> None:
    """A good answer."""
    service: Service = handler.server.service  # type: ignore[attr-defined]
    handler.send_response(status)
    handler.send_header("X-Instance", service.instance.name)
    handler.send_header("X-Release", service.instance.version)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        service: Service = self.server.service  # type: ignore[attr-defined]
        service.requests.append(self.path)
        self.server.answer(self, len(service.requests))  # type: ignore[attr-defined]

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def serving() -> Iterator[Callable[..., Service]]:
    """A function that starts services, which all end with the block."""
    servers: list[ThreadingHTTPServer] = []

    def start(release: str = "2026.11-1", answer: Answer = well) -> Service:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        servers.append(server)
        instance = Instance(
            *("id-1", "web-01-ab12", "web", "web-01", release, "0" * 32),
            state=InstanceState.RUNNING,
            address="127.0.0.1",
        )
        server.service = Service(server.server_port, instance)  # type: ignore[attr-defined]
        server.answer = answer  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server.service  # type: ignore[attr-defined, no-any-return]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
