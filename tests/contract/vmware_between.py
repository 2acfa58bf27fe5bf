"""A TLS proxy before the vCenter simulator: it records the methods that are called, and makes trouble when told to."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_METHOD = re.compile(rb"<(?:\w+:)?Body[^>]*>\s*<(\w+)[ >]")
_OBJECTS = re.compile(rb"<objects>.*?</objects>", re.DOTALL)
_ENVELOPE = (
    '<?xml version="1.0" encoding="UTF-8"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>{}</soapenv:Body></soapenv:Envelope>'
)
_FAULT = (
    "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{message}</faultstring><detail>"
    '<{kind}Fault xmlns="urn:vim25" xsi:type="{kind}">{inside}</{kind}Fault></detail></soapenv:Fault>'
)


@dataclass
class Trouble:
    """What goes wrong with the next calls of one method."""

    method: str
    times: int = 1
    status: int = 0
    """Answered instead of asking vCenter."""
    fault: str = ""
    """Kind of the fault that is answered instead of asking vCenter."""
    inside: str = ""
    lose_reply: bool = False
    """vCenter does it, and nobody hears."""
    before: list[Callable[[], Any]] = field(default_factory=list)
    """What happens right before."""
    lag: float = 0
    """Seconds before vCenter is asked."""
    empty: bool = False
    """An answer without anything in it, instead of asking vCenter."""
    rewrite: tuple[bytes, bytes] | None = None
    """A part of the question, and what becomes of it; questions without it are not meant."""

    def is_meant(self, method: str, body: bytes) -> bool:
        return self.times > 0 and self.method in (method, "*") and (self.rewrite is None or self.rewrite[0] in body)


@dataclass
class Between:
    """The proxy; what it is told holds until it has happened."""

    port: int = 0
    calls: list[str] = field(default_factory=list)
    asked: dict[str, bytes] = field(default_factory=dict)
    """The last question of each method, as vCenter got it."""
    context: ssl.SSLContext | None = None
    troubles: list[Trouble] = field(default_factory=list)
    page: int = 0
    """Objects in one answer; 0: as vCenter likes."""
    breaks_off: bool = False
    """Whether the second page of a listing never comes."""
    pages: dict[str, list[bytes]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def make(self, method: str, **what: Any) -> None:
        """Make that trouble with the next call of that method."""
        self.troubles.append(Trouble(method, **what))

    def quiet(self) -> None:
        """No more trouble."""
        self.troubles.clear()
        self.page, self.breaks_off = 0, False

    def show(self, folder: Path) -> None:
        """Show the certificate in that folder from the next connection on."""
        assert self.context is not None
        self.context.load_cert_chain(folder / "ca.pem", folder / "key.pem")

    def next_for(self, method: str, body: bytes) -> list[Trouble]:
        with self.lock:
            self.calls.append(method)
            found = [trouble for trouble in self.troubles if trouble.is_meant(method, body)]
            for trouble in found:
                trouble.times -= 1
            return found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    between: Between
    target: tuple[str, int, ssl.SSLContext]
    client: HTTPSConnection | None = None

    def finish(self) -> None:
        super().finish()
        if self.client is not None:
            self.client.close()

    def do_GET(self) -> None:
        self._forward(b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        match = _METHOD.search(body)
        method = match[1].decode() if match else ""
        lost = False
        for trouble in self.between.next_for(method, body):
            time.sleep(trouble.lag)
            for happen in trouble.before:
                happen()
            if trouble.rewrite:
                body = body.replace(*trouble.rewrite)
            if trouble.status:
                return self._answer(trouble.status, b"no")
            if trouble.fault:
                text = _FAULT.format(kind=trouble.fault, message=trouble.fault, inside=trouble.inside)
                return self._answer(500, _ENVELOPE.format(text).encode())
            if trouble.empty:
                return self._answer(200, _ENVELOPE.format(f'<{method}Response xmlns="urn:vim25"/>').encode())
            lost = lost or trouble.lose_reply
        self.between.asked[method] = body
        if method == "ContinueRetrievePropertiesEx":
            return self._continue(body)
        return self._forward(body, lost=lost, paged=method == "RetrievePropertiesEx")

    def _forward(self, body: bytes, *, lost: bool = False, paged: bool = False) -> None:
        host, port, context = self.target
        if self.client is None:
            self.client = HTTPSConnection(host, port, timeout=60, context=context)
        client = self.client
        kept = {key: value for key, value in self.headers.items() if key in ("Cookie", "SOAPAction", "Content-Type")}
        client.request(self.command, self.path, body, kept)
        reply = client.getresponse()
        content = reply.read()
        if lost:
            self.close_connection = True
            return
        if paged and reply.status == 200:
            content = self._first_page(content)
        self._answer(reply.status, content, reply.getheader("Set-Cookie"))

    def _first_page(self, content: bytes) -> bytes:
        objects, size = _OBJECTS.findall(content), self.between.page
        if not size or len(objects) <= size:
            return content
        before, after = content[: content.index(objects[0])], content[content.rindex(objects[-1]) + len(objects[-1]) :]
        return before + self._token(objects[size:]) + b"".join(objects[:size]) + after

    def _token(self, left: list[bytes]) -> bytes:
        if not left:
            return b""
        token = f"t{len(self.between.pages)}"
        self.between.pages[token] = left
        return f"<token>{token}</token>".encode()

    def _continue(self, body: bytes) -> None:
        match = re.search(rb"<token[^>]*>(\w+)<", body)
        assert match, body
        left = self.between.pages.pop(match[1].decode())
        name = "ContinueRetrievePropertiesExResponse"
        if self.between.breaks_off:
            return self._answer(
                500, _ENVELOPE.format(_FAULT.format(kind="RuntimeFault", message="", inside="")).encode()
            )
        page = self._token(left[self.between.page :]) + b"".join(left[: self.between.page])
        xsd = ' xmlns:xsd="http://www.w3.org/2001/XMLSchema"'
        text = f'<{name} xmlns="urn:vim25"{xsd}><returnval>{page.decode()}</returnval></{name}>'
        return self._answer(200, _ENVELOPE.format(text).encode())

    def _answer(self, status: int, content: bytes, cookie: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/xml; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if cookie:
            self.send_header("Set-Cookie", cookie)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        return  # a client that hangs up, or does not trust us, is a test's wish


@contextmanager
def between(folder: Path, host: str, port: int) -> Iterator[Between]:
    """A proxy before that vCenter, with the same certificate."""
    found = Between()
    trusting = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    handler = type("Handler", (_Handler,), {"between": found, "target": (host, port, trusting)})
    server = _Server(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    # Shaken hands with in the connection's own thread: one that stalls must not hold up the others.
    found.context = context
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    found.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
