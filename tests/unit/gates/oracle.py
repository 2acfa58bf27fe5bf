"""A tiny server that stands in for Prometheus, what it may answer, and a metrics gate that asks it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from phoenix_fleet import drivers
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Instance, InstanceState, Subject
from phoenix_fleet.domain.verdicts import Measurement
from phoenix_fleet.gates.base import Gate
from tests.unit.gates.service import Service, serving

NEW = Instance("id-9", "web-01-new", "web", "web-01", "2026.11-1", "9" * 32, InstanceState.RUNNING, "10.0.0.9")
OLD = [{"id": f"id-{n}", "name": f"web-0{n}-old", "address": f"10.0.0.{n}"} for n in (2, 3)]
FACTS = {
    "watched_from": "2026-11-25T10:00:00+00:00",
    "watched_until": "2026-11-25T10:05:00+00:00",
    "watch_over": True,
    "beside": OLD,
}
LATENCY = {"name": "latency", "kind": "samples", "query": "latency_seconds{instance=~{instances}}"}
FAILED = {
    "name": "failed requests",
    "kind": "failures",
    "query": "sum by (instance) (increase(bad{instance=~{instances}}[{window}]))",
    "total": "increase(all{instance=~{instances}}[{window}])",
}
Body = dict[str, Any] | bytes


class Oracle:
    """A server that gives each path the answer it is told to, and keeps what it was asked."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.answers: dict[str, Callable[[dict[str, str]], Body]] = {}
        self.asked: list[tuple[str, dict[str, str], str]] = []
        self.status = 200

    @property
    def connection(self) -> Connection:
        return Connection("prometheus", "127.0.0.1", self.service.port, extra={"scheme": "http"})

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        path, _, query = handler.path.partition("?")
        size = int(handler.headers.get("Content-Length") or 0)
        form = {name: each[0] for name, each in parse_qs(handler.rfile.read(size).decode() or query).items()}
        self.asked.append((path, form, handler.headers.get("Authorization", "")))
        body = self.answers[path.rpartition("/")[2]](form)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(self.status)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)


@contextmanager
def an_oracle() -> Iterator[Oracle]:
    with serving() as start:
        held: list[Oracle] = []
        service = start(answer=lambda handler, number: held[0](handler))
        held.append(Oracle(service))
        yield held[0]


def success(kind: str, *series: tuple[dict[str, str], list[Any]]) -> dict[str, Any]:
    name = "values" if kind == "matrix" else "value"
    result = [
        {"metric": labels, name: [[1, v] for v in values] if kind == "matrix" else [1, values[0]]}
        for labels, values in series
    ]
    return {"status": "success", "data": {"resultType": kind, "result": result}}


def samples(**by_name: list[float]) -> dict[str, Any]:
    pairs = [({"instance": name.replace("_", "-")}, list(map(str, values))) for name, values in by_name.items()]
    return success("matrix", *pairs)


def rules(*alerts: tuple[str, str, dict[str, str]], health: str = "ok", name: str = "HighErrors") -> dict[str, Any]:
    found = [{"labels": {"alertname": each, **labels}, "state": state} for each, state, labels in alerts]
    rule = {"type": "alerting", "name": name, "health": health, "alerts": found}
    return {"status": "success", "data": {"groups": [{"rules": [rule]}]}}


def a_gate(connection: Connection, work: Path, **values: Any) -> Gate:
    kind = drivers.load("gates", "metrics")
    gate: Gate = kind(kind.Settings.model_validate(values), lambda _: connection, work)
    return gate


def measure(oracle: Oracle, work: Path, *, facts: dict[str, Any] | None = None, **values: Any) -> Measurement:
    return a_gate(oracle.connection, work, **values).measure(
        Subject("web-01-new", str(work), instance=NEW, facts={**FACTS, **(facts or {})})
    )


STEADY = [0.10 + 0.001 * (n % 7) for n in range(20)]
SLOW = [value + 0.05 for value in STEADY]
