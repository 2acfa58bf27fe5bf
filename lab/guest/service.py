#!/usr/bin/python3
"""The service of the lab's machines: a shop without goods, which says in each answer who gave it and from which image.

It is well once its configuration is there: a machine that nobody has configured answers 503 to a health check.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = Path("/etc/machine-name").read_text().strip()
RELEASE = Path("/etc/phoenix-release").read_text().strip()
CONFIGURED = Path("/etc/lab-service/environment")
PRODUCTS = json.dumps({"products": [{"id": 1, "name": "a feather"}]}).encode()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_GET(self) -> None:
        """The page, the list of goods, or whether all is well."""
        if self.path == "/healthz" and not CONFIGURED.exists():
            self.answer(503, b"not configured")
        else:
            self.answer(200, PRODUCTS if self.path == "/api/products" else f"{RELEASE}\n".encode())

    def do_POST(self) -> None:
        """An order, once it has come in whole."""
        order = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.answer(201, order)

    def answer(self, status: int, body: bytes) -> None:
        """Answer with that."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Instance", NAME)
        self.send_header("X-Release", RELEASE)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the console is for what the machine has to say."""


class Server(ThreadingHTTPServer):
    """Many at once."""

    request_queue_size = 128
    daemon_threads = True


if __name__ == "__main__":
    Server(("0.0.0.0", 8080), Handler).serve_forever()  # noqa: S104 (the machine's own addresses)
