"""An alert receiver: what is posted to it becomes a line of JSON in a file, as a pager would get it.

Run as ``python -m lab.alerts PORT FILE``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lab.settings import HOST

LIMIT = 1_000_000


class Receiver(ThreadingHTTPServer):
    """Appends each alert to ``file``; says on GET who it is."""

    daemon_threads = True

    def __init__(self, port: int, file: Path) -> None:
        super().__init__((HOST, port), _Handler)
        self.file = file
        self.lock = threading.Lock()

    def keep(self, path: str, body: Any) -> None:
        """Append one alert."""
        line = json.dumps({"at": datetime.now(UTC).isoformat(), "path": path, "body": body})
        with self.lock, self.file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LIMIT:
            self.send_error(413)
            return
        text = self.rfile.read(length).decode("utf-8", errors="replace")
        try:
            body = json.loads(text)
        except ValueError:
            body = text
        self.server.keep(self.path, body)
        self._answer({"status": "received"})

    def do_GET(self) -> None:
        self._answer({"service": "phoenix-lab-alerts", "pid": os.getpid()})

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the log for what goes wrong."""

    def _answer(self, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def received(file: Path) -> list[dict[str, Any]]:
    """Every alert so far, in order: ``at``, ``path``, ``body``."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


if __name__ == "__main__":
    Receiver(int(sys.argv[1]), Path(sys.argv[2])).serve_forever()
