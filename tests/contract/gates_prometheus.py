"""A real Prometheus that scrapes four instances of a shop: two old ones, a good new one and a bad one."""

from __future__ import annotations

import json
import random
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.models import Instance, InstanceState
from tests.contract.gates_fixtures import free_port
from tests.unit.gates.service import serving

GOOD, BAD, OLD = "web-01-good", "web-01-bad", ("web-02-old", "web-03-old")
STEP_SECONDS, SAMPLES = 1, 8
RULES = """
groups:
  - name: shop
    rules:
      - {alert: Burning, expr: "latency_seconds{instance=\'web-01-bad\'} > 0.2", labels: {fleet: web}}
      - {alert: Smouldering, expr: "latency_seconds > 0", for: 1h}
      - {alert: Calm, expr: "latency_seconds > 100"}
"""


@dataclass
class Exporter:
    """What one instance tells of itself: everything moves on by so much at each scrape."""

    latency: float
    failing: float
    requests: int = 0
    failed: int = 0
    dice: random.Random = field(default_factory=lambda: random.Random(3))  # noqa: S311 - dice, no keys

    def __call__(self, handler: BaseHTTPRequestHandler, _: int) -> None:
        self.requests += 20
        self.failed += round(20 * self.failing)
        text = (
            f"latency_seconds {self.latency + self.dice.uniform(-0.01, 0.01)}\n"
            f"# TYPE requests_total counter\nrequests_total {self.requests}\n"
            f"# TYPE failed_total counter\nfailed_total {self.failed}\n"
        ).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/plain; version=0.0.4")
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)


@dataclass(frozen=True)
class Shop:
    """The running Prometheus and what gates need to ask it."""

    port: int
    since: datetime
    until: datetime

    @property
    def latency(self) -> dict[str, Any]:
        query = "latency_seconds{instance=~{instances}}"
        return {"name": "latency", "kind": "samples", "query": query, "minimum_samples": SAMPLES}

    @property
    def failures(self) -> dict[str, Any]:
        return {
            "name": "failed requests",
            "kind": "failures",
            "query": "increase(failed_total{instance=~{instances}}[{window}])",
            "total": "increase(requests_total{instance=~{instances}}[{window}])",
        }

    @property
    def settings(self) -> dict[str, Any]:
        return {"queries": [self.latency], "step": f"{STEP_SECONDS}s"}

    def connections(self, conn_id: str) -> Connection:
        return Connection(conn_id, "127.0.0.1", self.port, extra={"scheme": "http"})

    def instance(self, name: str) -> Instance:
        return Instance("id-" + name, name, "web", "web-01", "2026.11-1", "0" * 32, InstanceState.RUNNING, "127.0.0.1")

    def watch(self) -> dict[str, Any]:
        beside = [{"id": f"id-{name}", "name": name, "address": "127.0.0.1"} for name in OLD]
        return {
            "watched_from": self.since.isoformat(),
            "watched_until": self.until.isoformat(),
            "watch_over": True,
            "beside": beside,
        }

    def ask(self, path: str, **asked: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]


@contextmanager
def a_shop(folder: Path) -> Iterator[Shop]:
    """A Prometheus that has watched its four instances for some seconds; it ends with the block."""
    with serving() as start:
        exporters = {
            GOOD: Exporter(0.10, 0.05),
            BAD: Exporter(0.30, 0.5),
            **{name: Exporter(0.10, 0.05) for name in OLD},
        }
        targets = [
            {"targets": [f"127.0.0.1:{start(answer=exporter).port}"], "labels": {"instance": name}}
            for name, exporter in exporters.items()
        ]
        config = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(folder / "rules.yaml")],
            "scrape_configs": [{"job_name": "shop", "static_configs": targets}],
        }
        (folder / "rules.yaml").write_text(RULES)
        (folder / "prometheus.yaml").write_text(json.dumps(config))  # JSON is YAML
        port = free_port()
        argv = [
            "prometheus",
            f"--config.file={folder}/prometheus.yaml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            yield _watched(port, process, folder / "log")
        finally:
            process.terminate()
            process.wait(timeout=30)


def _watched(port: int, process: subprocess.Popen[bytes], log: Path) -> Shop:
    """The shop, once every instance was scraped often enough and every rule was evaluated."""
    wanted = STEP_SECONDS * (SAMPLES + 2)
    query = "min(max_over_time(timestamp(latency_seconds)[5m:1s]) - min_over_time(timestamp(latency_seconds)[5m:1s]))"
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up and process.poll() is None:
        shop = Shop(port, datetime.now(UTC), datetime.now(UTC))
        try:
            span = shop.ask("query", query=f"{query} and count(latency_seconds) == 4")["result"]
            rules = [rule["health"] for group in shop.ask("rules")["groups"] for rule in group["rules"]]
        except OSError:
            span, rules = [], []
        if span and float(span[0]["value"][1]) >= wanted and set(rules) == {"ok"}:
            # From the first moment at which all four had been seen.
            until = datetime.now(UTC)
            return Shop(port, datetime.fromtimestamp(until.timestamp() - wanted, UTC), until)
        time.sleep(0.5)
    raise AssertionError(f"Prometheus did not come up: {log.read_text()[-2000:]}")
