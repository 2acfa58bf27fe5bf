"""Probes and hooks of containers: asked over HTTP, TCP or by a program inside, and counted."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.kubeapi import Object
from lab.kubelet_spec import Unusable, port_of

Execute = Callable[[list[str], float], int | None]
"""The exit code of a program inside the container, within so many seconds; None if there is none."""


@dataclass(frozen=True)
class Target:
    """Whom one asks."""

    container: Object
    address: str
    execute: Execute


def ask(handler: Object, target: Target, seconds: float) -> str:
    """What is wrong, in a kubelet's words; nothing if all is well."""
    try:
        if "httpGet" in handler:
            return _http(handler["httpGet"], target, seconds)
        if "tcpSocket" in handler:
            return _tcp(handler["tcpSocket"], target, seconds)
        if "exec" in handler:
            return _exec(handler["exec"], target, seconds)
    except Unusable as error:
        return str(error)
    return "the lab's kubelet does not know this kind of probe"


def _http(asked: Object, target: Target, seconds: float) -> str:
    port = port_of(target.container, asked["port"])
    scheme = asked.get("scheme", "HTTP").lower()
    host, path = asked.get("host") or target.address, asked.get("path") or "/"
    headers = {each["name"]: each["value"] for each in asked.get("httpHeaders", [])}
    connection = http.client.HTTPConnection(host, port, timeout=seconds)
    if scheme == "https":
        # A kubelet does not look at a probed container's certificate either.
        connection = http.client.HTTPSConnection(
            host,
            port,
            timeout=seconds,
            context=ssl._create_unverified_context(),  # noqa: S323
        )
    try:
        connection.request("GET", path, headers=headers)
        code = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f'Get "{scheme}://{host}:{port}{path}": {str(error) or type(error).__name__}'
    finally:
        connection.close()
    return "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"


def _tcp(asked: Object, target: Target, seconds: float) -> str:
    where = (asked.get("host") or target.address, port_of(target.container, asked["port"]))
    try:
        socket.create_connection(where, timeout=seconds).close()
    except OSError as error:
        return f"dial tcp {where[0]}:{where[1]}: {error.strerror or error}"
    return ""


def _exec(asked: Object, target: Target, seconds: float) -> str:
    code = target.execute(list(asked["command"]), seconds)
    if code is None:
        return f"command {' '.join(asked['command'])!r} timed out"
    return f"command {' '.join(asked['command'])!r} exited with {code}" if code else ""


class Probe:
    """One probe of one running container: when it is due, and what its answers come to."""

    def __init__(self, spec: Object, began: float, *, good: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """``good``: what it comes to before it has been asked often enough."""
        self._spec, self._clock = spec, clock
        self._due = began + float(spec.get("initialDelaySeconds", 0))
        self._good, self._bad = 0, 0
        self.good = good
        self.failed = False
        """Whether it has failed so often that something is to be done."""

    def run(self, target: Target) -> str:
        """Ask if it is due; what is wrong, or nothing if all is well or it is not due."""
        if self._clock() < self._due:
            return ""
        wrong = ask(self._spec, target, float(self._spec.get("timeoutSeconds", 1)))
        self._due = self._clock() + float(self._spec.get("periodSeconds", 10))
        self._good, self._bad = (0, self._bad + 1) if wrong else (self._good + 1, 0)
        if self._good >= int(self._spec.get("successThreshold", 1)):
            self.good = True
        if self._bad >= int(self._spec.get("failureThreshold", 3)):
            self.good, self.failed = False, True
        return wrong
