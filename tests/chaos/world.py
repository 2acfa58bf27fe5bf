"""Where a campaign takes place: the demo's fleet under traffic, with Airflow and the catalog on PostgreSQL."""

from __future__ import annotations

import io
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import docker
import httpx
import psycopg2

from lab.airflow import COMPONENTS
from lab.older import ACTOR, FAMILY
from lab.places import Places
from lab.world import Lab, alone
from phoenix_fleet.catalog import Catalog
from phoenix_fleet.connections import Connection
from phoenix_fleet.domain.errors import PhoenixError, Unavailable
from phoenix_fleet.domain.ladder import CLIMB, Rung
from phoenix_fleet.domain.models import Artefact, Image
from phoenix_fleet.domain.windows import Version, Window
from tests.orchestration.stack import PostgresAirflow
from tests.postgres import WATCHER, PostgresServer

T = TypeVar("T")
FLEET = "web"
DAG = f"fleet.{FLEET}"
RATE = 200.0
"""Requests per second."""
_DOCKERFILE = """\
FROM {base}
COPY phoenix-release /etc/phoenix-release
LABEL phoenix.version={version}
"""


@dataclass(frozen=True, kw_only=True)
class ChaosLab(Lab):
    """The lab with its databases on a PostgreSQL server of its own."""

    server: PostgresServer

    @cached_property
    def airflow(self) -> PostgresAirflow:
        """Its Airflow, as ``include/airflow.env`` sets it up, on PostgreSQL."""
        return PostgresAirflow(self.server, self.places, self.processes, self.overrides)

    def catalog(self) -> Catalog:
        """Its catalog, on a connection that a cut spares."""
        url = self.server.url(
            self.airflow.catalog_database,
            query={"host": str(self.server.home), "port": str(self.server.port), "application_name": WATCHER},
        )
        catalog = Catalog(url)
        catalog.migrate()
        return catalog


@contextmanager
def standing(log: Callable[[str], None]) -> Iterator[ChaosLab]:
    """A fresh one, up, with traffic flowing and Airflow healthy; all of it is gone afterwards."""
    places = Places.find()
    server = PostgresServer()
    lab = ChaosLab(places, log, fleets=(FLEET,), rate=RATE, server=server)
    with alone(places):
        try:
            server.start()
            Lab(places, log).down()
            lab.up(beside=lambda: lab.airflow.start(log))
            yield lab
        finally:
            lab.stop()
            lab.airflow.end_orphans()
            server.remove()


class Supervisor:
    """Starts every component that has died again, at once and always, as an init system does (``Restart=always``)."""

    def __init__(self, airflow: PostgresAirflow) -> None:
        self._airflow = airflow
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self.restarts: Counter[str] = Counter()

    def __enter__(self) -> Supervisor:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            for component in COMPONENTS:
                if not self._airflow.processes.running(f"airflow-{component}"):
                    self._airflow.revive(component)
                    self.restarts[component] += 1


@dataclass
class Releases:
    """New releases without end: each is the older one with a layer that holds its own version, so each has a digest
    of its own.
    """

    catalog: Catalog
    engine: Connection
    base: Image
    made: list[Version] = field(default_factory=list)

    def stage(self, window: Window) -> Version:
        """A version for that window, proven and not yet released."""
        images, run = self.catalog.images, f"chaos/{window}"
        image = images.open_candidate(FAMILY, window, run, ACTOR, run=run)
        images.add_artefact(FAMILY, image.version, self._build(image.version))
        for rung in CLIMB[1:-1]:
            images.move(FAMILY, image.version, rung, actor=ACTOR, reason="for the campaign")
        self.made.append(image.version)
        return image.version

    def release(self, version: Version) -> None:
        """Release it."""
        self.catalog.images.move(FAMILY, version, Rung.RELEASED, actor=ACTOR, reason="for the campaign")

    def _build(self, version: Version) -> Artefact:
        base = self.base.artefacts["docker"].reference
        repository, tag = base.partition("@")[0], f"{version}-candidate"
        context = _packed(
            {
                "Dockerfile": _DOCKERFILE.format(base=base, version=version),
                "phoenix-release": f"FAMILY={FAMILY}\nVERSION={version}\n",
            }
        )
        api = docker.APIClient(base_url=f"unix://{self.engine.host}", timeout=60)
        try:
            name = f"{repository}:{tag}"
            _follow(api.build(fileobj=context, custom_context=True, tag=name, rm=True, decode=True))
            pushed = _follow(api.push(repository, tag=tag, stream=True, decode=True))
        finally:
            api.close()
        digest = next(line["aux"]["Digest"] for line in pushed if "Digest" in line.get("aux", {}))
        return Artefact("docker", f"{repository}@{digest}", digest)


def _packed(files: dict[str, str]) -> io.BytesIO:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    content.seek(0)
    return content


def _follow(lines: Any) -> list[dict[str, Any]]:
    """Everything that the engine said. :raises Unavailable: if that was an error."""
    told = list(lines)
    for line in told:
        if "error" in line:
            raise Unavailable(f"The Docker engine could not make a release: {line['error']}")
    return told


def patiently(ask: Callable[[], T], otherwise: T) -> T:
    """The answer, or ``otherwise`` while whoever is asked was struck a moment ago."""
    with suppress(PhoenixError, OSError, psycopg2.Error, httpx.HTTPError):
        return ask()
    return otherwise
