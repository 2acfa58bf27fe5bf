"""Real haproxy processes: one per fleet, empty at birth; the product adds and removes servers at run time."""

from __future__ import annotations

import socket
from pathlib import Path

from lab.settings import HOST

# No `default-server`: servers added at run time do not take it over (haproxy 2.6 management guide, "add server").
_CONFIG = """\
global
    log stderr format raw local0 notice
    stats socket {socket} mode 600 level admin
    stats timeout 1m
    maxconn 4000

defaults
    mode http
    log global
    # One server connection per request, so that a server's session count is what is really open.
    option http-server-close
    # A connection that a server refuses goes to the next one; a request that reached a server never goes twice.
    option redispatch 1
    retries 3
    timeout connect 2s
    timeout queue 10s
    timeout client 5m
    timeout server 5m
    timeout http-request 10s
    timeout http-keep-alive 1m
    timeout check 2s

frontend front
    bind {host}:{port}
    http-response set-header X-Served-By %s
    default_backend {backend}

backend {backend}
    balance roundrobin
    option httpchk GET /healthz
    http-check expect status 200
"""


def config(backend: str, port: int, control: Path) -> str:
    """The configuration of one balancer: its front's port and where its runtime API listens."""
    return _CONFIG.format(host=HOST, port=port, socket=control, backend=backend)


def ask(control: Path, command: str) -> str:
    """The answer of the runtime API to one line. :raises OSError: if nobody answers."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        client.connect(str(control))
        client.sendall(f"{command}\n".encode())
        text = b""
        while chunk := client.recv(65536):
            text += chunk
    return text.decode(errors="replace")


def tell(control: Path, command: str) -> str:
    """The answer to a command that changes a server; one that is no success is printed too.

    :raises OSError: if nobody answers.
    """
    answer = ask(control, command).strip()
    if answer and "registered" not in answer and "deleted" not in answer:
        print(f"haproxy: {command}: {answer}", flush=True)
    return answer


def servers(control: Path, backend: str) -> list[str]:
    """Names of all servers of a backend, whatever they do. :raises OSError: if nobody answers."""
    rows = [line.split() for line in ask(control, f"show servers state {backend}").splitlines()]
    return sorted(row[3] for row in rows if len(row) > 3 and not row[0].startswith("#"))


def answers(control: Path, pid: int | None) -> bool:
    """Whether the process with that pid, and not another one, answers on the runtime socket."""
    try:
        return f"\nPid: {pid}\n" in ask(control, "show info")
    except OSError:
        return False
