"""The lab's own services: a registry, a balancer per fleet and an alert receiver, each told apart from strangers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from lab import haproxy, registry
from lab.places import REPOSITORY, Places
from lab.processes import Processes
from lab.settings import HOST, Overrides, Settings, choose_port

BALANCED = {"haproxy_web": "web", "haproxy_web_staging": "web-staging"}
"""Connection id by backend, which is the fleet's name."""


@dataclass(frozen=True)
class Service:
    """One process, the connection that names its port, and how to know that it is it who answers."""

    name: str
    connection: str
    argv: Callable[[int], list[str]]
    answers: Callable[[int], bool]


class Services:
    """All of them."""

    def __init__(self, places: Places, processes: Processes, overrides: Overrides) -> None:
        self._places, self._processes, self._overrides = places, processes, overrides
        self.settings = Settings.read(REPOSITORY / "airflow_settings.yaml")
        self._all = [
            Service("registry", "registry", partial(registry.argv, places), partial(registry.answers, places)),
            *(self._balancer(conn_id, backend) for conn_id, backend in BALANCED.items()),
            Service("alerts", "alerts_webhook", self._alerts, self._alerts_answer),
        ]

    @property
    def names(self) -> list[str]:
        """Their names as processes."""
        return [service.name for service in self._all]

    def port(self, conn_id: str) -> int:
        """The port that a connection has in this lab."""
        port = self._overrides.port(conn_id)
        return port if port is not None else int(self.settings.connection(conn_id)["conn_port"])

    def start(self, log: Callable[[str], None]) -> None:
        """Start what does not run; returns when each answers. Ports that strangers hold are replaced."""
        for service in self._all:
            if self._processes.running(service.name):
                continue
            entry = self.settings.connection(service.connection)
            wanted = int(entry["conn_port"])
            port = choose_port(wanted)
            if port != wanted:
                log(f"Port {wanted} is taken by another program: {service.name} is on {port}")
            self._say(service.connection, port)
            self._processes.start(service.name, service.argv(port))
        self._overrides.write()
        for service in self._all:
            port = self.port(service.connection)
            self._processes.wait_ready(service.name, partial(service.answers, port))
            log(f"{service.name} answers on {HOST}:{port}")

    def control(self, conn_id: str) -> Path:
        """The runtime socket of a balancer."""
        return self._places.run / f"haproxy-{BALANCED[conn_id]}.sock"

    def _say(self, conn_id: str, port: int) -> None:
        """Record where this lab differs from the settings file; nothing where it does not."""
        entry = dict(self.settings.connection(conn_id))
        extra = dict(entry.get("conn_extra") or {})
        if "socket" in extra:
            extra["socket"] = str(self.control(conn_id))
        self._overrides.forget(conn_id)
        if port != entry["conn_port"] or extra != (entry.get("conn_extra") or {}):
            self._overrides.connection({**entry, "conn_extra": extra}, port=port)

    def _balancer(self, conn_id: str, backend: str) -> Service:
        name, control = f"haproxy-{backend}", self.control(conn_id)

        def argv(port: int) -> list[str]:
            file = self._places.home / f"{name}.cfg"
            file.write_text(haproxy.config(backend, port, control))
            return ["haproxy", "-db", "-f", str(file)]

        return Service(name, conn_id, argv, lambda _: haproxy.answers(control, self._processes.pid(name)))

    def _alerts(self, port: int) -> list[str]:
        return [sys.executable, "-m", "lab.alerts", str(port), str(self._places.alerts)]

    def _alerts_answer(self, port: int) -> bool:
        try:
            who = httpx.get(f"http://{HOST}:{port}/", timeout=2).json()
        except (httpx.HTTPError, ValueError):
            return False
        return bool(who.get("service") == "phoenix-lab-alerts" and who.get("pid") == self._processes.pid("alerts"))
